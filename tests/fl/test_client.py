"""The client: waiting for a server, coming back, leaving, and its main."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from fl.client import main, start_client
from fl.grpc_proxy import GrpcProxy
from fl.messages import Config, FitIns, Parameters
from fl.server import Server
from fl.workload import load_workload
from profiler.errors import DeviceError, PreconditionError, UsageError, WireError
from tests.fl.clients import Unruly
from tests.fl.command_line import fit_of_a_process
from tests.fl.test_server import free_address

START = Parameters((np.zeros(2, dtype=np.float32),))


class Running:
    """`start_client` in a thread; `outcome` is what it raised, or None."""

    def __init__(self, address: str, device: str = "pi", max_wait_s: float = 20.0) -> None:
        self.outcome: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(address, device, max_wait_s))
        self._thread.start()

    def _run(self, address: str, device: str, max_wait_s: float) -> None:
        try:
            start_client(address, Unruly(), device=device, max_wait_s=max_wait_s)
        except Exception as error:  # noqa: BLE001  handed to the test
            self.outcome = error

    def join(self) -> None:
        self._thread.join(20.0)
        assert not self._thread.is_alive()


def test_a_client_waits_for_a_server_and_comes_back_to_the_next_one() -> None:
    address = free_address()
    running = Running(address)

    async def serve(goodbye: bool) -> None:
        await asyncio.sleep(0.3)
        server = Server(address)
        await server.start()
        await server.wait_for({"pi"}, 20.0)
        answer = await server.proxies()[0].fit(FitIns(START), 10.0)
        assert answer.result.num_examples == 10
        if goodbye:
            await server.farewell()
        else:
            await server.close()

    asyncio.run(serve(goodbye=False))
    asyncio.run(serve(goodbye=True))
    running.join()
    assert running.outcome is None


def test_a_client_told_to_come_again_comes_again() -> None:
    async def test() -> Running:
        async with Server() as server:
            running = Running(f"127.0.0.1:{server.port}")
            await server.wait_for({"pi"}, 20.0)
            [proxy] = server.proxies()
            assert isinstance(proxy, GrpcProxy)
            await proxy.farewell(1, 5.0)
            while server.proxies():
                await asyncio.sleep(0.01)
            left_s = time.monotonic()
            await server.wait_for({"pi"}, 20.0)
            assert time.monotonic() - left_s > 0.5
            assert server.proxies()[0] is not proxy
            await server.farewell()
        return running

    running = asyncio.run(test())
    running.join()
    assert running.outcome is None


def test_without_any_server_the_client_gives_up_in_time_and_says_where() -> None:
    address = free_address()
    begin_s = time.monotonic()
    with pytest.raises(PreconditionError, match=f"{address}: no server for"):
        start_client(address, Unruly(), max_wait_s=0.5)
    assert time.monotonic() - begin_s < 5


def test_a_refusal_is_final() -> None:
    async def test() -> Running:
        async with Server() as server:
            running = Running(f"127.0.0.1:{server.port}", device="not/a/name")
            await asyncio.to_thread(running.join)
        return running

    outcome = asyncio.run(test()).outcome
    assert isinstance(outcome, DeviceError)
    assert "letters" in str(outcome)


def test_a_server_that_does_not_speak_the_protocol_is_told_apart() -> None:
    async def test() -> Running:
        async with Server() as server:
            running = Running(f"127.0.0.1:{server.port}")
            await server.wait_for({"pi"}, 20.0)
            [proxy] = server.proxies()
            assert isinstance(proxy, GrpcProxy)
            await proxy.stream._context.write(b"junk")
            await asyncio.to_thread(running.join)
        return running

    assert isinstance(asyncio.run(test()).outcome, WireError)


def test_contradicting_tls_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="contradict"):
        start_client("127.0.0.1:1", Unruly(), root_certificates=b"pem", insecure=True)


def test_the_main_names_an_unknown_workload(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["--server", "127.0.0.1:1", "--workload", "digit", "--meter", "none"]) == 2
    assert "digits" in caplog.text


@pytest.mark.parametrize("meter", ["auto", "none"])
def test_the_main_trains_a_real_workload(meter: str) -> None:
    config: Config = {"round": 1, "epochs": 1, "batch_size": 16, "lr": 0.05, "seed": 0, "telemetry": "full"}
    words = ("--shard", "1", "--shards", "3", "--meter", meter)
    answer, log = fit_of_a_process(load_workload("digits"), config, *words)
    [fit] = [span for span in answer.spans if span.name == "fit"]
    assert fit.attributes["steps_done"] == fit.attributes["steps_planned"] == len(fit.steps_s) == 30
    assert fit.attributes["stopped_by"] == "completed"
    assert fit.resources.cpu_s is not None
    assert fit.resources.cpu_s > 0
    assert len(fit.energies) == 0 or meter == "auto"
    assert ("energy" in log) == (meter == "auto")

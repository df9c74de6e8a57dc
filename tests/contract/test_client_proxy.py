"""What every ClientProxy does, over a real loopback connection and in process: answers, named failures, recovery."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.aggregate import WeightedMean
from fl.client import start_client
from fl.grpc_proxy import GrpcProxy
from fl.in_process import InProcessProxy
from fl.instrument import instrument
from fl.messages import (
    Config,
    EvaluateIns,
    FitIns,
    FitRes,
    GetParametersIns,
    GetPropertiesIns,
    Parameters,
)
from fl.proxy import ClientInfo, ClientProxy
from fl.server import Server
from profiler.errors import ClientFailure
from tests.fl.clients import Unruly

ROOT = Path(__file__).parents[2]
PARAMETERS = Parameters((np.arange(3, dtype=np.float32),))
DEADLINE_S = 20.0

Connect = Callable[[Unruly], Any]


@asynccontextmanager
async def over_grpc(client: Unruly) -> AsyncIterator[ClientProxy]:
    server = Server(describe=lambda device: ClientInfo(device, processor="cpu"))
    port = await server.start()
    thread = threading.Thread(
        target=start_client, args=(f"127.0.0.1:{port}", client), kwargs={"device": "pi-1", "max_wait_s": 10.0}
    )
    thread.start()
    try:
        await server.wait_for({"pi-1"}, DEADLINE_S)
        yield server.proxies()[0]
    finally:
        client.release.set()
        await until(lambda: all(proxy.is_ready for proxy in server.proxies()))
        await server.farewell(5.0)
        await asyncio.to_thread(thread.join, 10.0)
        assert not thread.is_alive()


@asynccontextmanager
async def in_process(client: Unruly) -> AsyncIterator[ClientProxy]:
    proxy = InProcessProxy(ClientInfo("pi-1", processor="cpu"), instrument(client))
    try:
        yield proxy
    finally:
        client.release.set()
        await until(lambda: proxy.is_ready)
        await proxy.farewell(0, 5.0)
        proxy.close()


@pytest.fixture(params=[over_grpc, in_process])
def connect(request: pytest.FixtureRequest) -> Connect:
    connect: Connect = request.param
    return connect


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60.0))


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "what was waited for did not happen"
        await asyncio.sleep(0.01)


def test_a_fit_gives_the_update_its_times_and_its_measurement(connect: Connect) -> None:
    async def test() -> None:
        async with connect(Unruly()) as proxy:
            assert proxy.info.device == "pi-1"
            assert proxy.info.processor == "cpu"
            config: Config = {"round": 3, "telemetry": "full", "mode": "steps", "epochs": 2}
            answer = await proxy.fit(FitIns(PARAMETERS, config), DEADLINE_S)
            np.testing.assert_array_equal(answer.result.parameters.arrays[0], [1, 2, 3])
            assert answer.result.num_examples == 10
            metrics = answer.result.metrics
            assert metrics["loss"] == 0.5
            assert metrics["fit.steps_done"] == 4
            assert metrics["fit.steps_planned"] == 8
            assert metrics["fit.stopped_by_cutoff"] == 0
            assert not any(key.startswith("fedmeter.") for key in metrics)
            by_name = {span.name: span for span in answer.spans}
            assert set(by_name) == {"receive", "fit", "send"}
            assert all(span.attributes["round"] == 3 for span in answer.spans)
            assert by_name["fit"].duration_s == metrics["fit.duration_s"]
            assert by_name["fit"].attributes["examples"] == 10
            assert len(by_name["fit"].steps_s) == 4
            assert by_name["receive"].end_ns <= by_name["fit"].start_ns
            assert by_name["fit"].end_ns <= by_name["send"].start_ns
            timing = answer.timing
            assert timing.device_s is not None
            assert timing.download_s is not None
            assert timing.upload_s is not None
            assert timing.device_s >= by_name["fit"].duration_s
            assert timing.round_trip_s == pytest.approx(timing.device_s + timing.download_s + timing.upload_s)
            assert timing.download_s >= 0
            assert timing.upload_s >= 0
            assert timing.comm_split in ("clock", "bytes")
            assert 0 < timing.telemetry_bytes < timing.reply_bytes

    run(test())


def test_the_wait_travels_with_the_next_reply(connect: Connect) -> None:
    async def test() -> None:
        async with connect(Unruly()) as proxy:
            await proxy.fit(FitIns(PARAMETERS, {"round": 1, "telemetry": "full"}), DEADLINE_S)
            await asyncio.sleep(0.2)
            answer = await proxy.evaluate(EvaluateIns(PARAMETERS, {"round": 1, "telemetry": "full"}), DEADLINE_S)
            waits = [span for span in answer.spans if span.name == "wait"]
            assert len(waits) == 1
            assert 0.15 < waits[0].duration_s < 5
            assert [span.name for span in answer.spans] == ["wait", "receive", "evaluate", "send"]
            assert (answer.result.loss, answer.result.num_examples) == (0.25, 5)

    run(test())


def test_spans_wait_until_the_server_asks_for_them(connect: Connect) -> None:
    async def test() -> None:
        async with connect(Unruly()) as proxy:
            quiet = await proxy.fit(FitIns(PARAMETERS, {"round": 1}), DEADLINE_S)
            assert quiet.spans == ()
            assert 0 < quiet.timing.telemetry_bytes < 250, "numbers alone"
            assert "fit.duration_s" in quiet.result.metrics
            assert "fit.energy_j" not in quiet.result.metrics, "unknown is absent"
            assert "fit.steps_done" not in quiet.result.metrics, "this fit did not use steps"
            full = await proxy.fit(FitIns(PARAMETERS, {"round": 2, "telemetry": "full"}), DEADLINE_S)
            assert [span.attributes["round"] for span in full.spans if span.name == "fit"] == [1, 2]
            assert full.timing.telemetry_bytes > quiet.timing.telemetry_bytes + 100
            model_bytes = [one.timing.reply_bytes - one.timing.telemetry_bytes for one in (quiet, full)]
            assert max(model_bytes) - min(model_bytes) < 40, "what is not telemetry is the same update"

    run(test())


def test_properties_and_parameters_are_told(connect: Connect) -> None:
    async def test() -> None:
        async with connect(Unruly()) as proxy:
            properties = await proxy.get_properties(GetPropertiesIns(), DEADLINE_S)
            assert properties.result.properties == {"cores": 4}
            parameters = await proxy.get_parameters(GetParametersIns(), DEADLINE_S)
            np.testing.assert_array_equal(parameters.result.parameters.arrays[0], np.zeros(3))

    run(test())


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("raise", "RuntimeError: out of cake"),
        ("objects", "dtype object"),
        ("metrics", "'momentum' is NoneType"),
        ("nothing", "a tuple of three"),
    ],
)
def test_what_user_code_does_wrong_is_told_and_the_client_stays(connect: Connect, mode: str, reason: str) -> None:
    async def test() -> None:
        async with connect(Unruly()) as proxy:
            with pytest.raises(ClientFailure, match=reason) as caught:
                await proxy.fit(FitIns(PARAMETERS, {"mode": mode}), DEADLINE_S)
            assert (caught.value.device, caught.value.phase) == ("pi-1", "fit")
            assert proxy.is_ready
            await proxy.fit(FitIns(PARAMETERS), DEADLINE_S)

    run(test())


def test_an_evaluation_that_fails_is_told(connect: Connect) -> None:
    async def test() -> None:
        async with connect(Unruly()) as proxy:
            with pytest.raises(ClientFailure, match="pi-1: evaluate: ValueError: no test set"):
                await proxy.evaluate(EvaluateIns(PARAMETERS, {"mode": "raise"}), DEADLINE_S)

    run(test())


def test_a_config_that_cannot_be_sent_is_told(connect: Connect) -> None:
    async def test() -> None:
        async with connect(Unruly()) as proxy:
            with pytest.raises(ClientFailure, match="'lr' is NoneType"):
                await proxy.fit(FitIns(PARAMETERS, {"lr": None}), DEADLINE_S)  # type: ignore[dict-item]
            assert proxy.is_ready

    run(test())


def test_after_a_deadline_the_late_reply_is_dropped_and_the_client_is_ready_again(connect: Connect) -> None:
    async def test() -> None:
        client = Unruly()
        async with connect(client) as proxy:
            config: Config = {"mode": "hang", "round": 1, "telemetry": "full"}
            with pytest.raises(ClientFailure, match=r"no answer within 0\.2 s"):
                await proxy.fit(FitIns(PARAMETERS, config), 0.2)
            assert not proxy.is_ready
            with pytest.raises(ClientFailure, match="still owes"):
                await proxy.fit(FitIns(PARAMETERS), 0.2)
            client.release.set()
            await until(lambda: proxy.is_ready)
            assert proxy.receipts.n_late == 1
            other = Parameters((np.full(3, 7, dtype=np.float32),))
            answer = await proxy.fit(FitIns(other, {"round": 2, "telemetry": "full"}), DEADLINE_S)
            np.testing.assert_array_equal(answer.result.parameters.arrays[0], [8, 8, 8])
            assert [span.attributes["round"] for span in answer.spans if span.name == "fit"] == [2]
            [late] = proxy.receipts.take()
            assert [span.attributes["round"] for span in late.spans if span.name == "fit"] == [1], (
                "its cost is not lost"
            )
            assert (late.device, late.processor, late.call, late.round) == ("pi-1", "cpu", "fit", 1)
            assert late.late_s is not None
            assert 0 < late.late_s < 10
            assert proxy.receipts.take() == [], "once"
            assert client.fits == 2

    run(test())


@pytest.mark.parametrize("mode", ["shape", "nan"])
def test_a_bad_update_is_refused_by_the_aggregator_and_the_client_stays(connect: Connect, mode: str) -> None:
    async def test() -> None:
        async with connect(Unruly()) as proxy:
            mean = WeightedMean(PARAMETERS)
            bad = await proxy.fit(FitIns(PARAMETERS, {"mode": mode}), DEADLINE_S)
            with pytest.raises(ClientFailure, match="pi-1: fit: tensor 0"):
                mean.fold("pi-1", bad.result)
            good: FitRes = (await proxy.fit(FitIns(PARAMETERS), DEADLINE_S)).result
            mean.fold("pi-1", good)
            result = mean.result()
            assert result is not None
            np.testing.assert_array_equal(result.arrays[0], [1, 2, 3])

    run(test())


def test_a_large_model_goes_both_ways(connect: Connect) -> None:
    async def test() -> None:
        large = Parameters((np.arange(2_000_000, dtype=np.float32),))
        async with connect(Unruly()) as proxy:
            answer = await proxy.fit(FitIns(large, {}), DEADLINE_S)
            np.testing.assert_array_equal(answer.result.parameters.arrays[0], large.arrays[0] + 1)
            assert answer.timing.request_bytes > 8_000_000

    run(test())


def test_a_killed_client_ends_its_call_at_once_and_by_name() -> None:
    async def test() -> None:
        async with Server() as server:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fl.clients", str(server.port), "jetson-7"], cwd=ROOT, env=os.environ
            )
            try:
                await server.wait_for({"jetson-7"}, 30.0)
                proxy = server.proxies()[0]
                assert isinstance(proxy, GrpcProxy)
                call = asyncio.ensure_future(proxy.fit(FitIns(PARAMETERS, {"mode": "hang"}), 60.0))
                await asyncio.sleep(0.3)
                assert not call.done()
                killed_s = time.monotonic()
                process.send_signal(signal.SIGKILL)
                with pytest.raises(ClientFailure, match="jetson-7: fit: the connection ended"):
                    await call
                assert time.monotonic() - killed_s < 5
                assert not proxy.is_ready
                assert server.proxies() == []
            finally:
                process.kill()
                process.wait(10)

    run(test())

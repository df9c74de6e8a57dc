"""Clients that vanish and return: recognised, not refused for long, and their measurements neither lost nor doubled."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import numpy as np
import pytest

from fl.client import _BackOff, start_client
from fl.messages import Config, FitIns, FitRes, GetPropertiesRes, Parameters, Scalar
from fl.proxy import ClientProxy
from fl.server import HEARTBEAT_KEY, Server
from fl.wire import codec
from profiler.clock import FakeClock
from profiler.errors import ClientFailure, PreconditionError
from tests.fixtures.relay import relay_to
from tests.fl.clients import Unruly
from tests.fl.test_client import Running
from tests.fl.test_server import RawClient, answer_probes, free_address, raw_clients, run

__all__ = ["raw_clients"]

START = Parameters((np.zeros(2, dtype=np.float32),))
FULL: Config = {"round": 1, "telemetry": "full"}
HEARTBEAT_S = 2.0


async def wait_until_lost(proxy: ClientProxy, timeout_s: float) -> float:
    """After how many seconds it was."""
    began_s = time.monotonic()
    while proxy.lost is None:  # type: ignore[attr-defined]
        assert time.monotonic() - began_s < timeout_s, "the vanished client was not found"
        await asyncio.sleep(0.02)
    return time.monotonic() - began_s


def test_a_process_that_returns_replaces_its_busy_stream_at_once(raw_clients: list[RawClient]) -> None:
    """A device that vanished in mid-fit: its old stream looks alive, and owes an answer."""

    async def test() -> None:
        async with Server() as server:
            before = RawClient(server.port, "pi", "one")
            raw_clients.append(before)
            await answer_probes(before)
            await server.wait_for({"pi"}, 10.0)
            call = asyncio.ensure_future(server.proxies()[0].fit(FitIns(START), 30.0))
            await before.receive()
            began_s = time.monotonic()
            again = RawClient(server.port, "pi", "one")
            raw_clients.append(again)
            with pytest.raises(ClientFailure, match="pi: fit: the device came back on a new connection"):
                await call
            await answer_probes(again)
            await server.wait_for({"pi"}, 10.0)
            assert time.monotonic() - began_s < 1.5

    run(test())


def test_another_process_under_the_name_of_a_busy_one_is_refused(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            first = RawClient(server.port, "pi", "one")
            raw_clients.append(first)
            await answer_probes(first)
            await server.wait_for({"pi"}, 10.0)
            call = asyncio.ensure_future(server.proxies()[0].fit(FitIns(START), 30.0))
            await first.receive()
            other = RawClient(server.port, "pi", "two")
            raw_clients.append(other)
            code, _ = await other.refused()
            assert code is grpc.StatusCode.ALREADY_EXISTS
            first.send(codec.encode_reply(FitRes(START, 1)))
            await call

    run(test())


def test_a_process_without_a_name_gets_the_same_one_again(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(heartbeat_s=12.0) as server:
            for instance, name in (("one", "client-1"), ("two", "client-2"), ("one", "client-1")):
                client = RawClient(server.port, None, instance)
                raw_clients.append(client)
                await answer_probes(client, n=1)
                await server.wait_for({name}, 10.0)
                told = await asyncio.to_thread(getattr, client, "metadata")
                assert told[HEARTBEAT_KEY] == "12"
            await server.wait_for({"client-1", "client-2"}, 10.0)
            assert [proxy.info.device for proxy in server.proxies()] == ["client-1", "client-2"]

    run(test())


def test_a_device_behind_a_pulled_cable_is_found_and_comes_back() -> None:
    """Nothing tells either side: no FIN, no RST. Both must find out by themselves."""

    async def test() -> tuple[Running, float, int]:
        server = Server(heartbeat_s=HEARTBEAT_S)
        port = await server.start()
        async with relay_to(port) as relay:
            running = Running(f"127.0.0.1:{relay.port}")
            await server.wait_for({"pi"}, 20.0)
            await asyncio.sleep(HEARTBEAT_S)
            [proxy] = server.proxies()
            assert proxy.is_ready, "pings are answered, and harm nobody"
            relay.pull()
            found_s = await wait_until_lost(proxy, 4 * HEARTBEAT_S)
            relay.plug()
            await server.wait_for({"pi"}, 30.0)
            answer = await server.proxies()[0].fit(FitIns(START), 10.0)
            assert answer.result.num_examples == 10
            await server.farewell()
            return running, found_s, relay.n_connections

    running, found_s, _ = asyncio.run(asyncio.wait_for(test(), 60.0))
    running.join()
    assert running.outcome is None
    assert found_s < 2.5 * HEARTBEAT_S


class Gated(Unruly):
    """Trains until it is let go; `began` tells that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()

    def fit(self, parameters: list[np.ndarray], config: Config) -> tuple[list[np.ndarray], int, dict[str, Scalar]]:
        self.began.set()
        return super().fit(parameters, config)


def test_a_server_that_ends_in_mid_fit_costs_the_update_and_not_the_measurement() -> None:
    address, client = free_address(), Gated()
    thread = threading.Thread(target=start_client, args=(address, client), kwargs={"device": "pi", "max_wait_s": 20.0})
    thread.start()

    async def first() -> None:
        async with Server(address) as server:
            await server.wait_for({"pi"}, 20.0)
            call = asyncio.ensure_future(server.proxies()[0].fit(FitIns(START, {**FULL, "mode": "hang"}), 30.0))
            assert await asyncio.to_thread(client.began.wait, 10.0)
            await server.close()
            with pytest.raises(ClientFailure, match=r"pi: fit: the (server was closed|connection ended)"):
                await call

    async def second() -> list[int | str]:
        server = Server(address)
        await server.start()
        client.release.set()
        await server.wait_for({"pi"}, 20.0)
        answer = await server.proxies()[0].fit(FitIns(START, {**FULL, "round": 2}), 30.0)
        spans = [span for stray in server.receipts.take() for span in stray.spans] + list(answer.spans)
        await server.farewell()
        return [span.attributes["round"] for span in spans if span.name == "fit"]

    asyncio.run(first())
    assert asyncio.run(second()) == [1, 2], "each once, also that of the fit whose update was given up"
    thread.join(20.0)
    assert not thread.is_alive()


def test_a_refused_reply_still_tells_what_it_measured() -> None:
    async def test() -> None:
        server = Server()
        await server.start()
        running = Running(f"127.0.0.1:{server.port}")
        await server.wait_for({"pi"}, 20.0)
        with pytest.raises(ClientFailure, match="out of cake") as caught:
            await server.proxies()[0].fit(FitIns(START, {**FULL, "mode": "raise"}), 30.0)
        assert [span.name for span in caught.value.spans if span.name == "fit"] == ["fit"]
        await server.farewell()
        await asyncio.to_thread(running.join)

    run(test())


def test_farewell_to_one_that_is_stuck_in_a_call_is_bounded(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        server = Server()
        await server.start()
        client = RawClient(server.port)
        raw_clients.append(client)
        await answer_probes(client, n=1)
        await server.wait_for(1, 10.0)
        with pytest.raises(ClientFailure, match="no answer"):
            await server.proxies()[0].fit(FitIns(START), 0.05)
        began_s = time.monotonic()
        await server.farewell(0.3)
        assert 0.3 <= time.monotonic() - began_s < 3

    run(test())


def test_probes_bring_what_an_earlier_stream_lost(raw_clients: list[RawClient]) -> None:
    from fl.wire.measurement import RECORD_KEY, encode_spans
    from profiler.records import SpanRecord

    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port, "pi")
            raw_clients.append(client)
            await client.receive()
            record = encode_spans([SpanRecord("pi/1", "fit", 5, 1.0, attributes={"round": 3})])
            client.send(codec.encode_reply(GetPropertiesRes({RECORD_KEY: record})))
            await answer_probes(client, n=2)
            await server.wait_for({"pi"}, 10.0)
            [stray] = server.receipts.take()
            assert (stray.device, [span.span_id for span in stray.spans], stray.late_s) == ("pi", ["pi/1"], None)

    run(test())


class Unavailable(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "down"


def test_back_off_grows_is_jittered_and_ends() -> None:
    pauses_s = [pauses_until_given_up() for _ in range(20)]
    for mine_s in pauses_s:
        assert 50 <= sum(mine_s) <= 60
        assert max(mine_s) <= 5.0
        assert mine_s[0] <= 0.2
        assert mine_s[1] <= 0.4
    assert len({tuple(mine_s[:6]) for mine_s in pauses_s}) == 20, "a fleet does not come back in step"


def pauses_until_given_up() -> list[float]:
    clock = FakeClock()
    backoff = _BackOff(60.0, clock)
    mine_s = []
    while True:
        before_ns = clock.monotonic_ns()
        try:
            backoff.pause("pi:1", Unavailable())
        except PreconditionError:
            return mine_s
        mine_s.append((clock.monotonic_ns() - before_ns) / 1e9)

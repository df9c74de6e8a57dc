"""The server: joining, names, duplicates, waiting, leaving, and `start_server` as a whole."""

from __future__ import annotations

import asyncio
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fl.client import JOIN, start_client
from fl.messages import (
    Config,
    DisconnectRes,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    ReconnectIns,
)
from fl.proxy import ClientInfo
from fl.security import DEVICE_KEY, INSTANCE_KEY
from fl.server import Server
from fl.standalone import ServerConfig, start_server
from fl.strategies.fedavg import FedAvg
from fl.wire import codec
from profiler.errors import ClientFailure, PreconditionError, UsageError
from tests.fl.clients import Unruly

START = Parameters((np.zeros(2, dtype=np.float32),))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60.0))


class RawClient:
    """A hand-driven stream, as a foreign client may drive it: `send` bytes, `receive` bytes."""

    def __init__(self, port: int, device: str | None = None, instance: str | None = None) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self._replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        told = {DEVICE_KEY: device, INSTANCE_KEY: instance}
        metadata = tuple((key, value) for key, value in told.items() if value is not None)
        self._call = self._channel.stream_stream(JOIN)(iter(self._replies.get, None), metadata=metadata)

    def send(self, data: bytes) -> None:
        self._replies.put(data)

    @property
    def metadata(self) -> dict[str, str | bytes]:
        """What the server told of itself; waits for it."""
        return dict(self._call.initial_metadata())

    async def receive(self) -> bytes:
        return await asyncio.to_thread(next, self._call)

    async def refused(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            await self.receive()
        return caught.value.code(), caught.value.details()

    def close(self) -> None:
        self._replies.put(None)
        self._call.cancel()
        self._channel.close()


@pytest.fixture
def raw_clients() -> Iterator[list[RawClient]]:
    clients: list[RawClient] = []
    yield clients
    for client in clients:
        client.close()


async def answer_probes(client: RawClient, properties: Config | None = None, n: int = 3) -> None:
    for _ in range(n):
        assert isinstance(codec.decode_instruction(await client.receive()), GetPropertiesIns)
        client.send(codec.encode_reply(GetPropertiesRes(properties or {})))


def test_a_foreign_client_is_asked_once_and_numbered(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port)
            raw_clients.append(client)
            await answer_probes(client, n=1)
            await server.wait_for(1, 10.0)
            [proxy] = server.proxies()
            assert proxy.info == ClientInfo("client-1")
            call = asyncio.ensure_future(proxy.fit(FitIns(START, {"round": 1}), 10.0))
            ins = codec.decode_instruction(await client.receive())
            assert isinstance(ins, FitIns), "nothing else is asked"
            client.send(codec.encode_reply(FitRes(ins.parameters, 3)))
            answer = await call
            assert answer.result.num_examples == 3
            assert answer.timing.device_s is None
            assert answer.timing.comm_split is None

    run(test())


def test_what_a_device_tells_and_what_is_known_of_it_meet_in_its_info(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(describe=lambda device: ClientInfo(device, "tx2-gpu", {"site": "lab"})) as server:
            client = RawClient(server.port, "tx2-1")
            raw_clients.append(client)
            await answer_probes(client, {"cores": 6})
            await server.wait_for({"tx2-1"}, 10.0)
            assert server.proxies()[0].info == ClientInfo("tx2-1", "tx2-gpu", {"site": "lab", "cores": 6})

    run(test())


def test_a_live_duplicate_is_refused_and_the_first_stays(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            first = RawClient(server.port, "pi")
            raw_clients.append(first)
            await answer_probes(first)
            await server.wait_for({"pi"}, 10.0)
            second = RawClient(server.port, "pi")
            raw_clients.append(second)
            await answer_probes(first, n=1)
            code, details = await second.refused()
            assert code is grpc.StatusCode.ALREADY_EXISTS
            assert "device pi is connected already" in details
            assert server.proxies()[0].is_ready

    run(test())


def test_a_device_that_comes_back_replaces_its_dead_connection(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            dead = RawClient(server.port, "pi")
            raw_clients.append(dead)
            await answer_probes(dead)
            await server.wait_for({"pi"}, 10.0)
            [old] = server.proxies()
            again = RawClient(server.port, "pi")  # the old stream is open, but nobody answers on it
            raw_clients.append(again)
            await answer_probes(again, {"boot": 2})
            await server.wait_for({"pi"}, 10.0)
            [new] = server.proxies()
            assert new is not old
            assert new.info.properties == {"boot": 2}
            with pytest.raises(ClientFailure, match="came back on a new connection"):
                await old.fit(FitIns(START), 1.0)

    run(test())


@pytest.mark.parametrize("device", ["a b", "x" * 129, "../etc", "a\tb"])
def test_a_device_id_that_is_none_is_refused(raw_clients: list[RawClient], device: str) -> None:
    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port, device)
            raw_clients.append(client)
            code, _ = await client.refused()
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
            assert server.proxies() == []

    run(test())


def test_an_unasked_reply_ends_the_connection(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port)
            raw_clients.append(client)
            await answer_probes(client, n=1)
            await server.wait_for(1, 10.0)
            client.send(codec.encode_reply(FitRes(START, 1)))
            code, details = await client.refused()
            assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "a reply that nobody asked for")

    run(test())


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"junk", "wire: .*no message"),
        (b"", "wire: .*without content"),
        (codec.encode_reply(EvaluateRes(0.5, 1)), "answered another call"),
        (codec.encode_reply(DisconnectRes()), "left: ACK"),
        (codec.encode_reply(FitRes(START, 1, {"fedmeter.record": b"junk"})), None),
        (codec.encode_reply(FitRes(START, 1, {"fedmeter.received_ns": 5, "fedmeter.handover_ns": 1})), None),
        (codec.encode_reply(FitRes(START, 1, {"fedmeter.received_ns": "a", "fedmeter.handover_ns": 1})), None),
        (codec.encode_reply(FitRes(START, 1, {"fedmeter.received_ns": 0, "fedmeter.handover_ns": 2**62})), None),
    ],
)
def test_hostile_replies_cost_the_call_or_only_their_measurement(
    raw_clients: list[RawClient], reply: bytes, reason: str | None
) -> None:
    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port)
            raw_clients.append(client)
            await answer_probes(client, n=1)
            await server.wait_for(1, 10.0)
            [proxy] = server.proxies()
            call = asyncio.ensure_future(proxy.fit(FitIns(START), 10.0))
            await client.receive()
            client.send(reply)
            if reason is None:
                answer = await call
                assert answer.spans == ()
                assert answer.timing.device_s is None
                assert answer.result.metrics == {}
            else:
                with pytest.raises(ClientFailure, match=f"client-1: fit: {reason}"):
                    await call
            assert proxy.is_ready

    run(test())


def test_a_message_above_the_bound_ends_the_call(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(max_message_bytes=10_000) as server:
            client = RawClient(server.port)
            raw_clients.append(client)
            await answer_probes(client, n=1)
            await server.wait_for(1, 10.0)
            call = asyncio.ensure_future(server.proxies()[0].fit(FitIns(START), 10.0))
            await client.receive()
            client.send(codec.encode_reply(FitRes(Parameters((np.zeros(10_000),)), 1)))
            with pytest.raises(ClientFailure, match="client-1: fit: the connection ended"):
                await call

    run(test())


def test_farewell_is_bounded_by_time(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        server = Server()
        await server.start()
        client = RawClient(server.port)
        raw_clients.append(client)
        await answer_probes(client, n=1)
        await server.wait_for(1, 10.0)
        begin_s = time.monotonic()
        await server.farewell(0.3)
        assert time.monotonic() - begin_s < 3
        assert codec.decode_instruction(await client.receive()) == ReconnectIns(0)

    run(test())


def test_of_two_that_join_under_one_name_at_once_one_is_refused(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            first = RawClient(server.port, "pi")
            raw_clients.append(first)
            assert isinstance(codec.decode_instruction(await first.receive()), GetPropertiesIns)
            second = RawClient(server.port, "pi")  # while the first is still being probed
            raw_clients.append(second)
            code, _ = await second.refused()
            assert code is grpc.StatusCode.ALREADY_EXISTS
            first.send(codec.encode_reply(GetPropertiesRes({})))
            await answer_probes(first, n=2)
            await server.wait_for({"pi"}, 10.0)

    run(test())


def test_a_late_client_is_let_finish_and_told_to_leave(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        server = Server()
        await server.start()
        client = RawClient(server.port)
        raw_clients.append(client)
        await answer_probes(client, n=1)
        await server.wait_for(1, 10.0)
        with pytest.raises(ClientFailure, match="no answer within"):
            await server.proxies()[0].fit(FitIns(START), 0.1)
        leaving = asyncio.ensure_future(server.farewell(10.0))
        await client.receive()
        client.send(codec.encode_reply(FitRes(START, 1)))
        assert codec.decode_instruction(await client.receive()) == ReconnectIns(0)
        client.send(codec.encode_reply(DisconnectRes()))
        await leaving

    run(test())


def test_a_port_in_use_is_named() -> None:
    async def test() -> None:
        async with Server() as first:
            with pytest.raises(PreconditionError, match=f"127.0.0.1:{first.port}.*in use"):
                await Server(f"127.0.0.1:{first.port}").start()

    run(test())


def test_who_is_missing_is_named() -> None:
    async def test() -> None:
        async with Server() as server:
            with pytest.raises(PreconditionError, match="not ready: pi-1, pi-2"):
                await server.wait_for({"pi-2", "pi-1"}, 0.1)
            with pytest.raises(PreconditionError, match=r"0 of 2 clients are ready \(none\)"):
                await server.wait_for(2, 0.1)

    run(test())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls_with_a_certificate_of_our_own(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make, *files], check=True, capture_output=True, timeout=60)

    async def test() -> None:
        pem = certificate.read_bytes()
        server = Server(certificates=(pem, pem, key.read_bytes()))
        await server.start()
        joining = asyncio.to_thread(
            start_client,
            f"127.0.0.1:{server.port}",
            Unruly(),
            device="pi",
            root_certificates=str(certificate),
            max_wait_s=20.0,
        )
        client = asyncio.ensure_future(joining)
        await server.wait_for({"pi"}, 20.0)
        answer = await server.proxies()[0].fit(FitIns(START), 10.0)
        assert answer.result.num_examples == 10
        await server.farewell()
        await client

    run(test())


# --- start_server ----------------------------------------------------------------------------------------------------


def free_address() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_start_server_trains_with_whoever_joins_and_sends_them_home() -> None:
    address = free_address()
    threads = [
        threading.Thread(target=start_client, args=(address, Unruly()), kwargs={"device": device, "max_wait_s": 20.0})
        for device in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    history = start_server(
        address,
        config=ServerConfig(num_rounds=3, round_timeout=20.0),
        strategy=FedAvg(epochs=1, batch_size=1, lr=0.1),
        min_clients=2,
        evaluate_fn=lambda parameters: (0.5, float(parameters.arrays[0][0])),
        wait_s=20.0,
    )
    for thread in threads:
        thread.join(10.0)
        assert not thread.is_alive()
    assert [result.accuracy for result in history.rounds] == [1.0, 2.0, 3.0]
    assert sum(result.n_failures for result in history.rounds) == 0
    assert history.parameters is not None
    assert history.parameters.arrays[0].tolist() == [3, 3, 3], "the initial ones were asked of a client"
    assert all(result.parameters.arrays == () for result in history.rounds)


def test_start_server_gives_up_where_nobody_comes() -> None:
    strategy = FedAvg(epochs=1, batch_size=1, lr=0.1)
    with pytest.raises(PreconditionError, match="0 of 2 clients"):
        start_server(free_address(), strategy=strategy, wait_s=0.2)
    with pytest.raises(UsageError, match="num_rounds"):
        start_server(free_address(), strategy=strategy, config=ServerConfig(num_rounds=0))


def test_closing_leaves_no_task_behind(caplog: pytest.LogCaptureFixture) -> None:
    """An event loop cancels the tasks that are left when it closes, and gRPC logs a traceback for each of its own."""

    async def close_with_clients() -> None:
        server = Server()
        port = await server.start()
        clients = [RawClient(port, f"d{n}") for n in range(3)]
        for client in clients:
            await client.receive()
        await server.close()
        assert [task for task in asyncio.all_tasks() if "_schedule_rpc_coro" in repr(task)] == []
        for client in clients:
            client.close()

    for _ in range(5):
        run(close_with_clients())
    assert not [record for record in caplog.records if record.name.startswith("grpc")]

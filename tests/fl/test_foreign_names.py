"""Foreign clients known by what their properties tell, over real sockets; and those that tell nothing, or lie."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from fl.admission import Access
from fl.messages import Code, Config, FitIns, FitRes, GetPropertiesIns, GetPropertiesRes, Parameters, Reply
from fl.proxy import ClientInfo
from fl.server import Limits, Server
from fl.wire import codec
from fl.wire import transport_pb2 as pb
from tests.fl.test_security import until
from tests.fl.test_server import RawClient, answer_probes, raw_clients, run

__all__ = ["raw_clients"]

START = Parameters((np.zeros(2, dtype=np.float32),))
PHONES = Access(devices=frozenset({"pi"}), foreign=("phone-1", "phone-2"))


def names(server: Server) -> list[str]:
    return [proxy.info.device for proxy in server.proxies()]


async def join(server: Server, clients: list[RawClient], properties: Config) -> RawClient:
    """A foreign client that tells these when it is asked."""
    client = RawClient(server.port)
    clients.append(client)
    await answer_probes(client, properties, n=1)
    return client


async def trains(server: Server, device: str, client: RawClient) -> None:
    [proxy] = [proxy for proxy in server.proxies() if proxy.info.device == device]
    call = asyncio.ensure_future(proxy.fit(FitIns(START), 5.0))
    assert isinstance(codec.decode_instruction(await client.receive()), FitIns)
    client.send(codec.encode_reply(FitRes(START, 3)))
    assert (await call).result.num_examples == 3


def test_a_client_that_tells_its_name_keeps_it_over_a_reconnect(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(describe=lambda device: ClientInfo(device, f"cpu of {device}")) as server:
            first = await join(server, raw_clients, {"client_id": "board", "cores": 4})
            await server.wait_for({"board"}, 5.0)
            first.close()
            await until(lambda: names(server) == [])
            await join(server, raw_clients, {})
            await server.wait_for({"client-1"}, 5.0)
            again = await join(server, raw_clients, {"client_id": "board", "cores": 4})
            await server.wait_for({"board", "client-1"}, 5.0)
            [board] = [proxy for proxy in server.proxies() if proxy.info.device == "board"]
            assert board.info == ClientInfo("board", "cpu of board", {"client_id": "board", "cores": 4})
            await trains(server, "board", again)

    run(test())


def test_a_client_that_comes_back_replaces_its_dead_connection(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(access=PHONES) as server:
            await join(server, raw_clients, {"cid": "phone-2"})  # and never says a word again
            await server.wait_for({"phone-2"}, 5.0)
            [old] = server.proxies()
            again = await join(server, raw_clients, {"cid": "phone-2"})
            await until(lambda: names(server) == ["phone-2"] and server.proxies() != [old])
            await trains(server, "phone-2", again)
            await until(lambda: server.n_streams == 1)

    run(test())


def test_declared_clients_are_bound_by_their_names_in_whatever_order_they_come(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(access=PHONES) as server:
            second = await join(server, raw_clients, {"device_id": "phone-2"})
            await server.wait_for({"phone-2"}, 5.0)
            first = await join(server, raw_clients, {"device_id": "phone-1"})
            await server.wait_for({"phone-1", "phone-2"}, 5.0)
            await trains(server, "phone-1", first)
            await trains(server, "phone-2", second)

    run(test())


@pytest.mark.parametrize("told", ["pi", "phone-3", "../etc", "x" * 500])
def test_a_name_that_is_not_declared_gives_no_more_than_a_place(raw_clients: list[RawClient], told: str) -> None:
    async def test() -> None:
        async with Server(access=PHONES) as server:
            await join(server, raw_clients, {"client_id": told})
            await server.wait_for(1, 5.0)
            assert names(server) == ["phone-1"]

    run(test())


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_declared_name_is_not_taken_from_a_client_that_is_there(raw_clients: list[RawClient], is_busy: bool) -> None:
    async def test() -> None:
        async with Server(access=PHONES) as server:
            owner = await join(server, raw_clients, {"client_id": "phone-1"})
            await server.wait_for({"phone-1"}, 5.0)
            [proxy] = server.proxies()
            call = asyncio.ensure_future(proxy.fit(FitIns(START), 10.0)) if is_busy else None
            if is_busy:
                await owner.receive()
            thief = await join(server, raw_clients, {"client_id": "phone-1"})
            if not is_busy:
                await answer_probes(owner, n=1)  # whether it is alive
            code, details = await thief.refused()
            assert code is grpc.StatusCode.ALREADY_EXISTS
            assert "phone-1 is connected already" in details
            assert server.proxies() == [proxy]
            if call is not None:
                owner.send(codec.encode_reply(FitRes(START, 3)))
                await call

    run(test())


def test_where_names_are_free_a_second_client_of_the_same_name_is_known_by_its_connection(
    raw_clients: list[RawClient],
) -> None:
    """Many programs tell the same in every copy: they train, as they did before anybody asked."""

    async def test() -> None:
        async with Server() as server:
            first = await join(server, raw_clients, {"client_id": "worker"})
            await server.wait_for({"worker"}, 5.0)
            second = await join(server, raw_clients, {"client_id": "worker"})
            await answer_probes(first, n=1)
            await server.wait_for({"worker", "client-1"}, 5.0)
            await trains(server, "worker", first)
            await trains(server, "client-1", second)

    run(test())


@pytest.mark.parametrize(
    "answer",
    [
        GetPropertiesRes({}, Code.GET_PROPERTIES_NOT_IMPLEMENTED),
        GetPropertiesRes({"client_id": "board"}, Code.GET_PROPERTIES_NOT_IMPLEMENTED),
        FitRes(START, 1),
        None,
        b"junk",
    ],
)
def test_one_that_cannot_tell_is_known_by_its_connection_and_trains(
    raw_clients: list[RawClient], answer: Reply | bytes | None
) -> None:
    async def test() -> None:
        async with Server(limits=Limits(probe_s=0.3)) as server:
            client = RawClient(server.port)
            raw_clients.append(client)
            assert codec.decode_instruction(await client.receive()) == GetPropertiesIns()
            if answer is not None:
                client.send(answer if isinstance(answer, bytes) else codec.encode_reply(answer))
            await server.wait_for({"client-1"}, 5.0)
            await trains(server, "client-1", client)

    run(test())


def test_strangers_that_do_not_answer_keep_nobody_else_out(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(access=PHONES, limits=Limits(clients=10)) as server:
            silent = [RawClient(server.port) for _ in range(2)]
            raw_clients.extend(silent)
            for client in silent:
                await client.receive()
            one_more = RawClient(server.port)
            raw_clients.append(one_more)
            code, _ = await one_more.refused()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, "it may come again"
            ours = RawClient(server.port, "pi")
            raw_clients.append(ours)
            await answer_probes(ours)
            await server.wait_for({"pi"}, 5.0)
            silent[0].close()
            await until(lambda: server.n_streams == 2)
            await join(server, raw_clients, {"cid": "phone-1"})
            await server.wait_for({"phone-1", "pi"}, 5.0)

    run(test())


def test_a_server_that_closes_while_it_asks_ends_the_stream(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port)
            raw_clients.append(client)
            await client.receive()
        code, _ = await client.refused()
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert (server.n_streams, server.proxies()) == (0, [])

    run(test())


def test_no_name_is_asked_of_clients_whose_tensors_are_raw_or_where_it_is_not_wanted(
    raw_clients: list[RawClient],
) -> None:
    """Android's apps end their stream at any instruction but training."""

    async def test(server: Server) -> None:
        async with server:
            client = RawClient(server.port)
            raw_clients.append(client)
            await server.wait_for({"client-1"}, 5.0)
            call = asyncio.ensure_future(server.proxies()[0].fit(FitIns(START), 5.0))
            message = pb.ServerMessage()
            message.ParseFromString(await client.receive())
            assert message.WhichOneof("msg") == "fit_ins"
            client.send(codec.encode_reply(FitRes(Parameters(()), 1)))
            await asyncio.wait({call})

    run(test(Server(foreign_tensors="float32")))
    run(test(Server(access=Access(asks_names=False))))

"""Of a SuperLink that does everything at one port, nodes elsewhere reach what is for nodes: over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.flower.gate import MAX_HEAD_BYTES, FleetGate, passed_head

CALL = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\n"


class SuperLink:
    """What stands for one: keeps all that comes, answers once it has come, and closes."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.create_task(self._answer(reader, writer))
        self._calls.add(call)
        await call

    async def idle(self) -> None:
        await asyncio.gather(*self._calls)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [line for line in head.split(b"\r\n") if line.startswith(b"content-length")] or [b":0"]
        body = await reader.readexactly(int(length.partition(b":")[2]))
        self.heard.append(head + body)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n" + body[-6:].rjust(6, b"-"))
        await writer.drain()
        with suppress(OSError):
            writer.write_eof()
            self.heard[-1] += await reader.read()  # whatever follows
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def gate_before(link: SuperLink) -> AsyncIterator[str]:
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    gate = FleetGate(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield await gate.open()
    finally:
        await gate.close()
        server.close()
        await link.idle()


async def told(address: str, sent: bytes) -> bytes:
    """All that comes back for these bytes."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(sent)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def exchange(sent: bytes) -> tuple[bytes, list[bytes]]:
    """What came back, and what the SuperLink has heard."""
    link = SuperLink()

    async def life() -> bytes:
        async with gate_before(link) as address:
            return await told(address, sent)

    return asyncio.run(life()), link.heard


def test_a_node_calls_through_it_whatever_the_size() -> None:
    body = bytes(range(256)) * 4096 + b"theend"
    answer, [heard] = exchange(CALL + b"Content-Length: %d\r\nConnection: keep-alive\r\n\r\n" % len(body) + body)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"theend")
    head, _, arrived = heard.partition(b"\r\n\r\n")
    assert arrived == body
    assert b"keep-alive" not in head
    assert head.endswith(b"connection: close")


def test_nothing_follows_a_call_on_its_connection() -> None:
    second = b"POST /v1/control/start-run HTTP/1.1\r\nHost: x\r\n\r\n"
    for length in (b"Content-Length: 0\r\n", b""):
        answer, [heard] = exchange(CALL + length + b"\r\n" + second)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"control" not in heard


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/control/start-run HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/runtime/pull-app-inputs HTTP/1.1\r\n\r\n",
        b"GET /docs HTTP/1.1\r\n\r\n",
        b"GET /v1/fleet/pull-messages HTTP/1.1\r\n\r\n",
        b"POST /v1/fleet/../control/start-run HTTP/1.1\r\n\r\n",
        b"POST /v1/fleet/%2e%2e/control/start-run HTTP/1.1\r\n\r\n",
        b"POST http://x/v1/fleet/pull-messages HTTP/1.1\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.0\r\n\r\n",
        CALL + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CALL + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        CALL + b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n",
        CALL + b"Content-Length: +1\r\n\r\nx",
        CALL + b"Content-Length: 1, 1\r\n\r\nx",
        CALL + b"Upgrade: h2c\r\n\r\n",
        CALL + b"X: a\r\n folded: b\r\n\r\n",
        CALL + b"X: a\nTransfer-Encoding: chunked\r\n\r\n",
        CALL + b"X: a\rY: b\r\n\r\n",
        CALL + b"no field\r\n\r\n",
        CALL + b"X: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
        CALL,
        b"\x16\x03\x01",
        b"",
    ],
)
def test_what_is_no_plain_call_of_a_node_is_refused(sent: bytes) -> None:
    answer, heard = exchange(sent)
    assert answer.startswith(b"HTTP/1.1 403")
    assert heard == []


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_no_field_makes_another(value: str) -> None:
    """Whatever a value holds, the head that goes on has as many lines as fields, or there is none."""
    try:
        head, n_bytes = passed_head(CALL + b"X: " + value.encode("latin-1") + b"\r\n\r\n")
    except ValueError:
        return
    assert n_bytes == 0
    lines = head.split(b"\r\n")
    assert [line.partition(b":")[0] for line in lines[1:-2]] == [b"host", b"x", b"connection"]
    assert b"\n" not in b"".join(lines)


def test_a_superlink_that_is_gone_ends_the_call() -> None:
    async def life() -> bytes:
        gate = FleetGate("127.0.0.1:9")
        try:
            return await told(await gate.open(), CALL + b"\r\n")
        finally:
            await gate.close()

    assert asyncio.run(life()) == b""

"""One stream as its exchanges use it, where the order of gRPC's events is the point."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fl.calls import TransportError
from fl.grpc_proxy import StreamTransport
from fl.transfers import LARGE_BYTES, Transfers
from profiler.clock import SystemClock


class Stream:
    """What gRPC gives a handler: as strict as it, one write at a time; `sent` ends the one under way."""

    def __init__(self) -> None:
        self.sent = asyncio.Event()
        self.replies: asyncio.Queue[bytes] = asyncio.Queue()
        self.n_writes = 0
        self._is_busy = False

    async def write(self, _: bytes) -> None:
        assert not self._is_busy, "a second write before the end of the first"
        self._is_busy = True
        self.n_writes += 1
        # As gRPC: who awaits a write may be cancelled, the write itself goes on.
        asyncio.get_running_loop().create_task(self._end())
        await self.sent.wait()

    async def _end(self) -> None:
        await self.sent.wait()
        self._is_busy = False

    async def read(self) -> bytes:
        return await self.replies.get()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_reply_that_overtakes_the_end_of_its_write_does_not_break_the_next() -> None:
    async def test() -> None:
        stream: Any = Stream()
        transport = StreamTransport(stream, SystemClock())
        reading = asyncio.create_task(transport.run())
        first = asyncio.create_task(transport.exchange(b"1"))
        await settle()
        stream.replies.put_nowait(b"one")
        await settle()
        assert not first.done()
        stream.sent.set()
        assert (await first).data == b"one"
        second = asyncio.create_task(transport.exchange(b"2"))
        await settle()
        stream.replies.put_nowait(b"two")
        assert (await second).data == b"two"
        assert stream.n_writes == 2
        reading.cancel()

    asyncio.run(asyncio.wait_for(test(), 10.0))


@pytest.mark.parametrize("is_answered", [False, True])
def test_a_stream_that_breaks_ends_a_write_that_hangs(is_answered: bool) -> None:
    async def test() -> None:
        stream: Any = Stream()
        transport = StreamTransport(stream, SystemClock())
        reading = asyncio.create_task(transport.run())
        exchange = asyncio.create_task(transport.exchange(b"1"))
        await settle()
        if is_answered:
            stream.replies.put_nowait(b"one")
            await settle()
        transport.break_off("the client was killed")
        if is_answered:
            assert (await exchange).data == b"one"
        else:
            with pytest.raises(TransportError, match="killed"):
                await exchange
        with pytest.raises(TransportError, match="killed"):
            await transport.exchange(b"2")
        reading.cancel()

    asyncio.run(asyncio.wait_for(test(), 10.0))


def test_the_time_in_the_queue_is_no_time_of_the_transfer() -> None:
    async def test() -> None:
        clock, transfers = SystemClock(), Transfers(n_slots=1, slot_s=60.0)
        stream: Any = Stream()
        transport = StreamTransport(stream, clock, transfers)
        reading = asyncio.create_task(transport.run())
        async with transfers.slot(LARGE_BYTES):
            exchange = asyncio.create_task(transport.exchange(bytes(LARGE_BYTES)))
            await settle()
            assert stream.n_writes == 0
            freed_ns = clock.monotonic_ns()
        await settle()
        assert stream.n_writes == 1
        stream.sent.set()
        stream.replies.put_nowait(b"one")
        assert (await exchange).sent_ns >= freed_ns
        reading.cancel()

    asyncio.run(asyncio.wait_for(test(), 10.0))


def test_a_client_that_is_lost_in_the_queue_fails_its_call_and_is_sent_nothing() -> None:
    async def test() -> None:
        transfers = Transfers(n_slots=1, slot_s=60.0)
        stream: Any = Stream()
        transport = StreamTransport(stream, SystemClock(), transfers)
        async with transfers.slot(LARGE_BYTES):
            exchange = asyncio.create_task(transport.exchange(bytes(LARGE_BYTES)))
            await settle()
            transport.break_off("the client was killed")
        with pytest.raises(TransportError, match="killed"):
            await exchange
        assert stream.n_writes == 0

    asyncio.run(asyncio.wait_for(test(), 10.0))

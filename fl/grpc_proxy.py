"""A client behind one `Join` stream of the Flower Protocol, as the server sees it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from fl.calls import CallingProxy, Exchange, SharedEncoding, TransportError
from fl.proxy import ClientInfo
from fl.receipts import Receipts
from fl.transfers import Transfers, longest_s
from profiler.clock import Clock

if TYPE_CHECKING:
    import grpc.aio


class StreamTransport:
    """One stream. `run` reads it until it ends; meanwhile one exchange at a time uses it."""

    def __init__(
        self, context: grpc.aio.ServicerContext[bytes, bytes], clock: Clock, transfers: Transfers | None = None
    ) -> None:
        self._context = context
        self._clock = clock
        self._transfers = transfers or Transfers()
        self._reply: asyncio.Future[tuple[bytes, int]] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        return self._lost

    async def exchange(self, data: bytes) -> Exchange:
        if self._lost is not None:
            raise TransportError(self._lost)
        self._reply = reply = asyncio.get_running_loop().create_future()
        try:
            sent_ns = await self._write(data, reply)
            answer, received_ns = await reply
            if self._writing is not None:
                # A reply may overtake the end of its request's write, and gRPC takes one write at a time.
                await asyncio.wait({self._writing})
        finally:
            if self._writing is not None:
                self._writing.cancel()
            if reply.done():
                reply.exception()  # looked at, or asyncio complains of it where the write told the same first
            self._reply = self._writing = None
        return Exchange(answer, sent_ns, received_ns)

    async def _write(self, data: bytes, reply: asyncio.Future[tuple[bytes, int]]) -> int:
        """When sending began, which is after the wait for a slot. Returns when all is sent, or answered."""
        async with self._transfers.slot(len(data)):
            if self._lost is not None:  # meanwhile
                raise TransportError(self._lost)
            sent_ns = self._clock.monotonic_ns()
            writing = self._writing = asyncio.ensure_future(self._context.write(data))
            # A stream that breaks is told through the reply even where the write would hang.
            limit_s = longest_s(len(data))
            done, _ = await asyncio.wait({writing, reply}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            await self._give_up(f"the client did not take {len(data)} bytes within {limit_s:.0f} s")
        if not reply.done() and writing.exception() is not None:
            raise TransportError(f"the connection broke while sending: {writing.exception()}")
        return sent_ns

    async def _give_up(self, reason: str) -> None:
        import grpc.aio

        self.break_off(reason)
        with suppress(grpc.aio.BaseError):  # how abort returns, and that others were first
            await self._context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, reason)

    async def run(self) -> None:
        """Hand every reply to the exchange that awaits it. Returns when the client ends the stream."""
        import grpc.aio

        while True:
            data = await self._context.read()
            received_ns = self._clock.monotonic_ns()
            if data is grpc.aio.EOF:
                return
            if self._reply is None or self._reply.done():
                await self._context.abort(grpc.StatusCode.FAILED_PRECONDITION, "a reply that nobody asked for")
            else:
                self._reply.set_result((data, received_ns))
            del data  # a model's size: it must not lie here until the next one comes

    def break_off(self, reason: str) -> None:
        """The stream is gone: fail what is pending, at once, and all that comes."""
        if self._lost is None:
            self._lost = reason
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(TransportError(self._lost))
        if self._writing is not None:
            self._writing.cancel()


class GrpcProxy(CallingProxy):
    """A ClientProxy over one stream; made by `fl.server.Server`. `instance` tells processes of one device apart."""

    def __init__(
        self,
        info: ClientInfo,
        stream: StreamTransport,
        encoding: SharedEncoding,
        peer: str,
        *,
        receipts: Receipts | None = None,
        instance: str | None = None,
    ) -> None:
        super().__init__(info, stream, encoding, receipts)
        self.stream = stream
        self.peer = peer
        self.instance = instance

    def break_off(self, reason: str) -> None:
        self.stream.break_off(reason)
        self.on_change()

"""A client behind one `Join` stream of the Flower Protocol, as the server sees it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
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
        self._reply: asyncio.Future[tuple[bytes, int]] | None = None  # from the moment in which sending begins
        self._sent_ns = 0
        self._writing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        return self._lost

    async def exchange(self, data: bytes) -> Exchange:
        if self._lost is not None:
            raise TransportError(self._lost)
        reply: asyncio.Future[tuple[bytes, int]] = asyncio.get_running_loop().create_future()
        self._writing = writing = asyncio.create_task(self._write(data, reply))
        writing.add_done_callback(partial(self._written, reply))
        try:
            answer, received_ns = await reply
            if not writing.done():
                # A reply may overtake the end of its request's write, and gRPC takes one write at a time.
                await asyncio.wait({writing})
        finally:
            writing.cancel()
            self._reply = self._writing = None
        return Exchange(answer, self._sent_ns, received_ns)

    async def _write(self, data: bytes, reply: asyncio.Future[tuple[bytes, int]]) -> None:
        """A task of its own: where a stream breaks, gRPC may let a write hang."""
        async with self._transfers.slot(len(data)):
            limit_s = longest_s(len(data))
            reason = f"the client did not take {len(data)} bytes within {limit_s:.0f} s"
            timer = asyncio.get_running_loop().call_later(limit_s, self._give_up, reason)
            self._reply = reply
            self._sent_ns = self._clock.monotonic_ns()
            try:
                await self._context.write(data)
            finally:
                timer.cancel()

    def _written(self, reply: asyncio.Future[tuple[bytes, int]], writing: asyncio.Task[None]) -> None:
        """Nobody will answer what was not sent."""
        error = None if writing.cancelled() else writing.exception()
        if not reply.done() and (writing.cancelled() or error is not None):
            reply.set_exception(TransportError(self._lost or f"the connection broke while sending: {error}"))

    def _give_up(self, reason: str) -> None:
        self.break_off(reason)
        self._ending = asyncio.create_task(self._abort(reason))

    async def _abort(self, reason: str) -> None:
        import grpc.aio

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

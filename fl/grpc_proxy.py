"""A client behind one `Join` stream of the Flower Protocol, as the server sees it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from fl.calls import CallingProxy, Exchange, TransportError
from fl.proxy import ClientInfo
from fl.receipts import Receipts
from fl.shared_encoding import SharedEncoding
from fl.transfers import Transfers, longest_s
from profiler.clock import Clock

if TYPE_CHECKING:
    import grpc.aio

_log = logging.getLogger("fl")


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
        self._sending: asyncio.Task[object] | None = None  # whoever is within a write
        self._ending: asyncio.Task[None] | None = None
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        return self._lost

    async def exchange(self, data: bytes) -> Exchange:
        if self._lost is not None:
            raise TransportError(self._lost)
        reply: asyncio.Future[tuple[bytes, int]] = asyncio.get_running_loop().create_future()
        try:
            failure = await self._send(data, reply)
            if failure is not None and not reply.done():
                raise TransportError(failure)  # nobody will answer what was not sent
            answer, received_ns = await reply
        finally:
            self._reply = None
        return Exchange(answer, self._sent_ns, received_ns)

    async def _send(self, data: bytes, reply: asyncio.Future[tuple[bytes, int]]) -> str | None:
        """Why it could not be sent; None where it was.

        A reply may overtake the end of its request's write, and gRPC takes one write at a time: so this waits for the
        end. Where a stream breaks, gRPC may let a write hang: `break_off` cancels the task that is in it.
        """
        self._sending = asyncio.current_task()
        try:
            async with self._transfers.slot(len(data)):
                self._reply = reply
                await self._write(data)
        except asyncio.CancelledError:
            if self._lost is None:  # it was not `break_off`
                raise
            return self._lost
        except Exception as error:  # noqa: BLE001  the boundary to gRPC: many kinds say that a stream is gone
            _log.debug("while sending: %s", error)  # it names objects of gRPC's, not what has happened
            return self._lost or "the connection broke while an instruction was sent"
        finally:
            self._sending = None
        return None

    async def _write(self, data: bytes) -> None:
        timer = asyncio.get_running_loop().call_later(longest_s(len(data)), self._give_up, len(data))
        self._sent_ns = self._clock.monotonic_ns()
        try:
            await self._context.write(data)
        finally:
            timer.cancel()

    def _give_up(self, n_bytes: int) -> None:
        reason = f"the client did not take {n_bytes} bytes within {longest_s(n_bytes):.0f} s"
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
        if self._sending is not None:
            self._sending.cancel()
        elif self._reply is not None and not self._reply.done():
            self._reply.set_exception(TransportError(self._lost))


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

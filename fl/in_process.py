"""A client in a thread of this process: no socket, but the same bytes, deadlines and failures as over the network."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fl.calls import CallingProxy, Exchange, SharedEncoding, TransportError
from fl.instrument import InstrumentedClient
from fl.proxy import ClientInfo
from fl.responder import Responder
from profiler.clock import Clock, SystemClock
from profiler.errors import WireError


class InProcessTransport:
    """Answers in one thread of its own, which a `Responder` needs."""

    def __init__(self, client: InstrumentedClient, clock: Clock) -> None:
        self._client = client
        self._responder = Responder(client)
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fl-client")
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        return self._lost

    async def exchange(self, data: bytes) -> Exchange:
        sent_ns = self._clock.monotonic_ns()
        try:
            reply = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, data)
        except WireError as error:
            raise TransportError(f"the client could not read its instruction: {error}") from None
        return Exchange(reply, sent_ns, self._clock.monotonic_ns())

    def _answer(self, data: bytes) -> bytes:
        response = self._responder.answer(data, self._client.clock.monotonic_ns())
        if response.leave is not None:
            self._lost = "the client has left"
        return response.data

    def close(self) -> None:
        """Let go of the client; a call that is going on ends by itself."""
        if self._lost is None:
            self._lost = "the client was closed"
        self._thread.submit(self._responder.close)
        self._thread.shutdown(wait=False)


class InProcessProxy(CallingProxy):
    """A ClientProxy that runs an instrumented client in a worker thread."""

    def __init__(
        self,
        device: str | ClientInfo,
        client: InstrumentedClient,
        clock: Clock | None = None,
        encoding: SharedEncoding | None = None,
    ) -> None:
        info = device if isinstance(device, ClientInfo) else ClientInfo(device)
        self._in_process = InProcessTransport(client, clock or SystemClock())
        super().__init__(info, self._in_process, encoding)

    def close(self) -> None:
        """End the worker thread once it is idle."""
        self._in_process.close()

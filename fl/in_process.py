"""A client in a thread of this process: no socket, but the same bytes, deadlines and failures as over the network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fl.calls import CallingProxy, Exchange, Transport, TransportError
from fl.instrument import TELEMETRY_KEY, InstrumentedClient
from fl.messages import GetPropertiesIns
from fl.proxy import ClientInfo, ClientProxy
from fl.receipts import Receipts
from fl.responder import Responder
from fl.shared_encoding import SharedEncoding
from profiler.clock import Clock, SystemClock
from profiler.errors import ClientFailure, WireError

PROBE_DEADLINE_S = 60.0

_log = logging.getLogger("fl")


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


class InProcessServer:
    """Holds clients that are reached without a network, as `fl.server.Server` holds those that joined over one.

    `admit` takes a client in; it has joined once it has told its properties. `describe` as for a `Server`, and
    `receipts` are another server's, where both serve the same rounds.
    """

    foreign_port = 0

    def __init__(self, describe: Callable[[str], ClientInfo] = ClientInfo, *, receipts: Receipts | None = None) -> None:
        self.receipts = receipts or Receipts()
        self._describe = describe
        self._encoding = SharedEncoding()
        self._connected: dict[str, CallingProxy] = {}
        self._joined: dict[str, CallingProxy] = {}
        self._introductions: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """0: there is no port."""
        return 0

    def admit(self, device: str, transport: Transport) -> None:
        """A client's way in; it replaces an earlier one of the same name. Needs a running loop."""
        proxy = CallingProxy(self._describe(device), transport, self._encoding, self.receipts)
        self._joined.pop(device, None)
        self._connected[device] = proxy
        task = asyncio.create_task(self._introduce(device, proxy))
        self._introductions.add(task)
        task.add_done_callback(self._introductions.discard)

    async def _introduce(self, device: str, proxy: CallingProxy) -> None:
        try:
            answer = await proxy.get_properties(GetPropertiesIns({TELEMETRY_KEY: "full"}), PROBE_DEADLINE_S)
        except ClientFailure as failure:
            _log.warning("%s", failure)
            return
        proxy.describe(answer.result.properties)
        if self._connected.get(device) is proxy:
            self._joined[device] = proxy

    def proxies(self) -> list[ClientProxy]:
        """All that have joined and are not lost, by device id."""
        return [proxy for _, proxy in sorted(self._joined.items()) if proxy.lost is None]

    async def farewell(self, timeout_s: float) -> None:
        """Tell every client to leave for good."""
        await asyncio.gather(*(self._part(proxy, timeout_s) for proxy in list(self._joined.values())))

    async def _part(self, proxy: CallingProxy, timeout_s: float) -> None:
        await proxy.settled(timeout_s)
        try:
            await proxy.farewell(0, timeout_s)
        except ClientFailure as failure:
            _log.info("farewell: %s", failure)

    async def close(self) -> None:
        """Let go of all of them."""
        for task in list(self._introductions):
            task.cancel()
        self._connected.clear()
        self._joined.clear()

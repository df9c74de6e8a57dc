"""The RPC server: every client that joins becomes a proxy. `fl.standalone` trains with them.

Speaks Flower's legacy `grpc-bidi` transport: `/flwr.proto.FlowerService/Join`, raw bytes, strict ping-pong. Our own
clients name their device in the gRPC metadata `fedmeter-device`, and their process in `fedmeter-instance`. Others are
asked for their properties, which may tell a name; else they are known by their connection: `client-1`, `client-2`, ...

A process has one stream at a time. So where an instance joins again, its earlier stream is dead, whatever TCP says of
it. Another process under the same name waits until the earlier one is known to be gone: the heartbeat finds that out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import grpc
import grpc.aio

from fl.admission import Access, Caller, Gate, JoinRates, Refused, told_name
from fl.freed_memory import reuse
from fl.grpc_proxy import GrpcProxy, StreamTransport
from fl.introduction import ask_properties, is_alive, probe
from fl.limits import raise_open_files
from fl.proxy import ClientInfo, ClientProxy, TensorEncoding
from fl.receipts import Receipts, SpanKey
from fl.security import ServerSecurity, Triple, bind
from fl.shared_encoding import SharedEncoding
from fl.transfers import Transfers
from profiler.clock import Clock, SystemClock
from profiler.errors import ClientFailure, PreconditionError

SERVICE = "flwr.proto.FlowerService"
METHOD = "Join"
MAX_MESSAGE_BYTES = 512 * 1024 * 1024
HEARTBEAT_KEY = "fedmeter-heartbeat-s"
MAX_STREAMS = 4_000
LOOKAHEAD_BYTES = 256 * 1024
PROBE_DEADLINE_S = 10.0
FIRST_ANSWER_S = 30.0  # a thousand clients that start at once on two cores need some of it
LATE_REPLY_S = 600.0
SWEEP_S = 5.0
MAX_METADATA_BYTES = 16 * 1024
FAREWELL_S = 10.0
SETTLE_S = 1.0
CLOSE_S = 5.0
HEARTBEAT_S = 30.0  # within which a vanished peer is found
# The parts of it that pass in silence before a ping, and until the ping has failed. A pong waits behind what the kernel
# has taken to send already, up to some MB: 20 s of a link of 1.6 Mbit/s. Slower links want a longer heartbeat.
PING_SHARE, PONG_SHARE = 1 / 3, 2 / 3

_log = logging.getLogger("fl")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take, and all together.

    `handshake_s`: until a connection speaks HTTP/2, and TLS; `idle_s`: how long it may be without a stream; `probe_s`:
    until a stream's first answer; `late_reply_s`: how long it may owe an answer whose deadline has passed. Who is cut
    off may come back.
    """

    clients: int = MAX_STREAMS
    handshake_s: float = 20.0
    idle_s: float = 60.0
    probe_s: float = FIRST_ANSWER_S
    late_reply_s: float = LATE_REPLY_S
    joins: JoinRates = field(default_factory=JoinRates)


class Server:
    """Accepts clients. `async with Server(...) as server:` starts it, and closes it without waiting for anybody.

    `describe` maps a device id to what is known of it beforehand, such as its processor's label.
    `foreign_tensors` is how the tensors of clients are encoded that do not name their device. With raw ones these are
    taken for Android's apps, which end where they are asked for anything but training: they are not asked for a name.

    A device that vanishes without a word (a pulled cable, no power) is found within about `heartbeat_s` by HTTP/2
    pings, which every gRPC client answers by itself, also while it trains; one that is stopped for so long counts as
    vanished, and joins again. What came with late replies waits in `receipts`. `known_spans` are, by device,
    the latest that an earlier server of the same run has written down: clients may send them again.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        *,
        clock: Clock | None = None,
        describe: Callable[[str], ClientInfo] = ClientInfo,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        certificates: Triple | None = None,
        access: Access | None = None,
        limits: Limits | None = None,
        foreign_tensors: TensorEncoding = "npy",
        heartbeat_s: float = HEARTBEAT_S,
        known_spans: Mapping[str, Collection[SpanKey]] | None = None,
    ) -> None:
        self.receipts = Receipts(known_spans)
        self.address = address
        self.port = 0
        self.foreign_port = 0
        self._clock = clock or SystemClock()
        self._describe = describe
        self._max_message_bytes = max_message_bytes
        self._access = access or Access(ServerSecurity(certificates))
        self._limits = limits or Limits()
        self._gate = Gate(self._access, self._clock, self._limits.joins)
        self._foreign_tensors: TensorEncoding = foreign_tensors
        self._heartbeat_s = heartbeat_s
        self._encoding = SharedEncoding()
        self._transfers = Transfers()
        self._connected: dict[str, GrpcProxy] = {}
        self._joined: set[GrpcProxy] = set()  # those of them that have been introduced
        self._unnamed: set[GrpcProxy] = set()  # not among them yet: they are being asked who they are
        self._contexts: dict[GrpcProxy, grpc.aio.ServicerContext[bytes, bytes]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._handlers: set[asyncio.Task[object]] = set()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """The bound port. Raises PreconditionError, naming the address, where it cannot be bound, or must not be:
        plain text where other machines can read it."""
        security = self._access.security
        self._access.check_addresses(self.address)
        raise_open_files(self._limits.clients)
        reuse()
        options = _options(self._max_message_bytes, self._limits, self._heartbeat_s)
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=self._limits.clients)
        join = grpc.stream_stream_rpc_method_handler(self._join)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: join}),))
        self.port = bind(server, self.address, security)
        if self._access.foreign_address is not None:
            self.foreign_port = bind(server, self._access.foreign_address, replace(security, mutual=False))
        await server.start()
        self._server = server
        self._sweeper = asyncio.create_task(self._sweep())
        return self.port

    async def close(self) -> None:
        """End all streams at once. Bounded, whatever a stream is doing."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._server is not None:
            await asyncio.wait({asyncio.ensure_future(self._server.stop(grace=None))}, timeout=CLOSE_S)
            self._server = None
        for proxy in list(self._contexts):
            proxy.break_off("the server was closed")
        await self._settle()

    async def _settle(self) -> None:
        """Let gRPC's own tasks end; those that an event loop finds when it closes are logged as errors."""
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=SETTLE_S)
        for _ in range(10):
            await asyncio.sleep(0)

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def n_streams(self) -> int:
        """How many streams are open, those of refused, unknown and replaced clients too."""
        return len(self._handlers)

    def proxies(self) -> list[ClientProxy]:
        """All connected clients, ready or not, by device id."""
        return sorted(self._joined, key=lambda proxy: proxy.info.device)

    async def wait_for(self, wanted: int | Collection[str], timeout_s: float) -> None:
        """Until so many clients, or these devices, are ready. Raises PreconditionError, naming who is missing."""
        try:
            await asyncio.wait_for(self._until_ready(wanted), timeout_s)
        except asyncio.TimeoutError:
            raise PreconditionError(
                f"after {timeout_s:g} s {_missing(wanted, self._ready())}.",
                remedy="Look into the log of a client that did not come; its address and port must be the server's.",
            ) from None

    async def _until_ready(self, wanted: int | Collection[str]) -> None:
        while not _is_enough(wanted, self._ready()):
            self._changed.clear()
            await self._changed.wait()

    async def farewell(self, timeout_s: float = FAREWELL_S) -> None:
        """Tell every client to leave for good, wait for their goodbyes, but not longer than this; then close.

        A client that is late with an answer is given this time to finish, so that it leaves in peace too.
        """
        await asyncio.gather(*(self._part(proxy, timeout_s) for proxy in list(self._joined)))
        await self.close()

    async def _part(self, proxy: GrpcProxy, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        await proxy.settled(timeout_s)
        try:
            await proxy.farewell(0, max(0.0, until_s - loop.time()))
        except ClientFailure as failure:
            _log.info("farewell: %s", failure)

    def _ready(self) -> list[str]:
        return [proxy.info.device for proxy in self._joined if proxy.is_ready]

    def _notify(self) -> None:
        self._changed.set()

    async def _join(self, _: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        if (handler := asyncio.current_task()) is not None:
            self._handlers.add(handler)
            handler.add_done_callback(self._handlers.discard)
        # At once, not with the first message: an abort while that is under way would send it again, which gRPC refuses.
        await context.send_initial_metadata(((HEARTBEAT_KEY, f"{self._heartbeat_s:g}"),))
        caller = Caller.of(context.peer(), context.invocation_metadata() or (), context.auth_context())
        try:
            self._gate.knock(caller, len(self._unnamed))
            device = None if self._is_asked(caller) else await self._admit(caller)
        except Refused as refused:
            _log.info("%s: refused: %s", caller.peer, refused)
            await context.abort(refused.code, str(refused))
        proxy = self._connect(device, caller, context)
        introducing = asyncio.create_task(self._introduce(proxy, caller))
        reason = "the connection ended: the client was killed, left or lost its network"
        try:
            with suppress(grpc.aio.UsageError, grpc.aio.InternalError):  # it was being ended already, by us or by them
                await proxy.stream.run()
        finally:
            introducing.cancel()
            del self._contexts[proxy]
            self._drop(proxy, reason)

    def _is_asked(self, caller: Caller) -> bool:
        """Whether its properties may tell who it is."""
        return not caller.devices and self._access.asks_names and self._foreign_tensors == "npy"

    def _connect(
        self, device: str | None, caller: Caller, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> GrpcProxy:
        """The proxy of a stream; without a device it is called after its address, and nobody's yet."""
        proxy = GrpcProxy(
            ClientInfo(caller.peer) if device is None else self._info(device, caller),
            StreamTransport(context, self._clock, self._transfers),
            self._encoding,
            caller.peer,
            receipts=self.receipts,
            instance=caller.instance,
        )
        self._contexts[proxy] = context
        if device is None:
            self._unnamed.add(proxy)
        else:
            self._connected[device] = proxy
        return proxy

    def _info(self, device: str, caller: Caller) -> ClientInfo:
        """What is known of a client. The choice for clients without a name is for those that nobody described."""
        info = self._describe(device)
        is_open = not caller.devices and info.tensors == "npy"
        return replace(info, tensors=self._foreign_tensors) if is_open else info

    def _end(self, proxy: GrpcProxy, reason: str, code: grpc.StatusCode = grpc.StatusCode.DEADLINE_EXCEEDED) -> None:
        """Abort a stream from outside its handler, which then sees its end; the client may come back."""
        proxy.break_off(reason)
        context = self._contexts.get(proxy)
        if context is not None:
            task = asyncio.create_task(_abort(context, code, reason))
            self._handlers.add(task)
            task.add_done_callback(self._handlers.discard)

    async def _sweep(self) -> None:
        """End the streams of clients that owe a late answer for too long: a reply that trickles never comes."""
        limit_s = self._limits.late_reply_s
        owing_since_ns: dict[GrpcProxy, int] = {}
        while True:
            await asyncio.sleep(min(SWEEP_S, limit_s / 4))
            now_ns = self._clock.monotonic_ns()
            overdue = [proxy for proxy in self._contexts if proxy.is_overdue]
            owing_since_ns = {proxy: owing_since_ns.get(proxy, now_ns) for proxy in overdue}
            for proxy, since_ns in owing_since_ns.items():
                if (now_ns - since_ns) / 1e9 >= limit_s:
                    self._end(proxy, f"no answer for {limit_s:g} s after its deadline")

    def _drop(self, proxy: GrpcProxy, reason: str) -> None:
        if self._connected.get(proxy.info.device) is proxy:
            del self._connected[proxy.info.device]
        self._joined.discard(proxy)
        self._unnamed.discard(proxy)
        if proxy.lost is None:
            _log.info("%s: %s", proxy.info.device, reason)
        proxy.break_off(reason)

    async def _introduce(self, proxy: GrpcProxy, caller: Caller) -> None:
        """Register a client, when it is known who it is and, of ours, what it is and what its clock says."""
        if caller.devices:
            await probe(proxy, self._limits.probe_s, self.receipts)
            if proxy.is_overdue:  # it has never said a word: it must not hold a name and a place
                self._end(proxy, f"no answer to the first question within {self._limits.probe_s:g} s")
        elif proxy in self._unnamed:
            await self._name(proxy, caller)
        if proxy.lost is None:
            proxy.on_change = self._notify
            self._joined.add(proxy)
            _log.info("%s: joined from %s", proxy.info.device, proxy.peer)
            self._notify()

    async def _name(self, proxy: GrpcProxy, caller: Caller) -> None:
        """A foreign client's place: by the name that its properties tell, else by its connection."""
        properties = await ask_properties(proxy, self._limits.probe_s)
        if proxy.lost is not None:
            return
        try:
            device = await self._admit_foreign(caller, told_name(properties))
        except Refused as refused:
            _log.info("%s: refused: %s", caller.peer, refused)
            self._end(proxy, str(refused), refused.code)
            return
        self._unnamed.discard(proxy)
        proxy.identify(self._info(device, caller))
        proxy.describe(properties)
        self._connected[device] = proxy

    async def _admit_foreign(self, caller: Caller, told: str | None) -> str:
        """As `_admit`. Where names are free, one that a live client has is no name: many programs tell the same."""
        try:
            return await self._admit(caller, told)
        except Refused:
            if told is None or self._access.foreign is not None:
                raise
        _log.info("%s: calls itself %s, as another client does; known by its connection", caller.peer, told)
        return await self._admit(caller)

    async def _admit(self, caller: Caller, told: str | None = None) -> str:
        """The device id of a caller. Raises Refused."""
        device = self._gate.admit(caller, self._connected, told)
        while (present := self._connected.get(device)) is not None:
            is_same_process = caller.instance is not None and caller.instance == present.instance
            if not is_same_process and await is_alive(present):
                reason = f"device {device} is connected already, from {present.peer}; give each client its own id"
                raise Refused(grpc.StatusCode.ALREADY_EXISTS, reason)
            reason = "the device came back on a new connection"
            self._drop(present, reason)
            self._end(present, reason)  # else its stream would stay, known to nobody, as long as the other side likes
        return device


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], code: grpc.StatusCode, reason: str) -> None:
    with suppress(grpc.aio.BaseError):  # how abort returns, and that another was first, or the client's end
        await context.abort(code, reason)


def _is_enough(wanted: int | Collection[str], ready: Collection[str]) -> bool:
    return len(ready) >= wanted if isinstance(wanted, int) else set(wanted) <= set(ready)


def _missing(wanted: int | Collection[str], ready: Collection[str]) -> str:
    if isinstance(wanted, int):
        return f"{len(ready)} of {wanted} clients are ready ({', '.join(sorted(ready)) or 'none'})"
    return f"not ready: {', '.join(sorted(set(wanted) - set(ready)))}"


def _options(max_message_bytes: int, limits: Limits, heartbeat_s: float) -> list[tuple[str, int]]:
    """Of the channel; keys from grpc/impl/channel_arg_names.h.

    gRPC pings only a connection that has been silent, and takes any byte for a pong. Nobody punishes a server's pings:
    GOAWAY too_many_pings answers those of clients, which may come every 5 minutes by default, and so at a Flower
    server. Ours allows its own clients what it does itself.
    """
    ping_ms, pong_ms = round(heartbeat_s * PING_SHARE * 1e3), round(heartbeat_s * PONG_SHARE * 1e3)
    return [
        ("grpc.so_reuseport", 0),  # else two servers share a port in silence
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", ping_ms),
        ("grpc.keepalive_timeout_ms", pong_ms),
        ("grpc.http2.ping_timeout_ms", pong_ms),  # in today's gRPC this one decides, and is a minute by default
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", ping_ms // 2),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.server_handshake_timeout_ms", round(limits.handshake_s * 1e3)),
        # without a stream: it does not touch one that waits
        ("grpc.max_connection_idle_ms", round(limits.idle_s * 1e3)),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # What a client can send before it is read. Growing with the connection's speed, it held models unread.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    ]

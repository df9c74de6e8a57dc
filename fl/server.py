"""The RPC server: every client that joins becomes a proxy. And `start_server`, in Flower's argument shape.

Speaks Flower's legacy `grpc-bidi` transport: `/flwr.proto.FlowerService/Join`, raw bytes, strict ping-pong. Our own
clients name their device in the gRPC metadata `fedmeter-device`; others are `client-1`, `client-2`, ...
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc
import grpc.aio

from fl.calls import SharedEncoding
from fl.grpc_proxy import GrpcProxy, StreamTransport
from fl.instrument import TELEMETRY_KEY
from fl.loop import Observer, RoundResult, run_rounds
from fl.messages import Array, GetParametersIns, GetPropertiesIns, Parameters
from fl.proxy import ClientInfo, ClientProxy
from fl.strategy import Adjusted, Assignment, Strategy
from fl.transfers import Transfers
from profiler.clock import Clock, SystemClock
from profiler.errors import ClientFailure, PreconditionError, UsageError

SERVICE = "flwr.proto.FlowerService"
METHOD = "Join"
DEVICE_KEY = "fedmeter-device"
DEVICE_PATTERN = re.compile(r"[\w@.:+-]{1,128}", re.ASCII)
MAX_MESSAGE_BYTES = 512 * 1024 * 1024
MAX_CLIENTS = 1_000
LOOKAHEAD_BYTES = 256 * 1024
KEEPALIVE_MS = 210_000  # as Flower's: shorter pings are answered with GOAWAY by servers in between
N_PROBES = 3  # of the clock offset, right after joining
PROBE_DEADLINE_S = 10.0
LIVENESS_DEADLINE_S = 2.0
FAREWELL_S = 10.0
POLL_S = 0.02
SETTLE_S = 1.0

_ALL_PROPERTIES = GetPropertiesIns({TELEMETRY_KEY: "full"})

_log = logging.getLogger("fl")


class Server:
    """Accepts clients. `async with Server(...) as server:` starts it, and closes it without waiting for anybody.

    `describe` maps a device id to what is known of it beforehand, such as its processor's label.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        *,
        clock: Clock | None = None,
        describe: Callable[[str], ClientInfo] = ClientInfo,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        certificates: tuple[bytes, bytes, bytes] | None = None,
    ) -> None:
        self.address = address
        self.port = 0
        self._clock = clock or SystemClock()
        self._describe = describe
        self._max_message_bytes = max_message_bytes
        self._certificates = certificates
        self._encoding = SharedEncoding()
        self._transfers = Transfers()
        self._connected: dict[str, GrpcProxy] = {}
        self._joined: set[GrpcProxy] = set()  # those of them that have been introduced
        self._anonymous = itertools.count(1)
        self._changed = asyncio.Event()
        self._handlers: set[asyncio.Task[object]] = set()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """The bound port. Raises PreconditionError, naming the address, where it cannot be bound."""
        server = grpc.aio.server(options=_options(self._max_message_bytes), maximum_concurrent_rpcs=MAX_CLIENTS)
        join = grpc.stream_stream_rpc_method_handler(self._join)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: join}),))
        try:
            self.port = self._bind(server)
            if self.port == 0:
                raise RuntimeError("the address is in use or not of this machine")
        except RuntimeError:
            raise PreconditionError(
                f"{self.address}: cannot listen there: the port is in use, or the address is not this machine's.",
                remedy="Choose another port, or end what uses it; port 0 takes any that is free.",
            ) from None
        await server.start()
        self._server = server
        return self.port

    def _bind(self, server: grpc.aio.Server) -> int:
        if self._certificates is None:
            return int(server.add_insecure_port(self.address))
        ca, certificate, key = self._certificates
        credentials = grpc.ssl_server_credentials(
            ((key, certificate),), root_certificates=ca, require_client_auth=False
        )
        return int(server.add_secure_port(self.address, credentials))

    async def close(self) -> None:
        """End all streams at once."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None
        for proxy in list(self._connected.values()):
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
        while not proxy.is_ready and proxy.lost is None and loop.time() < until_s:
            await asyncio.sleep(POLL_S)
        try:
            await proxy.farewell(0, max(POLL_S, until_s - loop.time()))
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
        device = await self._admit(context)
        stream = StreamTransport(context, self._clock, self._transfers)
        proxy = GrpcProxy(self._describe(device), stream, self._encoding, context.peer())
        self._connected[device] = proxy
        probing = asyncio.create_task(self._introduce(proxy, _device_of(context) is not None))
        reason = "the connection ended: the client was killed, left or lost its network"
        try:
            await stream.run()
        finally:
            probing.cancel()
            self._drop(proxy, reason)

    def _drop(self, proxy: GrpcProxy, reason: str) -> None:
        if self._connected.get(proxy.info.device) is proxy:
            del self._connected[proxy.info.device]
        self._joined.discard(proxy)
        if proxy.lost is None:
            _log.info("%s: %s", proxy.info.device, reason)
        proxy.break_off(reason)

    async def _introduce(self, proxy: GrpcProxy, is_ours: bool) -> None:
        """Register a client. Ours is probed first, for what it is and for its clock; others may know only training."""
        if is_ours:
            try:
                for question in (_ALL_PROPERTIES, *[GetPropertiesIns()] * (N_PROBES - 1)):
                    answer = await proxy.get_properties(question, PROBE_DEADLINE_S)
                    proxy.describe(answer.result.properties)
            except ClientFailure as failure:
                _log.info("probe: %s", failure)
        if proxy.lost is None:
            proxy.on_change = self._notify
            self._joined.add(proxy)
            _log.info("%s: joined from %s", proxy.info.device, proxy.peer)
            self._notify()

    async def _admit(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
        """The device id of a stream; a refused stream is aborted with the reason, which raises."""
        device = _device_of(context)
        if device is None:
            return f"client-{next(self._anonymous)}"
        if not DEVICE_PATTERN.fullmatch(device):
            reason = f"{DEVICE_KEY} must be 1 to 128 letters, digits and @ . : + - _"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)
        while (present := self._connected.get(device)) is not None:
            if await _is_alive(present):
                reason = f"device {device} is connected already, from {present.peer}; give each client its own id"
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, reason)
            self._drop(present, "the device came back on a new connection")
        return device


def _device_of(context: grpc.aio.ServicerContext[bytes, bytes]) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == DEVICE_KEY:
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


async def _is_alive(proxy: GrpcProxy) -> bool:
    """Whether the device still answers on this connection. One that is busy with a call counts as alive."""
    if proxy.lost is not None:
        return False
    if not proxy.is_ready:
        return True
    try:
        await proxy.get_properties(GetPropertiesIns(), LIVENESS_DEADLINE_S)
    except ClientFailure:
        return False
    return True


def _is_enough(wanted: int | Collection[str], ready: Collection[str]) -> bool:
    return len(ready) >= wanted if isinstance(wanted, int) else set(wanted) <= set(ready)


def _missing(wanted: int | Collection[str], ready: Collection[str]) -> str:
    if isinstance(wanted, int):
        return f"{len(ready)} of {wanted} clients are ready ({', '.join(sorted(ready)) or 'none'})"
    return f"not ready: {', '.join(sorted(set(wanted) - set(ready)))}"


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # else two servers share a port in silence
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 0),
        # What a client can send before it is read. Growing with the connection's speed, it held models unread.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    ]


# --- start_server ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`round_timeout`: seconds that a client has for one call where the strategy sets none; None for no limit."""

    num_rounds: int = 1
    round_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What the rounds gave, in order. Only `parameters`, the last global model, is kept of the models."""

    rounds: list[RoundResult] = field(default_factory=list)
    parameters: Parameters | None = None


def start_server(
    server_address: str = "127.0.0.1:8080",
    *,
    config: ServerConfig | None = None,
    strategy: Strategy,
    min_clients: int = 2,
    initial_parameters: Sequence[Array] | None = None,
    evaluate_fn: Callable[[Parameters], tuple[float, float]] | None = None,
    grpc_max_message_length: int = MAX_MESSAGE_BYTES,
    certificates: tuple[bytes, bytes, bytes] | None = None,
    wait_s: float = 24 * 3600.0,
    observer: Observer | None = None,
) -> History:
    """Train for some rounds with whoever joins, then send everybody home. Blocks until it is done.

    `certificates` are the CA's, the server's own and its key, as PEM. Without initial parameters the first client is
    asked for its own. `evaluate_fn` gives loss and accuracy of a global model. Raises PreconditionError where the
    address cannot be used, or where fewer than `min_clients` come within `wait_s`.
    """
    settings = config or ServerConfig()
    if settings.num_rounds < 1:
        raise UsageError(f"num_rounds = {settings.num_rounds}: at least one round is needed.")
    server_clock = SystemClock()

    async def serve() -> History:
        server = Server(
            server_address,
            clock=server_clock,
            max_message_bytes=grpc_max_message_length,
            certificates=certificates,
        )
        async with _until_farewell(server):
            await server.wait_for(min_clients, wait_s)
            rounds = run_rounds(
                _with_timeout(strategy, settings.round_timeout),
                server.proxies,
                parameters=await _initial(initial_parameters, server),
                rounds=range(1, settings.num_rounds + 1),
                clock=server_clock,
                evaluate=evaluate_fn,
                min_clients=min_clients,
                wait_s=wait_s,
                observer=observer,
            )
            return await _collect(rounds)

    return asyncio.run(serve())


@asynccontextmanager
async def _until_farewell(server: Server) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        await server.farewell()


async def _collect(rounds: AsyncIterator[RoundResult]) -> History:
    kept: list[RoundResult] = []
    parameters: Parameters | None = None
    async for result in rounds:
        parameters = result.parameters
        kept.append(replace(result, parameters=Parameters(())))
        _log.info("round %d: %.1f s, accuracy %s", result.round, result.time_s, result.accuracy)
    return History(kept, parameters)


async def _initial(arrays: Sequence[Array] | None, server: Server) -> Parameters:
    if arrays is not None:
        return Parameters(tuple(arrays))
    for proxy in server.proxies():
        if proxy.is_ready:
            answer = await proxy.get_parameters(GetParametersIns(), PROBE_DEADLINE_S)
            return answer.result.parameters
    raise PreconditionError("no client is left to give the initial parameters.", remedy="Pass initial_parameters.")


def _with_timeout(strategy: Strategy, timeout_s: float | None) -> Strategy:
    """A strategy whose calls without a deadline of their own get the server's."""

    def limited(assignment: Assignment) -> Assignment:
        return replace(assignment, deadline_s=timeout_s) if assignment.deadline_s is None else assignment

    return Adjusted(strategy, limited)

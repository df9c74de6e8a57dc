"""What every proxy does around its transport: encode, exchange with a deadline, decode, time, name what failed.

One instruction is outstanding at a time. An exchange whose deadline has passed goes on in the background: its late
reply is dropped and counted, and the client is ready again. So a slow client stays connected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from fl.clock_offset import MAX_DRIFT, ClockOffset, split_communication
from fl.messages import (
    Code,
    Config,
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Instruction,
    ReconnectIns,
    Reply,
    Scalar,
)
from fl.proxy import Answer, CallTiming, ClientInfo
from fl.receipts import Receipts, Stray
from fl.responder import HANDOVER_KEY, RECEIVED_KEY
from fl.shared_encoding import SharedEncoding
from fl.threads import off_loop
from fl.wire import codec
from fl.wire.measurement import RECORD_KEY, decode_spans
from fl.wire.raw_tensors import decode_raw_reply, encode_raw_work
from fl.wire.samples import MAX_SAMPLES_BYTES, SAMPLES_KEY
from profiler.errors import ClientFailure, WireError
from profiler.records import SpanRecord

TENSORS_KEY = "fedmeter.tensors"
MEASURED_PREFIXES = ("fit.", "evaluate.")
_OWN_KEYS = frozenset({RECEIVED_KEY, HANDOVER_KEY, RECORD_KEY, SAMPLES_KEY})

_log = logging.getLogger("fl")

R = TypeVar("R", GetPropertiesRes, GetParametersRes, FitRes, EvaluateRes)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One reply, with the times on the server's clock: instruction handed over, whole reply there."""

    data: bytes
    sent_ns: int
    received_ns: int


class Transport(Protocol):
    """Carries one instruction to one client and its reply back."""

    async def exchange(self, data: bytes) -> Exchange:
        """Raises TransportError, saying why, where no reply can come any more."""
        ...

    @property
    def lost(self) -> str | None:
        """Why nothing can be exchanged any more; None while it can."""
        ...


class TransportError(Exception):
    """The way to a client broke. Becomes a ClientFailure, which knows device and phase."""


@dataclass(frozen=True, slots=True)
class _Received:
    """One reply, decoded, with our own keys and the span records taken out of its metrics."""

    reply: Reply
    own: Config
    spans: tuple[SpanRecord, ...]
    request_bytes: int
    reply_bytes: int
    sent_ns: int
    received_ns: int


class CallingProxy:
    """A ClientProxy over any Transport. `on_change` is called whenever `is_ready` may have changed.

    What a late reply tells goes to `receipts`.
    """

    def __init__(
        self,
        info: ClientInfo,
        transport: Transport,
        encoding: SharedEncoding | None = None,
        receipts: Receipts | None = None,
    ) -> None:
        self._info = info
        self._transport = transport
        self._encoding = encoding or SharedEncoding()
        self._exchange: asyncio.Task[_Received] | None = None
        self._is_abandoned = False
        self._offset = ClockOffset()
        self.receipts = receipts or Receipts()
        self.on_change: Callable[[], None] = lambda: None

    @property
    def info(self) -> ClientInfo:
        return self._info

    @property
    def is_ready(self) -> bool:
        return self._transport.lost is None and self._exchange is None

    @property
    def is_overdue(self) -> bool:
        """Whether the client owes an answer whose deadline has passed."""
        return self._exchange is not None and self._is_abandoned

    @property
    def lost(self) -> str | None:
        """Why this client is gone; None while it is connected."""
        return self._transport.lost

    def identify(self, info: ClientInfo) -> None:
        """It is known now whose connection this is."""
        self._info = info

    def describe(self, properties: Mapping[str, object]) -> None:
        """Add what the client told of itself to its info; `fedmeter.tensors` is how its tensors are encoded."""
        self._info = replace(self._info, properties={**self._info.properties, **properties})
        if properties.get(TENSORS_KEY) == "float32":
            self._info = replace(self._info, tensors="float32")

    async def get_properties(self, ins: GetPropertiesIns, deadline_s: float | None) -> Answer[GetPropertiesRes]:
        return await self._call("get_properties", ins, GetPropertiesRes, deadline_s)

    async def get_parameters(self, ins: GetParametersIns, deadline_s: float | None) -> Answer[GetParametersRes]:
        return await self._call("get_parameters", ins, GetParametersRes, deadline_s)

    async def fit(self, ins: FitIns, deadline_s: float | None) -> Answer[FitRes]:
        return await self._call("fit", ins, FitRes, deadline_s)

    async def evaluate(self, ins: EvaluateIns, deadline_s: float | None) -> Answer[EvaluateRes]:
        return await self._call("evaluate", ins, EvaluateRes, deadline_s)

    async def settled(self, timeout_s: float) -> None:
        """Until no call is going on any more, but not longer than this."""
        if self._exchange is not None:
            await asyncio.wait({self._exchange}, timeout=timeout_s)

    async def forgo(self) -> None:
        """Wait no longer for an answer that is owed: the client may not know the question, and yet know others."""
        if self._exchange is not None:
            self._exchange.cancel()
            await asyncio.wait({self._exchange})

    async def farewell(self, seconds: int, deadline_s: float | None) -> None:
        """Tell the client to leave, for good (0) or for some seconds, and await its goodbye. Raises ClientFailure."""
        await self._ask("farewell", ReconnectIns(seconds), deadline_s)

    async def _call(self, phase: str, ins: Instruction, kind: type[R], deadline_s: float | None) -> Answer[R]:
        received = await self._ask(phase, ins, deadline_s)
        reply = received.reply
        if not isinstance(reply, kind):
            reason = f"left: {reply.reason.name}" if isinstance(reply, DisconnectRes) else "answered another call"
            raise ClientFailure(self._info.device, phase, reason, spans=received.spans)
        if reply.code is not Code.OK:
            reason = reply.message or f"answered {reply.code.name}"
            raise ClientFailure(self._info.device, phase, reason, spans=received.spans)
        return Answer(reply, self._timing(received), received.spans, self._samples(received.own))

    async def _ask(self, phase: str, ins: Instruction, deadline_s: float | None) -> _Received:
        device = self._info.device
        if not self.is_ready:
            raise ClientFailure(device, phase, self.lost or "still owes the answer to an earlier call")
        self._is_abandoned = False
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()  # the exchange, or the time for it
        task = self._exchange = loop.create_task(self._send(ins))
        task.add_done_callback(partial(self._finished, over))
        timer = None if deadline_s is None else loop.call_later(deadline_s, _end, over)
        came_late = partial(self._came_late, phase, _round_of(ins), loop.time(), deadline_s)
        try:
            await over
        except asyncio.CancelledError:  # the reply may be there all the same, and what it measured is known by now
            task.add_done_callback(came_late)
            raise
        finally:
            self._is_abandoned = not task.done()
            if timer is not None:
                timer.cancel()
        if not task.done():
            task.add_done_callback(came_late)
            raise ClientFailure(device, phase, f"no answer within {deadline_s:g} s")
        try:
            return task.result()
        except TransportError as error:
            raise ClientFailure(device, phase, str(error)) from None
        except WireError as error:
            raise ClientFailure(device, phase, f"wire: {error}") from None

    async def _send(self, ins: Instruction) -> _Received:
        is_raw = self._info.tensors == "float32"
        request = await (_raw_message(ins) if is_raw else self._encoding.message(ins))
        exchange = await self._transport.exchange(request)
        n_bytes = len(exchange.data)
        async with self._encoding.decoding:
            decode = partial(self._decode, ins if is_raw else None)
            reply, own, spans = await off_loop(n_bytes, decode, exchange.data)
        spans = self._new(spans, own)  # from here on its data is kept by the arrays that lie in it, and by them alone
        return _Received(reply, own, spans, len(request), n_bytes, exchange.sent_ns, exchange.received_ns)

    def _new(self, spans: tuple[SpanRecord, ...], own: Config) -> tuple[SpanRecord, ...]:
        """Those that have not come before and are of this server's time. Earlier ones are kept apart."""
        info, received_ns = self._info, own.get(RECEIVED_KEY)
        fresh = self.receipts.fresh(info.device, spans)
        if not isinstance(received_ns, int):
            return fresh
        before, fresh = self.receipts.since(info.device, received_ns, fresh)
        self.receipts.keep(Stray(info.device, info.processor, before, is_from_before=True))
        return fresh

    def _finished(self, over: asyncio.Future[None], task: asyncio.Task[_Received]) -> None:
        self._exchange = None
        _end(over)
        if not task.cancelled():
            task.exception()  # asked always: who awaited it may have been cancelled in the moment in which it failed
        self.on_change()

    def _came_late(
        self, phase: str, round_: int | None, began_s: float, deadline_s: float | None, task: asyncio.Task[_Received]
    ) -> None:
        """Nobody waits for this reply any more: keep what it tells, but never the update."""
        if task.cancelled() or task.exception() is not None:
            return
        received = task.result()
        record = received.own.get(RECORD_KEY)
        late_s = max(0.0, task.get_loop().time() - began_s - (deadline_s or 0.0))
        self.receipts.keep(
            Stray(
                self._info.device,
                self._info.processor,
                received.spans,
                phase,
                round_,
                self._timing(received),
                late_s,
            ),
            len(record) if isinstance(record, bytes) else 0,
        )
        _log.info("%s: %s: the reply came %.1f s late and is not used", self._info.device, phase, late_s)

    def _decode(self, raw_ins: Instruction | None, data: bytes) -> tuple[Reply, Config, tuple[SpanRecord, ...]]:
        """`raw_ins`: what was asked, of a client whose tensors have no headers."""
        if raw_ins is None:
            reply = codec.decode_reply(data)
        else:
            reply = decode_raw_reply(data, model=getattr(raw_ins, "parameters", None))
        cleaned, own = _split(reply)
        return cleaned, own, self._read_spans(own)

    def _read_spans(self, own: Config) -> tuple[SpanRecord, ...]:
        """A damaged measurement costs the measurement, not the update."""
        record = own.get(RECORD_KEY)
        if not isinstance(record, bytes):
            return ()
        try:
            return decode_spans(record)
        except WireError as error:
            _log.warning("%s: its measurement is dropped: %s", self._info.device, error)
            return ()

    def _samples(self, own: Config) -> bytes:
        """Of an accepted answer, and not looked into while clients are waited for."""
        samples = own.get(SAMPLES_KEY)
        if not isinstance(samples, bytes):
            return b""
        if len(samples) > MAX_SAMPLES_BYTES:
            _log.warning("%s: samples of %d bytes are dropped: too many", self._info.device, len(samples))
            return b""
        return samples

    def _timing(self, received: _Received) -> CallTiming:
        own = received.own
        timing = CallTiming(
            sent_ns=received.sent_ns,
            received_ns=received.received_ns,
            request_bytes=received.request_bytes,
            reply_bytes=received.reply_bytes,
            telemetry_bytes=_telemetry_bytes(received),
        )
        arrived_ns, handed_ns = own.get(RECEIVED_KEY), own.get(HANDOVER_KEY)
        if not (isinstance(arrived_ns, int) and isinstance(handed_ns, int)):
            return timing
        device_s = (handed_ns - arrived_ns) / 1e9
        if not 0 <= device_s <= timing.round_trip_s * (1 + MAX_DRIFT):
            _log.warning("%s: says it took %g s of a %g s call", self._info.device, device_s, timing.round_trip_s)
            return timing
        low_ns, high_ns = self._offset.observe(received.sent_ns, arrived_ns, handed_ns, received.received_ns)
        down_ns = arrived_ns - received.sent_ns
        download_s, upload_s, how = split_communication(
            max(0.0, timing.round_trip_s - device_s),
            timing.request_bytes,
            timing.reply_bytes,
            ((down_ns - high_ns) / 1e9, (down_ns - low_ns) / 1e9),
        )
        return replace(
            timing,
            device_s=device_s,
            download_s=download_s,
            upload_s=upload_s,
            comm_split=how,
            clock_offset_ns=(low_ns, high_ns),
        )


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def _telemetry_bytes(received: _Received) -> int:
    """Of our own keys and the flat ones of a measurement, as entries of a map on the wire."""
    metrics: Config = getattr(received.reply, "metrics", {})
    flat = {key: value for key, value in metrics.items() if key.startswith(MEASURED_PREFIXES)}
    return codec.entries_bytes(received.own) + codec.entries_bytes(flat)


async def _raw_message(ins: Instruction) -> bytes:
    """Encoded for one client alone: phones with raw tensors are few, and their models small."""
    if isinstance(ins, (FitIns, EvaluateIns)):
        return await off_loop(ins.parameters.n_bytes, encode_raw_work, ins)
    return codec.encode_instruction(ins)


def _round_of(ins: Instruction) -> int | None:
    round_ = getattr(ins, "config", {}).get("round")
    return round_ if isinstance(round_, int) and not isinstance(round_, bool) else None


def _split(reply: Reply) -> tuple[Reply, Config]:
    """A reply without the keys that are ours, and those keys."""
    if isinstance(reply, FitRes):
        theirs, own = _partition(reply.metrics)
        return FitRes(reply.parameters, reply.num_examples, theirs, reply.code, reply.message), own
    if isinstance(reply, EvaluateRes):
        theirs, own = _partition(reply.metrics)
        return replace(reply, metrics=theirs), own
    if isinstance(reply, GetPropertiesRes):
        theirs, own = _partition(reply.properties)
        return replace(reply, properties=theirs), own
    return reply, {}


def _partition(config: Config) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    own = {key: value for key, value in config.items() if key in _OWN_KEYS}
    return {key: value for key, value in config.items() if key not in _OWN_KEYS}, own

"""What a phase of a Flower round came to, as the records of our own loop. Nothing of Flower is imported.

`WatchedGrid` stands between a strategy and Flower's Grid and notes when each message left and when its reply was
fetched. Flower's loop asks for replies every 3 s over the network, so an arrival is late by up to that. What travels
between SuperLink, SuperNode and app is not seen: download and upload stay unknown.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fl.flower import keys
from fl.loop import CallRecord
from fl.messages import EvaluateRes, FitRes, Parameters, Scalar
from fl.proxy import Answer, CallTiming, ClientInfo
from fl.wire.measurement import RECORD_KEY, decode_spans
from fl.wire.samples import SAMPLES_KEY
from profiler.clock import Clock
from profiler.errors import WireError
from profiler.files import printable
from profiler.quantities import EnergyReading, Scope
from profiler.records import SpanRecord

_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # it names a file
MAX_LABEL_CHARS = 64
MAX_REASON_CHARS = 300

_log = logging.getLogger("fl")


@dataclass(frozen=True, slots=True)
class Sent:
    """One instruction: to which node, with which config, when (ns, the server's monotonic clock), bytes of tensors."""

    node_id: int
    config: Mapping[str, object]
    sent_ns: int
    n_bytes: int


class WatchedGrid:
    """A Grid as far as a strategy uses one. Flower's own loop sends and fetches; this one looks on."""

    def __init__(self, grid: Any, clock: Clock) -> None:
        self._grid = grid
        self._clock = clock
        self.sent: dict[str, Sent] = {}  # by message id, of the phase that ran last
        self.arrived_ns: dict[str, int] = {}
        self.began_ns = self.ended_ns = clock.monotonic_ns()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Any:
        self.sent, self.arrived_ns = {}, {}
        self.began_ns = self._clock.monotonic_ns()
        replies = type(self._grid).send_and_receive(self, messages, timeout=timeout)
        self.ended_ns = self._clock.monotonic_ns()
        return replies

    def push_messages(self, messages: Iterable[Any]) -> Any:
        due = list(messages)
        self.began_ns = self._clock.monotonic_ns()
        told = [
            Sent(
                message.metadata.dst_node_id, config_of(message.content), self.began_ns, _tensor_bytes(message.content)
            )
            for message in due
        ]
        ids = self._grid.push_messages(due)
        self.sent |= {message.metadata.message_id: one for message, one in zip(due, told, strict=True)}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Any:
        found = list(self._grid.pull_messages(message_ids))
        now_ns = self._clock.monotonic_ns()
        self.arrived_ns |= {message.metadata.reply_to_message_id: now_ns for message in found}
        return found


@dataclass(slots=True)
class Nodes:
    """Who is who: what each node calls itself, once that is known."""

    _known: dict[int, ClientInfo] = field(default_factory=dict)
    _machines: dict[int, str] = field(default_factory=dict)

    def get(self, node_id: int) -> ClientInfo | None:
        return self._known.get(node_id)

    def named(self, node_id: int) -> ClientInfo:
        return self._known.get(node_id, ClientInfo(f"node-{node_id}"))

    def neighbours(self, node_ids: Iterable[int]) -> dict[int, int]:
        """For each node that told its machine, how many of these nodes are on that."""
        on = {node_id: self._machines[node_id] for node_id in node_ids if node_id in self._machines}
        crowds = Counter(on.values())
        return {node_id: crowds[machine] for node_id, machine in on.items()}

    def meet(self, node_id: int, told: Mapping[str, object]) -> ClientInfo:
        """A name that is none, or that another node has, is not taken: results are kept by it."""
        if told.get(keys.MACHINE):
            self._machines[node_id] = str(told[keys.MACHINE])[:MAX_LABEL_CHARS]
        if node_id not in self._known and told:
            device = str(told.get(keys.DEVICE, ""))
            taken = {info.device for info in self._known.values()}
            if not _DEVICE.fullmatch(device) or device in taken:
                _log.warning("node %d calls itself %r, which is no name or another node's", node_id, device[:80])
                device = f"node-{node_id}"
            label = printable(str(told.get(keys.PROCESSOR, "")), MAX_LABEL_CHARS)
            self._known[node_id] = ClientInfo(device, label)
        return self.named(node_id)


@dataclass(frozen=True, slots=True)
class Phase:
    """The calls of one phase; the window from the first instruction to the last accepted result."""

    calls: tuple[CallRecord, ...]
    window_ns: tuple[int, int]

    @property
    def length_s(self) -> float:
        return (self.window_ns[1] - self.window_ns[0]) / 1e9

    def totals(self, phase: keys.Phase) -> dict[str, float]:
        """Joules summed, unless one is not known, and the longest seconds, of the calls that were answered."""
        metrics = [call.answer.result.metrics for call in self.calls if call.answer is not None]
        joules = [keys.number_of(one.get(f"{phase}.energy_j")) for one in metrics]
        known_j = [energy_j for energy_j in joules if energy_j is not None and math.isfinite(energy_j)]
        seconds = [keys.number_of(one.get(f"{phase}.duration_s")) for one in metrics]
        known_s = [one for one in seconds if one is not None and math.isfinite(one)]
        totals = {f"{phase}.energy_j": math.fsum(known_j)} if joules and len(known_j) == len(joules) else {}
        return totals | ({f"{phase}.duration_s": max(known_s)} if known_s else {})


def take(phase: keys.Phase, grid: WatchedGrid, replies: Sequence[Any], nodes: Nodes, weighted_by: str) -> Phase:
    """Take our records out of some replies, so that what is left is the app's own, and make calls of them."""
    by_instruction = {reply.metadata.reply_to_message_id: reply for reply in replies}
    calls: dict[int, CallRecord] = {}
    for message_id, sent in grid.sent.items():
        arrived_ns = grid.arrived_ns.get(message_id, grid.ended_ns)
        calls[sent.node_id] = _call(phase, sent, arrived_ns, by_instruction.get(message_id), nodes, weighted_by)
    received_ns = [call.answer.timing.received_ns for call in calls.values() if call.answer is not None]
    crowds = nodes.neighbours(calls)
    shared = tuple(_shared(phase, call, crowds.get(node_id, 1)) for node_id, call in calls.items())
    return Phase(shared, (grid.began_ns, max(received_ns, default=grid.ended_ns)))


def _call(phase: keys.Phase, sent: Sent, arrived_ns: int, reply: Any, nodes: Nodes, weighted_by: str) -> CallRecord:
    if reply is None or reply.has_error():
        reason = "no reply before the timeout" if reply is None else f"{reply.error.reason} (code {reply.error.code})"
        info = nodes.named(sent.node_id)
        failed = printable(reason, MAX_REASON_CHARS)
        return CallRecord(info.device, info.processor, phase, dict(sent.config), failure=failed)
    told, metrics = _taken(phase, reply.content)
    info = nodes.meet(sent.node_id, told)
    spans = _spans(info.device, told.get(RECORD_KEY))
    samples = told.get(SAMPLES_KEY)
    timing = CallTiming(
        sent_ns=sent.sent_ns,
        received_ns=arrived_ns,
        request_bytes=sent.n_bytes,
        reply_bytes=_tensor_bytes(reply.content) + _told_bytes(told),
        telemetry_bytes=_told_bytes(told),
    )
    answer: Any = Answer(  # of a fit or an evaluation: what the phase says
        _result(phase, metrics, weighted_by), timing, spans, samples if isinstance(samples, bytes) else b""
    )
    trained_with = {name: told[name] for name in keys.TRAINED_WITH if keys.number_of(told.get(name)) is not None}
    cutoff_s = keys.number_of(told.get(keys.CUTOFF))
    config = trained_with | dict(sent.config) | ({} if cutoff_s is None else {"cutoff_s": cutoff_s})
    return CallRecord(info.device, info.processor, phase, config, answer)


def _taken(phase: keys.Phase, content: Any) -> tuple[dict[str, Any], dict[str, Scalar]]:
    """Our ConfigRecord, removed, and all metrics, of which ours are removed from their record."""
    told = dict(content.pop(keys.RECORD_NAME)) if keys.RECORD_NAME in content.config_records else {}
    metrics: dict[str, Scalar] = {}
    for record in content.metric_records.values():
        metrics |= {name: value for name, value in record.items() if isinstance(value, (int, float))}
        for name in [name for name in record if name.startswith(f"{phase}.")]:
            del record[name]
    content.pop(f"{keys.RECORD_NAME}.metrics", None)
    texts = {name: value for name, value in told.items() if name.startswith(f"{phase}.") and isinstance(value, str)}
    return told, metrics | texts


def _spans(device: str, data: object) -> tuple[SpanRecord, ...]:
    """A record that cannot be read costs itself, not the update."""
    if not isinstance(data, bytes):
        return ()
    try:
        return decode_spans(data)
    except WireError as error:
        _log.warning("%s: its measurement is dropped: %s", device, error)
        return ()


def _result(phase: keys.Phase, metrics: Mapping[str, Scalar], weighted_by: str) -> FitRes | EvaluateRes:
    weight = keys.number_of(metrics.get(weighted_by))
    examples = int(weight) if weight is not None and 0 <= weight < 2**53 else 0
    if phase == "fit":
        return FitRes(Parameters(()), examples, metrics)
    losses = (keys.number_of(metrics.get(name)) for name in ("loss", "eval_loss", "eval-loss"))
    return EvaluateRes(next((loss for loss in losses if loss is not None), math.nan), examples, metrics)


def _shared(phase: keys.Phase, call: CallRecord, n_nodes: int) -> CallRecord:
    """Where several nodes answer from one machine, each gets its process's part of what that drew, by CPU time."""
    if n_nodes < 2 or call.answer is None:
        return call
    result: Any = call.answer.result
    spans, metrics = shared(phase, call.answer.spans, result.metrics, n_nodes)
    answer: Any = replace(call.answer, spans=spans, result=replace(result, metrics=metrics))
    return replace(call, answer=answer)


def shared(
    phase: keys.Phase, spans: Iterable[SpanRecord], metrics: Mapping[str, Scalar], n_nodes: int
) -> tuple[tuple[SpanRecord, ...], dict[str, Scalar]]:
    """Spans and metrics of a call whose energies are the process's part of what its machine of so many nodes drew."""
    parts = tuple(replace(span, total=_share(span, n_nodes)) for span in spans)
    own = next((span.total for span in parts if span.name == phase and span.total is not None), None)
    kept = {name: value for name, value in metrics.items() if not name.startswith(f"{phase}.energy")}
    if own is not None and own.energy_j is not None:
        kept |= {f"{phase}.energy_j": own.energy_j, f"{phase}.energy_err_j": own.energy_err_j or 0.0}
    return parts, kept


def _share(span: SpanRecord, n_nodes: int) -> EnergyReading | None:
    """Gross: in proportion to the CPU seconds of the process and of the machine, the error alike."""
    total = span.total
    if total is None or total.energy_j is None or total.scope is Scope.PROCESS:
        return total
    own_s, all_s = span.resources.cpu_s, keys.number_of(span.attributes.get(keys.HOST_CPU_KEY))
    if own_s is None or all_s is None or max(own_s, all_s) <= 0:
        return EnergyReading.missing(total.rail, Scope.PROCESS, f"{n_nodes} nodes share the meter of one machine")
    part = own_s / max(own_s, all_s)  # the machine's CPU time comes in steps of 10 ms, and can be less
    err_j = None if total.energy_err_j is None else total.energy_err_j * part
    reason = f"part of one of {n_nodes} nodes on a machine, by CPU time"
    reasons = reason if total.reason is None else f"{total.reason}; {reason}"
    return replace(total, energy_j=total.energy_j * part, energy_err_j=err_j, scope=Scope.PROCESS, reason=reasons)


def config_of(content: Any) -> dict[str, object]:
    """What a message's ConfigRecords say."""
    return {name: value for record in content.config_records.values() for name, value in record.items()}


def _tensor_bytes(content: Any) -> int:
    return sum(int(record.count_bytes()) for record in content.array_records.values())


def _told_bytes(told: Mapping[str, Any]) -> int:
    return sum(len(name) + (len(value) if isinstance(value, (str, bytes)) else 8) for name, value in told.items())

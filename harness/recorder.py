"""The results of one round become records: spans of every client and phase, failures, and the round itself. Pure."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fl.loop import CallRecord, RoundResult
from fl.proxy import CallTiming
from fl.receipts import Stray
from fl.wire.samples import decode_samples
from harness.energy_sources import DeviceMeter, Energy, HostEnergy, Sources, with_own_joules
from profiler.errors import WireError
from profiler.quantities import Provenance, weakest
from profiler.records import LATE, Row, SpanRecord, span_row

MAX_REASONS = 4

_log = logging.getLogger("harness")


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What the records of a task have in common. `host_devices` are metered by the host's meter, `meters` are those of
    devices elsewhere that are read from here.

    `began_ns`: when this attempt began, on the server's clock. What answers an earlier call belongs to no round.
    """

    task: str
    attempt: int
    first_round: int
    processors: Mapping[str, str]
    host_devices: frozenset[str]
    wall_time: str
    began_ns: int = 0
    meters: Mapping[str, DeviceMeter] = field(default_factory=dict)

    def base(self, round_: int | None) -> Row:
        return {"task": self.task, "attempt": self.attempt, "round": round_, "wall_time": self.wall_time}


def round_rows(context: TaskContext, result: RoundResult, energy: HostEnergy) -> list[Row]:
    """The spans and failures of a round, and last its `round` record: the mark that the round is whole."""
    rows: list[Row] = []
    device_energies: dict[str, list[Energy]] = {}
    measured = [(call.device, call.spans) for call in result.calls]
    measured += [(stray.device, stray.spans) for stray in result.strays]
    sources = Sources(energy, context.host_devices, context.meters, with_own_joules(measured))
    for call in result.calls:
        if call.answer is None:
            rows.append(failure_row(context, call, result.round))
        rows += _call_spans(context, result, call, sources)
        counted = [span for span in call.spans if _place(context, result, call, span)[0] is not None]
        energies = sources.of_spans(call.device, counted, _offset_ns(call.timing))
        device_energies.setdefault(call.device, []).extend(energies)
    for stray in result.strays:
        rows += _stray_rows(context, stray, sources, result.round)
        if not stray.is_from_before:
            counted = [span for span in stray.spans if _stray_round(context, stray, span, result.round) is not None]
            energies = sources.of_spans(stray.device, counted, _offset_ns(stray.timing))
            device_energies.setdefault(stray.device, []).extend(energies)
    rows.append(_round_row(context, result, rows, sources, device_energies))
    return rows


def sampled(result: RoundResult) -> Iterator[tuple[str, dict[str, list[object]]]]:
    """The raw samples that came with each accepted answer, by device, as columns of a `SampleFile`.

    Those that are damaged are left out, and logged.
    """
    for call in result.calls:
        if call.answer is None or not call.answer.samples:
            continue
        try:
            found = decode_samples(call.answer.samples)
        except WireError as error:
            _log.warning("%s: its samples are dropped: %s", call.device, error)
            continue
        for rail in found.rails:
            n = len(rail.t_ns)
            yield (
                call.device,
                {
                    "t_ns": list(rail.t_ns),
                    "rail": [rail.rail] * n,
                    "value": list(rail.values),
                    "span_id": [found.span_id] * n,
                    "every": [rail.every] * n,
                },
            )


def failure_row(context: TaskContext, call: CallRecord, round_: int) -> Row:
    return {
        "kind": "failure",
        **context.base(round_),
        "device": call.device,
        "processor": call.processor or context.processors.get(call.device),
        "phase": call.call,
        "reason": call.failure or "no answer",
    }


def _call_spans(context: TaskContext, result: RoundResult, call: CallRecord, sources: Sources) -> list[Row]:
    """What the device measured, also where its update was refused, and what the server did where it was taken."""
    rows = []
    for span in call.spans:
        round_, name = _place(context, result, call, span)
        found = sources.of_span(call.device, span, _offset_ns(call.timing))
        rows.append(_device_row(context, call.device, call.processor, span, found, round_=round_, call=name))
    if call.answer is None:
        return rows
    for name, start_ns, end_ns, columns in _server_spans(result, call, call.answer.timing):
        row = {**_server_span(context, result, call, name), "start_ns": start_ns, **columns}
        row["duration_s"] = (end_ns - start_ns) / 1e9
        if name == "call":
            row |= _unwatched_columns(call)
        drawn = sources.of_window(call.device, start_ns, end_ns)
        rows.append(row if drawn is None else row | drawn.columns())
    return rows


def counts_no_steps(call: CallRecord) -> bool:
    """Whether a fit was answered by a client whose training loop does not go through `fl.steps`."""
    return call.call == "fit" and call.answer is not None and "fit.steps_done" not in call.answer.result.metrics


def ignores_cutoff(call: CallRecord) -> bool:
    """Whether it was sent a cutoff all the same, which nothing in it obeys."""
    cutoff_s = call.config.get("cutoff_s")
    return counts_no_steps(call) and isinstance(cutoff_s, (int, float)) and cutoff_s > 0


class IgnoredCutoffs:
    """Who was found to ignore its cutoff, so that a person is told of each device once."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def new(self, calls: Iterable[CallRecord]) -> list[str]:
        """The devices of these calls that were not known to, in order."""
        found = {call.device for call in calls if ignores_cutoff(call)} - self._known
        self._known |= found
        return sorted(found)


def _unwatched_columns(call: CallRecord) -> Row:
    if not counts_no_steps(call):
        return {}
    row: Row = {"stopped_by": "unknown"}
    return row | {"attributes": {"cutoff_ignored": True}} if ignores_cutoff(call) else row


def _device_row(
    context: TaskContext, device: str, processor: str, span: SpanRecord, energy: Energy | None, **place: object
) -> Row:
    """`place`: round_ and call."""
    round_ = place["round_"]
    base = context.base(round_ if isinstance(round_, int) else None)
    row = {**span_row(span), **base, "device": device, "processor": processor, "call": place["call"]}
    return row if energy is None else row | energy.columns()


def _offset_ns(timing: CallTiming | None) -> tuple[float, float] | None:
    return None if timing is None else timing.clock_offset_ns


def stray_rows(context: TaskContext, stray: Stray, energy: HostEnergy, last_round: int) -> list[Row]:
    """The measurement that came with no accepted answer, and for a late reply a span `late` that says how late.

    `late` begins at the call's deadline and ends when the reply was there; its bytes are the reply's.
    """
    return _stray_rows(context, stray, Sources(energy, context.host_devices, context.meters), last_round)


def _stray_rows(context: TaskContext, stray: Stray, sources: Sources, last_round: int) -> list[Row]:
    rows = []
    for span in stray.spans:
        round_ = _stray_round(context, stray, span, last_round)
        call = str(span.attributes.get("call", stray.call))
        found = sources.of_span(stray.device, span, _offset_ns(stray.timing))
        rows.append(_device_row(context, stray.device, stray.processor, span, found, round_=round_, call=call))
    if stray.late_s is not None and stray.timing is not None:
        rows.append(_late_row(context, stray, last_round))
    return rows


def _stray_round(context: TaskContext, stray: Stray, span: SpanRecord, last_round: int) -> int | None:
    """The round that a span belongs to; None where it is left over from before."""
    round_ = span.attributes.get("round", stray.round)
    return round_ if isinstance(round_, int) and _is_of_attempt(context, stray, round_, last_round) else None


def _late_row(context: TaskContext, stray: Stray, last_round: int) -> Row:
    if stray.timing is None or stray.late_s is None:
        raise ValueError(f"{stray.device}: a reply that was not late")
    timing = stray.timing
    is_ours = stray.round is not None and _is_of_attempt(context, stray, stray.round, last_round)
    return {
        "kind": "span",
        **context.base(stray.round if is_ours else None),
        "device": stray.device,
        "processor": stray.processor,
        "call": stray.call,
        "name": LATE,
        "span_id": f"{context.task}.{context.attempt}.{stray.device}.{stray.call}.late.{timing.sent_ns}",
        "clock": "server",
        "status": "error",
        "start_ns": timing.received_ns - round(stray.late_s * 1e9),
        "duration_s": stray.late_s,
        "n_bytes": timing.reply_bytes,
    }


def _is_of_attempt(context: TaskContext, stray: Stray, round_: int, last_round: int) -> bool:
    """Whether what a stray tells belongs to a round of this attempt at this task, and not to one before."""
    is_earlier = stray.timing is not None and stray.timing.sent_ns < context.began_ns
    return not (is_earlier or stray.is_from_before) and context.first_round <= round_ <= last_round


def _place(context: TaskContext, result: RoundResult, call: CallRecord, span: SpanRecord) -> tuple[int | None, str]:
    """Round and call that a span belongs to: its own, for a wait or a late reply travels with a later answer.

    What comes with the first answer of a task but is not of that call is left over from before: it has no round.
    """
    round_, name = span.attributes.get("round", result.round), span.attributes.get("call", call.call)
    if not isinstance(round_, int) or not isinstance(name, str):
        return result.round, call.call
    is_first = (result.round, call.call) == (context.first_round, "fit")
    is_left_over = is_first and (span.name == "wait" or (round_, name) != (result.round, "fit"))
    return (None if is_left_over or not context.first_round <= round_ <= result.round else round_), name


def _server_spans(
    result: RoundResult, call: CallRecord, timing: CallTiming
) -> Iterable[tuple[str, int, int, Mapping[str, object]]]:
    """Name, start, end and further columns of what the server's clock measured of a call."""
    yield "call", timing.sent_ns, timing.received_ns, {"n_bytes": timing.request_bytes + timing.reply_bytes}
    if timing.download_s is not None and timing.upload_s is not None:
        split = {"comm_split": timing.comm_split}
        arrived_ns = timing.sent_ns + round(timing.download_s * 1e9)
        left_ns = timing.received_ns - round(timing.upload_s * 1e9)
        yield "download", timing.sent_ns, arrived_ns, {"n_bytes": timing.request_bytes, **split}
        yield "upload", left_ns, timing.received_ns, {"n_bytes": timing.reply_bytes, **split}
    end_ns = _phase_end_ns(result, call)
    yield "straggler_wait", timing.received_ns, max(end_ns, timing.received_ns), {}


def _phase_end_ns(result: RoundResult, call: CallRecord) -> int:
    window_ns = result.fit_window_ns if call.call == "fit" else result.evaluate_window_ns
    if window_ns is None:
        raise ValueError(f"round {result.round} has an evaluate call but no evaluate window")
    return window_ns[1]


def _server_span(context: TaskContext, result: RoundResult, call: CallRecord, name: str) -> Row:
    return {
        "kind": "span",
        **context.base(result.round),
        "device": call.device,
        "processor": call.processor,
        "call": call.call,
        "name": name,
        "span_id": f"{context.task}.{context.attempt}.{result.round}.{call.device}.{call.call}.{name}",
        "clock": "server",
        "status": "ok",
    }


def _round_row(
    context: TaskContext,
    result: RoundResult,
    rows: Sequence[Row],
    sources: Sources,
    device_energies: Mapping[str, list[Energy]],
) -> Row:
    start_ns = result.fit_window_ns[0]
    end_ns = (result.evaluate_window_ns or result.fit_window_ns)[1]
    row: Row = {
        "kind": "round",
        **context.base(result.round),
        "time_s": result.time_s,
        "fit_time_s": result.fit_time_s,
        "server_s": result.server_s,
        "accuracy": result.accuracy,
        "loss": result.loss,
        "n_selected": result.n_selected,
        "n_results": result.n_results,
        "n_failures": result.n_failures,
        "download_bytes": sum(call.answer.timing.request_bytes for call in result.calls if call.answer),
        "upload_bytes": sum(call.answer.timing.reply_bytes for call in result.calls if call.answer),
        "telemetry_bytes": sum(call.answer.timing.telemetry_bytes for call in result.calls if call.answer),
    }
    devices = []
    for device in sorted(context.processors):
        if device not in context.host_devices and device not in device_energies:
            continue  # it is not here and took no part
        whole = sources.of_window(device, start_ns, end_ns)
        devices += device_energies[device] if whole is None else [whole]
    row |= _sum_columns(devices)
    row["energy_fit_j"], row["energy_fit_err_j"] = _sum_spans(rows, "fit")
    row["energy_straggler_wait_j"], row["energy_straggler_wait_err_j"] = _sum_spans(rows, "straggler_wait")
    row |= _wait_columns(row, _sum_spans(rows, "call")[0])
    if context.host_devices:
        row |= _host_columns(sources.host, start_ns, end_ns)
    return row


def _wait_columns(row: Row, calls_j: float | None) -> Row:
    """What is left of the round beside its calls, with the round's error in the same proportion."""
    energy_j, err_j = row["energy_j"], row.get("energy_err_j")
    if not energy_j or calls_j is None or err_j is None:
        return {}
    wait_j = max(0.0, energy_j - calls_j)
    return {"energy_wait_j": wait_j, "energy_wait_err_j": err_j * wait_j / energy_j}


def _host_columns(energy: HostEnergy, start_ns: int, end_ns: int) -> Row:
    """The shared host and those of its shares that no device has."""
    readings = {
        "host_energy": energy.host(start_ns, end_ns).reading,
        "server_energy": energy.of("server", start_ns, end_ns).reading,
        "other_energy": energy.of("other", start_ns, end_ns).reading,
    }
    row: Row = {f"{name}_j": reading.energy_j for name, reading in readings.items()}
    return row | {f"{name}_err_j": reading.energy_err_j for name, reading in readings.items()}


def _sum_columns(parts: Sequence[Energy]) -> Row:
    """The sum over devices. Errors add up linearly: one meter's gain error does not average out over its shares."""
    readings = [part.reading for part in parts]
    missing = [reading for reading in readings if reading.energy_j is None]
    if not readings or missing:
        reason = missing[0].reason if missing else "no device has a meter"
        return {"energy_j": None, "provenance": Provenance.MISSING.value, "energy_reason": reason}
    idle_s = dict.fromkeys((part.meter for part in parts), 0.0)
    for part in parts:
        idle_s[part.meter] += part.idle_s
    doubts = dict.fromkeys(reading.reason for reading in readings if reading.reason)
    return {
        "energy_j": math.fsum(reading.energy_j or 0.0 for reading in readings),
        "energy_err_j": math.fsum(reading.energy_err_j or 0.0 for reading in readings),
        "provenance": weakest(reading.provenance for reading in readings).value,
        "energy_scope": readings[0].scope.value,
        "energy_reason": "; ".join(list(doubts)[:MAX_REASONS]) or None,
        "idle_s": idle_s,
    }


def _sum_spans(rows: Sequence[Row], name: str) -> tuple[float | None, float | None]:
    """Energy and error of all top-level spans of a name in this round, None if any is missing: never a smaller total.

    Spans that user code opens within its own are in their parents already.
    """
    spans = [row for row in rows if row["kind"] == "span" and row["name"] == name and row.get("parent_id") is None]
    if not spans or any(row.get("energy_j") is None for row in spans):
        return None, None
    return math.fsum(row["energy_j"] for row in spans), math.fsum(row.get("energy_err_j") or 0.0 for row in spans)

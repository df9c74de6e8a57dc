"""Span records to bytes and back: the metric `fedmeter.record`, which travels beside an update.

The format is documented in measurement.proto, for clients in other languages too. What arrives is checked against
every bound that a span record has; nothing of it is trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from google.protobuf.message import DecodeError, Message

from fl.wire import measurement_pb2 as pb
from profiler.errors import WireError
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.records import MAX_STORED_STEPS, Attribute, Resources, SpanRecord

RECORD_KEY = "fedmeter.record"

MAX_RECORD_BYTES = 16 * 1024 * 1024
MAX_SPANS = 10_000
MAX_RAILS = 256
MAX_ATTRIBUTES = 256
MAX_TEXT_CHARS = 1_000
MAX_INT64 = 2**63 - 1

_NO_RESOURCES = Resources()


def encode_spans(spans: Iterable[SpanRecord]) -> bytes:
    """A Measurement. Raises WireError for an attribute that the format does not carry."""
    try:
        return pb.Measurement(spans=[_span_message(span) for span in spans]).SerializeToString()
    except (ValueError, TypeError) as error:
        raise WireError(f"a span record cannot be encoded: {error}.") from None


def decode_spans(data: bytes) -> tuple[SpanRecord, ...]:
    """The spans of a Measurement. Raises WireError, naming span and field, for what is no measurement."""
    message = pb.Measurement()
    parse(message, data, "measurement", MAX_RECORD_BYTES)
    if len(message.spans) > MAX_SPANS:
        raise WireError(f"a measurement of {len(message.spans)} spans; at most {MAX_SPANS} are read.")
    return tuple(_read_span(span) for span in message.spans)


def parse(message: Message, data: bytes, what: str, most_bytes: int) -> None:
    """Fill a message. Raises WireError, saying what they should have been, for bytes that are none or too many."""
    if len(data) > most_bytes:
        raise WireError(f"a {what} of {len(data)} bytes; at most {most_bytes} are read.")
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"{len(data)} bytes that are no {what}: {error}.") from None


def _span_message(span: SpanRecord) -> pb.Span:
    return pb.Span(
        span_id=span.span_id,
        name=span.name,
        start_ns=span.start_ns,
        duration_s=span.duration_s,
        status=span.status,
        parent_id=span.parent_id,
        total=None if span.total is None else _reading_message(span.total),
        energies=[_reading_message(reading) for reading in span.energies],
        resources=_resources_message(span.resources),
        steps_s=span.steps_s,
        warmup_steps=span.warmup_steps,
        attributes={key: _attribute_message(key, value) for key, value in span.attributes.items()},
    )


def _reading_message(reading: EnergyReading) -> pb.Reading:
    return pb.Reading(
        rail=reading.rail,
        energy_j=reading.energy_j,
        energy_err_j=reading.energy_err_j,
        provenance=reading.provenance.value,
        scope=reading.scope.value,
        n_samples=reading.n_samples,
        effective_hz=reading.effective_hz,
        coverage=reading.coverage,
        max_gap_s=reading.max_gap_s,
        total_of=reading.total_of,
        reason=None if reading.reason is None else reading.reason[:MAX_TEXT_CHARS],
    )


def _resources_message(resources: Resources) -> pb.Resources:
    return pb.Resources(
        cpu_s=resources.cpu_s,
        peak_rss_bytes=resources.peak_rss_bytes,
        temperature_c=resources.temperature_c,
        frequency_hz=resources.frequency_hz,
        gpu_use=resources.gpu_use,
        gpu_temperature_c=resources.gpu_temperature_c,
        gpu_frequency_hz=resources.gpu_frequency_hz,
        throttling=None if resources.throttling is None else resources.throttling[:MAX_TEXT_CHARS],
    )


def _attribute_message(key: str, value: Attribute) -> pb.Attribute:
    if isinstance(value, bool):
        return pb.Attribute(bool=value)
    if isinstance(value, int):
        return pb.Attribute(int=value)
    if isinstance(value, float):
        return pb.Attribute(double=value)
    if isinstance(value, str):
        return pb.Attribute(string=value[:MAX_TEXT_CHARS])
    raise WireError(f"the span attribute {key!r} is {type(value).__name__}; use bool, int, float or str.")


def _read_span(message: pb.Span) -> SpanRecord:
    try:
        return _checked_span(message)
    except WireError as error:
        raise WireError(f"span {message.span_id!r:.80}: {error}") from None


def _checked_span(message: pb.Span) -> SpanRecord:
    if len(message.energies) > MAX_RAILS or len(message.steps_s) > MAX_STORED_STEPS:
        raise WireError(f"{len(message.energies)} rails and {len(message.steps_s)} steps are too many.")
    if not message.span_id or not message.name:
        raise WireError("a span needs span_id and name.")
    if message.warmup_steps > len(message.steps_s):
        raise WireError(f"{message.warmup_steps} warm-up steps of {len(message.steps_s)} steps.")
    return SpanRecord(
        span_id=checked_text("span_id", message.span_id),
        name=checked_text("name", message.name),
        start_ns=message.start_ns,
        duration_s=_not_negative("duration_s", message.duration_s),
        status=_status(message.status),
        parent_id=checked_text("parent_id", message.parent_id) if message.HasField("parent_id") else None,
        total=_read_reading(message.total) if message.HasField("total") else None,
        energies=tuple([_read_reading(reading) for reading in message.energies]),
        resources=_read_resources(message.resources) if message.HasField("resources") else _NO_RESOURCES,
        steps_s=tuple([_not_negative("steps_s", step_s) for step_s in message.steps_s]),
        warmup_steps=message.warmup_steps,
        attributes=_read_attributes(message.attributes),
    )


def _read_reading(message: pb.Reading) -> EnergyReading:
    try:
        return _checked_reading(message)
    except (WireError, ValueError) as error:
        raise WireError(f"rail {message.rail!r:.80}: {str(error).rstrip('.')}.") from None


def _checked_reading(message: pb.Reading) -> EnergyReading:
    """Raises ValueError for what an EnergyReading itself refuses."""
    if len(message.total_of) > MAX_RAILS or message.n_samples < 0:
        raise WireError(f"{len(message.total_of)} parts and {message.n_samples} samples make no reading.")
    coverage = _not_negative("coverage", message.coverage)
    if coverage > 1:
        raise WireError(f"coverage = {coverage} is no part of a whole.")
    return EnergyReading(
        rail=checked_text("rail", message.rail),
        energy_j=message.energy_j if message.HasField("energy_j") else None,
        energy_err_j=_optional("energy_err_j", message),
        provenance=Provenance(message.provenance),
        scope=Scope(message.scope),
        n_samples=message.n_samples,
        effective_hz=_not_negative("effective_hz", message.effective_hz),
        coverage=coverage,
        max_gap_s=_not_negative("max_gap_s", message.max_gap_s),
        total_of=tuple([checked_text("total_of", rail) for rail in message.total_of]),
        reason=checked_text("reason", message.reason) if message.HasField("reason") else None,
    )


def _read_resources(message: pb.Resources) -> Resources:
    if not message.ListFields():  # nothing is known
        return _NO_RESOURCES
    rss_bytes = message.peak_rss_bytes if message.HasField("peak_rss_bytes") else None
    if rss_bytes is not None and rss_bytes < 0:
        raise WireError(f"peak_rss_bytes = {rss_bytes} is no size.")
    gpu_use = _optional("gpu_use", message)
    if gpu_use is not None and gpu_use > 1:
        raise WireError(f"gpu_use = {gpu_use} is no part of a whole.")
    return Resources(
        cpu_s=_optional("cpu_s", message),
        peak_rss_bytes=rss_bytes,
        temperature_c=_temperature("temperature_c", message),
        frequency_hz=_optional("frequency_hz", message),
        gpu_use=gpu_use,
        gpu_temperature_c=_temperature("gpu_temperature_c", message),
        gpu_frequency_hz=_optional("gpu_frequency_hz", message),
        throttling=checked_text("throttling", message.throttling) if message.HasField("throttling") else None,
    )


def _temperature(name: str, message: pb.Resources) -> float | None:
    if not message.HasField(name):
        return None
    degrees_c: float = getattr(message, name)
    if not math.isfinite(degrees_c):
        raise WireError(f"{name} = {degrees_c} is no temperature.")
    return degrees_c


def _read_attributes(messages: Mapping[str, pb.Attribute]) -> dict[str, Attribute]:
    if len(messages) > MAX_ATTRIBUTES:
        raise WireError(f"{len(messages)} attributes; at most {MAX_ATTRIBUTES} are read.")
    attributes: dict[str, Attribute] = {}
    for key in sorted(messages):
        message = messages[key]
        field = message.WhichOneof("value")
        if field is None:
            raise WireError(f"the attribute {key!r:.80} has no value.")
        value: Attribute = getattr(message, field)
        if isinstance(value, float) and not math.isfinite(value):
            raise WireError(f"the attribute {key!r:.80} is {value}; leave out what is unknown.")
        attributes[checked_text("attribute", key)] = checked_text(key, value) if isinstance(value, str) else value
    return attributes


def _optional(name: str, message: pb.Reading | pb.Resources) -> float | None:
    return _not_negative(name, getattr(message, name)) if message.HasField(name) else None


def _not_negative(name: str, value: float) -> float:
    if not 0 <= value < math.inf:  # false for NaN
        raise WireError(f"{name} = {value}; a finite number from 0 is needed.")
    return value


def checked_text(name: str, value: str) -> str:
    """Raises WireError where it is longer than any text of a measurement."""
    if len(value) > MAX_TEXT_CHARS:
        raise WireError(f"{name:.200} has {len(value)} characters; at most {MAX_TEXT_CHARS} are read.")
    return value


def _status(status: str) -> str:
    if status not in ("", "ok", "error"):
        raise WireError(f"status {status!r:.80} is neither ok nor error.")
    return status or "ok"

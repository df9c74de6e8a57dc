"""The raw samples of one span to bytes and back: the metric `fedmeter.samples`, documented in measurement.proto.

What arrives is checked against every bound; nothing of it is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from fl.wire import measurement_pb2 as pb
from fl.wire.measurement import MAX_RAILS, checked_text, parse
from profiler.errors import WireError
from profiler.kept_samples import RailSamples

SAMPLES_KEY = "fedmeter.samples"

MAX_SAMPLES_BYTES = 64 * 1024
# A double is 8 bytes, and a time 8 at most in spans of up to a year; the rest is for the names of spans and rails.
MAX_VALUES = (MAX_SAMPLES_BYTES - 4096) // 16
_MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SpanSamples:
    """The samples of a span's rails; `start_ns` is the span's, all times are on the device's monotonic clock."""

    span_id: str
    start_ns: int
    rails: tuple[RailSamples, ...]


def encode_samples(samples: SpanSamples) -> bytes:
    """A Samples. Raises WireError where that is more than `MAX_SAMPLES_BYTES`."""
    data = pb.Samples(
        span_id=samples.span_id,
        start_ns=samples.start_ns,
        rails=[
            pb.RailSamples(
                rail=one.rail, t_ns=[t_ns - samples.start_ns for t_ns in one.t_ns], value=one.values, every=one.every
            )
            for one in samples.rails
        ],
    ).SerializeToString()
    if len(data) > MAX_SAMPLES_BYTES:
        raise WireError(f"samples of {len(data)} bytes; at most {MAX_SAMPLES_BYTES} are sent.")
    return data


def decode_samples(data: bytes) -> SpanSamples:
    """Raises WireError, naming span and rail, for what is no Samples."""
    message = pb.Samples()
    parse(message, data, "set of samples", MAX_SAMPLES_BYTES)
    where = f"samples of span {message.span_id!r:.80}"
    if len(message.rails) > MAX_RAILS or not message.span_id:
        raise WireError(f"{where}: span_id and at most {MAX_RAILS} rails are needed.")
    rails = tuple(_read_rail(where, message.start_ns, rail) for rail in message.rails)
    return SpanSamples(checked_text(f"{where}: span_id", message.span_id), message.start_ns, rails)


def _read_rail(where: str, start_ns: int, message: pb.RailSamples) -> RailSamples:
    where = f"{where}, rail {message.rail!r:.80}"
    if len(message.t_ns) != len(message.value):
        raise WireError(f"{where}: {len(message.t_ns)} times for {len(message.value)} values.")
    if not all(isfinite(value) for value in message.value):
        raise WireError(f"{where}: a value is not finite; leave out what could not be read.")
    times_ns = tuple(start_ns + t_ns for t_ns in message.t_ns)
    if any(later_ns < t_ns for t_ns, later_ns in pairwise(times_ns)):
        raise WireError(f"{where}: its times are not in order.")
    if times_ns and not -_MAX_INT64 <= times_ns[0] <= times_ns[-1] <= _MAX_INT64:
        raise WireError(f"{where}: times that are on no clock.")
    return RailSamples(
        checked_text(f"{where}: its name", message.rail), times_ns, tuple(message.value), max(1, message.every)
    )

"""Raw samples as bytes: every one survives, within 64 kB; hostile bytes do not get in."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.wire import measurement_pb2 as pb
from fl.wire.samples import MAX_SAMPLES_BYTES, MAX_VALUES, SpanSamples, decode_samples, encode_samples
from profiler.errors import WireError
from profiler.kept_samples import RailSamples

NAMES = st.text(min_size=1, max_size=12)


@st.composite
def rails(draw: st.DrawFn) -> RailSamples:
    times_ns = sorted(draw(st.lists(st.integers(-(2**40), 2**40), max_size=20)))
    values = [draw(st.floats(allow_nan=False, allow_infinity=False)) for _ in times_ns]
    return RailSamples(draw(NAMES), tuple(times_ns), tuple(values), draw(st.integers(1, 2**20)))


@given(st.builds(SpanSamples, NAMES, st.integers(-(2**40), 2**40), st.lists(rails(), max_size=4).map(tuple)))
def test_every_sample_survives(samples: SpanSamples) -> None:
    assert decode_samples(encode_samples(samples)) == samples


@pytest.mark.parametrize("n_rails", [1, 3, 40])
def test_the_most_that_is_kept_of_a_year_fits(n_rails: int) -> None:
    year_ns, each = 366 * 86_400 * 10**9, MAX_VALUES // n_rails + 1
    times_ns = tuple(year_ns - each + i for i in range(each))
    rails = tuple(RailSamples(f"hwmon{n}/in{n}_input" * 2, times_ns, (1 / 3,) * each) for n in range(n_rails))
    assert len(encode_samples(SpanSamples("x" * 100, 0, rails))) <= MAX_SAMPLES_BYTES


def test_more_than_that_is_not_sent_and_not_read() -> None:
    rail = RailSamples("p", tuple(range(10_000)), (1.0,) * 10_000)
    with pytest.raises(WireError, match="at most 65536 are sent"):
        encode_samples(SpanSamples("1", 0, (rail,)))
    with pytest.raises(WireError, match="at most 65536 are read"):
        decode_samples(bytes(MAX_SAMPLES_BYTES + 1))


def one(**fields: object) -> bytes:
    rail = pb.RailSamples(**{"rail": "p", "t_ns": [0, 5], "value": [1.0, 2.0], **fields})  # type: ignore[arg-type]
    return pb.Samples(span_id="7", start_ns=2**62, rails=[rail]).SerializeToString()


def test_what_a_foreign_client_leaves_out_has_a_meaning() -> None:
    assert decode_samples(one(every=0)).rails[0].every == 1
    assert decode_samples(pb.Samples(span_id="7").SerializeToString()) == SpanSamples("7", 0, ())


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (one(value=[1.0]), "2 times for 1 values"),
        (one(t_ns=[5, 0]), "not in order"),
        (one(value=[1.0, math.nan]), "not finite"),
        (one(value=[1.0, math.inf]), "not finite"),
        (one(t_ns=[0, 2**62 + 1]), "on no clock"),
        (one(rail="x" * 2_000), "characters"),
        (pb.Samples().SerializeToString(), "span_id"),
        (pb.Samples(span_id="7", rails=[pb.RailSamples()] * 300).SerializeToString(), "256 rails"),
        (b"\xff" * 10, "no set of samples"),
    ],
)
def test_bad_samples_are_refused_by_what_is_wrong(data: bytes, named: str) -> None:
    with pytest.raises(WireError, match=named):
        decode_samples(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_samples(data)

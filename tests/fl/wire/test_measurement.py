"""The measurement beside an update: every span record survives, hostile bytes do not get in."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.wire import measurement_pb2 as pb
from fl.wire.measurement import MAX_SPANS, decode_spans, encode_spans
from profiler.errors import WireError
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.records import MAX_STORED_STEPS, Resources, SpanRecord

FINITE = st.floats(0, 1e12)
TEXT = st.text(min_size=1, max_size=12)
KNOWN = st.builds(
    EnergyReading,
    rail=TEXT,
    energy_j=st.floats(-1e9, 1e9),
    energy_err_j=FINITE,
    provenance=st.sampled_from([p for p in Provenance if p is not Provenance.MISSING]),
    scope=st.sampled_from(Scope),
    n_samples=st.integers(0, 2**40),
    effective_hz=FINITE,
    coverage=st.floats(0, 1),
    max_gap_s=FINITE,
    total_of=st.lists(TEXT, max_size=3).map(tuple),
)
READINGS = st.one_of(KNOWN, st.builds(EnergyReading.missing, TEXT, st.sampled_from(Scope), TEXT))
RESOURCES = st.builds(
    Resources,
    cpu_s=st.none() | FINITE,
    peak_rss_bytes=st.none() | st.integers(0, 2**50),
    temperature_c=st.none() | st.floats(-50, 150),
    frequency_hz=st.none() | FINITE,
    gpu_use=st.none() | st.floats(0, 1),
    gpu_temperature_c=st.none() | st.floats(-50, 150),
    gpu_frequency_hz=st.none() | FINITE,
    throttling=st.none() | st.just("") | TEXT,
)
ATTRIBUTES = st.dictionaries(
    TEXT, st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e9, 1e9) | TEXT, max_size=4
)


@st.composite
def spans(draw: st.DrawFn) -> SpanRecord:
    steps_s = tuple(draw(st.lists(FINITE, max_size=5)))
    return SpanRecord(
        span_id=draw(TEXT),
        name=draw(TEXT),
        start_ns=draw(st.integers(-(2**63), 2**63 - 1)),
        duration_s=draw(FINITE),
        status=draw(st.sampled_from(["ok", "error"])),
        parent_id=draw(st.none() | TEXT),
        total=draw(st.none() | READINGS),
        energies=tuple(draw(st.lists(READINGS, max_size=3))),
        resources=draw(RESOURCES),
        steps_s=steps_s,
        warmup_steps=draw(st.integers(0, len(steps_s))),
        attributes=draw(ATTRIBUTES),
    )


@given(st.lists(spans(), max_size=4))
def test_every_span_record_survives(records: list[SpanRecord]) -> None:
    back = decode_spans(encode_spans(records))
    assert list(back) == records
    for one, other in zip(records, back, strict=True):
        assert {k: type(v) for k, v in one.attributes.items()} == {k: type(v) for k, v in other.attributes.items()}


def test_a_minimal_span_of_a_foreign_client_is_read() -> None:
    data = pb.Measurement(spans=[pb.Span(span_id="1", name="fit", start_ns=5, duration_s=2.0)]).SerializeToString()
    assert decode_spans(data) == (SpanRecord("1", "fit", 5, 2.0),)


@pytest.mark.parametrize(
    ("span", "named"),
    [
        (pb.Span(name="fit"), "span_id"),
        (pb.Span(span_id="1"), "name"),
        (pb.Span(span_id="1", name="fit", duration_s=-1), "duration_s"),
        (pb.Span(span_id="1", name="fit", duration_s=math.nan), "duration_s"),
        (pb.Span(span_id="1", name="fit", status="great"), "great"),
        (pb.Span(span_id="1", name="fit", steps_s=[1.0], warmup_steps=2), "warm-up"),
        (pb.Span(span_id="1", name="fit", steps_s=[math.inf]), "steps_s"),
        (pb.Span(span_id="1", name="fit", steps_s=[0.0] * (MAX_STORED_STEPS + 1)), "too many"),
        (pb.Span(span_id="1", name="fit", attributes={"a": pb.Attribute()}), "'a'"),
        (pb.Span(span_id="1", name="fit", attributes={"a": pb.Attribute(double=math.nan)}), "'a'"),
        (pb.Span(span_id="x" * 2000, name="fit"), "characters"),
        (pb.Span(span_id="1", name="fit", resources=pb.Resources(cpu_s=-1)), "cpu_s"),
        (pb.Span(span_id="1", name="fit", resources=pb.Resources(peak_rss_bytes=-1)), "peak_rss_bytes"),
        (pb.Span(span_id="1", name="fit", resources=pb.Resources(temperature_c=math.inf)), "temperature_c"),
        (pb.Span(span_id="1", name="fit", resources=pb.Resources(gpu_temperature_c=math.nan)), "gpu_temperature_c"),
        (pb.Span(span_id="1", name="fit", resources=pb.Resources(gpu_use=1.5)), "gpu_use"),
        (pb.Span(span_id="1", name="fit", resources=pb.Resources(gpu_frequency_hz=-1)), "gpu_frequency_hz"),
        (pb.Span(span_id="1", name="fit", resources=pb.Resources(throttling="x" * 1001)), "throttling"),
        (pb.Span(span_id="1", name="fit", total=pb.Reading(rail="r", provenance="magic", scope="wall")), "magic"),
        (pb.Span(span_id="1", name="fit", total=pb.Reading(rail="r", provenance="counter", scope="room")), "room"),
        (pb.Span(span_id="1", name="fit", total=pb.Reading(rail="r", provenance="counter", scope="wall")), "energy_j"),
        (
            pb.Span(
                span_id="1",
                name="fit",
                total=pb.Reading(rail="r", provenance="counter", scope="wall", energy_j=1, energy_err_j=-1),
            ),
            "energy_err_j",
        ),
        (
            pb.Span(
                span_id="1",
                name="fit",
                energies=[
                    pb.Reading(rail="r", provenance="counter", scope="wall", energy_j=1, energy_err_j=0, coverage=1.5)
                ],
            ),
            "coverage",
        ),
    ],
)
def test_a_bad_span_is_refused_by_field(span: pb.Span, named: str) -> None:
    with pytest.raises(WireError, match=named):
        decode_spans(pb.Measurement(spans=[span]).SerializeToString())


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_spans(data)


def test_too_many_spans_are_refused() -> None:
    data = pb.Measurement(spans=[pb.Span(span_id="1", name="a")] * (MAX_SPANS + 1)).SerializeToString()
    with pytest.raises(WireError, match="spans"):
        decode_spans(data)


def test_a_list_as_attribute_is_refused_by_key() -> None:
    with pytest.raises(WireError, match="shape"):
        encode_spans([SpanRecord("1", "fit", 0, 1.0, attributes={"shape": [1]})])  # type: ignore[dict-item]

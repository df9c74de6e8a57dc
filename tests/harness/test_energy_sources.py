"""Where a device's joules come from: nothing counted twice, nothing left out in silence, doubt in the error."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.loop import CallRecord, RoundResult
from fl.messages import FitRes, Parameters
from fl.proxy import Answer, CallTiming
from harness.energy_sources import NOT_PLACED, Sources
from harness.recorder import TaskContext, round_rows
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.records import Row, SpanRecord, encode_line
from tests.harness.test_recorder import SECOND, NoMeter, find, result

OFFSET_NS = 7_000 * SECOND  # the phone was switched on so much earlier than this machine


class Ramp:
    """A meter of a power that grows by `slope_w_per_s` from `start_w` at second 0 of this host's clock, exactly."""

    def __init__(self, start_w: float = 2.0, slope_w_per_s: float = 0.0) -> None:
        self.start_w = start_w
        self.slope_w_per_s = slope_w_per_s

    def joules(self, start_s: float, end_s: float) -> float:
        return self.start_w * (end_s - start_s) + self.slope_w_per_s * (end_s**2 - start_s**2) / 2

    def energy(self, start_ns: int, end_ns: int) -> EnergyReading:
        energy_j = self.joules(start_ns / SECOND, end_ns / SECOND)
        return EnergyReading("battery", energy_j, 0.0, Provenance.INTEGRATED, Scope.DEVICE, coverage=1.0)

    def catch_up(self) -> None:
        pass


class Refusing(Ramp):
    def energy(self, start_ns: int, end_ns: int) -> EnergyReading:
        return EnergyReading.missing("phone", Scope.DEVICE, "charging: USB may feed the phone")


def sources(meter: Ramp, own: frozenset[str] = frozenset()) -> Sources:
    return Sources(NoMeter(), frozenset(), {"phone": meter}, own)


def own_reading(energy_j: float) -> EnergyReading:
    return EnergyReading("soc", energy_j, 0.1, Provenance.COUNTER, Scope.MODULE, coverage=1.0)


@given(
    start_s=st.floats(100, 1000),
    length_s=st.floats(0.01, 100),
    width_s=st.floats(0, 2),
    at=st.floats(0, 1),
    slope=st.floats(-0.001, 0.001),
)
def test_wherever_a_span_was_within_its_bounds_its_joules_are_within_the_error(
    start_s: float, length_s: float, width_s: float, at: float, slope: float
) -> None:
    meter = Ramp(slope_w_per_s=slope)
    span = SpanRecord("f", "fit", round(start_s * SECOND) + OFFSET_NS, length_s)
    true_offset_ns = OFFSET_NS + round((at - 0.5) * width_s * SECOND)
    bounds_ns = OFFSET_NS - width_s * SECOND / 2, OFFSET_NS + width_s * SECOND / 2
    found = sources(meter).of_span("phone", span, bounds_ns)
    assert found is not None
    true_start_s = (span.start_ns - true_offset_ns) / SECOND
    true_j = meter.joules(true_start_s, true_start_s + length_s)
    assert found.reading.energy_j is not None
    assert found.reading.energy_err_j is not None
    assert abs(found.reading.energy_j - true_j) <= found.reading.energy_err_j + 1e-5
    assert (found.meter, found.idle_s) == ("phone", length_s)


def test_a_span_that_cannot_be_placed_is_missing_and_says_why() -> None:
    found = sources(Ramp()).of_span("phone", SpanRecord("f", "fit", 0, 1.0), None)
    assert found is not None
    assert (found.reading.energy_j, found.reading.reason) == (None, NOT_PLACED)


def test_what_a_client_says_of_its_own_meter_is_not_lost_where_both_fail() -> None:
    own = EnergyReading.missing("termux", Scope.DEVICE, "no Termux:API")
    span = SpanRecord("f", "fit", OFFSET_NS, 1.0, total=own)
    found = sources(Refusing()).of_span("phone", span, (OFFSET_NS, OFFSET_NS))
    assert found is not None
    assert found.reading.reason == "charging: USB may feed the phone; its client: no Termux:API"


def test_a_child_span_adds_nothing_to_its_parent() -> None:
    spans = [SpanRecord("f", "fit", OFFSET_NS, 2.0), SpanRecord("c", "epoch", OFFSET_NS, 1.0, parent_id="f")]
    found = sources(Ramp()).of_spans("phone", spans, (OFFSET_NS, OFFSET_NS))
    assert [energy.reading.energy_j for energy in found] == [pytest.approx(4.0)]


# --- a round ---------------------------------------------------------------------------------------------------------


def fit(device: str, *spans: SpanRecord, is_told: bool = True) -> CallRecord:
    """From second 10 to second 14; `is_told`: the client tells its times, so that bounds of its clock are known."""
    told = (float(OFFSET_NS), float(OFFSET_NS)) if is_told else None
    timing = CallTiming(10 * SECOND, 14 * SECOND, 1000, 2000, clock_offset_ns=told)
    return CallRecord(device, "soc", "fit", {}, Answer(FitRes(Parameters(()), 10), timing, spans))


def at(name: str, start_s: float, length_s: float, total: EnergyReading | None = None) -> SpanRecord:
    start_ns = round(start_s * SECOND) + OFFSET_NS
    return SpanRecord(f"{name}-{start_s}", name, start_ns, length_s, total=total, attributes={"round": 2})


def rows_of(*calls: CallRecord, meter: Ramp) -> list[Row]:
    context = TaskContext("t", 1, 1, {"phone": "soc"}, frozenset(), "", meters={"phone": meter})
    one: RoundResult = replace(result(2, list(calls)), evaluate_window_ns=None)
    rows = round_rows(context, one, NoMeter())
    for row in rows:
        encode_line(row)
    return rows


def test_a_phone_whose_client_has_no_meter_draws_what_is_read_from_here_all_the_round() -> None:
    rows = rows_of(fit("phone", at("receive", 10.1, 0.2), at("fit", 10.5, 3.0)), meter=Ramp(2.0))
    fitted = find(rows, name="fit")
    assert (fitted["energy_j"], fitted["provenance"], fitted["energy_scope"]) == (
        pytest.approx(6.0),
        "integrated",
        "device",
    )
    assert find(rows, name="call")["energy_j"] == pytest.approx(8.0)
    assert rows[-1]["energy_j"] == pytest.approx(8.0), "receiving, sending and waiting draw as well"
    assert rows[-1]["energy_fit_j"] == pytest.approx(6.0)
    assert rows[-1]["idle_s"] == {"phone": pytest.approx(4.0)}


def test_a_client_that_tells_nothing_but_its_update_has_joules_by_call() -> None:
    rows = rows_of(fit("phone", is_told=False), meter=Ramp(2.0))
    assert find(rows, name="call")["energy_j"] == pytest.approx(8.0)
    assert rows[-1]["energy_j"] == pytest.approx(8.0)


def test_what_a_client_meters_itself_is_not_counted_twice() -> None:
    spans = at("receive", 10.1, 0.2, own_reading(0.5)), at("fit", 10.5, 3.0, own_reading(9.0))
    rows = rows_of(fit("phone", *spans), meter=Ramp(2.0))
    assert rows[-1]["energy_j"] == pytest.approx(9.5)
    assert rows[-1]["provenance"] == "counter"
    assert find(rows, name="call").get("energy_j") is None, "two meters of one phone are not mixed"


def test_a_fit_that_came_without_joules_gets_them_beside_those_of_its_own() -> None:
    gap = EnergyReading.missing("soc", Scope.MODULE, "only 20% were covered")
    spans = at("receive", 10.1, 0.2, own_reading(0.5)), at("fit", 10.5, 3.0, gap)
    rows = rows_of(fit("phone", *spans), meter=Ramp(2.0))
    assert find(rows, name="fit")["energy_j"] == pytest.approx(6.0)
    assert rows[-1]["energy_j"] == pytest.approx(6.5)
    assert rows[-1]["provenance"] == "integrated"


def test_a_phone_that_charges_makes_the_round_missing_with_its_reason() -> None:
    rows = rows_of(fit("phone", at("fit", 10.5, 3.0)), meter=Refusing())
    assert find(rows, name="fit")["energy_reason"] == "charging: USB may feed the phone"
    assert (rows[-1]["energy_j"], rows[-1]["energy_reason"]) == (None, "charging: USB may feed the phone")


def test_a_phone_that_took_no_part_costs_the_round_nothing() -> None:
    rows = rows_of(fit("other", at("fit", 10.5, 3.0)), meter=Refusing())
    assert rows[-1]["energy_reason"] == "no device has a meter"

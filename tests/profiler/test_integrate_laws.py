"""Laws of the arithmetic, and what other tools get wrong of it, each by name."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.accumulate import RailAccumulator
from profiler.integrate import between, integrate, total
from profiler.quantities import EnergyReading, Rail, Scope
from tests.profiler.rails import UNIT_J, WRAP_J, counter_rail, power_rail

MS = 1_000_000
S = 1_000_000_000

times_ns = st.lists(st.integers(1 * MS, 300 * MS), min_size=3, max_size=40).map(
    lambda gaps_ns: list(itertools.accumulate(gaps_ns))
)


def joules(reading: EnergyReading) -> float:
    assert reading.energy_j is not None, reading.reason
    return reading.energy_j


def window(rail: Rail, samples: list[tuple[int, float | None]], first: int, last: int) -> EnergyReading:
    """Between two marks, as a sampler meters it."""
    accumulator, marks = RailAccumulator(rail, 0.5), []
    for t_ns, value in samples:
        accumulator.add(t_ns, value)
        marks.append(accumulator.mark())
    return between(rail, marks[first], marks[last], max_gap_s=0.0)


@given(times_ns, st.floats(0, 100), st.floats(-50, 50), st.data())
def test_constant_and_linear_power_are_exact_between_marks(
    times: list[int], base_w: float, slope_w_s: float, data: st.DataObject
) -> None:
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(times) - 1)] * 2)))
    for slope in (0.0, slope_w_s):
        samples: list[tuple[int, float | None]] = [(t, base_w + slope * t / 1e9) for t in times]
        mean_w = base_w + slope * (times[first] + times[last]) / 2e9
        reading = window(power_rail(), samples, first, last)
        assert joules(reading) == pytest.approx(mean_w * (times[last] - times[first]) / 1e9, rel=1e-9, abs=1e-9)
    assert window(power_rail(), [(t, base_w) for t in times], first, last).energy_err_j == pytest.approx(0.0, abs=1e-5)


@given(times_ns, st.floats(1, 500), st.integers(0, round(WRAP_J / UNIT_J) - 1))
def test_a_wrap_anywhere_in_a_window_is_exact_to_one_unit(times: list[int], power_w: float, start: int) -> None:
    """The counter is in whole units; the start is anywhere in its range and so close to its end that it wraps."""
    drawn_units = [round(power_w * (t - times[0]) / 1e9 / UNIT_J) for t in times]
    n_units = round(WRAP_J / UNIT_J)
    for begin in (start, n_units - 1 - drawn_units[-1] // 2):
        samples: list[tuple[int, float | None]] = [
            (t, (begin + units) % n_units * UNIT_J) for t, units in zip(times, drawn_units, strict=True)
        ]
        rail = counter_rail(resolution=UNIT_J, max_power_w=1000.0)
        for reading in (window(rail, samples, 0, -1), integrate(rail, samples, times[0], times[-1])):
            assert abs(joules(reading) - drawn_units[-1] * UNIT_J) <= 61e-6 + 1e-9


@given(times_ns, st.data())
def test_a_trace_cut_at_random_and_rejoined_conserves_energy(times: list[int], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(0, 100), min_size=len(times), max_size=len(times)))
    cuts = data.draw(st.lists(st.integers(times[0], times[-1]), max_size=8))
    edges = sorted({times[0], times[-1], *cuts})
    wrapping = counter_rail(wrap_j=130.0)
    traces = [(power_rail(), values), (wrapping, [v % 130.0 for v in itertools.accumulate(values)])]
    for rail, readings in traces:
        samples = list(zip(times, readings, strict=True))
        whole_j = joules(integrate(rail, samples, times[0], times[-1], max_gap_s=math.inf))
        parts = [integrate(rail, samples, a, b, max_gap_s=math.inf) for a, b in itertools.pairwise(edges)]
        assert math.fsum(map(joules, parts)) == pytest.approx(whole_j, rel=1e-9, abs=1e-9)


@given(times_ns, st.data())
def test_a_window_without_a_gap_is_covered_whole(times: list[int], data: st.DataObject) -> None:
    """To the last bit, in the streaming and in the recorded reading alike: 1.0 is what `coverage` says of no gap."""
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(times) - 1)] * 2)))
    samples: list[tuple[int, float | None]] = [(t, 5.0) for t in times]
    assert window(power_rail(), samples, first, last).coverage == 1.0
    assert integrate(power_rail(), samples, times[first], times[last], max_gap_s=math.inf).coverage == 1.0


def test_edges_have_no_bias_at_ten_hertz_and_two_seconds() -> None:
    """Sums over the samples inside alone lose 5 %: half an interval at each end."""
    rng = random.Random(3)
    errors, inside_only = [], []
    for _ in range(500):
        phase_ns, level_w = rng.randrange(100 * MS), rng.uniform(5, 15)
        samples = [(phase_ns + i * 100 * MS, level_w + rng.gauss(0, 0.5)) for i in range(-3, 30)]
        truth_j = level_w * 2
        errors.append(joules(integrate(power_rail(), samples, 0, 2 * S)) / truth_j - 1)
        inside = [sample for sample in samples if 0 <= sample[0] <= 2 * S]
        trapezoids = itertools.pairwise(inside)
        inside_only.append(sum((a[1] + b[1]) / 2 * (b[0] - a[0]) / 1e9 for a, b in trapezoids) / truth_j - 1)
    assert abs(sum(errors) / 500) < 0.002
    assert sum(inside_only) / 500 == pytest.approx(-0.05, abs=0.005)


def test_a_wrap_just_before_the_window_ends_is_no_negative_energy() -> None:
    """zeus 0.16.0 and pyJoules 0.5.1 give -262,133 J: the range is missing where the wrap is in the last 0.1 s."""
    samples: list[tuple[int, float | None]] = [
        (i * 100 * MS, (WRAP_J - 9.95 + i * 1.0) % WRAP_J)
        for i in range(11)  # 10 W; wraps in the last step
    ]
    assert samples[-1][1] == pytest.approx(0.05)
    for reading in (window(counter_rail(), samples, 0, -1), integrate(counter_rail(), samples, 0, S)):
        assert joules(reading) == pytest.approx(10.0, abs=UNIT_J)


def test_a_wrap_just_after_the_window_begins_is_no_surplus_either() -> None:
    """By their code the same tools add a range, +262,133 J, where the window begins within that gap."""
    samples: list[tuple[int, float | None]] = [(i * 100 * MS, (WRAP_J - 0.05 + i * 1.0) % WRAP_J) for i in range(11)]
    for reading in (window(counter_rail(), samples, 0, -1), integrate(counter_rail(), samples, 0, S)):
        assert joules(reading) == pytest.approx(10.0, abs=UNIT_J)


@pytest.mark.parametrize("repeats", [101, 1])
def test_a_hundred_watts_for_ten_seconds_are_a_thousand_joules(repeats: int) -> None:
    """zeus 0.16.0 drops samples that repeat the last one and then has nothing inside the window: 0 J."""
    samples: list[tuple[int, float | None]] = [(i * 100 * MS, 100.0) for i in range(repeats)]
    samples += [(10 * S, 100.0)] if repeats == 1 else []
    assert joules(integrate(power_rail(), samples, 0, 10 * S)) == pytest.approx(1000.0)
    accumulator = RailAccumulator(power_rail(), 0.3)
    accumulator.add(0, 100.0)
    opened = accumulator.mark()
    for t_ns, watts in samples[1:]:
        accumulator.add(t_ns, watts)
    reading = between(power_rail(), opened, accumulator.mark(), max_gap_s=0.1)
    if repeats == 1:
        assert reading.energy_j is None  # nothing is known of 10 s between two samples: missing, not 0 J
    else:
        assert joules(reading) == pytest.approx(1000.0)


def too_short(reading: EnergyReading) -> bool:
    return (reading.reason or "").startswith("below_resolution: ")


def test_a_counter_that_moved_by_few_units_says_so() -> None:
    rail = counter_rail(resolution=36.0)  # 10 mWh
    steps: list[tuple[int, float | None]] = [(i * 10 * S, i // 6 * 36.0) for i in range(60)]
    assert too_short(integrate(rail, steps, 0, 120 * S))
    assert too_short(integrate(rail, steps, 0, 30 * S))  # 0 J is not shown as if it were known
    assert integrate(rail, steps, 0, 400 * S).reason is None
    assert too_short(window(rail, steps, 0, 12))


def test_a_counter_that_is_stale_says_so() -> None:
    rail = counter_rail(edge_jitter_s=0.1)
    samples: list[tuple[int, float | None]] = [(i * 100 * MS, float(i)) for i in range(100)]
    assert too_short(integrate(rail, samples, 0, 900 * MS))
    assert integrate(rail, samples, 0, 1000 * MS).reason is None


def test_power_without_two_readings_says_so() -> None:
    samples: list[tuple[int, float | None]] = [(i * 100 * MS, 5.0) for i in range(100)]
    assert too_short(integrate(power_rail(), samples, 110 * MS, 190 * MS))
    assert too_short(integrate(power_rail(), samples, 110 * MS, 290 * MS))
    assert integrate(power_rail(), samples, 110 * MS, 310 * MS).reason is None
    gauge = power_rail(min_period_s=1.0)
    assert too_short(integrate(gauge, samples, 0, 1900 * MS))
    assert integrate(gauge, samples, 0, 2000 * MS).reason is None


def test_what_is_too_short_comes_first_among_reasons() -> None:
    rail = counter_rail(edge_jitter_s=1.0, max_power_w=50.0)
    samples: list[tuple[int, float | None]] = [(i * 100 * MS, 1000.0 + i if i < 9 else float(i)) for i in range(20)]
    reading = integrate(rail, samples, 0, 1900 * MS)
    assert too_short(reading)
    assert "counter_reset" in (reading.reason or "")


def test_a_total_of_what_is_too_short_says_so() -> None:
    samples: list[tuple[int, float | None]] = [(i * 100 * MS, float(i)) for i in range(100)]
    rails = [counter_rail("cores", max_power_w=1.0), counter_rail("memory", edge_jitter_s=0.1)]
    gap: list[tuple[int, float | None]] = [(t, v if t < 500 * MS else 0.1 * (v or 0)) for t, v in samples]
    readings = [integrate(rails[0], gap, 0, 900 * MS), integrate(rails[1], samples, 0, 900 * MS)]
    summed = total(readings, ("cores", "memory"), Scope.HOST)
    said = summed.reason or ""
    assert 0 <= said.index("below_resolution") < said.index("counter_reset"), "what matters most comes first"
    plain = integrate(counter_rail("cores"), samples, 0, 2 * S)
    assert total([plain], ("cores",), Scope.HOST).reason is None

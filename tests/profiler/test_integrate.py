from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.accumulate import RailAccumulator, counter_difference
from profiler.integrate import between, integrate, total
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.uncertainty import error_bound
from tests.profiler.rails import UNIT_J, WRAP_J, counter_rail, power_rail

SECOND_NS = 1_000_000_000

# Sample times with gaps of 1 ms to 2 s, as a jittered and starved sampler leaves them.
times_ns = st.lists(st.integers(1_000_000, 2 * SECOND_NS), min_size=3, max_size=40).map(
    lambda gaps: [sum(gaps[: i + 1]) for i in range(len(gaps))]
)
fractions = st.floats(0, 1)


def at(times: list[int], fraction: float) -> int:
    return times[0] + round((times[-1] - times[0]) * fraction)


def joules(reading: EnergyReading) -> float:
    assert reading.energy_j is not None, reading.reason
    return reading.energy_j


@given(times_ns, fractions, fractions, st.floats(0, 1e4))
def test_constant_power_is_exact(times: list[int], start: float, end: float, power_w: float) -> None:
    t0_ns, t1_ns = sorted((at(times, start), at(times, end)))
    reading = integrate(power_rail(), [(t, power_w) for t in times], t0_ns, t1_ns, max_gap_s=math.inf)
    assert joules(reading) == pytest.approx(power_w * (t1_ns - t0_ns) / 1e9, rel=1e-9, abs=1e-12)
    assert reading.coverage == pytest.approx(1.0)


@given(times_ns, fractions, fractions, st.floats(0, 100), st.floats(0, 50))
def test_linear_power_is_exact(times: list[int], start: float, end: float, base_w: float, slope_w_s: float) -> None:
    t0_ns, t1_ns = sorted((at(times, start), at(times, end)))
    samples = [(t, base_w + slope_w_s * t / 1e9) for t in times]
    mean_w = base_w + slope_w_s * (t0_ns + t1_ns) / 2e9
    reading = integrate(power_rail(), samples, t0_ns, t1_ns, max_gap_s=math.inf)
    assert joules(reading) == pytest.approx(mean_w * (t1_ns - t0_ns) / 1e9, rel=1e-9, abs=1e-9)


@given(times_ns, st.lists(st.floats(0, 100), min_size=40, max_size=40), st.lists(fractions, min_size=1, max_size=6))
def test_energy_is_additive_over_splits(times: list[int], values: list[float], cuts: list[float]) -> None:
    edges = sorted({times[0], times[-1], *(at(times, cut) for cut in cuts)})
    for rail in (power_rail(), counter_rail(wrap_j=None)):
        counted = [sum(values[: i + 1]) for i in range(len(values))]
        samples = list(zip(times, counted if rail.wrap_j is None else values, strict=False))
        whole = integrate(rail, samples, times[0], times[-1], max_gap_s=math.inf)
        parts = [integrate(rail, samples, a, b, max_gap_s=math.inf) for a, b in itertools.pairwise(edges)]
        assert math.fsum(map(joules, parts)) == pytest.approx(joules(whole), rel=1e-9, abs=1e-9)


@given(st.integers(0, 262_143_328_850), st.integers(0, 262_143_000_000))
def test_wrap_anywhere_is_exact_to_one_unit(start_uj: int, drawn_uj: int) -> None:
    modulus_uj = 262_143_328_850 + 61
    before_j, after_j = start_uj / 1e6, (start_uj + drawn_uj) % modulus_uj / 1e6
    difference_j = counter_difference(before_j, after_j, WRAP_J)
    assert difference_j == pytest.approx(drawn_uj / 1e6, abs=UNIT_J / 1000)


@given(st.floats(0, WRAP_J - 1), st.integers(2, 30))
def test_a_wrapped_counter_equals_an_unwrapped_one(start_j: float, n: int) -> None:
    """Two thirds of a range a step: wraps at nearly every one."""
    rail = counter_rail()
    step_j = WRAP_J * 2 / 3
    samples = [(i * 1000 * SECOND_NS, (start_j + i * step_j) % WRAP_J) for i in range(n)]
    accumulator = RailAccumulator(rail)
    for t_ns, value in samples:
        accumulator.add(t_ns, value)
    assert accumulator.energy_j == pytest.approx((n - 1) * step_j, abs=n * UNIT_J)
    assert joules(integrate(rail, samples, 0, samples[-1][0])) == pytest.approx((n - 1) * step_j, abs=n * UNIT_J)


@given(times_ns, st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=40, max_size=40))
def test_streaming_agrees_with_the_trace(times: list[int], values: list[float | None]) -> None:
    """Marks at good samples give what the batch function gives between the same two moments."""
    samples = list(zip(times, values, strict=False))
    good = [i for i, (_, value) in enumerate(samples) if value is not None]
    if len(good) < 2:
        return
    rail = power_rail(resolution=0.1, offset_err_w=0.05, gain_err=0.02, edge_jitter_s=0.001)
    accumulator, marks = RailAccumulator(rail, 0.5), {}
    for i, (t_ns, value) in enumerate(samples):
        accumulator.add(t_ns, value)
        marks[i] = accumulator.mark()
    streamed = between(rail, marks[good[0]], marks[good[-1]], max_gap_s=0.0)
    batch = integrate(rail, samples, times[good[0]], times[good[-1]], max_gap_s=0.5)
    assert streamed.provenance is batch.provenance
    assert streamed.coverage == pytest.approx(batch.coverage)
    assert streamed.n_samples == batch.n_samples == len(good)
    if batch.energy_j is not None:
        assert streamed.energy_j == pytest.approx(batch.energy_j, rel=1e-9, abs=1e-9)
        assert streamed.energy_err_j == pytest.approx(batch.energy_err_j, rel=1e-6, abs=1e-6)


def test_a_backward_counter_without_a_wrap_is_no_difference() -> None:
    assert counter_difference(10.0, 9.0, None) is None
    assert counter_difference(10.0, 5.0, 3.0) is None


def test_counter_reset_is_a_gap_and_never_energy() -> None:
    """100 W, then a driver reload takes the counter from 1,090 J to 0: its wrapped difference would be 261 kJ."""
    rail = counter_rail(max_power_w=125.0)
    values = [1000 + 10 * i for i in range(10)] + [0 + 10 * i for i in range(10)]
    samples = [(i * SECOND_NS // 10, float(value)) for i, value in enumerate(values)]
    reading = integrate(rail, samples, 0, samples[-1][0])
    assert joules(reading) == pytest.approx(190.0)  # 18 steps of 10 J, and the gap at the power before it
    assert reading.coverage == pytest.approx(18 / 19)
    assert "counter_reset" in (reading.reason or "")
    steady = integrate(rail, [(i * SECOND_NS // 10, 10.0 * i) for i in range(20)], 0, samples[-1][0])
    assert (reading.energy_err_j or 0) > (steady.energy_err_j or 0) + 10


def test_a_true_wrap_below_the_power_limit_is_no_reset() -> None:
    rail = counter_rail(max_power_w=125.0)
    reading = integrate(rail, [(0, WRAP_J - 5), (SECOND_NS // 10, 5.0)], 0, SECOND_NS // 10)
    assert joules(reading) == pytest.approx(10.0)
    assert reading.reason is None


def test_a_reset_in_the_only_step_is_missing() -> None:
    reading = integrate(counter_rail(max_power_w=50.0), [(0, 1000.0), (SECOND_NS, 3.0)], 0, SECOND_NS)
    assert reading.provenance is Provenance.MISSING
    assert "counter_reset" in (reading.reason or "")


def test_a_power_gap_is_bridged_and_told() -> None:
    samples: list[tuple[int, float | None]] = [(i * SECOND_NS // 10, 10.0) for i in range(41) if not 10 < i < 20]
    reading = integrate(power_rail(), samples, 0, 4 * SECOND_NS)
    assert joules(reading) == pytest.approx(40.0)
    assert reading.coverage == pytest.approx(0.75)
    assert reading.max_gap_s == pytest.approx(1.0)
    spread_w = 10 * math.sqrt(2 / 3 / (32 + 2))  # 32 samples at 10 W, and two unseen ones between 0 and 20 W
    assert reading.energy_err_j == pytest.approx(2 * math.sqrt(1.5 * spread_w**2 / 3))  # over 1 s, both ends known


def test_a_counter_loses_nothing_in_a_gap_of_readings() -> None:
    samples: list[tuple[int, float | None]] = [(i * SECOND_NS // 10, None if 5 < i < 35 else i) for i in range(41)]
    reading = integrate(counter_rail(), samples, 0, 4 * SECOND_NS)
    assert joules(reading) == pytest.approx(40.0)
    assert reading.coverage == 1.0


def test_outside_the_trace_power_is_held_and_not_covered() -> None:
    samples = [(i * SECOND_NS // 10, 4.0) for i in range(11)]
    reading = integrate(power_rail(), samples, -SECOND_NS // 10, SECOND_NS + SECOND_NS // 10)
    assert joules(reading) == pytest.approx(4.8)
    assert reading.coverage == pytest.approx(10 / 12)
    gone = integrate(power_rail(), samples, 5 * SECOND_NS, 6 * SECOND_NS)
    assert gone.provenance is Provenance.MISSING


def test_the_trace_of_too_few_or_of_backward_samples() -> None:
    assert integrate(power_rail(), [(0, 1.0), (5, None)], 0, 5).provenance is Provenance.MISSING
    with pytest.raises(ValueError, match="backwards"):
        integrate(power_rail(), [(5, 1.0), (0, 1.0), (9, 1.0)], 0, 5)
    with pytest.raises(ValueError, match="before it starts"):
        integrate(power_rail(), [(0, 1.0), (5, 1.0)], 5, 0)
    accumulator = RailAccumulator(power_rail())
    accumulator.add(5, 1.0)
    with pytest.raises(ValueError, match="after one at"):
        accumulator.add(4, 1.0)


def test_values_that_are_no_numbers_are_gaps() -> None:
    accumulator = RailAccumulator(power_rail())
    assert accumulator.add(0, math.nan) == "no reading"
    assert accumulator.mark() is None
    accumulator.add(SECOND_NS, 2.0)
    accumulator.add(2 * SECOND_NS, math.inf)
    assert accumulator.energy_j is None
    accumulator.add(3 * SECOND_NS, 2.0)
    assert accumulator.energy_j == pytest.approx(4.0)


def test_an_edge_inside_a_gap_is_presumed_and_made_good() -> None:
    """A counter at 10 W cannot be read from 1 s to 3 s; two windows meet at 1.5 s. Together they are the truth."""
    rail = counter_rail()
    accumulator = RailAccumulator(rail)
    marks = {}
    for tenth in range(41):
        accumulator.add(tenth * SECOND_NS // 10, None if 10 < tenth < 30 else float(tenth))
        marks[tenth] = accumulator.mark()
    first = between(rail, marks[0], marks[15], max_gap_s=1.0)
    second = between(rail, marks[15], marks[40], max_gap_s=1.0)
    assert joules(first) == pytest.approx(15.0)
    assert first.coverage == pytest.approx(2 / 3)
    assert joules(first) + joules(second) == pytest.approx(40.0)
    spread_w = 10 * math.sqrt(2 / 3 / (11 + 2))  # 11 samples at 10 W, and two unseen ones between 0 and 20 W
    assert first.energy_err_j == pytest.approx(2 * spread_w * 0.5)  # power of one end goes on for 0.5 s


def test_error_bound_of_a_counter_by_hand() -> None:
    """100 J over 10 s at 10 W: 5 % gain, half of 61 µJ and of 1 ms at both edges, all rectangular."""
    rail = counter_rail(gain_err=0.05, resolution=UNIT_J, edge_jitter_s=0.001)
    by_hand = 2 * math.sqrt((5.0**2 + 2 * (UNIT_J / 2) ** 2 + 2 * 0.005**2) / 3)
    assert error_bound(rail, 100.0, 10.0, (10.0, 10.0)) == pytest.approx(by_hand)


def test_error_bound_of_a_power_rail_by_hand() -> None:
    """Orin's GPU rail: 394 mW a digit, 0.8 W offset: over 10 s these are 1.97 J and 8 J."""
    rail = power_rail(resolution=0.394, offset_err_w=0.8)
    by_hand = 2 * math.sqrt((1.97**2 + 8.0**2) / 3)
    assert error_bound(rail, 100.0, 10.0, (10.0, 10.0)) == pytest.approx(by_hand)


def test_the_bound_of_an_aliased_square_wave_is_as_wide_as_it_says() -> None:
    """10 W and 2 W in turn, 10 ms each, met by a sampler at 100 Hz ± 30 %. Such samples could as well be noise."""
    errors = [_square_wave_error(random.Random(seed)) for seed in range(400)]
    assert 0.93 <= sum(abs(error) <= 1 for error in errors) / len(errors) < 1.0
    assert statistics.median(map(abs, errors)) > 1 / 5
    assert abs(sum(errors)) / len(errors) < 0.1  # no bias


def _square_wave_error(generator: random.Random) -> float:
    """Error over the stated bound."""
    phase_ns = generator.randrange(20_000_000)
    times = [0]
    while times[-1] < 2 * SECOND_NS:
        times.append(times[-1] + round(10_000_000 * (1 + generator.uniform(-0.3, 0.3))))
    samples = [(t, 10.0 if (t + phase_ns) // 10_000_000 % 2 == 0 else 2.0) for t in times]
    reading = integrate(power_rail(), samples, 0, 2 * SECOND_NS)
    assert reading.energy_err_j is not None
    return (joules(reading) - 12.0) / reading.energy_err_j


def test_total_adds_the_named_rails_only() -> None:
    rails = [counter_rail("package-0"), counter_rail("core-0"), counter_rail("dram-0")]
    samples = [(0, 0.0), (SECOND_NS, 7.0)]
    readings = [integrate(rail, samples, 0, SECOND_NS) for rail in rails]
    summed = total(readings, ("package-0", "dram-0"), Scope.HOST)
    assert summed.energy_j == pytest.approx(14.0)
    assert summed.total_of == ("package-0", "dram-0")
    assert summed.scope is Scope.HOST
    assert total(readings, ("package-0", "package-1"), Scope.HOST).provenance is Provenance.MISSING


def test_an_empty_window_is_no_energy() -> None:
    reading = integrate(power_rail(), [(0, 5.0), (SECOND_NS, 5.0)], 500, 500)
    assert joules(reading) == 0.0
    assert reading.effective_hz == 0.0


def test_a_window_too_short_for_its_readings_says_so() -> None:
    rail = counter_rail(edge_jitter_s=0.001)
    samples = [(i * 1_000_000, i * 0.02) for i in range(100)]
    short = integrate(rail, samples, 0, 5_000_000)
    assert "below_resolution" in (short.reason or "")
    assert (short.energy_err_j or 0) > 0.15 * joules(short)
    assert integrate(rail, samples, 0, 50_000_000).reason is None

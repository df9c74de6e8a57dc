from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.errors import SensorError
from profiler.external import ClockAlignment, Exchange, Meter, Trace, accumulate, alignment_limit_j, energy
from profiler.quantities import Provenance, RailKind, Scope
from tests.fixtures.data import device_data
from tests.fixtures.meters import (
    METER,
    exchange,
    microcontroller_trace,
    published_windows_j,
    trace_of,
)

MS = 1_000_000
S = 1_000_000_000
EXACT = Meter("bench", Scope.DEVICE, gain_err=0.0)
SAME_CLOCK = ClockAlignment(0.0, 0.0)


def pulse(i: int) -> float:
    """12 W from second 1 to second 2 at 1 kHz, else 2 W."""
    return 12.0 if 1000 <= i < 2000 else 2.0


def test_ten_watts_by_one_millisecond_are_ten_millijoules() -> None:
    trace = trace_of(pulse, 3000, MS, EXACT)
    within = ClockAlignment(0.0, 0.001)
    assert alignment_limit_j(trace, within, 1 * S, 2 * S) == pytest.approx(0.010)
    sharp, blurred = (energy(trace, alignment, 1 * S, 2 * S) for alignment in (SAME_CLOCK, within))
    assert sharp.energy_err_j is not None
    assert blurred.energy_err_j == pytest.approx(math.hypot(sharp.energy_err_j, 2 * 0.010 / math.sqrt(3)))


def test_a_step_that_an_edge_may_have_missed_counts() -> None:
    trace = trace_of(pulse, 3000, MS, EXACT)
    start_ns, end_ns = 995 * MS, 2500 * MS  # 2 W at both edges, but the load switches 5 ms after the first
    assert alignment_limit_j(trace, ClockAlignment(0.0, 0.010), start_ns, end_ns) == pytest.approx(0.10)
    assert alignment_limit_j(trace, ClockAlignment(0.0, 0.003), start_ns, end_ns) == 0.0


def test_a_bound_costs_nothing_where_power_is_the_same_at_both_edges() -> None:
    trace = trace_of(lambda i: 7.0, 3000, MS, EXACT)
    reading = energy(trace, ClockAlignment(0.0, 0.1), 1 * S, 2 * S)
    assert reading.energy_j == pytest.approx(7.0)
    assert reading.energy_err_j == pytest.approx(0.0, abs=1e-12)


def test_an_uncertain_rate_costs_that_part_of_the_duration() -> None:
    trace = trace_of(lambda i: 10.0, 3000, MS, EXACT)
    drifting = ClockAlignment(0.0, 0.001, skew_bound_ppm=100)
    assert alignment_limit_j(trace, drifting, 0, 2 * S) == pytest.approx(10.0 * 200e-6)
    assert alignment_limit_j(trace, replace(drifting, skew_bound_ppm=1e6), 0, 2 * S) == pytest.approx(10.0 * 0.002)


@settings(max_examples=200, deadline=None)
@given(
    powers=st.lists(st.floats(0, 50), min_size=60, max_size=60),
    bound_ms=st.integers(0, 400),
    part=st.floats(-1, 1),
    start_ms=st.integers(1000, 3000),
    length_ms=st.integers(1, 2000),
)
def test_a_shift_within_the_bound_moves_the_energy_no_further_than_the_limit(
    powers: list[float], bound_ms: int, part: float, start_ms: int, length_ms: int
) -> None:
    trace = trace_of(lambda i: powers[i], 60, 100 * MS, EXACT)
    start_ns, end_ns = start_ms * MS, (start_ms + length_ms) * MS
    alignment = ClockAlignment(0.0, bound_ms / 1000)
    shifted = energy(trace, ClockAlignment(part * bound_ms / 1000, 0.0), start_ns, end_ns)
    right = energy(trace, alignment, start_ns, end_ns)
    assert shifted.energy_j is not None
    assert right.energy_j is not None
    limit_j = alignment_limit_j(trace, alignment, start_ns, end_ns)
    assert abs(shifted.energy_j - right.energy_j) <= limit_j + 1e-6


def test_the_stated_error_covers_clocks_that_are_off_within_their_bound() -> None:
    """400 spans of a load that switches when they begin and end; the meter's clock is off by anything within ± 4 ms."""
    rng = random.Random(5)
    switches_ms = [0]
    while len(switches_ms) < 801:
        switches_ms.append(switches_ms[-1] + rng.randint(60, 140))
    levels_w = [rng.uniform(6, 14) if i % 2 else rng.uniform(1, 4) for i in range(800)]
    powers_w = [w for i, w in enumerate(levels_w) for _ in range(switches_ms[i], switches_ms[i + 1])]
    trace = trace_of(lambda i: powers_w[i], len(powers_w), MS, EXACT)
    errors_j, stated_j = [], []
    for i in range(1, 799, 2):
        truth_j = levels_w[i] * (switches_ms[i + 1] - switches_ms[i]) / 1e3
        alignment = ClockAlignment(rng.uniform(-0.004, 0.004), 0.004)
        reading = energy(trace, alignment, switches_ms[i] * MS, switches_ms[i + 1] * MS)
        assert reading.energy_j is not None
        assert reading.energy_err_j is not None
        errors_j.append(abs(reading.energy_j - truth_j))
        stated_j.append(reading.energy_err_j)
    within = sum(error_j <= err_j for error_j, err_j in zip(errors_j, stated_j, strict=True)) / len(errors_j)
    assert within >= 0.93
    assert sorted(stated_j)[200] <= 4 * sorted(errors_j)[200]


def test_the_meters_clock_is_taken_into_account() -> None:
    epoch_ns = 1_700_000_000 * S
    trace = trace_of(pulse, 3000, MS, EXACT, start_ns=epoch_ns)
    late = ClockAlignment(1_700_000_000.0 - 40, 0.0)  # the host's clock shows 40 s when the trace begins
    reading = energy(trace, late, 41 * S, 42 * S)
    assert reading.energy_j == pytest.approx(12.0, abs=0.011)
    assert reading.scope is Scope.DEVICE
    assert reading.provenance is Provenance.INTEGRATED
    assert reading.coverage == pytest.approx(1.0)
    unsynchronised = energy(trace, replace(late, offset_s=late.offset_s + 1), 41 * S, 42 * S)
    assert unsynchronised.energy_j == pytest.approx(2.0, abs=0.011)


def test_a_window_beside_the_trace_is_missing() -> None:
    reading = energy(trace_of(pulse, 3000, MS), SAME_CLOCK, 10 * S, 11 * S)
    assert reading.provenance is Provenance.MISSING
    assert reading.energy_j is None


def test_a_window_too_short_for_the_alignment_says_so() -> None:
    reading = energy(trace_of(pulse, 3000, MS), ClockAlignment(0.0, 0.02), 1 * S, 1 * S + 100 * MS)
    assert reading.reason == "below_resolution: 0.1 s, and the meter's clock is aligned to ± 0.02 s"


def test_a_slice_of_a_long_trace_gives_what_the_whole_gives() -> None:
    powers = [random.Random(1).uniform(0, 20) for _ in range(1000)]
    whole = trace_of(lambda i: powers[i], 1000, 10 * MS)
    cut = Trace(whole.rail, whole.times_ns[300:420], whole.values[300:420])
    assert energy(whole, SAME_CLOCK, 3333 * MS, 4111 * MS) == energy(cut, SAME_CLOCK, 3333 * MS, 4111 * MS)


def test_accumulated_means_keep_every_joule() -> None:
    trace = accumulate(trace_of(lambda i: float(i % 7), 100, 10 * MS, Meter("m", Scope.DEVICE, 0.01, 0.1, 0.02)))
    reading = energy(trace, SAME_CLOCK, 0, 99 * 10 * MS)
    assert reading.energy_j == pytest.approx(sum(i % 7 for i in range(1, 100)) * 0.01)
    assert trace.rail.provenance is Provenance.INTEGRATED
    assert trace.rail.offset_err_w == pytest.approx(0.11)
    assert alignment_limit_j(trace, ClockAlignment(0.0, 0.001), 0, 990 * MS) > 0


def test_means_are_not_accumulated_across_a_gap_or_below_zero() -> None:
    rail = METER.rail(RailKind.POWER_W)
    with pytest.raises(ValueError, match="a gap of 5 s"):
        accumulate(Trace(rail, [0, S, 2 * S, 7 * S, 8 * S, 9 * S], [1.0] * 6))
    with pytest.raises(ValueError, match="negative"):
        accumulate(Trace(rail, [0, S, 2 * S], [1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="not a trace of power"):
        accumulate(Trace(METER.rail(RailKind.COUNTER_J), [0, S], [1.0, 2.0]))


@pytest.mark.parametrize(
    ("times_ns", "values", "said"),
    [([0], [1.0], "two samples"), ([0, 0], [1.0, 1.0], "rise"), ([0, 1], [1.0, math.nan], "finite")],
)
def test_a_trace_that_cannot_be_is_refused(times_ns: list[int], values: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Trace(METER.rail(RailKind.POWER_W), times_ns, values)


@pytest.mark.parametrize("gain_err", [-0.01, math.nan, math.inf])
def test_a_meter_with_senseless_limits_is_refused(gain_err: float) -> None:
    with pytest.raises(ValueError, match="limits"):
        Meter("m", Scope.WALL, gain_err)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 60),
    offset_ns=st.integers(-(10**18), 10**18),
    skew_ppm=st.floats(-90, 90),
    floor_ns=st.integers(0, 5 * MS),
    queue_ns=st.integers(1, 50 * MS),
    later_s=st.floats(-600, 600),
)
def test_the_true_offset_lies_within_the_bound_whichever_way_queues(
    seed: int, n: int, offset_ns: int, skew_ppm: float, floor_ns: int, queue_ns: int, later_s: float
) -> None:
    rng = random.Random(seed)

    def true_offset_ns(t_ns: int) -> int:
        return offset_ns + round(skew_ppm * 1e-6 * t_ns)

    exchanges = []
    for i in range(n):
        at_ns, there_ns = i * S, floor_ns + round(rng.expovariate(1 / queue_ns))  # all queueing is on the way there
        exchanges.append(exchange(true_offset_ns(at_ns + there_ns), at_ns, there_ns, floor_ns))
    rng.shuffle(exchanges)
    alignment = ClockAlignment.from_exchanges(exchanges)
    for host_ns in (0, n * S // 2, n * S, n * S + round(later_s * 1e9)):
        off_ns = abs(alignment.to_meter_ns(host_ns) - host_ns - true_offset_ns(host_ns))
        assert off_ns <= alignment.bound_at_s(host_ns) * 1e9 + 2
    assert abs(alignment.skew_ppm - skew_ppm) <= alignment.skew_bound_ppm + 1e-6


def test_sixty_exchanges_find_offset_and_rate() -> None:
    errors_ms, plain_ms, bounds_ms = [], [], []
    for seed in range(200):
        rng = random.Random(seed)
        queues = [[5 * MS + round(rng.expovariate(1 / (20 * MS))) for _ in range(2)] for _ in range(60)]
        exchanges = [
            exchange(3 * S + round(40e-6 * i * S), i * S, there, back) for i, (there, back) in enumerate(queues)
        ]
        alignment = ClockAlignment.from_exchanges(exchanges)
        middle_ns = 30 * S
        truth_ns = 3 * S + round(40e-6 * middle_ns)
        errors_ms.append((alignment.to_meter_ns(middle_ns) - middle_ns - truth_ns) / MS)
        plain_ms.append((sum(e.offset_ns for e in exchanges) / 60 - truth_ns) / MS)
        bounds_ms.append(alignment.bound_at_s(middle_ns) * 1e3)
    assert rms(errors_ms) < 0.6 * rms(plain_ms)
    assert rms(errors_ms) < 1.13  # what the one with the shortest round trip gives
    assert max(abs(error_ms) / bound_ms for error_ms, bound_ms in zip(errors_ms, bounds_ms, strict=True)) < 1
    assert sorted(bounds_ms)[100] < 20


def rms(values: list[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values))


def test_exact_exchanges_give_the_rate() -> None:
    alignment = ClockAlignment.from_exchanges(exchange(round(50e-6 * i * S), i * S, 0, 0) for i in range(0, 600, 10))
    assert alignment.skew_ppm == pytest.approx(50, abs=1e-3)
    assert alignment.bound_s < 1e-7


def test_one_exchange_gives_half_its_round_trip_and_the_assumed_rate() -> None:
    alignment = ClockAlignment.from_exchanges([exchange(7 * S, 100 * S, 2 * MS, 4 * MS)])
    assert alignment.offset_s == pytest.approx(7.0 - 0.001)
    assert alignment.bound_s == pytest.approx(0.003, rel=2e-3)
    assert (alignment.skew_ppm, alignment.skew_bound_ppm) == (0.0, 100.0)
    assert alignment.bound_at_s(200 * S) == pytest.approx(0.003 + 0.01, rel=2e-3)


def test_a_stepped_clock_is_refused() -> None:
    rows = [exchange(0 if i < 5 else 2 * S, i * S, MS, MS) for i in range(10)]
    with pytest.raises(SensorError, match=r"stepped by 2 s.*time synchronisation"):
        ClockAlignment.from_exchanges(rows)


def test_senseless_exchanges_and_alignments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ClockAlignment.from_exchanges([])
    with pytest.raises(ValueError, match="before"):
        Exchange(10, 5, 9)
    with pytest.raises(ValueError, match="bounds"):
        ClockAlignment(0.0, -1.0)
    with pytest.raises(ValueError, match="finite"):
        ClockAlignment(math.nan, 1.0)


@pytest.mark.parametrize(
    ("name", "sum_j"),
    [
        ("Krai__NUCLEO-H7A3ZI-Q_X-CUBE-AI-7.3__ic", 8.473122),
        ("STMicroelectronics__NUCLEO_H7A3ZI_Q__ad", 0.664079),
    ],
)
def test_published_joules_of_microcontrollers(name: str, sum_j: float) -> None:
    folder: Path = device_data() / "energy_traces" / name
    means, edges_s = microcontroller_trace(folder, METER)
    trace = accumulate(means)
    found = [
        energy(trace, SAME_CLOCK, round(start_s * S), round(end_s * S)).energy_j or 0.0
        for start_s, end_s in zip(edges_s[1::2], edges_s[2::2], strict=True)
    ]
    assert sum(found) == pytest.approx(sum_j, rel=1e-3)
    assert found == pytest.approx(published_windows_j(folder), rel=5e-3)

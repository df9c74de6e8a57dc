"""Sums that grow in place are, to the last bit, those of a whole tally a step, added up: the arithmetic written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from profiler.accumulate import Mark, RailAccumulator
from profiler.integrate import between, integrate
from profiler.quantities import Rail, RailKind
from profiler.uncertainty import Tally
from tests.profiler.rails import counter_rail, power_rail

MS = 1_000_000
WRAP_J = 100.0
LIMIT_W = 50.0
MAX_GAP_S = 0.3

Samples = list[tuple[int, float | None]]
Step = tuple[Tally, str]  # and what happened in it

# One of each: read twice at once, in time, late, and after a gap. Values fail, repeat themselves, and are no numbers.
prompt_ns = st.integers(1 * MS, 300 * MS)
gaps_ns = st.one_of(st.just(0), prompt_ns, prompt_ns, prompt_ns, st.integers(301 * MS, 3_000 * MS))
failures = st.sampled_from([None, math.nan, math.inf])
levels_w = st.sampled_from([5.0, 10.0])
watts = st.one_of(levels_w, levels_w, st.floats(0, 200), failures)
rises_j = st.one_of(st.just(0.0), st.floats(0, 20), failures)
resets_j = st.one_of(st.none(), st.none(), st.none(), st.floats(0, WRAP_J))


@st.composite
def power_samples(draw: st.DrawFn) -> Samples:
    times = itertools.accumulate(draw(st.lists(gaps_ns, min_size=2, max_size=40)))
    return [(t_ns, draw(watts)) for t_ns in times]


@st.composite
def counter_samples(draw: st.DrawFn) -> Samples:
    """A counter that wraps at 100 J, sometimes starts anew anywhere, and counts on where it cannot be read."""
    counted_j, samples = draw(st.floats(0, WRAP_J)), []
    for t_ns in itertools.accumulate(draw(st.lists(gaps_ns, min_size=2, max_size=40))):
        rise_j, reset_j = draw(rises_j), draw(resets_j)
        counted_j = (counted_j + (rise_j if rise_j is not None and math.isfinite(rise_j) else 5.0)) % WRAP_J
        counted_j = counted_j if reset_j is None else reset_j
        samples.append((t_ns, counted_j if rise_j is not None and math.isfinite(rise_j) else rise_j))
    return samples


Traces = st.SearchStrategy[Samples]

RAILS = [
    (power_rail(gain_err=0.02, offset_err_w=0.1, resolution=0.04, edge_jitter_s=0.002), power_samples()),
    (power_rail(edge_jitter_s=0.5), power_samples()),  # a gauge that is read more often than it is renewed
    (counter_rail(wrap_j=WRAP_J, max_power_w=LIMIT_W, edge_jitter_s=0.001, resolution=0.01), counter_samples()),
    (counter_rail(wrap_j=WRAP_J), counter_samples()),  # nothing is known that would tell a reset from a wrap
    (counter_rail(wrap_j=None, max_power_w=LIMIT_W), counter_samples()),
]
on_every_rail = pytest.mark.parametrize(("rail", "traces"), RAILS)


def good_of(samples: Samples) -> list[tuple[int, float]]:
    return [(t_ns, value) for t_ns, value in samples if value is not None and math.isfinite(value)]


def steps(rail: Rail, good: list[tuple[int, float]]) -> list[Step]:
    """What each step between two good samples adds: the documented formulas, a case after another."""
    return list((_counted if rail.kind is RailKind.COUNTER_J else _power)(rail, good))


def _counted(rail: Rail, good: list[tuple[int, float]]) -> Iterable[Step]:
    power_w: float | None = None
    for (start_ns, before_j), (end_ns, after_j) in itertools.pairwise(good):
        dt_s = (end_ns - start_ns) / 1e9
        drawn_j, what = after_j - before_j, "counted"
        if drawn_j < 0:
            drawn_j, what = drawn_j + (rail.wrap_j or -math.inf), "wrapped"
            stale_s = 2 * rail.edge_jitter_s
            limit_j = rail.max_power_w and 2 * rail.max_power_w * (dt_s + stale_s) + rail.resolution
            if not 0 <= drawn_j <= (math.inf if limit_j is None else limit_j):
                what = "reset"
        if what == "reset":
            presumed_j = (power_w or 0.0) * dt_s
            doubt_j = presumed_j if power_w is not None else (rail.max_power_w or 0.0) * dt_s
            yield Tally(energy_j=presumed_j, doubt_j=doubt_j), what
            continue
        square_w2s = drawn_j * drawn_j / dt_s if dt_s > 0 else 0.0
        power_w = drawn_j / dt_s if dt_s > 0 else power_w
        yield Tally(energy_j=drawn_j, covered_s=dt_s, square_w2s=square_w2s, covered_j=drawn_j), what


def _power(rail: Rail, good: list[tuple[int, float]]) -> Iterable[Step]:
    last: tuple[int, float] | None = None  # the rise before: when, and half of it times its interval
    for (start_ns, before_w), (end_ns, after_w) in itertools.pairwise(good):
        dt_s = (end_ns - start_ns) / 1e9
        drawn_j = (before_w + after_w) / 2 * dt_s
        if dt_s > MAX_GAP_S:
            last = None
            yield Tally(energy_j=drawn_j, bridged_s2=1.5 * dt_s**2), "bridged"
            continue
        interval_s = max(dt_s, rail.edge_jitter_s)
        half_j = (after_w - before_w) / 2 * interval_s
        is_neighbour = last is not None and end_ns - last[0] <= 1.5e9 * interval_s
        yield (
            Tally(
                energy_j=drawn_j,
                covered_s=dt_s,
                sampling_j2=half_j * half_j,
                rebound_j2=-half_j * last[1] if last is not None and is_neighbour else 0.0,
                square_w2s=(before_w * before_w + after_w * after_w) / 2 * dt_s,
                covered_j=drawn_j,
                grid_s2=dt_s * interval_s,
            ),
            "risen" if half_j else "held",
        )
        last = (end_ns, half_j) if half_j else last


def whole_tallies(rail: Rail, samples: Samples) -> list[Mark | None]:
    """The mark at every sample, of tallies that are added whole."""
    marks: list[Mark | None] = []
    for n, (t_ns, _) in enumerate(samples, start=1):
        good = good_of(samples[:n])
        if not good:
            marks.append(None)
            continue
        sums, power_w = Tally(), good[-1][1] if rail.kind is RailKind.POWER_W else None
        for (tally, what), (before, after) in zip(steps(rail, good), itertools.pairwise(good), strict=True):
            sums = Tally(*(a + b for a, b in zip(sums, tally, strict=True)))
            if what in ("counted", "wrapped") and after[0] > before[0]:
                power_w = tally.energy_j / ((after[0] - before[0]) / 1e9)
        stale_s = (t_ns - good[-1][0]) / 1e9
        marks.append(Mark(t_ns, sums, (power_w or 0.0) * stale_s, len(good), power_w, stale_s))
    return marks


def fed(rail: Rail, samples: Samples) -> tuple[list[Mark | None], list[str | None]]:
    """An accumulator's marks at every sample, and what it says of each."""
    accumulator, marks, reasons = RailAccumulator(rail, MAX_GAP_S), [], []
    for t_ns, value in samples:
        reasons.append(accumulator.add(t_ns, value))
        marks.append(accumulator.mark())
    return marks, reasons


@on_every_rail
@given(data=st.data())
def test_sums_in_place_are_those_of_a_tally_a_step(rail: Rail, traces: Traces, data: st.DataObject) -> None:
    """To the last bit, at every sample: so is every energy and every error bound between two of them."""
    samples = data.draw(traces)
    marks, _ = fed(rail, samples)
    expected = whole_tallies(rail, samples)
    assert marks == expected
    opened, closed = (data.draw(st.integers(0, len(marks) - 1)) for _ in range(2))
    reading = between(rail, marks[min(opened, closed)], marks[max(opened, closed)], max_gap_s=0.0)
    assert reading == between(rail, expected[min(opened, closed)], expected[max(opened, closed)], max_gap_s=0.0)


@on_every_rail
@given(data=st.data())
def test_what_had_to_be_bridged_is_said(rail: Rail, traces: Traces, data: st.DataObject) -> None:
    samples = data.draw(traces)
    good = good_of(samples)
    _, reasons = fed(rail, samples)
    assert reasons.count("no reading") == len(samples) - len(good)
    happened = [what for _, what in steps(rail, good)]
    for what in set(happened):
        event(what)
    assert sum((reason or "").startswith("counter_reset") for reason in reasons) == happened.count("reset")
    assert sum((reason or "").startswith("no power sample") for reason in reasons) == happened.count("bridged")


@on_every_rail
@given(data=st.data())
def test_sums_lose_nothing_to_rounding(rail: Rail, traces: Traces, data: st.DataObject) -> None:
    """Against exact fractions: the energy within 1e-12 of all that was added up, over days of such samples, too."""
    samples = data.draw(traces)
    good = good_of(samples)
    mark = fed(rail, samples)[0][-1]
    exact = [Fraction(tally.energy_j) for tally, _ in steps(rail, good)]
    energy_j = 0.0 if mark is None else mark.tally.energy_j
    assert abs(Fraction(energy_j) - sum(exact)) <= Fraction(1, 10**12) * sum(map(abs, exact))


@on_every_rail
@given(data=st.data())
def test_a_trace_goes_through_the_same_arithmetic(rail: Rail, traces: Traces, data: st.DataObject) -> None:
    """The energy from the first good sample to the last: added up, or step by step and then added exactly."""
    samples = data.draw(traces)
    good = good_of(samples)
    if len(good) < 2:
        return
    marks = [mark for mark in fed(rail, samples)[0] if mark is not None]
    last = next(mark for mark in marks if mark.n_samples == len(good))
    streamed = between(rail, marks[0], last, max_gap_s=0.0)
    recorded = integrate(rail, samples, good[0][0], good[-1][0], max_gap_s=MAX_GAP_S)
    assert (streamed.provenance, streamed.coverage) == (recorded.provenance, recorded.coverage)
    assert streamed.energy_j == (recorded.energy_j and pytest.approx(recorded.energy_j, rel=1e-12))


def test_what_is_taken_is_what_came_since() -> None:
    accumulator = RailAccumulator(counter_rail())
    parts = []
    for second in range(5):
        accumulator.add(second * 1000 * MS, float(second**2))
        parts.append(accumulator.take().energy_j)
    assert parts == [0.0, 1.0, 3.0, 5.0, 7.0]

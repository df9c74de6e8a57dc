"""Sums to joules, pure arithmetic: the energy of a window, with its error and how much of it was covered.

Two ways in. `between` takes two marks of a `RailAccumulator` (`profiler.accumulate`), which a sampler feeds sample by
sample. `integrate` takes a recorded trace and cuts the steps between samples at the window's own edges.

Both treat a gap alike. Between two good power samples that are further apart than `max_gap_s` power is bridged
linearly, and a counter that was reset is bridged at the power before it: the joules are there, so that no total is
silently smaller, but the time counts as not covered, and what was presumed enters the error bound. A counter that
could not be read for a while has lost nothing: its next difference spans the gap. Below `MIN_COVERAGE` a reading is
`missing`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from profiler.accumulate import Mark, RailAccumulator
from profiler.quantities import EnergyReading, Provenance, Rail, RailKind, Scope, add_energies
from profiler.uncertainty import (
    PRESUMED,
    Tally,
    below_resolution,
    error_bound,
    sampling_limits_j2,
    spread_w,
)

MIN_COVERAGE = 0.5
_COVERAGE_DIGITS = 12
FROZEN_JITTERS = 100.0  # a counter that moves each millisecond and did not in a tenth of a second has stopped
GAP_PERIODS = 3.0  # a power rail is bridged, not integrated, over more than this many sampling periods


def between(
    rail: Rail, opened: Mark | None, closed: Mark | None, *, max_gap_s: float, reason: str | None = None
) -> EnergyReading:
    """The reading of the window between two marks of one accumulator; the opening sample counts as inside."""
    if opened is None or closed is None:
        return EnergyReading.missing(rail.name, rail.scope, reason or "the rail gave no reading when the window opened")
    drawn = closed.tally.minus(opened.tally)
    tally = drawn._replace(
        energy_j=closed.energy_j - opened.energy_j,
        bridged_s2=drawn.bridged_s2 + PRESUMED * (closed.pending_s**2 + opened.pending_s**2),
    )
    return _reading(
        rail,
        tally,
        duration_s=(closed.t_ns - opened.t_ns) / 1e9,
        edge_power_w=(opened.power_w, closed.power_w),
        n_samples=closed.n_samples - opened.n_samples + 1,
        max_gap_s=max_gap_s,
        reason=reason,
    )


def _reading(
    rail: Rail,
    tally: Tally,
    *,
    duration_s: float,
    edge_power_w: tuple[float | None, float | None],
    n_samples: int,
    max_gap_s: float,
    reason: str | None,
) -> EnergyReading:
    # Rounded: a window without a gap is covered, whatever the last bits of a sum of its seconds say.
    coverage = round(min(1.0, tally.covered_s / duration_s), _COVERAGE_DIGITS) if duration_s > 0 else 1.0
    unknown = _why_unknown(rail, tally, duration_s, coverage)
    if unknown is not None:
        why = f"{unknown}; {reason}" if reason else unknown
        missing = EnergyReading.missing(rail.name, rail.scope, why)
        return replace(missing, n_samples=n_samples, coverage=coverage, max_gap_s=max_gap_s)
    too_short = below_resolution(rail, tally.energy_j, duration_s, n_samples)
    n = min(n_samples, round(duration_s / rail.min_period_s))
    spread = spread_w(tally, n)
    edges_w = _edges_w(rail, tally, duration_s, edge_power_w)
    sampling_j2 = sampling_limits_j2(tally, n) + tally.bridged_s2 * spread**2
    return EnergyReading(
        rail=rail.name,
        energy_j=tally.energy_j,
        energy_err_j=error_bound(rail, tally.energy_j, duration_s, edges_w, tally.doubt_j, sampling_j2, spread),
        provenance=rail.provenance,
        scope=rail.scope,
        n_samples=n_samples,
        effective_hz=max(0, n_samples - 1) / duration_s if duration_s > 0 else 0.0,
        coverage=coverage,
        max_gap_s=max_gap_s,
        reason="; ".join(why for why in (too_short, reason) if why) or None,
    )


def _why_unknown(rail: Rail, tally: Tally, duration_s: float, coverage: float) -> str | None:
    """Why the window has no figure, if it has none."""
    if coverage < MIN_COVERAGE:
        return f"only {coverage:.0%} of {duration_s:.3g} s were covered by samples"
    if tally.energy_j == 0 and _never_rests(rail) and duration_s > FROZEN_JITTERS * rail.edge_jitter_s:
        return f"frozen: its counter did not move in {duration_s:.3g} s"
    return None


def _never_rests(rail: Rail) -> bool:
    """Whether this is the counter of a processor package, which draws power while anybody is there to read it.

    Memory or a GPU may draw less than one step in a window, and whatever a meter beside the device sees may be off.
    """
    is_counter = rail.kind is RailKind.COUNTER_J and rail.provenance is Provenance.COUNTER
    return is_counter and rail.scope is Scope.PACKAGE and rail.edge_jitter_s > 0


def _edges_w(
    rail: Rail, tally: Tally, duration_s: float, edge_power_w: tuple[float | None, float | None]
) -> tuple[float, float]:
    """Power at both edges; of a counter at least the mean, since before a window the load may have been idle."""
    mean_w = tally.energy_j / duration_s if duration_s > 0 else 0.0
    first_w, last_w = (mean_w if power_w is None else power_w for power_w in edge_power_w)
    if rail.kind is RailKind.COUNTER_J:
        return max(mean_w, first_w), max(mean_w, last_w)
    return first_w, last_w


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The time between two neighbouring good samples of a trace."""

    start_ns: int
    end_ns: int
    before: float
    after: float
    tally: Tally
    reason: str | None

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def mean_power_w(self) -> float:
        return self.tally.energy_j / self.duration_s if self.end_ns > self.start_ns else 0.0


def integrate(
    rail: Rail,
    samples: Iterable[tuple[int, float | None]],
    t0_ns: int,
    t1_ns: int,
    *,
    max_gap_s: float | None = None,
) -> EnergyReading:
    """The energy of a recorded trace of `(t_ns, value)` between two moments, which need not be sample times.

    Edges are interpolated: linearly in power, linearly in a counter. Outside the trace the nearest power is held, and
    that time counts as not covered. `max_gap_s` defaults to three times the trace's median period. Energy is additive
    over a split window. Raises ValueError where the window or the trace runs backwards.
    """
    if t1_ns < t0_ns:
        raise ValueError(f"{rail.name}: window ends at {t1_ns} ns, before it starts at {t0_ns} ns")
    good = [(t_ns, value) for t_ns, value in samples if value is not None and math.isfinite(value)]
    if len(good) < 2:
        return EnergyReading.missing(rail.name, rail.scope, f"{len(good)} good samples; at least 2 are needed")
    stretches = _stretches(rail, good, max_gap_s)
    inside = [_clip(rail, stretches, i, t0_ns, t1_ns) for i in range(len(stretches))]
    head, tail = _outside(rail, stretches, t0_ns, t1_ns)
    tally = Tally(*map(math.fsum, zip(*inside, head, tail, strict=True)))
    reasons = dict.fromkeys(s.reason for s in stretches if s.reason and s.end_ns > t0_ns and s.start_ns < t1_ns)
    return _reading(
        rail,
        tally,
        duration_s=(t1_ns - t0_ns) / 1e9,
        edge_power_w=(_power_at(rail, stretches, t0_ns), _power_at(rail, stretches, t1_ns)),
        n_samples=sum(t0_ns <= t_ns <= t1_ns for t_ns, _ in good),
        max_gap_s=_longest_gap_s(good, t0_ns, t1_ns),
        reason="; ".join(list(reasons)[:4]) or None,
    )


def _stretches(rail: Rail, good: Sequence[tuple[int, float]], max_gap_s: float | None) -> list[_Stretch]:
    periods_s = [(after[0] - before[0]) / 1e9 for before, after in itertools.pairwise(good)]
    if min(periods_s) < 0:
        raise ValueError(f"{rail.name}: the trace runs backwards in time")
    limit_s = GAP_PERIODS * sorted(periods_s)[len(periods_s) // 2] if max_gap_s is None else max_gap_s
    accumulator = RailAccumulator(rail, limit_s)
    accumulator.add(*good[0])
    stretches: list[_Stretch] = []
    for (start_ns, before), (end_ns, after) in itertools.pairwise(good):
        reason = accumulator.add(end_ns, after)
        stretches.append(_Stretch(start_ns, end_ns, before, after, accumulator.take(), reason))
    return stretches


def _clip(rail: Rail, stretches: Sequence[_Stretch], i: int, t0_ns: int, t1_ns: int) -> Tally:
    """The part of a stretch that lies within the window."""
    stretch = stretches[i]
    lo_ns, hi_ns = max(stretch.start_ns, t0_ns), min(stretch.end_ns, t1_ns)
    if (lo_ns, hi_ns) == (stretch.start_ns, stretch.end_ns):
        return stretch.tally
    if hi_ns <= lo_ns:
        return Tally()
    part_s = (hi_ns - lo_ns) / 1e9
    fraction = part_s / stretch.duration_s
    part = stretch.tally.scaled(fraction)
    # The load may have changed at this very edge, as where a span begins with it. The line that is drawn across the
    # change takes the same from both ends of a window, so these limits add up.
    if rail.kind is RailKind.POWER_W:
        energy_j = (_line(stretch, lo_ns) + _line(stretch, hi_ns)) / 2 * part_s
        changed_j = abs(stretch.after - stretch.before) / 2 * fraction * part_s
        covered_j = energy_j if part.covered_s > 0 else 0.0
        return part._replace(energy_j=energy_j, covered_j=covered_j, doubt_j=part.doubt_j + changed_j)
    # Of a counter the change shows in the steps before and after. Where power went up and down within the step, the
    # part is off by up to 2 f (1 - f) of the step's time, at the spread of power.
    inner_s = fraction * (1 - fraction) * stretch.duration_s
    changed_w = stretches[min(i + 1, len(stretches) - 1)].mean_power_w - stretches[max(i - 1, 0)].mean_power_w
    return part._replace(
        bridged_s2=part.bridged_s2 + (2 * inner_s) ** 2, doubt_j=part.doubt_j + inner_s * abs(changed_w)
    )


def _line(stretch: _Stretch, t_ns: int) -> float:
    fraction = (t_ns - stretch.start_ns) / (stretch.end_ns - stretch.start_ns)
    return stretch.before + (stretch.after - stretch.before) * fraction


def _power_at(rail: Rail, stretches: Sequence[_Stretch], t_ns: int) -> float:
    """Power at a moment, the nearest known one outside the trace."""
    stretch = next((s for s in stretches if t_ns <= s.end_ns), stretches[-1])
    if rail.kind is RailKind.COUNTER_J:
        return stretch.mean_power_w
    if stretch.end_ns == stretch.start_ns:
        return stretch.after
    return _line(stretch, min(max(t_ns, stretch.start_ns), stretch.end_ns))


def _outside(rail: Rail, stretches: Sequence[_Stretch], t0_ns: int, t1_ns: int) -> tuple[Tally, Tally]:
    first_ns, last_ns = stretches[0].start_ns, stretches[-1].end_ns
    head_s = max(0, min(first_ns, t1_ns) - t0_ns) / 1e9
    tail_s = max(0, t1_ns - max(last_ns, t0_ns)) / 1e9
    head_j = _power_at(rail, stretches, first_ns) * head_s
    tail_j = _power_at(rail, stretches, last_ns) * tail_s
    return Tally(head_j, bridged_s2=PRESUMED * head_s**2), Tally(tail_j, bridged_s2=PRESUMED * tail_s**2)


def _longest_gap_s(good: Sequence[tuple[int, float]], t0_ns: int, t1_ns: int) -> float:
    """The longest time within the window without a sample; the window's edges are no samples."""
    times_ns = [t0_ns, *(t_ns for t_ns, _ in good if t0_ns < t_ns < t1_ns), t1_ns]
    return max(after - before for before, after in itertools.pairwise(times_ns)) / 1e9


def total(
    readings: Sequence[EnergyReading], names: Sequence[str], scope: Scope, *, rail: str = "total"
) -> EnergyReading:
    """The device total: the sum of the named rails. Missing, with the reason, where one of them is."""
    by_name = {reading.rail: reading for reading in readings}
    absent = [name for name in names if name not in by_name]
    if absent:
        return EnergyReading.missing(rail, scope, f"no reading of {', '.join(absent)}")
    return add_energies(rail, scope, [by_name[name] for name in names])

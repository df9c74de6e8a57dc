"""How sure a number of joules is: what is summed beside them while samples come, and the bound made of it at the end.

A sampler keeps no samples, so whatever the bound needs to know of the load is in a few sums (`Tally`), whose
differences belong to the window between two moments.

What a trapezoid misses depends on what happened between two samples, and the samples themselves tell. Where power
switched once, at a moment nobody saw, the error is uniform within ± half the rise times the interval. Where power moves
faster than it is sampled, or a reading is noisy, every sample is off on its own, and one rise is taken back by the
next. With h = rise x interval / 2 and h' its neighbour the variance of the sum is

    (sum h² - 10 sum h h') / 3,    the second sum only as far as it is negative.

A single switch has h h' = 0 and leaves the rectangle h²/3. White noise of variance v has E[h²] = v dt²/2 and
E[h h'] = - v dt²/4, which makes v dt² a sample, as it must be. In geostatistics this is the variogram extrapolated to
lag 0, where it leaves the nugget (G. Matheron, Principles of geostatistics, Economic Geology 58, 1963); for the error
of a mean along a line see P. Gy, Sampling of Particulate Materials, 1979.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from profiler.quantities import BELOW_RESOLUTION, Rail, RailKind

NUGGET_WEIGHT = 10.0  # 12 for noise counted in full, less 2 since it is in the rises as well
MIN_WINDOW_JITTERS = 10.0  # a window shorter than this many times the staleness of a reading says little
MIN_UNITS = 4.0  # a counter's joules below this many of its units are known to 20 % at best
MIN_SAMPLES = 2
BRIDGED = 1.5  # power presumed from both its ends: what a trapezoid makes of them has half the variance of one power
PRESUMED = 3.0  # power presumed to go on: the variance of one power, as the limits ± √3 standard deviations
_SPARE = 1.5  # standard deviations by which an estimate from few samples is taken high
_RISE_INTERVALS = 1.5  # rises are neighbours where no interval without one lies between them


class Tally(NamedTuple):
    """Joules of some stretch of time, and how well they are known.

    `doubt_j` is the half-width of the limits around joules that are presumed whatever the load does. `bridged_s2` (s²)
    times the variance of power is what other presumed joules add to the squared half-widths. `sampling_j2` is the sum
    of the squared half-widths (J²) of what the trapezoid may have missed between samples, `rebound_j2` that of the
    products of neighbours, sign reversed. `covered_j`, `square_w2s` and `grid_s2` are the integrals of power, of power
    squared and of the sampling interval over what was covered.
    """

    energy_j: float = 0.0
    doubt_j: float = 0.0
    covered_s: float = 0.0
    sampling_j2: float = 0.0
    rebound_j2: float = 0.0
    square_w2s: float = 0.0
    bridged_s2: float = 0.0
    covered_j: float = 0.0
    grid_s2: float = 0.0

    def minus(self, other: Tally) -> Tally:
        return Tally(
            self.energy_j - other.energy_j,
            max(0.0, self.doubt_j - other.doubt_j),
            max(0.0, self.covered_s - other.covered_s),
            max(0.0, self.sampling_j2 - other.sampling_j2),
            self.rebound_j2 - other.rebound_j2,
            max(0.0, self.square_w2s - other.square_w2s),
            max(0.0, self.bridged_s2 - other.bridged_s2),
            self.covered_j - other.covered_j,
            max(0.0, self.grid_s2 - other.grid_s2),
        )

    def scaled(self, fraction: float) -> Tally:
        return Tally(*(part * fraction for part in self))

    @property
    def variance_w2(self) -> float:
        """Variance of power over the covered time, in W²."""
        if self.covered_s <= 0:
            return 0.0
        return max(0.0, self.square_w2s / self.covered_s - (self.covered_j / self.covered_s) ** 2)


class Sums:
    """A tally in the making, with a field for each of its own: every sample adds to it in place.

    A sampler's time goes to this. A counter's step touches four fields, where a tuple for each would make all nine.
    """

    __slots__ = (*Tally._fields, "_rise_j", "_rise_ns")

    def __init__(self) -> None:
        self._rise_ns: int | None = None  # when power was last seen to change
        self._rise_j = 0.0  # half of that change times its interval
        self.clear()

    def clear(self) -> None:
        """Begin anew, for the next step of the same trace: the last rise stays."""
        self.energy_j = self.doubt_j = self.covered_s = 0.0
        self.sampling_j2 = self.rebound_j2 = self.square_w2s = 0.0
        self.bridged_s2 = self.covered_j = self.grid_s2 = 0.0

    def add_counted(self, joules: float, dt_s: float) -> None:
        """What a counter has counted between two samples."""
        self.energy_j += joules
        self.covered_s += dt_s
        self.covered_j += joules
        if dt_s > 0:
            self.square_w2s += joules * joules / dt_s

    def add_trapezoid(self, end_ns: int, dt_s: float, before_w: float, after_w: float, stale_s: float) -> None:
        """What lies between two samples of power; `stale_s` is how old a reading can be.

        A gauge that is read more often than it is renewed repeats itself: a change that shows up happened within its
        staleness, not within the reading interval, and the change before it is its neighbour across the repetitions.
        """
        interval_s = max(dt_s, stale_s)
        joules = (before_w + after_w) / 2 * dt_s
        self.energy_j += joules
        self.covered_s += dt_s
        self.covered_j += joules
        self.square_w2s += (before_w * before_w + after_w * after_w) / 2 * dt_s
        self.grid_s2 += dt_s * interval_s
        half_j = (after_w - before_w) / 2 * interval_s
        if half_j == 0:
            return
        if self._rise_ns is not None and end_ns - self._rise_ns <= _RISE_INTERVALS * 1e9 * interval_s:
            self.rebound_j2 -= half_j * self._rise_j
        self.sampling_j2 += half_j * half_j
        self._rise_ns, self._rise_j = end_ns, half_j

    def add_presumed(self, joules: float, *, doubt_j: float = 0.0, bridged_s2: float = 0.0) -> None:
        """What is presumed of a time that no sample covers; no rise is a neighbour across it."""
        self.energy_j += joules
        self.doubt_j += doubt_j
        self.bridged_s2 += bridged_s2
        self._rise_ns = None

    def tally(self) -> Tally:
        """As it stands now."""
        return Tally(
            self.energy_j,
            self.doubt_j,
            self.covered_s,
            self.sampling_j2,
            self.rebound_j2,
            self.square_w2s,
            self.bridged_s2,
            self.covered_j,
            self.grid_s2,
        )


def spread_w(tally: Tally, n_samples: int) -> float:
    """Standard deviation of power, in W, for joules that are presumed: what the load may have done unseen.

    That n samples were alike does not show that the next would have been. As in the rule of succession two more are
    counted that nobody saw, each of them anything between 0 and twice the mean (variance mean²/3): with few samples
    that is the bound, with many it is what they show.
    """
    if tally.covered_s <= 0:
        return 0.0
    mean_w = tally.covered_j / tally.covered_s
    return math.sqrt((n_samples * tally.variance_w2 + 2 * mean_w**2 / 3) / (n_samples + 2))


def sampling_limits_j2(tally: Tally, n_samples: int) -> float:
    """The squared half-widths (J²) of what lay between the samples, from how they differ; see the module's docstring.

    It is at most what samples would make that tell nothing of each other: the variance of power in each interval. And
    less where the autocorrelations r1 and r2 of power at one and two intervals are negative, so that errors cancel: the
    variance of a sum is 1 + 2 (r1 + r2 + ...) times that, and r1/(1 - r1) is that series for a power that alternates.

    The smaller of two estimates is too small on average, and each rests on n samples. So it is taken 1.5 standard
    deviations high, of the sum of h h' of white noise √(7/n), of the variance √(2/n), and of r1 + r2 one.
    """
    all_j2 = tally.variance_w2 * tally.grid_s2
    if n_samples < 2 or all_j2 <= 0 or tally.sampling_j2 <= 0:
        return tally.sampling_j2
    nugget_j2 = NUGGET_WEIGHT * max(0.0, tally.rebound_j2) * (1 + _SPARE * math.sqrt(7 / n_samples))
    # The variogram over the variance is 1 - r: at lag 1 it is g, at lag 2 it is 2 g less the rebound.
    g = 2 * tally.sampling_j2 / all_j2
    r1, r2 = 1 - g, 1 - 2 * g + 4 * tally.rebound_j2 / all_j2
    r_sum = min(r1 + r2, r1 / (1 - r1)) if r1 < 0 else r1 + r2
    high = math.sqrt(2 / n_samples)
    cancelled = 1 + 2 * min(0.0, r_sum + 2 / n_samples + high)  # an r is low by 1/n on average
    independent_j2 = 3 * all_j2 * (1 + _SPARE * high) * cancelled
    return min(tally.sampling_j2 + nugget_j2, max(tally.sampling_j2, independent_j2))


def below_resolution(rail: Rail, energy_j: float, duration_s: float, n_samples: int) -> str | None:
    """Why the window says little of this rail, however small its error bound: it is shorter than the sensor resolves.

    A counter needs some of its units and a power rail two readings that can differ. Neither can be older than a tenth
    of the window.
    """
    if duration_s <= 0:
        return None
    if duration_s < MIN_WINDOW_JITTERS * rail.edge_jitter_s:
        return f"{BELOW_RESOLUTION}: {duration_s:.3g} s, and readings are up to {rail.edge_jitter_s:.3g} s old"
    if rail.kind is RailKind.COUNTER_J:
        if abs(energy_j) < MIN_UNITS * rail.resolution:
            return f"{BELOW_RESOLUTION}: {energy_j:.3g} J, and the counter counts in steps of {rail.resolution:.3g} J"
        return None
    if n_samples < MIN_SAMPLES:
        return f"{BELOW_RESOLUTION}: {n_samples} sample(s) of power within {duration_s:.3g} s"
    if duration_s < MIN_SAMPLES * rail.min_period_s:
        return f"{BELOW_RESOLUTION}: {duration_s:.3g} s, and there is a reading every {rail.min_period_s:.3g} s"
    return None


def error_bound(
    rail: Rail,
    energy_j: float,
    duration_s: float,
    edge_power_w: tuple[float, float],
    doubt_j: float = 0.0,
    sampling_j2: float = 0.0,
    spread_w: float = 0.0,
) -> float:
    """Expanded uncertainty in J, coverage factor k = 2, of the energy of one rail over one window.

    Every contribution is known by its limits ±a and taken as rectangular, so its standard uncertainty is a/√3
    (JCGM 100:2008, 4.3.7 and 6.2): the gain on the whole energy, the offset over the whole time, half a digit of
    resolution (F.2.2.1) and the staleness of the readings, what is presumed across gaps, and what a trapezoid may miss
    between two samples that differ.

    A counter is read at its edges only. Each reading lacks up to one unit, and what was drawn since it was renewed; the
    mean of both is lacking at either edge and cancels as far as power is the same, so half of them counts, and half of
    the difference. A power reading is rounded alike as long as power is steady: half a digit over the whole time. That
    it is old moves the window in time, which costs the difference between what the load did before and at the end.

    One contribution alone is covered always, not in 95 % of cases, since 2a/√3 > a.
    """
    first_w, last_w = edge_power_w
    stale_s = rail.edge_jitter_s
    if rail.kind is RailKind.POWER_W:
        edges_j = (rail.resolution / 2 * duration_s, stale_s * (last_w - first_w), stale_s * spread_w)
    else:
        resolution_j = rail.resolution / math.sqrt(2)  # half a unit at each of two edges
        edges_j = (
            math.hypot(resolution_j, stale_s / 2 * (last_w - first_w)),
            stale_s / 2 * first_w,
            stale_s / 2 * last_w,
        )
    limits_j = (rail.gain_err * energy_j, rail.offset_err_w * duration_s, *edges_j, doubt_j)
    return 2 * math.sqrt((math.fsum(limit_j**2 for limit_j in limits_j) + sampling_j2) / 3)

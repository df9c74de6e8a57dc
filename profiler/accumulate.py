"""Samples to sums, one by one and in constant memory: counter differences with wrap, trapezoids of power, gaps.

A `RailAccumulator` takes the samples of one rail. A sampler keeps one for days and the energy of a window is the
difference of two of its marks; a recorded trace goes through one step by step (`profiler.integrate`). So there is one
arithmetic of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from profiler.quantities import Rail, RailKind
from profiler.uncertainty import BRIDGED, Sums, Tally


def counter_difference(previous_j: float, current_j: float, wrap_j: float | None) -> float | None:
    """Joules between two readings of a counter that wraps at most once between them; None where it ran backwards.

    Exact to one counter unit (RAPL: 61 uJ) a wrap, since `wrap_j` is the modulus: the range plus one unit.
    """
    difference_j = current_j - previous_j
    if difference_j < 0 and wrap_j is not None:
        difference_j += wrap_j
    return difference_j if difference_j >= 0 else None


def _is_implausible(rail: Rail, difference_j: float, dt_s: float) -> bool:
    """Whether a wrapped difference needs more than twice the rail's power limit: then the counter was reset.

    A reading can be stale by the edge jitter at both ends, so very short steps are judged over that time as well.
    """
    if rail.max_power_w is None:
        return False
    return difference_j > 2 * rail.max_power_w * (dt_s + 2 * rail.edge_jitter_s) + rail.resolution


@dataclass(frozen=True, slots=True)
class Mark:
    """The state of an accumulator at one moment: everything summed since its first good sample.

    `pending_j` is what a rail that cannot be read right now is presumed to have drawn since its last good sample.
    """

    t_ns: int
    tally: Tally
    pending_j: float
    n_samples: int
    power_w: float | None
    pending_s: float = 0.0

    @property
    def energy_j(self) -> float:
        return self.tally.energy_j + self.pending_j


class RailAccumulator:
    """Streaming sums of one rail. Not thread-safe: the sampler holds its lock around it.

    `max_gap_s` is the longest time between power samples that still counts as covered.
    """

    __slots__ = ("_is_counter", "_last", "_last_ns", "_max_gap_s", "_n_samples", "_now_ns", "_power_w", "_sums", "rail")

    def __init__(self, rail: Rail, max_gap_s: float = math.inf) -> None:
        self.rail = rail
        self._is_counter = rail.kind is RailKind.COUNTER_J
        self._max_gap_s = max_gap_s
        self._last_ns: int | None = None  # the last good sample's
        self._last = 0.0
        self._now_ns = 0
        self._power_w: float | None = None
        self._n_samples = 0
        self._sums = Sums()

    def add(self, t_ns: int, value: float | None) -> str | None:
        """Take one sample (J or W by the rail's kind, None: not read); says why where joules had to be bridged.

        Raises ValueError where time runs backwards.
        """
        last_ns = self._last_ns
        if last_ns is not None and t_ns < last_ns:
            raise ValueError(f"{self.rail.name}: sample at {t_ns} ns after one at {last_ns} ns")
        self._now_ns = t_ns
        if value is None or not math.isfinite(value):
            return "no reading"
        reason = None
        if self._is_counter:
            if last_ns is not None:
                reason = self._count((t_ns - last_ns) / 1e9, self._last, value)
        else:
            if last_ns is not None:
                reason = self._draw(t_ns, (t_ns - last_ns) / 1e9, self._last, value)
            self._power_w = value
        self._last_ns, self._last = t_ns, value
        self._n_samples += 1
        return reason

    def _count(self, dt_s: float, before_j: float, after_j: float) -> str | None:
        joules = counter_difference(before_j, after_j, self.rail.wrap_j)
        if joules is None or (after_j < before_j and _is_implausible(self.rail, joules, dt_s)):
            self._presume(dt_s)
            return f"counter_reset: from {before_j:.6g} J to {after_j:.6g} J within {dt_s:.3g} s"
        self._sums.add_counted(joules, dt_s)
        if dt_s > 0:
            self._power_w = joules / dt_s
        return None

    def _presume(self, dt_s: float) -> None:
        """Across a reset power is what it was before it, or anything up to the limit where that is not known."""
        joules = (self._power_w or 0.0) * dt_s
        doubt_j = (self.rail.max_power_w or 0.0) * dt_s if self._power_w is None else joules
        self._sums.add_presumed(joules, doubt_j=doubt_j)

    def _draw(self, t_ns: int, dt_s: float, before_w: float, after_w: float) -> str | None:
        if dt_s > self._max_gap_s:
            self._sums.add_presumed((before_w + after_w) / 2 * dt_s, bridged_s2=BRIDGED * dt_s**2)
            return f"no power sample for {dt_s:.3g} s"
        self._sums.add_trapezoid(t_ns, dt_s, before_w, after_w, self.rail.edge_jitter_s)
        return None

    def take(self) -> Tally:
        """What has been added since it was last taken: a trace's steps one by one. Marks count from there as well."""
        tally = self._sums.tally()
        self._sums.clear()
        return tally

    @property
    def energy_j(self) -> float | None:
        """Cumulative joules since the first good sample; None where the rail could not be read just now."""
        return self._sums.energy_j if self._last_ns == self._now_ns else None

    def mark(self) -> Mark | None:
        """The sums as they stand at the last sample taken, good or not; None before the first good one."""
        if self._last_ns is None:
            return None
        stale_s = (self._now_ns - self._last_ns) / 1e9
        pending_j = (self._power_w or 0.0) * stale_s
        return Mark(self._now_ns, self._sums.tally(), pending_j, self._n_samples, self._power_w, stale_s)

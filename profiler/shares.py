"""Sharing out the joules of one host among the processes that run on it, by CPU time. Pure arithmetic.

Several clients on one host have one meter between them. In every interval between two of its samples the host's energy
is divided in proportion to the CPU time that each owner used in it; what no known process used is the owner `other`.
The shares of an interval add up to the interval, so the shares of any window add up to the host's figure. An interval
in which no CPU time was seen at all goes to `other`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

OTHER = "other"


@dataclass(frozen=True, slots=True)
class Tick:
    """One sample of the host: cumulative joules, cumulative CPU seconds of each owner, and of the whole host."""

    t_ns: int
    energy_j: float
    cpu_s: Mapping[str, float]
    busy_s: float


@dataclass(frozen=True, slots=True)
class Share:
    """One owner's part of a window: joules, and its part of the window's time (s), which idle power is charged by."""

    energy_j: float
    time_s: float


class Shares:
    """The shares of a run of ticks, in order of time; between two ticks, energy is taken to flow evenly.

    Raises ValueError where there are fewer than two ticks or time does not rise.
    """

    def __init__(self, ticks: Sequence[Tick]) -> None:
        if len(ticks) < 2:
            raise ValueError(f"sharing needs at least two samples, got {len(ticks)}")
        self._t_ns = [tick.t_ns for tick in ticks]
        if any(late <= early for early, late in pairwise(self._t_ns)):
            raise ValueError("samples must rise in time")
        owners = sorted({owner for tick in ticks for owner in tick.cpu_s})
        self.owners = (*owners, OTHER)
        self._energy_j: dict[str, list[float]] = {owner: [0.0] for owner in self.owners}
        self._time_s: dict[str, list[float]] = {owner: [0.0] for owner in self.owners}
        self._host_j = [tick.energy_j - ticks[0].energy_j for tick in ticks]
        unknown_s = _unknown_cpu_s(ticks)
        for n in range(1, len(ticks)):
            used_s = {owner: _used_s(ticks[n - 1], ticks[n], owner) for owner in owners}
            used_s[OTHER] = unknown_s[n] - unknown_s[n - 1]
            self._add(n, used_s)

    @property
    def start_ns(self) -> int:
        return self._t_ns[0]

    @property
    def end_ns(self) -> int:
        return self._t_ns[-1]

    def _add(self, n: int, used_s: Mapping[str, float]) -> None:
        energy_j = self._host_j[n] - self._host_j[n - 1]
        length_s = (self._t_ns[n] - self._t_ns[n - 1]) / 1e9
        all_s = math.fsum(used_s.values())
        for owner in self.owners:
            part = used_s[owner] / all_s if all_s > 0 else float(owner == OTHER)
            self._energy_j[owner].append(self._energy_j[owner][-1] + energy_j * part)
            self._time_s[owner].append(self._time_s[owner][-1] + length_s * part)

    def window(self, owner: str, start_ns: int, end_ns: int) -> Share:
        """One owner's part between two moments; beyond the first and the last tick nothing is known and added."""
        return Share(
            self._between(self._energy_j[owner], start_ns, end_ns), self._between(self._time_s[owner], start_ns, end_ns)
        )

    def host_j(self, start_ns: int, end_ns: int) -> float:
        return self._between(self._host_j, start_ns, end_ns)

    def _between(self, cumulative: Sequence[float], start_ns: int, end_ns: int) -> float:
        return self._at(cumulative, end_ns) - self._at(cumulative, start_ns)

    def _at(self, cumulative: Sequence[float], t_ns: int) -> float:
        n = bisect_right(self._t_ns, t_ns)
        if n == 0:
            return cumulative[0]
        if n == len(self._t_ns):
            return cumulative[-1]
        early_ns, late_ns = self._t_ns[n - 1], self._t_ns[n]
        part = (t_ns - early_ns) / (late_ns - early_ns)
        return cumulative[n - 1] + (cumulative[n] - cumulative[n - 1]) * part


def _used_s(early: Tick, late: Tick, owner: str) -> float:
    """CPU time of an owner in an interval; none before it is known, and none once it has ended."""
    if owner not in early.cpu_s or owner not in late.cpu_s:
        return 0.0
    return max(0.0, late.cpu_s[owner] - early.cpu_s[owner])


def _unknown_cpu_s(ticks: Sequence[Tick]) -> list[float]:
    """Cumulative CPU seconds that no owner accounts for.

    The host's busy time comes in clock ticks of 10 ms and the owners' in nanoseconds, so their difference jitters. Its
    running maximum errs by one clock tick in all; clamping each interval at zero would err by one in every interval.
    """
    unknown = [0.0]
    known_s = 0.0
    for early, late in pairwise(ticks):
        known_s += math.fsum(_used_s(early, late, owner) for owner in late.cpu_s)
        unknown.append(max(unknown[-1], late.busy_s - ticks[0].busy_s - known_s))
    return unknown

"""Notices that a device's wall clock was set while it worked, for the record: nothing is timed by it.

A wall clock that is slewed, as NTP does, runs up to 500 ppm (5e-4) fast or slow (Linux, adjtimex(2)); one that runs
otherwise than that against a clock which nobody can set was set. CLOCK_BOOTTIME is such a one and goes on while the
device sleeps; where there is none, sleep is taken for a set clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SET_KEY = "wall_clock_set_s"
"""Attribute of a span: by how much the wall clock was set since the instruction before, forwards if positive."""
_SLEWED = 1e-3
_LEAST_S = 1.0


def steady_s() -> float:
    """Seconds of a clock that is never set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class ClockWatch:
    """Asked now and then."""

    def __init__(self, wall_s: Callable[[], float] = time.time, steady_s: Callable[[], float] = steady_s) -> None:
        self._wall_s = wall_s
        self._steady_s = steady_s
        self._last = wall_s(), steady_s()

    def set_by_s(self) -> float | None:
        """By how much the wall clock was set since this was asked last; None where it was not, as far as can be told.

        What is less than a second, or than a clock can be slewed by meanwhile, cannot be told.
        """
        before, now = self._last, (self._wall_s(), self._steady_s())
        self._last = now
        passed_s = now[1] - before[1]
        step_s = now[0] - before[0] - passed_s
        return step_s if abs(step_s) > _LEAST_S + _SLEWED * passed_s else None

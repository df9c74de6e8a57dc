"""Clocks: durations come from a monotonic one, wall time is kept once a record, for people."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock in nanoseconds and a wall clock for people."""

    def monotonic_ns(self) -> int: ...

    def wall_time(self) -> str:
        """UTC, ISO 8601, with microseconds."""
        ...

    def sleep(self, duration_s: float) -> None: ...


class SystemClock:
    """The machine's own CLOCK_MONOTONIC. On Linux all processes of a host share it."""

    # No function of ours around it: a sampler asks three times a tick, with caches gone cold 1 us each.
    monotonic_ns = staticmethod(time.monotonic_ns)

    def wall_time(self) -> str:
        return _iso(time.time())

    def sleep(self, duration_s: float) -> None:
        time.sleep(duration_s)


class FakeClock:
    """A clock that moves only when told: `advance`, or `sleep`, which returns at once. Safe across threads."""

    def __init__(self, start_ns: int = 0, wall_epoch_s: float = 1_700_000_000.0) -> None:
        self._now_ns = start_ns
        self._start_ns = start_ns
        self._wall_epoch_s = wall_epoch_s
        self._lock = threading.Lock()

    def monotonic_ns(self) -> int:
        with self._lock:
            return self._now_ns

    def wall_time(self) -> str:
        return _iso(self._wall_epoch_s + (self.monotonic_ns() - self._start_ns) / 1e9)

    def sleep(self, duration_s: float) -> None:
        self.advance(duration_s)

    def advance(self, duration_s: float) -> None:
        if duration_s < 0:
            raise ValueError(f"a monotonic clock cannot go back by {duration_s} s")
        with self._lock:
            self._now_ns += round(duration_s * 1e9)


def _iso(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, tz=timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")

"""The raw samples of one window, kept where somebody asked for them; a sampler keeps none by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RailSamples:
    """What was read of one rail. `t_ns` is the device's monotonic clock; a value is J of a counter as the device gives
    it, else W. `every` = 4: of the samples that were taken every fourth is here; 1: all of them."""

    rail: str
    t_ns: tuple[int, ...]
    values: tuple[float, ...]
    every: int = 1


class KeptSamples:
    """Readings in the order of time, `limit` and one more at most: where there are more, every second one goes.

    So those that are left are evenly spaced among all, `every` to the next; the last is always there. Not thread-safe:
    the sampler holds its lock around `add`. Raises ValueError where the limit is odd or below 2.
    """

    def __init__(self, limit: int) -> None:
        if limit < 2 or limit % 2:
            raise ValueError(f"an even limit from 2 on is needed, got {limit}")
        self.every = 1
        self._limit = limit
        self._rows: list[tuple[int, tuple[float | None, ...]]] = []
        self._last: tuple[int, tuple[float | None, ...]] | None = None
        self._n = 0

    def add(self, t_ns: int, values: tuple[float | None, ...]) -> None:
        """One reading of every rail, None where it was not read."""
        self._last = (t_ns, values)
        if self._n % self.every == 0:
            if len(self._rows) == self._limit:  # which is even, so that this reading is one of those that stay
                del self._rows[1::2]
                self.every *= 2
            self._rows.append(self._last)
        self._n += 1

    def of(self, rails: Sequence[str]) -> tuple[RailSamples, ...]:
        """By rail, in the order of the readings; a rail that was never read is left out."""
        rows = self._rows if self._last is None or self._rows[-1] is self._last else [*self._rows, self._last]
        found = []
        for i, rail in enumerate(rails):
            read = [(t_ns, value) for t_ns, values in rows if (value := values[i]) is not None]
            if read:
                times_ns, values = zip(*read, strict=True)
                found.append(RailSamples(rail, times_ns, values, self.every))
        return tuple(found)

"""A sensor scripted by a function of time, for tests and for simulated devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Rail, Scope, weakest
from profiler.sensor import Available, Unavailable


class FakeSensor:
    """Hands out `value_at(seconds since open)`, one value a rail: J for a counter, W for power, None for no reading.

    `total` defaults to the rails that no other rail contains. `value_at` may raise SensorError or OSError, as hardware
    does. With `unavailable` set, the sensor probes and opens as one that cannot be used.
    """

    def __init__(
        self,
        rails: Sequence[Rail],
        value_at: Callable[[float], Sequence[float | None]],
        clock: Clock,
        *,
        name: str = "fake",
        total: Sequence[str] | None = None,
        scope: Scope = Scope.HOST,
        unavailable: Unavailable | None = None,
    ) -> None:
        self.name = name
        self._rails = tuple(rails)
        self._value_at = value_at
        self._clock = clock
        self._total = tuple(rail.name for rail in rails if rail.parent is None) if total is None else tuple(total)
        self._scope = scope
        self._unavailable = unavailable
        self._opened_ns: int | None = None

    def probe(self) -> Available | Unavailable:
        if self._unavailable is not None:
            return self._unavailable
        provenance = weakest(rail.provenance for rail in self._rails if rail.name in self._total)
        return Available(self._rails, self._total, self._scope, provenance, notes="scripted, not measured")

    def open(self) -> None:
        if self._unavailable is not None:
            raise SensorError(f"{self.name}: {self._unavailable.reason}", remedy=self._unavailable.remedy)
        self._opened_ns = self._clock.monotonic_ns()

    def read(self) -> list[float | None]:
        if self._opened_ns is None:
            raise SensorError(f"{self.name}: not open.", remedy="Call open() first.")
        values = list(self._value_at((self._clock.monotonic_ns() - self._opened_ns) / 1e9))
        if all(value is None for value in values):
            raise SensorError(f"{self.name}: no rail can be read.")
        return values

    def close(self) -> None:
        self._opened_ns = None

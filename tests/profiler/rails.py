"""Rails that the tests of this room share."""

from __future__ import annotations

from typing import Any

from profiler.quantities import Provenance, Rail, RailKind, Scope

WRAP_J = (262_143_328_850 + 61) / 1e6
UNIT_J = 61e-6


def power_rail(name: str = "board", **more: Any) -> Rail:
    return Rail(name, Scope.DEVICE, RailKind.POWER_W, Provenance.INTEGRATED, **more)


def counter_rail(name: str = "package-0", wrap_j: float | None = WRAP_J, **more: Any) -> Rail:
    return Rail(name, Scope.PACKAGE, RailKind.COUNTER_J, Provenance.COUNTER, wrap_j=wrap_j, **more)

"""Value types of a measurement: how many joules, how sure, from where, covering what.

Every dimensioned field carries its SI unit as a suffix. Nothing here reads a clock, a file or a device, and nothing
here imports more than the standard library: a phone pays for every module at start-up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

# How the reason of a reading begins whose window is shorter than its sensor can resolve.
BELOW_RESOLUTION = "below_resolution"


class Provenance(str, Enum):
    """Where a number comes from, strongest first. A sum is as weak as its weakest part."""

    COUNTER = "counter"  # the hardware accumulates energy
    INTEGRATED = "integrated"  # we integrate measured power
    ESTIMATED = "estimated"  # a model of this machine
    SIMULATED = "simulated"  # a model of another machine
    MISSING = "missing"  # nothing is known; the reason is kept beside it

    @property
    def is_measured(self) -> bool:
        return self in (Provenance.COUNTER, Provenance.INTEGRATED)


_PROVENANCE_RANK = {provenance: rank for rank, provenance in enumerate(Provenance)}


def weakest(provenances: Iterable[Provenance]) -> Provenance:
    """The weakest of some provenances; of none, `missing`."""
    return max(provenances, key=_PROVENANCE_RANK.__getitem__, default=Provenance.MISSING)


class Scope(str, Enum):
    """What a figure of power covers, widest first. Scopes that contain each other are never added."""

    WALL = "wall"  # the socket: power supply losses included
    DEVICE = "device"  # everything behind the battery or the DC input
    MODULE = "module"  # a compute module without its carrier board
    HOST = "host"  # a machine as far as its processor packages, memory and GPU cards show it, shared by several clients
    PACKAGE = "package"
    DIE = "die"
    CPU = "cpu"
    GPU = "gpu"
    DRAM = "dram"
    RAIL = "rail"  # one named supply rail that is none of the above
    PROCESS = "process"  # one process's share of a host


class RailKind(str, Enum):
    """Whether a rail hands out accumulated joules or momentary watts."""

    COUNTER_J = "counter_j"
    POWER_W = "power_w"


@dataclass(frozen=True, slots=True)
class Rail:
    """One source of power readings, with all that integration and the error bound need to know of it.

    `resolution` is in the unit of `kind` (J or W). `wrap_j` is the modulus of a counter that wraps. `gain_err` is
    relative, `offset_err_w` absolute; both are limits of a rectangular distribution as datasheets give them.
    `edge_jitter_s` is how stale a reading can be. `parent` names a rail that already contains this one.
    """

    name: str
    scope: Scope
    kind: RailKind
    provenance: Provenance
    min_period_s: float = 0.001
    resolution: float = 0.0
    wrap_j: float | None = None
    gain_err: float = 0.0
    offset_err_w: float = 0.0
    edge_jitter_s: float = 0.0
    max_power_w: float | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class EnergyReading:
    """Energy of one rail (or of a total) over one window.

    `energy_err_j` is an expanded uncertainty with coverage factor k = 2 (JCGM 100:2008, 6.2). `energy_j` is None
    exactly when the provenance is `missing`; `reason` then says why. `coverage` is the covered part of the window,
    0..1. `total_of` names the rails a total is made of.

    Raises ValueError where the fields contradict each other.
    """

    rail: str
    energy_j: float | None
    energy_err_j: float | None
    provenance: Provenance
    scope: Scope
    n_samples: int = 0
    effective_hz: float = 0.0
    coverage: float = 0.0
    max_gap_s: float = 0.0
    total_of: tuple[str, ...] = ()
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.energy_j is None) != (self.provenance is Provenance.MISSING):
            raise ValueError(f"{self.rail}: energy_j is None exactly when provenance is missing, got {self}")
        if self.energy_j is not None and not math.isfinite(self.energy_j):
            raise ValueError(f"{self.rail}: energy_j must be finite, got {self.energy_j}")
        if (self.energy_err_j is None) != (self.energy_j is None):
            raise ValueError(f"{self.rail}: energy_err_j goes with energy_j, got {self}")

    @classmethod
    def missing(cls, rail: str, scope: Scope, reason: str) -> EnergyReading:
        return cls(rail, None, None, Provenance.MISSING, scope, reason=reason)


def add_energies(rail: str, scope: Scope, parts: Iterable[EnergyReading]) -> EnergyReading:
    """The sum of disjoint readings of one window: errors add in quadrature, the weakest provenance and coverage win.

    One missing part makes the sum missing: a silently smaller total is a wrong total. What is said of a part is said
    of the sum; that it is below the resolution comes first.
    """
    readings = list(parts)
    names = tuple(reading.rail for reading in readings)
    gaps = [reading for reading in readings if reading.energy_j is None]
    if not readings or gaps:
        return EnergyReading.missing(rail, scope, _reasons(gaps) or "no rail makes up a total")
    return EnergyReading(
        rail=rail,
        energy_j=math.fsum(reading.energy_j or 0.0 for reading in readings),
        energy_err_j=math.sqrt(math.fsum((reading.energy_err_j or 0.0) ** 2 for reading in readings)),
        provenance=weakest(reading.provenance for reading in readings),
        scope=scope,
        n_samples=min(reading.n_samples for reading in readings),
        effective_hz=min(reading.effective_hz for reading in readings),
        coverage=min(reading.coverage for reading in readings),
        max_gap_s=max(reading.max_gap_s for reading in readings),
        total_of=names,
        reason=_reasons(readings) or None,
    )


def _reasons(readings: Iterable[EnergyReading]) -> str:
    """What is said of some readings, each thing once, after the rails it is said of."""
    rails: dict[str, list[str]] = {}
    for reading in readings:
        if reading.reason is not None:
            rails.setdefault(reading.reason, []).append(reading.rail)
    ranked = sorted(rails.items(), key=lambda said: not said[0].startswith(BELOW_RESOLUTION))
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in ranked)

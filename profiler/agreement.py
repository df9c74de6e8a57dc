"""Whether two sensors that read the same counters say the same: pure arithmetic on what each counted meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Right where a span begins and ends somebody is awake to read: our assumption of how far the power there may lie above
# the mean. At 1 s and 1 ms it allows for 2 %; a doubled domain or a wrong unit is off by 50 % and more.
_EDGE_POWERS = 10.0


@dataclass(frozen=True, slots=True)
class Counted:
    """What one sensor counted on each rail, in joules, and the step its counters move in, with its name."""

    sensor: str
    energy_j: Mapping[str, float]
    resolution_j: Mapping[str, float]


def disagreements(one: Counted, other: Counted, *, duration_s: float, apart_s: float) -> list[str]:
    """Why two readings of the same hardware contradict each other; nothing where they do not.

    Both have the same gain, so only their timing and their steps may set them apart. `apart_s` is how far apart the
    two were read at an edge, at most, the staleness of a reading included. Allowed is each counter's step, and the
    power at both edges over that time. Raises ValueError where there was no time to count in.
    """
    if duration_s <= 0:
        raise ValueError(f"needs a positive duration, got {duration_s} s")
    said = [
        f"only {having.sensor} has {', '.join(sorted(missing))}"
        for having, lacking in ((one, other), (other, one))
        if (missing := set(having.energy_j) - set(lacking.energy_j))
    ]
    for rail in _common(one, other):
        energies_j = one.energy_j[rail], other.energy_j[rail]
        edges_j = 2 * _EDGE_POWERS * max(energies_j) / duration_s * apart_s
        limit_j = edges_j + one.resolution_j[rail] + other.resolution_j[rail]
        if abs(energies_j[0] - energies_j[1]) > limit_j:
            figures = f"{energies_j[0]:.4g} J by {one.sensor} and {energies_j[1]:.4g} J by {other.sensor}"
            said.append(f"{rail} drew {figures}, where they may be {limit_j:.2g} J apart")
    return said


def largest_difference(one: Counted, other: Counted) -> float | None:
    """The largest relative difference on a rail that both have; None where no such rail counted anything."""
    pairs = [(one.energy_j[rail], other.energy_j[rail]) for rail in _common(one, other)]
    return max((abs(a - b) / max(a, b) for a, b in pairs if max(a, b) > 0), default=None)


def _common(one: Counted, other: Counted) -> list[str]:
    return [rail for rail in one.energy_j if rail in other.energy_j]

"""How tables and reports say numbers, and where they come from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from analysis.load import SIMULATED, SYSTEM
from profiler.quantities import Provenance

ENERGY_TEXT: Mapping[str, str] = {
    "gross": "gross: all that the devices drew in the rounds",
    "net": "net: gross less idle power times the time",
    "fit": "fit: local training alone, gross",
}
PROVENANCE_TEXT = {
    Provenance.COUNTER: "measured by hardware counters",
    Provenance.INTEGRATED: "integrated from measured power",
    Provenance.ESTIMATED: "estimated by a model of this machine, not measured",
    Provenance.SIMULATED: "simulated by a model of another machine, not measured",
    Provenance.MISSING: "missing",
}
TIME_PROVENANCE: Mapping[str, str] = {SYSTEM: "measured", SIMULATED: "simulated"}
"""Clock of a run -> where its times come from, in a word."""
_TIME_TEXT = {"measured": "measured", "simulated": PROVENANCE_TEXT[Provenance.SIMULATED]}


def number(value: float | None, spread: float | None = None, *, decimals: int | None = None) -> str:
    """`1.990 ± 0.021`, or `missing`: to four significant digits of the value, unless `decimals` says otherwise."""
    if value is None:
        return "missing"
    if decimals is None:
        decimals = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{decimals}f}" + (f" ± {spread:.{decimals}f}" if spread is not None else "")


def origins_of_times(kinds: Iterable[str]) -> list[str]:
    """What a reader must know of times that are `measured` or `simulated`; nothing where all are measured."""
    counts = Counter(kinds)
    if len(counts) > 1:
        parts = ", ".join(f"{count} {_TIME_TEXT[kind]}" for kind, count in sorted(counts.items()))
        return [f"MIXED TIMES: they are of different kinds ({parts}); do not read them as one scale."]
    return [f"All times are {_TIME_TEXT['simulated']}."] if "simulated" in counts else []


def origins_of_energies(kinds: Iterable[Provenance]) -> list[str]:
    """What a reader must know of energies of these origins."""
    counts = Counter(kinds)
    if len(counts) > 1:
        parts = ", ".join(f"{count} {PROVENANCE_TEXT[kind]}" for kind, count in sorted(counts.items()))
        return [f"MIXED PROVENANCE: energies are of different origin ({parts}); do not read them as one scale."]
    return [f"All energies are {PROVENANCE_TEXT[kind]}." for kind in counts]


def repeats(counts: Mapping[str, int]) -> list[str]:
    """Label -> how many simulated runs were copies of another."""
    return [
        f"{label}: {count} simulated runs repeat the seed and the result of another and do not count again."
        for label, count in counts.items()
        if count
    ]

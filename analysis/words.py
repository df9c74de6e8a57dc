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


def number(value: float | None, spread: float | None = None, *, decimals: int | None = None, at_least: int = 0) -> str:
    """`1.990 ± 0.021`, or `missing`: to four significant digits of the larger of the two.

    There are `at_least` so many decimals; `decimals` sets their number instead.
    """
    if value is None:
        return "missing"
    if decimals is None:
        size = float(f"{max(abs(value), spread or 0.0):.3e}")  # 0.99996 is shown as 1.000
        decimals = max(at_least, 3 - math.floor(math.log10(size))) if size else at_least
    return f"{value:.{decimals}f}" + (f" ± {spread:.{decimals}f}" if spread is not None else "")


def origins_of_times(kinds: Iterable[str], whose: str = "") -> list[str]:
    """What a reader must know of (`whose`) times that are `measured` or `simulated`."""
    return _origins(Counter(_TIME_TEXT[kind] for kind in sorted(kinds)), f"{whose}times", "MIXED TIMES")


def origins_of_energies(kinds: Iterable[Provenance], whose: str = "") -> list[str]:
    """What a reader must know of (`whose`) energies of these origins."""
    return _origins(Counter(PROVENANCE_TEXT[kind] for kind in sorted(kinds)), f"{whose}energies", "MIXED PROVENANCE")


def _origins(counts: Mapping[str, int], what: str, alarm: str) -> list[str]:
    if len(counts) > 1:
        parts = ", ".join(f"{count} {text}" for text, count in counts.items())
        return [f"{alarm}: {what} are of different kinds ({parts}); do not read them as one scale."]
    return [f"All {what} are {text}." for text in counts]


def repeats(counts: Mapping[str, int]) -> list[str]:
    """Label -> how many simulated runs were copies of another."""
    return [
        f"{label}: {count} simulated runs repeat the seed and the result of another and do not count again."
        for label, count in counts.items()
        if count
    ]

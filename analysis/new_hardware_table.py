"""Recommendations for new hardware in words and columns: ranges printed, refusals with their reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from analysis.cli import printable
from analysis.formats import Block, Grid
from analysis.new_hardware import Recommendation
from analysis.stats import LEVEL, Interval
from analysis.step_estimates import CALIBRATED, ESTIMATED, HORIZON_S, TRANSFERRED

BASES = {
    CALIBRATED: "calibrated: measured on the device itself, with this workload",
    TRANSFERRED: "transferred: estimated from what known devices take, by work that both have run",
    ESTIMATED: "estimated: from speeds that were told, with nothing measured on the device",
}


def blocks(made: Sequence[Recommendation]) -> list[Block]:
    """One row a recommendation, the refused ones below."""
    given = [one for one in made if one.tau_s is not None]
    grid: Block = Grid([*map(_cells, given)]) if given else "no cutoff can be given"
    bases = [text for name, text in BASES.items() if any(one.basis == name for one in given)]
    told = f"ranges: {LEVEL:.0%}; step: the mean of {HORIZON_S / 60:.0f} minutes of training unless told otherwise."
    return [grid, "\n".join(_refusals(made)), "\n".join([*bases, told])]


def _refusals(made: Sequence[Recommendation]) -> list[str]:
    """A sentence for each reason, with all the kinds that it refuses."""
    kinds: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for one in made:
        if one.tau_s is None:
            named = f"{one.processor}, {one.workload}, E={one.epochs}, batch {one.batch_size}"
            kinds[named, one.note].append(one.kind)
    return [printable(f"{named}, {', '.join(some)}: {note}") for (named, note), some in kinds.items()]


def _cells(one: Recommendation) -> dict[str, str]:
    mark = "" if one.time_provenance == "measured" else f" {one.time_provenance}"
    return {
        "workload": f"{printable(one.workload)}, batch {one.batch_size}",
        "E": str(one.epochs),
        "processor": printable(one.processor),
        "kind": one.kind,
        "tau (s)": f"{one.tau_s:.4g}{mark}" if one.tau_s else f"none{mark}",
        "range of tau": _range(one.interval),
        "work": _with_range(one.work_fraction, one.work_interval),
        "step (s)": _with_range(one.step_s, one.step_interval),
        "fit (s)": _with_range(one.window_s, one.window_interval),
        "fit (J)": _with_range(one.energy_j, one.energy_interval) or "missing",
        "reference": printable(one.reference),
        "basis": one.basis,
        "note": printable(one.note),
    }


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.3g}..{interval[1]:.3g}"


def _with_range(value: float | None, interval: Interval | None) -> str:
    return "" if value is None else f"{value:.3g} ({_range(interval)})" if interval else f"{value:.3g}"

"""Where the joules go: energy of each processor's clients, stacked by what they did meanwhile.

Sums over all rounds of a task, then means over replicates, of the device's own spans: `receive`, `fit`, `send`,
`evaluate` and `wait`, which do not overlap. Nothing is guessed for a span without energy: its bar is marked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.cli import printable
from analysis.configurations import without_repeats
from analysis.figures import choice
from analysis.figures.drawing import (
    MAX_ROWS,
    PHASE_STYLE,
    Material,
    Picture,
    canvas,
    energy_words,
    nothing,
    phase_legend,
    shortened,
    slug,
    styled,
    unit_of,
)
from analysis.load import rows
from profiler.records import Row

_PHASES = ("receive", "fit", "send", "evaluate", "wait")


@dataclass(frozen=True, slots=True)
class Bar:
    """What clients of one processor drew in one configuration, all of them together, in a mean run."""

    configuration: str
    processor: str
    joules: Mapping[str, float]
    n_devices: int
    n_runs: int
    n_missing: int
    provenances: frozenset[str]

    @property
    def total_j(self) -> float:
        return sum(self.joules.values())


def draw(material: Material) -> list[Picture]:
    """One picture a workload."""
    pictures = []
    energies = by_task(material.spans.energies)
    for workload, tasks in choice.finished(material.results).items():
        made = [bar for bar in bars(tasks, energies) if bar.joules]
        if made:
            pictures.append(_picture(workload, made))
    if not pictures:
        raise nothing("energy by phase", "no span of a client in a round has an energy")
    return pictures


def by_task(energies: pd.DataFrame) -> dict[choice.TaskKey, list[Row]]:
    """The sums of `PageSpans.energies` that are of clients' own spans in rounds."""
    own = energies["name"].isin(_PHASES) & energies["in_round"].astype(bool) & energies["device"].notna()
    return choice.rows_by_task(rows(energies[own]))


def bars(tasks: Sequence[choice.Shown], energies: Mapping[choice.TaskKey, Sequence[Row]]) -> list[Bar]:
    """One bar for each configuration and processor, in their order."""
    by_label: defaultdict[str, list[choice.Shown]] = defaultdict(list)
    for shown in tasks:
        by_label[shown.label].append(shown)
    return [bar for label, members in by_label.items() for bar in _bars_of(label, members, energies)]


def _bars_of(
    label: str, members: Sequence[choice.Shown], energies: Mapping[choice.TaskKey, Sequence[Row]]
) -> list[Bar]:
    kept = without_repeats([shown.task for shown in members])
    own: defaultdict[str, list[Row]] = defaultdict(list)
    for task in kept:
        for row in energies.get((task["run_id"], task["task"]), ()):
            own[row["processor"] or "processor not named"].append(row)
    made = []
    for processor, found in sorted(own.items()):
        joules: defaultdict[str, float] = defaultdict(float)
        for row in found:
            if row["n_known"]:
                joules[row["name"]] += row["energy_j"] / len(kept)
        provenances = frozenset(row["provenance"] for row in found if row["n_known"])
        n_missing = sum(row["n_missing"] for row in found)
        n_devices = len({row["device"] for row in found})
        made.append(Bar(label, processor, dict(joules), n_devices, len(kept), n_missing, provenances))
    return made


def _picture(workload: str, made: Sequence[Bar]) -> Picture:
    shown = sorted(sorted(made, key=lambda bar: -bar.total_j)[:MAX_ROWS], key=made.index)
    unit, factor = unit_of(max(bar.total_j for bar in shown), "J", "kJ", 1000.0)
    kinds = energy_words(kind for bar in shown for kind in bar.provenances)
    with styled():
        figure = canvas(8.0, 1.2 + 0.34 * len(shown))
        axes = figure.subplots()
        for place, bar in enumerate(shown):
            _draw_bar(axes, place, bar, factor, unit)
        axes.set(
            yticks=range(len(shown)), ylim=(len(shown) - 0.4, -0.6), xlabel=f"energy of all rounds ({unit}), {kinds}"
        )
        axes.set_yticklabels([_name(bar) for bar in shown], fontsize=8)
        axes.margins(x=0.14)
        axes.grid(visible=False, axis="y")
        drawn = {phase for bar in shown for phase, joules in bar.joules.items() if joules}
        phase_legend(figure, drawn)
    more = f" The {len(made) - len(shown)} smallest are not drawn." if len(made) > len(shown) else ""
    return Picture(
        f"energy-{slug(workload)}",
        f"Where the joules go: {workload}",
        f"Gross energy, {kinds}, of all clients of a processor together, over all rounds, mean of the replicates. "
        f"* marks sums that lack spans without an energy.{more}",
        figure,
    )


def _name(bar: Bar) -> str:
    return f"{shortened(bar.configuration, 48)}\n{bar.n_devices} × {shortened(printable(bar.processor), 24)}"


def _draw_bar(axes: Any, place: int, bar: Bar, factor: float, unit: str) -> None:
    left = 0.0
    for phase in _PHASES:
        width = bar.joules.get(phase, 0.0) / factor
        if width:
            axes.barh(
                place,
                width,
                left=left,
                height=0.62,
                edgecolor="0.25",
                linewidth=0.4,
                linestyle="-",
                zorder=2,
                **PHASE_STYLE[phase],
            )
            left += width
    star = "*" if bar.n_missing else ""
    axes.annotate(
        f"{left:.4g} {unit}{star}", (left, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5
    )

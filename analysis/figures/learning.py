"""Accuracy as the rounds go: against time, against joules and against the number of rounds.

One line a configuration, the mean of its replicates at each round; a point is a finished round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from analysis.configurations import without_repeats
from analysis.figures import choice
from analysis.figures.drawing import (
    MAX_LINES,
    Material,
    Picture,
    canvas,
    energy_words,
    line_style,
    nothing,
    shortened,
    slug,
    styled,
    thinned,
    time_label,
    unit_of,
)
from analysis.load import rows
from profiler.records import Row


@dataclass(frozen=True, slots=True)
class Line:
    """Mean accuracy, time and energy after each round; `energies_j` None where any replicate lacks one."""

    label: str
    clock: str
    provenances: frozenset[str]
    accuracies: tuple[float, ...]
    times_s: tuple[float, ...]
    energies_j: tuple[float, ...] | None


def draw(material: Material) -> list[Picture]:
    """One picture a workload."""
    rounds = choice.rows_by_task(rows(material.results.rounds))
    pictures = []
    for workload, tasks in choice.finished(material.results).items():
        by_label: defaultdict[str, list[Row]] = defaultdict(list)
        for shown in tasks:
            by_label[shown.label].append(shown.task)
        made = [line for label, members in by_label.items() if (line := _line(label, members, rounds)) is not None]
        if made:
            pictures.append(_picture(workload, made))
    if not pictures:
        raise nothing("learning", "no round has an accuracy, or all runs are cost only")
    return pictures


def _line(label: str, members: Sequence[Row], rounds: dict[choice.TaskKey, list[Row]]) -> Line | None:
    kept = [rounds[task["run_id"], task["task"]] for task in without_repeats(members)]
    if any(row["accuracy"] is None or row["time_s"] is None for own in kept for row in own):
        return None
    whole = all(row["energy_j"] is not None for own in kept for row in own)
    return Line(
        label,
        members[0]["clock"],
        frozenset(row["provenance"] or "missing" for own in kept for row in own),
        _mean([[row["accuracy"] for row in own] for own in kept]),
        _mean([list(accumulate(row["time_s"] for row in own)) for own in kept]),
        _mean([list(accumulate(row["energy_j"] for row in own)) for own in kept]) if whole else None,
    )


def _mean(replicates: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(np.mean(np.array(replicates, dtype=np.float64), axis=0).tolist())


def _picture(workload: str, made: Sequence[Line]) -> Picture:
    shown = made[:MAX_LINES]
    with_energy = [line for line in shown if line.energies_j is not None]
    kinds = energy_words(kind for line in with_energy for kind in line.provenances)
    time_unit, second = unit_of(max(line.times_s[-1] for line in shown), "s", "min", 60.0)
    energy_unit, joule = unit_of(
        max((line.energies_j[-1] for line in with_energy if line.energies_j), default=0.0), "J", "kJ", 1e3
    )
    with styled():
        figure = canvas(8.0, 3.4 + 0.17 * len(shown))
        panels = figure.subplots(1, 3, sharey=True)
        for number, line in enumerate(shown):
            style = line_style(number) | {"markersize": 3.5, "linewidth": 1.3}
            kept = thinned(line.accuracies, 60)
            accuracies = [line.accuracies[index] for index in kept]
            label = shortened(line.label, 80)
            panels[0].plot([line.times_s[index] / second for index in kept], accuracies, label=label, **style)
            if line.energies_j is not None:
                panels[1].plot([line.energies_j[index] / joule for index in kept], accuracies, **style)
            panels[2].plot([index + 1 for index in kept], accuracies, **style)
        if not with_energy:
            panels[1].text(0.5, 0.5, "energy is missing", transform=panels[1].transAxes, ha="center")
        _label_axes(
            panels,
            time_label(f"time ({time_unit})", {line.clock for line in shown}),
            f"energy ({energy_unit}), {kinds}",
        )
        figure.legend(loc="outside lower center", ncols=2 if len(shown) > 3 else 1, frameon=False, fontsize=7.5)
    more = f" {len(made) - len(shown)} more configurations are not drawn." if len(made) > len(shown) else ""
    return Picture(
        f"learning-{slug(workload)}",
        f"Accuracy over time, joules and rounds: {workload}",
        f"Of the global model on held-out data after every round; means of the replicates; energy is gross, {kinds}."
        + more,
        figure,
    )


def _label_axes(panels: Any, time: str, energy: str) -> None:
    panels[0].set_ylabel("accuracy (fraction)")
    panels[2].xaxis.get_major_locator().set_params(integer=True)
    for axes, label in zip(panels, (time, energy, "rounds"), strict=True):
        axes.set_xlabel(label)
        axes.set_xlim(left=0)

"""What a cutoff costs and gives: completed work, predicted accuracy and round time as functions of τ.

Learnt from runs without a cutoff, by the formulas of `analysis.cutoff`; the vertical lines are the cutoffs it gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.cli import printable
from analysis.cutoff import AccuracyModel, Cutoff, accuracy_models, cutoffs
from analysis.figures.drawing import Material, Picture, canvas, line_style, nothing, shortened, slug, styled, time_label
from analysis.load import SIMULATED, Results, rows
from analysis.runs import runs_table
from analysis.windows import Group, Values, Windows, completed_work, fit_windows, uncut_tasks

_Groups = Mapping[Group, Mapping[str, Windows]]
_Models = Mapping[tuple[str, int], AccuracyModel]
_N_TAUS = 240
_MAX_GROUPS = 4
_MARKED = {"parity": ("0.2", "--"), "accuracy": ("#009E73", "-."), "knee": ("#D55E00", ":")}


@dataclass(frozen=True, slots=True)
class _Panel:
    group: Group
    by_processor: Mapping[str, Windows]
    model: AccuracyModel
    cutoffs: Sequence[Cutoff]


def draw(material: Material) -> list[Picture]:
    """One picture for each of the largest E of a workload, batch size and clock."""
    groups, models = learnt(material.fits)
    if not groups:
        raise nothing("cutoffs", "no fit without a cutoff is on record with its processor")
    largest = {(group.workload, group.batch_size, group.clock): group for group in sorted(groups)}
    panels = [
        _Panel(
            group,
            groups[group],
            models.get((group.workload, group.batch_size), AccuracyModel.fit({})),
            cutoffs({group: groups[group]}, models),
        )
        for group in list(largest.values())[:_MAX_GROUPS]
    ]
    return [_picture(panel, number) for number, panel in enumerate(panels)]


def learnt(results: Results) -> tuple[_Groups, _Models]:
    """What `analysis.cutoff.cutoffs` wants to know: fit windows and accuracy models of the runs without a cutoff."""
    groups, _ = fit_windows(results)
    uncut = uncut_tasks(results)
    return groups, accuracy_models(run for run in rows(runs_table(results)) if (run["run_id"], run["task"]) in uncut)


def _picture(panel: _Panel, number: int) -> Picture:
    group = panel.group
    longest_s = max(float(windows.windows_s.max()) for windows in panel.by_processor.values())
    taus_s = np.linspace(longest_s / _N_TAUS, longest_s * 1.02, _N_TAUS)
    with styled():
        figure = canvas(8.0, 3.6)
        axes = figure.subplots(1, 3)
        _work(axes[0], panel, taus_s)
        _accuracy(axes[1], panel, taus_s)
        _round_time(axes[2], panel, taus_s)
        for one in axes:
            if one.lines:
                _mark(one, panel.cutoffs)
            one.set_xlabel(time_label("cutoff τ (s)", [group.clock]))
            one.set_xlim(0, float(taus_s[-1]))
        handles = {handle.get_label(): handle for one in axes for handle in one.get_legend_handles_labels()[0]}
        figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=4, frameon=False, fontsize=7.5)
    simulated = ", simulated" if group.clock == SIMULATED else ""
    workload = printable(group.workload)
    return Picture(
        f"tradeoff-{slug(workload)}-{number}",
        f"What a cutoff costs and gives: {workload}, E={group.epochs}, batch {group.batch_size}{simulated}",
        "Predicted from fits without a cutoff: the part of its steps that each processor has done by τ, the accuracy "
        "of that much work by the sweep of E, and the median round time. Vertical lines: analysis.cutoff's.",
        figure,
    )


def _work(axes: Any, panel: _Panel, taus_s: Values) -> None:
    for number, (processor, windows) in enumerate(panel.by_processor.items()):
        style = line_style(number) | {"marker": ""}
        axes.plot(taus_s, windows.work_fraction(taus_s), label=shortened(printable(processor), 24), **style)
    axes.set(ylim=(0, 1.04), ylabel="work done (fraction of the steps)")


def _accuracy(axes: Any, panel: _Panel, taus_s: Values) -> None:
    sweep = panel.model.up_to(panel.group.epochs)
    axes.set_ylabel("predicted accuracy (fraction)")
    if sweep.epochs.size < 2:
        axes.text(
            0.5, 0.5, "needs runs with accuracy\nat two values of E", transform=axes.transAxes, ha="center", fontsize=8
        )
        axes.set_yticks([])
        return
    work = completed_work(panel.group.epochs, panel.by_processor, taus_s)
    known = work >= sweep.epochs[0] - 1e-9  # below the smallest E of the sweep nothing is known
    axes.plot(taus_s[known], sweep.predict(work[known]), color="black", label="predicted, all clients")


def _round_time(axes: Any, panel: _Panel, taus_s: Values) -> None:
    for number, (_, windows) in enumerate(panel.by_processor.items()):
        rounds_s = np.minimum(taus_s, windows.median_window_s) + windows.median_comm_s
        axes.plot(taus_s, rounds_s, **line_style(number) | {"marker": ""})
    axes.set(ylabel="median fit call, transfers included (s)", ylim=(0, None))


def _mark(axes: Any, made: Sequence[Cutoff]) -> None:
    for kind, (colour, dashes) in _MARKED.items():
        given = sorted({cutoff.tau_s for cutoff in made if cutoff.kind == kind and cutoff.tau_s})
        for tau_s in given[:6]:
            axes.axvline(tau_s, color=colour, linestyle=dashes, linewidth=1.2, label=f"τ: {kind}")

"""Accuracy against time and against energy, with their fronts and knees.

Filled marks are measured energies, hollow ones estimated; crosses are simulated, the time of a simulated run like its
energy. Colours are safe for colour-blind eyes and the marks differ in grey print too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from analysis.configurations import Point
from analysis.figures import choice
from analysis.figures.drawing import Material, Picture, canvas, nothing, slug, styled
from analysis.files import write_atomically
from analysis.pareto import Analysis, Front, analyse
from profiler.quantities import Provenance

_AXES = {"time_s": ("time", "s", 60.0, "min"), "energy_j": ("energy", "J", 1000.0, "kJ")}
# Offsets that labels try in turn, in points: right below first, since a front rises to the right.
_OFFSETS = ((6, -11), (6, 6), (-6, 6), (-6, -12), (10, -24), (10, 18), (10, -36), (10, 30), (-10, 18), (-10, -24))
_LEADER = {"arrowstyle": "-", "color": "0.55", "linewidth": 0.7}


# Keeps a label readable on a line, and text in an SVG (a path effect would turn it into outlines).
_HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}


@dataclass(frozen=True, slots=True)
class _Scale:
    """An axis in a unit that reads well: values are divided by `factor`."""

    name: str
    unit: str
    factor: float


def draw(material: Material) -> list[Picture]:
    """One picture a workload, over all its configurations; energy is gross."""
    tasks = choice.finished(material.results)
    analyses = {workload: analyse([shown.task for shown in members]) for workload, members in tasks.items()}
    pictures = [_picture(workload, found) for workload, found in analyses.items() if any(f.labels for f in found.pairs)]
    if not pictures:
        raise nothing("fronts", "no configuration has an accuracy and a cost")
    return pictures


def _picture(workload: str, analysis: Analysis) -> Picture:
    caption = " ".join(["The front is what no other configuration beats on both axes.", *analysis.notes[:4]])
    return Picture(f"pareto-{slug(workload)}", f"Accuracy against time and energy: {workload}", caption, plot(analysis))


def save(analysis: Analysis, paths: Sequence[Path]) -> None:
    """Draw both panels into each path, in the format of its suffix (png, svg, pdf). Raises OSError."""
    picture = _picture("", analysis)
    for path in paths:
        write_atomically(path, picture.encoded(path.suffix.lstrip(".")))


def plot(analysis: Analysis) -> Figure:
    """Both panels."""
    with styled():
        figure = canvas(10, 4.4)
        for axes, cost in zip(figure.subplots(1, 2), _AXES, strict=True):
            _panel(axes, analysis, cost)
        figure.suptitle(_title(analysis), fontsize=10.5)
        figure.legend(handles=_legend(analysis), loc="outside lower center", ncols=4, frameon=False)
        figure.draw_without_rendering()  # fixes the layout, so that positions in pixels mean something
        for axes, cost in zip(figure.axes, _AXES, strict=True):
            _annotate(axes, analysis, cost)
    return figure


def _title(analysis: Analysis) -> str:
    workloads = ", ".join(sorted({point.workload for point in analysis.points}))
    kinds = sorted({point.provenance.value for point in analysis.points if point.energy_j is not None})
    bars = "bars: uncertainty of energy (k = 2), else sd of replicates"
    return f"{workloads}: {_time_title(analysis)}{analysis.energy} energy, {' and '.join(kinds) or 'missing'}; {bars}"


def _time_title(analysis: Analysis) -> str:
    kinds = sorted({point.time_provenance for point in analysis.points})
    return "" if kinds == ["measured"] else f"{' and '.join(kinds)} time; "


def _panel(axes: Any, analysis: Analysis, cost: str) -> None:
    shown = _shown(analysis, cost)
    front = next((front for front in analysis.pairs if front.objectives[1] == cost), None)
    scale = _scale(shown, cost)
    axes.set_title(f"accuracy against {scale.name}")
    simulated = bool(shown) and all(_kind(point, cost) is Provenance.SIMULATED for point in shown)
    axes.set_xlabel(f"{'simulated ' if simulated else ''}{scale.name} of all rounds ({scale.unit})")
    axes.set_ylabel("accuracy of the last round (fraction)")
    if not shown or front is None:
        why = "not among the objectives" if front is None else f"no configuration has both accuracy and {scale.name}"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center")
        axes.set(xticks=[], yticks=[])
        return
    _draw_front(axes, front, shown, scale, cost)
    for point in shown:
        _draw_point(axes, point, scale, cost, on_front=point.label in front.labels)
    axes.margins(x=0.16, y=0.16)
    if front.knee_label is None:
        axes.text(
            0.99, 0.01, front.no_knee, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color="0.35"
        )
    sns.despine(ax=axes)


def _shown(analysis: Analysis, cost: str) -> list[Point]:
    pair = ("accuracy", cost)
    return [point for point in analysis.points if point.has(pair)] if set(pair) <= set(analysis.objectives) else []


def _scale(shown: Sequence[Point], cost: str) -> _Scale:
    name, unit, factor, large_unit = _AXES[cost]
    largest = max((_cost(point, cost) for point in shown), default=0.0)
    return _Scale(name, large_unit, factor) if largest >= 10 * factor else _Scale(name, unit, 1.0)


def _cost(point: Point, cost: str) -> float:
    return point.value(cost) or 0.0


def _draw_front(axes: Any, front: Front, shown: Sequence[Point], scale: _Scale, cost: str) -> None:
    by_label = {point.label: point for point in shown}
    members = [by_label[label] for label in front.labels]
    xs = [_cost(point, cost) / scale.factor for point in members]
    ys = [point.value("accuracy") for point in members]
    # A staircase: between two configurations nothing is promised but what the cheaper one gives.
    axes.step(xs, ys, where="post", color="0.45", linewidth=1.2, linestyle="--", zorder=1)
    if front.knee_label is not None:
        knee = by_label[front.knee_label]
        x, y = _cost(knee, cost) / scale.factor, knee.value("accuracy")
        axes.plot([x], [y], "o", markersize=17, fillstyle="none", color=_colours()[3], markeredgewidth=1.6, zorder=4)


def _colours() -> list[Any]:
    return list(sns.color_palette("colorblind"))


def _style(provenance: Provenance, *, on_front: bool) -> dict[str, Any]:
    colour = _colours()[0] if on_front else _colours()[1]
    style: dict[str, Any] = {"color": colour, "markeredgecolor": colour, "linestyle": "none", "markersize": 7}
    if provenance is Provenance.SIMULATED:
        return style | {"marker": "X" if on_front else "x", "markerfacecolor": colour}
    hollow = provenance is not Provenance.MISSING and not provenance.is_measured
    shape = "D" if provenance is Provenance.MISSING else "o" if on_front else "s"
    return style | {"marker": shape, "markerfacecolor": "white" if hollow else colour}


def _kind(point: Point, cost: str) -> Provenance:
    """What a point is marked as: its energy's kind, unless its time is simulated. An energy alone marks no time so."""
    if point.time_provenance == "simulated":
        return Provenance.SIMULATED
    if cost == "time_s" and point.provenance is Provenance.SIMULATED:
        return Provenance.COUNTER
    return point.provenance


def _draw_point(axes: Any, point: Point, scale: _Scale, cost: str, *, on_front: bool) -> None:
    spread = point.time_sd_s if cost == "time_s" else point.energy_err_j
    axes.errorbar(
        [_cost(point, cost) / scale.factor],
        [point.value("accuracy")],
        xerr=None if spread is None else [spread / scale.factor],
        yerr=None if point.accuracy_sd is None else [point.accuracy_sd],
        elinewidth=0.9,
        capsize=2,
        zorder=3,
        **_style(_kind(point, cost), on_front=on_front),
    )


def _annotate(axes: Any, analysis: Analysis, cost: str) -> None:
    """Label each point where its text covers least: neither another label nor a mark."""
    shown = _shown(analysis, cost)
    if not shown:
        return
    renderer, scale = axes.figure.canvas.get_renderer(), _scale(shown, cost)
    places = [(_cost(point, cost) / scale.factor, point.value("accuracy")) for point in shown]
    marks = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in axes.transData.transform(places)]
    taken: list[Any] = list(marks)
    for point, place in zip(shown, places, strict=True):
        note = axes.annotate(point.label, place, textcoords="offset points", xytext=_OFFSETS[0], fontsize=7.5, zorder=5)
        note.set_bbox(_HALO)
        note.set_in_layout(False)  # or a long label would squeeze the panels when the figure is saved
        costs = []
        for offset in _OFFSETS:
            _move(note, offset)
            costs.append(_overlap(note.get_window_extent(renderer), taken, axes.bbox))
        chosen = _OFFSETS[costs.index(min(costs))]
        _move(note, chosen)
        if abs(chosen[1]) > 12:  # far enough to be taken for another point's
            axes.annotate("", place, textcoords="offset points", xytext=chosen, arrowprops=_LEADER, zorder=2)
        taken.append(note.get_window_extent(renderer))


def _move(note: Any, offset: tuple[int, int]) -> None:
    note.xyann = offset
    note.set_horizontalalignment("left" if offset[0] > 0 else "right")


def _overlap(box: Any, taken: Sequence[Any], inside: Any) -> float:
    """Pixels squared that a label would cover, or that would stick out of the panel."""
    shared = [Bbox.intersection(box, other) for other in taken]
    covered = sum(common.width * common.height for common in shared if common is not None)
    visible = Bbox.intersection(box, inside)
    return float(covered + box.width * box.height - (visible.width * visible.height if visible is not None else 0.0))


_MEANINGS = (
    (Provenance.COUNTER, "measured"),
    (Provenance.ESTIMATED, "estimated energy"),
    (Provenance.SIMULATED, "simulated"),
    (Provenance.MISSING, "energy missing"),
)


def _legend(analysis: Analysis) -> list[Line2D]:
    drawn = [_kind(point, cost) for cost in _AXES for point in _shown(analysis, cost)]
    kinds = {Provenance.COUNTER if kind.is_measured else kind for kind in drawn}
    present = [(kind, meaning) for kind, meaning in _MEANINGS if kind in kinds]
    entries = [
        Line2D([], [], label=f"on the front, {meaning}", **_style(kind, on_front=True)) for kind, meaning in present
    ]
    entries += [
        Line2D([], [], label=f"dominated, {meaning}", **_style(kind, on_front=False)) for kind, meaning in present
    ]
    ring = {"marker": "o", "markersize": 13, "fillstyle": "none", "linestyle": "none", "color": _colours()[3]}
    entries.append(Line2D([], [], color="0.45", linestyle="--", label="front"))
    entries.append(Line2D([], [], label="knee", **ring))
    return entries

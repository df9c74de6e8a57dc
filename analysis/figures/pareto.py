"""Accuracy against time and against energy, with their fronts and knees.

Filled marks are measured energies, hollow ones estimated; crosses are simulated, the time of a simulated run like its
energy. Colours are safe for colour-blind eyes and the marks differ in grey print too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Affine2D

from analysis.configurations import Point
from analysis.figures import choice
from analysis.figures.drawing import Material, Picture, canvas, nothing, slug, styled
from analysis.figures.labels import Box, around, places
from analysis.files import write_atomically
from analysis.pareto import Analysis, Front, analyse
from analysis.pareto_sentences import of_resolution
from analysis.resolution import MEASURED
from profiler.quantities import Provenance

_AXES = {"time_s": ("time", "s", 60.0, "min"), "energy_j": ("energy", "J", 1000.0, "kJ")}
_LABEL_POINTS = 7.5
_LEADER = {"color": "0.55", "linewidth": 0.7, "zorder": 2}
# In points:
_FAR = 7.0  # far enough for a label to be taken for another point's
_MARK, _RING = 8.0, 18.0
_ROOM = 1.5  # around the text of a label


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
    analyses = {
        workload: analyse([shown.task for shown in members], resolution=MEASURED) for workload, members in tasks.items()
    }
    pictures = [_picture(workload, found) for workload, found in analyses.items() if any(f.labels for f in found.pairs)]
    if not pictures:
        raise nothing("fronts", "no configuration has an accuracy and a cost")
    return pictures


def _picture(workload: str, analysis: Analysis) -> Picture:
    caption = " ".join(
        ["The front is what no other configuration beats on both axes.", *of_resolution(analysis), *analysis.notes[:4]]
    )
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
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # so that positions on the paper mean something from here on
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
    """Label each point where there is room, those on the front first; the title counts the labels without any."""
    front = next((front for front in analysis.pairs if front.objectives[1] == cost), None)
    if front is None:
        return
    axes.autoscale(enable=False)  # places are on the paper, with the axes as they are
    shown = sorted(_shown(analysis, cost), key=lambda point: point.label not in front.labels)
    paper, scale = _paper(axes), _scale(shown, cost)
    middles = [
        _pair(paper.transform((_cost(point, cost) / scale.factor, point.value("accuracy") or 0.0))) for point in shown
    ]
    found = places(
        middles,
        [_size(axes, point.label) for point in shown],
        [
            around(*middle, _RING if point.label == front.knee_label else _MARK)
            for middle, point in zip(middles, shown, strict=True)
        ],
        _lines(axes),
        Box(*(axes.bbox.extents * _points_a_pixel(axes))),
    )
    for point, box, middle in zip(shown, found, middles, strict=True):
        if box is not None:
            _put(axes, point.label, box, middle)
    if n_without := found.count(None):
        axes.set_title(f"{axes.get_title(loc='left')} ({n_without} labels do not fit)")


def _points_a_pixel(axes: Any) -> float:
    return 72.0 / float(axes.figure.dpi)


def _paper(axes: Any) -> Any:
    """From data to points on the paper, from its left lower corner."""
    return axes.transData + Affine2D().scale(_points_a_pixel(axes))


def _pair(values: Any) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _size(axes: Any, text: str) -> tuple[float, float]:
    note = axes.text(0, 0, text, fontsize=_LABEL_POINTS)
    extent = note.get_window_extent(axes.figure.canvas.get_renderer())
    note.remove()
    each = _points_a_pixel(axes)
    return extent.width * each + 2 * _ROOM, extent.height * each + 2 * _ROOM


def _put(axes: Any, label: str, box: Box, middle: tuple[float, float]) -> None:
    corner, near = (box.x0 + _ROOM, box.y0 + _ROOM), box.nearest(*middle)
    xs, ys = _paper(axes).inverted().transform([corner, near, middle]).T
    note = axes.text(xs[0], ys[0], label, fontsize=_LABEL_POINTS, zorder=5, bbox=_HALO, ha="left", va="bottom")
    note.set_in_layout(False)  # or a long label would squeeze the panels when the figure is saved
    if max(abs(near[0] - middle[0]), abs(near[1] - middle[1])) > _FAR:
        axes.plot(xs[1:], ys[1:], **_LEADER)


def _lines(axes: Any) -> list[Box]:
    """The pieces of fronts and error bars, as boxes: they are upright or level, so that their boxes are thin."""
    drawn = [(line.get_transform(), line.get_path().vertices) for line in axes.lines if line.get_linestyle() != "None"]
    drawn += [(bars.get_transform(), piece) for bars in axes.collections for piece in bars.get_segments()]
    to_points = _points_a_pixel(axes)
    return [
        Box(*(np.minimum(start, end) - 0.4), *(np.maximum(start, end) + 0.4))
        for transform, piece in drawn
        for start, end in itertools.pairwise(transform.transform(piece) * to_points)
    ]


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

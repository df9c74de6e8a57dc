"""A new board's steps as it warms up: does heat slow it down, and had the calibration seen enough of it?

Reads of a file of `harness.calibrate` what it draws: for each of its points a trace of mean step times, and the curve
a + b (1 - exp(-t / k)) by which the calibration continues them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.cli import printable
from analysis.figures.drawing import Material, Picture, canvas, nothing, shortened, slug, styled
from profiler.calibrations import Point, load_calibration

_MAX_FILES = 8
_MAX_PANELS = 4
_MIN_TRACE = 2
_CLOCKS = {"system": "measured", "simulated": "simulated"}


def draw(material: Material) -> list[Picture]:
    """One picture a calibration file."""
    if not material.calibrations:
        raise nothing("calibrations", "no file of harness.calibrate was given with --calibration")
    return [_picture(path) for path in material.calibrations[:_MAX_FILES]]


def _picture(path: Path) -> Picture:
    """Raises SpecError on anything but a calibration, ResultsError where it has nothing to be drawn."""
    read = load_calibration(path)
    points = [point for point in read.points if len(point.trace) >= _MIN_TRACE][:_MAX_PANELS]
    if not points:
        raise nothing("steps", f"no point of {path} has a trace of them")
    with styled():
        figure = canvas(8.0, 0.5 + 2.5 * len(points))
        panels = figure.subplots(len(points), 1, squeeze=False)[:, 0]
        for axes, point in zip(panels, points, strict=True):
            _draw(axes, printable(read.device), point)
        panels[-1].set_xlabel(f"{'simulated ' if read.is_simulated else ''}time since training began (s)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return Picture(
        f"calibration-{slug(path.stem)}",
        f"Steps of {printable(read.device)[:60]} as it warms up",
        f"Mean step times of a calibration, {_CLOCKS[read.clock]}, and the curve that continues them. {_said(points)}",
        figure,
    )


def _draw(axes: Any, device: str, point: Point) -> None:
    times_s, steps_s = zip(*sorted(point.trace), strict=True)
    until_s = np.linspace(0.0, times_s[-1] * 1.25, 200).tolist()
    axes.plot(times_s, steps_s, "o", color="#0072B2", markersize=3, label="mean of some steps")
    fitted = [point.curve.step_s(time_s) for time_s in until_s]
    axes.plot(until_s, fitted, color="#D55E00", linewidth=1.4, label="fitted, and continued")
    axes.axhline(point.curve.first_s, color="0.4", linestyle="--", linewidth=1, label="while cool, by the fit")
    low_s, high_s = min(*steps_s, *fitted), max(*steps_s, *fitted)
    margin_s = max(0.15 * (high_s - low_s), 0.02 * high_s)
    axes.set(ylabel="step (s)", xlim=(0, until_s[-1]), ylim=(max(0.0, low_s - margin_s), high_s + margin_s))
    found = "slows down" if point.is_throttled else "no slowing down found"
    axes.set_title(f"{shortened(device, 30)}, {shortened(_name(point), 60)}: {found}")


def _name(point: Point) -> str:
    return f"{printable(point.workload)}, batch {point.batch_size}"


def _said(points: Sequence[Point]) -> str:
    return " ".join(
        f"{_name(point)}: heat adds {100 * point.curve.added_s / point.curve.first_s:.1f} % in the end, with a time "
        f"constant of {point.curve.constant_s:.0f} s."
        for point in points
        if point.is_throttled
    )

"""A new board's steps as it warms up: does heat slow it down, and had the calibration seen enough of it?

Reads of a file of `harness.calibrate` what it draws: for each of its points a trace of mean step times, and the curve
a + b (1 - exp(-t / k)) by which the calibration continues them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from analysis.cli import printable
from analysis.figures.drawing import Material, Picture, canvas, nothing, shortened, slug, styled
from analysis.load import read_json
from profiler.errors import ResultsError

_MAX_FILES = 8
_MAX_PANELS = 4
_MAX_TRACE = 10_000
_CLOCKS = {"system": "measured", "simulated": "simulated"}


@dataclass(frozen=True, slots=True)
class Course:
    """How one workload's steps went: `steps_s` about `times_s` since training began, and the fitted curve a, b, k."""

    name: str
    times_s: tuple[float, ...]
    steps_s: tuple[float, ...]
    curve: tuple[float, float, float]
    is_throttled: bool

    def predicted_s(self, time_s: float) -> float:
        first_s, added_s, constant_s = self.curve
        return first_s - added_s * math.expm1(-time_s / constant_s)


def draw(material: Material) -> list[Picture]:
    """One picture a calibration file."""
    if not material.calibrations:
        raise nothing("calibrations", "no file of harness.calibrate was given with --calibration")
    return [_picture(path) for path in material.calibrations[:_MAX_FILES]]


def read_courses(path: Path) -> tuple[str, str, list[Course]]:
    """Device, origin of its times and the courses of a file. Raises ResultsError on anything but a calibration."""
    document = read_json(path)
    clock, points = document.get("clock"), document.get("points")
    if not isinstance(points, list) or not points or clock not in _CLOCKS:
        raise _refused(path, "it has no 'points', or no 'clock' that is known")
    device = printable(str(document.get("device") or path.stem))[:60]
    try:
        courses = [_course(point) for point in points[:_MAX_PANELS]]
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(path, f"a point of it cannot be read: {error!r:.80}") from None
    return device, _CLOCKS[str(clock)], courses


def _course(point: Mapping[str, Any]) -> Course:
    trace, curve = point["trace"], point["curve"]
    if not 2 <= len(trace) <= _MAX_TRACE:
        raise ValueError(f"a trace of {len(trace)} pairs")
    times_s, steps_s = zip(*((_positive(time_s), _positive(step_s)) for time_s, step_s in trace), strict=True)
    if any(after < before for before, after in pairwise(times_s)):
        raise ValueError("a trace that is not in order of time")
    first_s, constant_s = _positive(curve["first_s"]), _positive(curve["constant_s"])
    name = f"{printable(str(point['workload']))[:40]}, batch {printable(str(point['batch_size']))[:12]}"
    added_s = _positive(curve["added_s"])
    return Course(name, times_s, steps_s, (first_s, added_s, constant_s or 1.0), point.get("is_throttled") is True)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r:.20} is no number from 0")
    return float(value)


def _refused(path: Path, problem: str) -> ResultsError:
    return ResultsError(f"{path}: {problem}.", remedy="Write one with: python -m harness.calibrate -o FILE")


def _picture(path: Path) -> Picture:
    device, kind, courses = read_courses(path)
    with styled():
        figure = canvas(8.0, 0.5 + 2.5 * len(courses))
        panels = figure.subplots(len(courses), 1, squeeze=False)[:, 0]
        for axes, course in zip(panels, courses, strict=True):
            _draw(axes, device, course)
        panels[-1].set_xlabel(f"{'simulated ' if kind == 'simulated' else ''}time since training began (s)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return Picture(
        f"calibration-{slug(path.stem)}",
        f"Steps of {device} as it warms up",
        f"Mean step times of a calibration, {kind}, and the curve that continues them. {_said(courses)}",
        figure,
    )


def _draw(axes: Any, device: str, course: Course) -> None:
    until_s = np.linspace(0.0, course.times_s[-1] * 1.25, 200).tolist()
    axes.plot(course.times_s, course.steps_s, "o", color="#0072B2", markersize=3, label="mean of some steps")
    fitted = [course.predicted_s(time_s) for time_s in until_s]
    axes.plot(until_s, fitted, color="#D55E00", linewidth=1.4, label="fitted, and continued")
    axes.axhline(course.curve[0], color="0.4", linestyle="--", linewidth=1, label="while cool, by the fit")
    low_s, high_s = min(*course.steps_s, *fitted), max(*course.steps_s, *fitted)
    margin_s = max(0.15 * (high_s - low_s), 0.02 * high_s)
    axes.set(ylabel="step (s)", xlim=(0, until_s[-1]), ylim=(max(0.0, low_s - margin_s), high_s + margin_s))
    found = "slows down" if course.is_throttled else "no slowing down found"
    axes.set_title(f"{shortened(device, 30)}, {shortened(course.name, 60)}: {found}")


def _said(courses: Sequence[Course]) -> str:
    slowed = [course for course in courses if course.is_throttled]
    return " ".join(
        f"{course.name}: heat adds {100 * course.curve[1] / course.curve[0]:.1f} % in the end, with a time constant of "
        f"{course.curve[2]:.0f} s."
        for course in slowed
        if course.curve[0] > 0
    )

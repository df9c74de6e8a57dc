"""A new board's steps as it warms up: does it slow down for heat, and had the calibration seen enough of it?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.cli import printable
from analysis.figures.drawing import MAX_POINTS, Material, Picture, canvas, nothing, styled
from analysis.load import read_json
from profiler.errors import ResultsError

MAX_STEPS = 2_000_000
_MAX_PICTURES = 8


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a calibration in order: `ends_s` since its start and `durations_s`, float64[n], n at least 2."""

    device: str
    workload: str
    is_simulated: bool
    ends_s: npt.NDArray[np.float64]
    durations_s: npt.NDArray[np.float64]


def draw(material: Material) -> list[Picture]:
    """One picture a calibration file."""
    if not material.calibrations:
        raise nothing("calibrations", "no file of harness.calibrate is given; name one with --calibration")
    paths = material.calibrations[:_MAX_PICTURES]
    return [_picture(read_steps(path), number) for number, path in enumerate(paths)]


def read_steps(path: Path) -> Steps:
    """The steps of a calibration file, `step_s` with `step_end_s`. Raises ResultsError where they are not there."""
    document = read_json(path)
    durations_s, ends_s = (_numbers(path, document, key) for key in ("step_s", "step_end_s"))
    if durations_s.size != ends_s.size or durations_s.size < 2 or (np.diff(ends_s) < 0).any():
        raise _refused(path, "'step_end_s' must have a time for each of 2 or more 'step_s', in order")
    return Steps(
        device=_text(document, "device", path.stem),
        workload=_text(document, "workload", "workload not named"),
        is_simulated=document.get("clock") == "simulated",
        ends_s=ends_s,
        durations_s=durations_s,
    )


def _numbers(path: Path, document: Mapping[str, Any], key: str) -> npt.NDArray[np.float64]:
    values = document.get(key)
    if not isinstance(values, list) or len(values) > MAX_STEPS or not all(map(_is_duration, values)):
        raise _refused(path, f"{key!r} must be a list of at most {MAX_STEPS} numbers, none below 0")
    return np.array(values, dtype=np.float64)


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _refused(path: Path, problem: str) -> ResultsError:
    return ResultsError(f"{path}: {problem}.", remedy="Write it anew with `python -m harness.calibrate`.")


def _text(document: Mapping[str, Any], key: str, otherwise: str) -> str:
    return printable(str(document.get(key) or otherwise))[:60]


def _picture(steps: Steps, number: int) -> Picture:
    kind = "simulated" if steps.is_simulated else "measured"
    edges = np.unique(np.linspace(0, steps.durations_s.size, min(steps.durations_s.size, MAX_POINTS // 6) + 1).round())
    groups = np.split(np.arange(steps.durations_s.size), edges[1:-1].astype(int))
    ends_s = [float(steps.ends_s[group[-1]]) for group in groups]
    medians_s = [float(np.median(steps.durations_s[group])) for group in groups]
    low_s, high_s = (
        [float(np.quantile(steps.durations_s[group], quantile)) for group in groups] for quantile in (0.05, 0.95)
    )
    with styled():
        figure = canvas(8.0, 3.4)
        axes = figure.subplots()
        axes.fill_between(ends_s, low_s, high_s, color="#56B4E9", alpha=0.45, linewidth=0, label="5 % to 95 % of steps")
        axes.plot(ends_s, medians_s, color="#0072B2", linewidth=1.4, label="median step")
        axes.axhline(
            medians_s[0],
            color="0.35",
            linestyle="--",
            linewidth=1,
            label="median of the first steps: no throttling yet",
        )
        simulated = "simulated " if steps.is_simulated else ""
        axes.set(xlabel=f"{simulated}time since calibration began (s)", ylabel="step (s)", ylim=(0, None))
        axes.set_title(f"{steps.device}, {steps.workload}: {steps.durations_s.size} steps, {kind}")
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return Picture(
        f"calibration-{number}",
        f"Steps of a new board over time: {steps.device}",
        f"Step times of a calibration, {kind}: last stretch's median over the first's is "
        f"{medians_s[-1] / medians_s[0]:.3f}."
        if medians_s[0]
        else "Step times of a calibration.",
        figure,
    )

"""What is drawn of a calibration, and that a hostile one is refused with its name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.figures.calibration import draw, read_courses
from analysis.figures.drawing import Material
from analysis.load import load
from profiler.errors import ResultsError
from tests.fixtures.results_folder import RunFolder, Task

CALIBRATION: dict[str, Any] = {
    "schema": 1,
    "device": "new board",
    "clock": "simulated",
    "points": [
        {
            "workload": "digits",
            "batch_size": 16,
            "is_throttled": True,
            "curve": {"first_s": 0.1, "added_s": 0.025, "constant_s": 300.0},
            "trace": [[10.0 * n, 0.1 + 0.0001 * n] for n in range(1, 30)],
        }
    ],
}


def write(path: Path, change: Callable[[dict[str, Any]], object] = lambda document: None) -> Path:
    document = copy.deepcopy(CALIBRATION)
    change(document)
    path.write_text(json.dumps(document))
    return path


def test_the_curve_starts_cool_and_ends_with_all_that_heat_adds(tmp_path: Path) -> None:
    device, kind, (course,) = read_courses(write(tmp_path / "new.json"))
    assert (device, kind) == ("new board", "simulated")
    assert course.predicted_s(0.0) == 0.1
    assert course.predicted_s(300.0) == pytest.approx(0.1 + 0.025 * 0.6321205588)
    assert course.predicted_s(1e6) == pytest.approx(0.125)


def test_a_picture_says_what_heat_adds_and_that_it_is_simulated(tmp_path: Path) -> None:
    RunFolder(tmp_path / "results").write([Task("t")])
    results = load([tmp_path / "results"])
    (picture,) = draw(Material(results, (write(tmp_path / "new.json"),)))
    assert "heat adds 25.0 % in the end, with a time constant of 300 s" in picture.caption
    svg = picture.encoded("svg").decode()
    assert "simulated time since training began (s)" in svg
    assert "slows down" in svg
    with pytest.raises(ResultsError, match="no file of harness"):
        draw(Material(results))


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(points=[]),
        lambda document: document.update(points="many"),
        lambda document: document.update(clock="sundial"),
        lambda document: document["points"][0].pop("trace"),
        lambda document: document["points"][0].update(trace=[[1.0, 2.0]]),
        lambda document: document["points"][0].update(trace=[[1.0, 2.0]] * 20_000),
        lambda document: document["points"][0].update(trace=[[2.0, 0.1], [1.0, 0.1]]),
        lambda document: document["points"][0].update(trace=[[1.0, -0.1], [2.0, 0.1]]),
        lambda document: document["points"][0].update(trace=[[1.0, "x"], [2.0, 0.1]]),
        lambda document: document["points"][0].update(curve=None),
        lambda document: document["points"].insert(0, 7),
    ],
)
def test_a_damaged_calibration_is_refused_by_name(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(ResultsError, match=r"new\.json"):
        read_courses(write(tmp_path / "new.json", change))

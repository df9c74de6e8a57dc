"""What is drawn of a calibration, and that a hostile one is refused with its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.figures.calibration import draw
from analysis.figures.drawing import Material
from profiler.calibrations import Calibration, StepCurve
from profiler.errors import ResultsError, SpecError
from tests.fixtures.calibrations import calibration, point
from tests.fixtures.results_folder import RunFolder, Task

HOT = point(
    curve=StepCurve(0.1, 0.025, 300.0),
    is_throttled=True,
    trace=tuple((10.0 * n, 0.1 + 0.0001 * n) for n in range(1, 30)),
)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    RunFolder(tmp_path / "results").write([Task("t")])
    return tmp_path / "results"


def write(folder: Path, made: Calibration) -> Path:
    path = folder / "new.json"
    path.write_text(made.as_json())
    return path


def test_the_curve_starts_cool_and_ends_with_all_that_heat_adds() -> None:
    assert HOT.curve.step_s(0.0) == 0.1
    assert HOT.curve.step_s(300.0) == pytest.approx(0.1 + 0.025 * 0.6321205588)
    assert HOT.curve.step_s(1e6) == pytest.approx(0.125)


def test_a_picture_says_what_heat_adds(results: Path, tmp_path: Path) -> None:
    (picture,) = draw(Material.of([results], (write(tmp_path, calibration(HOT, point())),)))
    assert picture.caption.startswith("Mean step times of a calibration, measured,")
    assert "heat adds 25.0 % in the end, with a time constant of 300 s" in picture.caption
    svg = picture.encoded("svg").decode()
    assert all(words in svg for words in ("slows down", "no slowing down found", "time since training began (s)"))
    assert "simulated time" not in svg
    with pytest.raises(ResultsError, match="no file of harness"):
        draw(Material.of([results]))


def test_a_picture_says_that_it_is_simulated(results: Path, tmp_path: Path) -> None:
    document: Any = json.loads(calibration(HOT).as_json())
    document["clock"] = "simulated"
    for power in (document["idle"], document["points"][0]["power"]):
        power["provenance"] = "simulated"
    path = tmp_path / "new.json"
    path.write_text(json.dumps(document))
    (picture,) = draw(Material.of([results], (path,)))
    assert "simulated" in picture.caption
    assert "simulated time since training began (s)" in picture.encoded("svg").decode()


def test_points_without_a_trace_are_left_out(results: Path, tmp_path: Path) -> None:
    (picture,) = draw(Material.of([results], (write(tmp_path, calibration(point(trace=()), HOT)),)))
    assert "slows down" in picture.encoded("svg").decode()
    with pytest.raises(ResultsError, match=r"new\.json has a trace"):
        draw(Material.of([results], (write(tmp_path, calibration(point(trace=()))),)))


def test_a_damaged_calibration_is_refused_by_name(results: Path, tmp_path: Path) -> None:
    path = write(tmp_path, calibration())
    path.write_text(path.read_text().replace("digits", ""))
    with pytest.raises(SpecError, match=r"new\.json"):
        draw(Material.of([results], (path,)))

"""Calibration files: what is written is read, and whatever a hostile file says is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.calibrations import MAX_FILE_BYTES, StepCurve, load_calibration, read_calibration
from profiler.errors import SpecError
from tests.fixtures.calibrations import calibration, point

CURVES = st.builds(StepCurve, st.floats(1e-9, 1e6), st.floats(0, 1e6), st.floats(1e-3, 1e6))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = calibration(point(), point(batch_size=32, options={"width": 16}, throttling="cpu_core_heat"))
    path = tmp_path / "board.json"
    path.write_text(made.as_json())
    assert load_calibration(path) == made


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = content
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("schema", 2), "schema 2"),
        (_set("surprise", 1), "unknown key 'surprise'"),
        (_set("points", []), "'points' is empty"),
        (_set("points", [{}] * 300), "more than 256"),
        (_set("points.0.step_s", 0), "'step_s' must be from"),
        (_set("points.0.step_s", math.nan), "'step_s' must be from"),
        (_set("points.0.step_s", 1e300), "'step_s' must be from"),
        (_set("points.0.step_s", "fast"), "'step_s' must be a number"),
        (_set("points.0.batch_size", True), "'batch_size' must be a whole number"),
        (_set("points.0.batch_size", 0), "'batch_size' must be from 1"),
        (_set("points.0.curve.first_s", -1), "'first_s' must be from"),
        (_set("points.0.replicates", [{}] * 500), "more than 400"),
        (_set("points.0.trace", [[0.0, 1.0]] * 500), "more than 400"),
        (_set("points.0.trace", [[0.0]]), "two numbers"),
        (_set("points.0.options", {"width": [1]}), "must be text, a finite number"),
        (_set("points.0.power.power_w", None), "exactly when provenance is missing"),
        (_set("points.0.power.power_w", math.inf), "'power_w' must be from"),
        (_set("points.0.power.provenance", "guessed"), "must be one of counter"),
        (_set("points.0.power.provenance", "simulated"), "mixed"),
        (_set("points.0.stopped_by", "boredom"), "must be one of steady"),
        (_set("clock", "simulated"), "power that is not simulated"),
        (_set("device", "\x1b[2Jboard"), "printable"),
        (_set("device", "b" * 1000), "printable"),
        (_set("device", " "), "empty"),
        (_set("facts", {str(n): n for n in range(500)}), "more than 400"),
    ],
)
def test_a_hostile_file_is_refused_by_name(change: Callable[[dict[str, Any]], None], said: str) -> None:
    content = json.loads(calibration(point()).as_json())
    change(content)
    with pytest.raises(SpecError, match=said) as refused:
        read_calibration(json.dumps(content).encode(), "board.json")
    assert "board.json" in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"schema": ' + b"9" * 5000 + b"}"])
def test_what_is_no_calibration_is_refused(data: bytes) -> None:
    with pytest.raises(SpecError, match="board"):
        read_calibration(data, "board")


def test_a_file_that_is_too_large_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b" " * (MAX_FILE_BYTES + 1))
    with pytest.raises(SpecError, match="larger than"):
        load_calibration(tmp_path / "large")
    with pytest.raises(SpecError, match="cannot be read"):
        load_calibration(tmp_path / "missing")


@given(CURVES, st.floats(0, 1e7))
def test_a_mean_step_lies_between_the_first_and_the_last(curve: StepCurve, horizon_s: float) -> None:
    mean_s = curve.mean_s(horizon_s)
    last_s = curve.first_s + curve.added_s
    assert curve.first_s * (1 - 1e-9) <= mean_s <= last_s * (1 + 1e-9)


def test_the_mean_step_is_what_counting_steps_gives() -> None:
    curve, horizon_s = StepCurve(0.1, 0.025, 300.0), 1200.0
    at_s, n_steps = 0.0, 0
    while at_s < horizon_s:
        at_s += 0.1 + 0.025 * (1 - np.exp(-at_s / 300))
        n_steps += 1
    assert curve.mean_s(horizon_s) == pytest.approx(at_s / n_steps, rel=1e-4)
    assert StepCurve(0.1).mean_s(horizon_s) == 0.1

"""Runs that are followed: in simulated time, and without training. Being looked at changes nothing in their records."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.harness import test_cost_only
from tests.harness.running import environment, module, wait_until
from tests.harness.test_simulated import records, run, without_wall_times, write


def follow(folder: Path, *arguments: object) -> dict[str, Any]:
    """Runs the command with a page, and looks at it until the run is over: its last state."""
    fixed = ("fleet.toml", "--experiment", "experiment.toml", "-o", "followed", "--live", "127.0.0.1:0")
    process = subprocess.Popen(
        module("harness.run", *fixed, *arguments), cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        address = process.stderr.readline().removeprefix("live: ").strip()

        def last_look() -> dict[str, Any] | None:
            with urlopen(f"{address}state", timeout=20) as answer:
                state: dict[str, Any] = json.load(answer)
            return state if state["run"]["is_over"] else None

        state: dict[str, Any] = wait_until(last_look)
        process.communicate(timeout=60)
        assert process.returncode == 0
        return state
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(150)
def test_a_simulation_is_the_same_whether_somebody_looks_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    assert run(tmp_path) == 0
    state = follow(tmp_path)
    assert without_wall_times(records(tmp_path, "followed")) == without_wall_times(records(tmp_path))
    assert state["run"]["simulated"]
    assert {task["status"] for task in state["tasks"]} == {"completed"}
    assert {task["energy"]["provenance"] for task in state["tasks"]} == {"simulated"}
    assert all(device["n_fits"] > 0 and device["watts_of"] == "fit" for device in state["devices"])


@pytest.mark.timeout(100)
def test_a_run_without_training_has_rounds_and_no_single_devices(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('name = "many"' + test_cost_only.FLEET.replace("COUNT", "1000"))
    (tmp_path / "experiment.toml").write_text(test_cost_only.EXPERIMENT)
    state = follow(tmp_path, "--no-training")
    assert (state["devices"], state["run"]["n_devices"]) == ([], 1000 * len(test_cost_only.POPULATION))
    assert {row["provenance"] for row in state["rounds"]} == {"simulated"}
    assert {task["rounds_done"] for task in state["tasks"]} == {3}

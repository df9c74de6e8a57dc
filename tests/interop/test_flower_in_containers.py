"""`python -m harness.run --engine flower` over a process and a container of this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from tests.fixtures.containers import containers, usable_engine, usable_image
from tests.fixtures.environments import ROOT
from tests.interop.apps import NEWEST
from tests.interop.engines import (
    EXPERIMENT,
    ON_NODES,
    Harness,
    assert_cutoffs_obeyed,
    below,
    python_of,
    rows_of,
    until_gone,
    until_round,
)

pytestmark = [
    pytest.mark.serial,
    pytest.mark.timeout(500),
    pytest.mark.skipif(os.environ.get("FEDMETER_INTEROP") != "full", reason="make interop"),
]

_INSIDE = "/opt/flower"  # the names of the environments here are none for an engine


def boxed(folder: Path) -> Harness:
    """The fast device is a process, the slow one a container, in which the interpreter of that Flower is mounted."""
    python = python_of(NEWEST)
    image = usable_image()
    options = {**image, "python": f"{_INSIDE}/bin/python", "cpu_limit": 0.9}
    options["mounts"] = [*image["mounts"], f"{python.parents[1]}:{_INSIDE}:ro"]
    entry = "\n".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    fleet = f"""
    name = "boxed"
    [[device]]
    id = "fast"
    processor = "fast-cpu"
    [[device]]
    id = "slow"
    processor = "slow-cpu"
    launcher = "container"
    environment = {{ PYTHONPATH = "{ROOT}" }}
    {entry}
    """
    return Harness(python, folder, fleet, EXPERIMENT)


def test_a_fleet_of_a_process_and_a_container(tmp_path: Path) -> None:
    before = containers(usable_engine())
    harness = boxed(tmp_path)
    harness.run("--engine", ON_NODES)
    [run] = harness.results.iterdir()
    assert_cutoffs_obeyed(run)
    assert not rows_of(run, kind="failure")
    fits = rows_of(run, kind="span", name="fit")
    each_task = [("fast", 1), ("fast", 2), ("slow", 1), ("slow", 2)]
    assert sorted((row["device"], row["round"]) for row in fits) == sorted(each_task * 2)
    assert {row["device"] for row in rows_of(run, kind="idle")} == {"host"}, "both by the host's meter"
    assert {row.get("energy_scope", "process") for row in fits} == {"process"}
    assert json.loads((run / "devices" / "slow.json").read_text())["launcher"] == "container"
    assert containers(usable_engine()) == before


def test_a_harness_that_is_killed_leaves_no_container_running(tmp_path: Path) -> None:
    engine = usable_engine()
    harness = boxed(tmp_path)
    with harness.running("--engine", ON_NODES, "--rounds", 1000) as process:
        run = until_round(harness, process)
        slow = json.loads((run / "devices" / "slow.json").read_text())
        known = [*below(process), *psutil.Process(slow["pid"]).children(recursive=True)]
        process.kill()
        until_gone(known)
    state = engine.container(slow["container"]) or {}
    assert not state.get("State", {}).get("Running")
    engine.remove(slow["container"])

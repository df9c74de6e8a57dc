"""What known devices take for a step: from results, real and simulated, from the literature and from profiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.known_devices import (
    PROFILE_BATCH,
    Configuration,
    configurations,
    from_profiles,
    from_published,
    from_results,
    planned_steps,
)
from analysis.load import SIMULATED, SYSTEM, load
from analysis.windows import Group
from profiler.devices import known_devices
from profiler.published import published
from tests.fixtures.results_folder import Client, RunFolder, Task


def folder(tmp_path: Path, *tasks: Task, clock: str | None = None) -> Path:
    return RunFolder(tmp_path, clock=clock).write(list(tasks))


def fits(processor: str, *windows_s: float) -> list[Client]:
    return [Client(f"d{n}", processor, window_s, 0.0, [0.1] * 10) for n, window_s in enumerate(windows_s)]


def test_a_step_of_the_results_is_the_median_over_whole_fits(tmp_path: Path) -> None:
    cut = Client("cut", "fast", 0.1, 0.0, [0.1], stopped_by="cutoff", steps_done=1, steps_planned=10)
    options = {"workload_options": {"width": 16}}
    task = Task("t", epochs=2, fits=[*fits("fast", 1.0, 2.0, 9.0), cut], extra=options)
    results = load([folder(tmp_path, task)])
    (fast,) = from_results(results)
    wanted = Configuration("digits", 16, '{"width": 16}')
    assert (fast.name, fast.clock) == ("fast", SYSTEM)
    assert fast.step_s == {wanted: pytest.approx(0.2)}
    group = Group("digits", 2, 16, SYSTEM)
    assert planned_steps(results) == {group: 10}
    assert configurations(results) == {group: [wanted]}


def test_a_simulated_run_counts_the_steps_of_the_workload_whose_costs_it_takes(tmp_path: Path) -> None:
    simulation = {"costs_of": "cifar10-resnet18", "steps_per_epoch": 157}
    extra = {"simulation": simulation, "workload_options": {"hidden": 32}}
    results = load([folder(tmp_path, Task("t", epochs=2, fits=fits("tx2", 31.4), extra=extra), clock=SIMULATED)])
    (tx2,) = from_results(results)
    wanted = Configuration("cifar10-resnet18", PROFILE_BATCH)
    assert tx2.clock == SIMULATED
    assert tx2.step_s == {wanted: pytest.approx(0.1)}
    assert planned_steps(results) == {Group("digits", 2, 16, SIMULATED): 314}
    assert wanted.is_met_by(Configuration("cifar10-resnet18", 32))
    assert not wanted.is_met_by(Configuration("digits", 32))
    assert not Configuration("digits", 16).is_met_by(Configuration("digits", 32))


def test_the_literature_is_measured_and_a_profile_is_a_model() -> None:
    phones, profiles = from_published(published()), from_profiles(known_devices())
    assert {one.clock for one in phones} == {SYSTEM}
    assert any("Nexus 6" in one.name for one in phones)
    assert not any("V100" in one.name for one in phones), "a datasheet is no measurement"
    assert {one.clock for one in profiles} == {SIMULATED}
    (tx2,) = [one for one in profiles if one.name == "Jetson TX2, CPU"]
    assert tx2.step_s[Configuration("cifar10-resnet18", 32)] == pytest.approx(0.0962177)

"""What makes two tasks the same configuration, and how replicates become one point."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.configurations import Point, cutoff_text, points
from analysis.load import load, rows
from analysis.runs import runs_table
from profiler.quantities import Provenance
from tests.fixtures.results_folder import RunFolder, Task

ALL = ("accuracy", "time_s", "energy_j")


def points_of(root: Path, *runs: list[Task], objectives: tuple[str, ...] = ALL) -> list[Point]:
    for number, tasks in enumerate(runs):
        RunFolder(root, f"run-{number}").write(tasks)
    return points(rows(runs_table(load([root]))), objectives, "gross")


def parity(tau_s: float) -> dict[str, object]:
    return {"fast": {"tau_s": 0, "kind": "parity"}, "slow": {"tau_s": tau_s, "kind": "parity"}}


def fixed(tau_s: float) -> dict[str, object]:
    return {"slow": {"tau_s": tau_s, "kind": "fixed"}}


def test_seeds_and_replicates_are_aggregated(tmp_path: Path) -> None:
    [point] = points_of(
        tmp_path,
        [Task("s1", seed=1, accuracy=0.7, time_s=10), Task("s2", seed=2, accuracy=0.8, time_s=12)],
        [Task("s1", seed=1, accuracy=0.9, time_s=14)],
    )
    assert point.n == 3
    assert point.accuracy == pytest.approx(0.8)
    assert point.accuracy_sd == pytest.approx(0.1)
    assert point.time_s == pytest.approx(24)
    assert point.tasks == ("s1", "s2")
    assert point.runs == ("run-0", "run-1")
    assert point.energy_err_j == pytest.approx(2.0), "a replicate's own uncertainty, not divided by the root of n"


def test_one_replicate_has_no_spread(tmp_path: Path) -> None:
    [point] = points_of(tmp_path, [Task("t")])
    assert (point.n, point.accuracy_sd, point.time_sd_s) == (1, None, None)


def test_derived_cutoffs_do_not_split_but_fixed_ones_do(tmp_path: Path) -> None:
    made = points_of(
        tmp_path,
        [Task("a", cutoffs=parity(1.0)), Task("b", cutoffs=fixed(1.0)), Task("c")],
        [Task("a", cutoffs=parity(1.1)), Task("b", cutoffs=fixed(1.1)), Task("c", cutoffs=fixed(0.0))],
    )
    assert [(point.cutoff, point.n) for point in made] == [("1 s", 1), ("1.1 s", 1), ("none", 2), ("parity", 2)]
    assert made[-1].taus_s["slow"] == (1.0, 1.1)


def test_labels_name_what_differs_and_are_unique(tmp_path: Path) -> None:
    made = points_of(tmp_path, [Task("a", batch_size=16), Task("b", batch_size=32), Task("c", batch_size=32, epochs=5)])
    assert [point.label for point in made] == [
        "E=1, C=2, tau=none, batch_size=16",
        "E=1, C=2, tau=none, batch_size=32",
        "E=5, C=2, tau=none, batch_size=32",
    ]
    other = {"fast": {"tau_s": 2.0, "kind": "parity"}}
    twins = points_of(tmp_path / "twins", [Task("a", cutoffs=parity(1.0)), Task("b", cutoffs=other)])
    assert len({point.label for point in twins}) == 2


def test_runs_of_two_engines_are_two_configurations(tmp_path: Path) -> None:
    made = points_of(
        tmp_path, [Task("a"), Task("b", extra={"engine": "flower"}), Task("c", extra={"engine": "flower"})]
    )
    assert {(point.label, point.n) for point in made} == {
        ("E=1, C=2, tau=none, engine=fedmeter", 1),
        ("E=1, C=2, tau=none, engine=flower", 2),
    }


def test_labels_hold_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    made = points_of(tmp_path, [Task("a", processors={"\x1b[2Jx": 1}), Task("b", processors={"y": 1})])
    assert all(point.label.isprintable() for point in made)


def test_a_configuration_without_energy_says_why_and_keeps_the_rest(tmp_path: Path) -> None:
    [point] = points_of(tmp_path, [Task("t", energy_j=None)])
    assert point.energy_j is None
    assert point.energy_err_j is None
    assert point.provenance is Provenance.MISSING
    assert "no sensor" in point.missing["energy_j"]
    assert point.accuracy == pytest.approx(0.8)
    assert not point.has(ALL)
    assert point.has(("accuracy", "time_s"))


def test_a_replicate_without_energy_is_left_out_and_counted(tmp_path: Path) -> None:
    made = [Task("s1", time_s=10), Task("s2", seed=2, energy_j=None, time_s=90)]
    [point] = points_of(tmp_path, made)
    assert (point.n, point.n_left_out) == (1, 1)
    assert point.time_s == pytest.approx(20), "time and energy are of the same replicates"
    [both] = points(rows(runs_table(load([tmp_path]))), ("accuracy", "time_s"), "gross")
    assert (both.n, both.n_left_out, both.energy_j) == (2, 0, None)


def test_the_weakest_provenance_of_the_replicates_wins(tmp_path: Path) -> None:
    [point] = points_of(tmp_path, [Task("s1"), Task("s2", seed=2, provenance="simulated")])
    assert point.provenance is Provenance.SIMULATED


@pytest.mark.parametrize(
    ("cutoffs", "text"),
    [
        ({}, "none"),
        ({"a": {"tau_s": 0, "kind": "parity"}}, "none"),
        (fixed(90.0), "90 s"),
        ({**fixed(90.0), "fast": {"tau_s": 30.0, "kind": "fixed"}}, "fast: 30 s; slow: 90 s"),
        ({**fixed(90.0), "fast": {"tau_s": 0.0, "kind": "fixed"}}, "fast: none; slow: 90 s"),
    ],
)
def test_cutoff_text(cutoffs: dict[str, dict[str, object]], text: str) -> None:
    assert cutoff_text(cutoffs) == text

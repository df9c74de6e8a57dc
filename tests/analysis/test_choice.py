"""Limits: the best within them, or infeasible with what would have to give way; trajectories and targets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import pareto
from analysis.choice import Limit, choose
from analysis.configurations import Point, points
from analysis.load import load, rows
from analysis.resolution import EXACT, MEASURED
from analysis.runs import EVERY_ROUND, runs_table
from analysis.targets import to_target
from profiler.records import Row
from tests.fixtures import paper_tables
from tests.fixtures.paper_tables import CPU, runs
from tests.fixtures.results_folder import RunFolder, Task

TIME = ("accuracy", "time_s")


def table_3_cpu(root: Path) -> list[Point]:
    return points([run for run in runs(paper_tables.table_3(root)) if CPU in run["processors"]], TIME, "gross")


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Row, str]:
    code = pareto.main([*arguments, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


# Limits


@pytest.mark.parametrize(
    ("minutes", "accuracy", "tau"),
    [
        (90, None, "133.8 s"),
        (89.15, None, "133.8 s"),
        (80.34, None, "119.4 s"),
        (None, 0.66, "133.8 s"),
        (None, 0.67, "none"),
        (102, 0.63, "119.4 s"),
    ],
)
def test_the_best_of_table_3_within_limits(
    tmp_path: Path, minutes: float | None, accuracy: float | None, tau: str
) -> None:
    limits = [Limit("time_s", 60 * minutes)] if minutes is not None else []
    limits += [Limit("accuracy", accuracy)] if accuracy is not None else []
    found = choose(table_3_cpu(tmp_path), limits, EXACT)
    assert found.label is not None
    assert f"tau={tau}" in found.label


def test_infeasible_names_the_smallest_relaxation_of_each_limit(tmp_path: Path) -> None:
    found = choose(table_3_cpu(tmp_path), [Limit("time_s", 80 * 60), Limit("accuracy", 0.66)], EXACT)
    assert (found.label, found.n_feasible) == (None, 0)
    assert found.relaxations["time_s"] == pytest.approx(89.15 * 60)
    assert found.relaxations["accuracy"] is None, "no accuracy is low enough for 80 min: the fastest takes 80.34"


def test_each_of_two_limits_can_give_way(tmp_path: Path) -> None:
    found = choose(table_3_cpu(tmp_path), [Limit("time_s", 85 * 60), Limit("accuracy", 0.66)], EXACT)
    assert found.relaxations == {"time_s": pytest.approx(89.15 * 60), "accuracy": pytest.approx(0.63)}


def test_a_tie_in_accuracy_goes_to_the_cheaper(tmp_path: Path) -> None:
    RunFolder(tmp_path).write(
        [Task("a", accuracy=0.800, energy_j=10), Task("b", epochs=5, accuracy=0.801, energy_j=90)]
    )
    made = points(runs(tmp_path), ("accuracy", "energy_j"), "gross")
    limits = [Limit("energy_j", 1000.0)]
    assert choose(made, limits, EXACT).label == "E=5, C=2, tau=none"
    assert choose(made, limits, MEASURED).label == "E=1, C=2, tau=none"


def test_what_lacks_a_limited_value_is_not_judged(tmp_path: Path) -> None:
    RunFolder(tmp_path).write([Task("a", energy_j=None), Task("b", epochs=5, energy_j=900)])
    found = choose(points(runs(tmp_path), ("accuracy", "energy_j"), "gross"), [Limit("energy_j", 2000.0)], EXACT)
    assert (found.label, found.n_unknown) == ("E=5, C=2, tau=none", 1)
    none = choose(points(runs(tmp_path), ("accuracy", "energy_j"), "gross"), [Limit("energy_j", 1.0)], EXACT)
    assert none.relaxations == {"energy_j": 1800.0}


def test_limits_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = paper_tables.table_2a(tmp_path)
    code, document, _ = answer(capsys, str(folder), "--max-energy-kj", "60", "--max-time-min", "40")
    assert code == 0
    assert document["choice"]["label"].startswith("E=5")
    code, document, _ = answer(capsys, str(folder), "--max-time-min", "30", "--min-accuracy", "0.6")
    assert code == 1
    assert document["choice"]["relaxations"] == {"time_s": pytest.approx(36.83 * 60), "accuracy": pytest.approx(0.48)}
    assert pareto.main([str(folder), "--max-time-min", "30", "--min-accuracy", "0.6"]) == 1
    out = capsys.readouterr().out
    assert "Infeasible: no configuration keeps time <= 30 min, accuracy >= 0.6." in out
    assert "Feasible with time <= 36.83 min instead: E=5" in out


def test_a_choice_by_simulated_values_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path, clock="simulated").write([Task("a", provenance="simulated")])
    assert pareto.main([str(tmp_path), "--max-time-min", "9"]) == 0
    assert "tau=none (the highest accuracy of the 1 that keep them), by simulated time and simulated energy" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--min-accuracy", "80"], "--min-accuracy 80: must be a number from 0 to 1"),
        (["--max-time-min", "-1"], "--max-time-min -1"),
        (["--max-energy-kj", "nan"], "--max-energy-kj nan"),
        (["--max-energy-kj", "inf"], "--max-energy-kj inf"),
        (["--target", "90"], "--target 90"),
        (["--stop-after", "0"], "rounds count from 1"),
        (["--test-examples", "0"], "at least 1"),
        (["--test-examples", "9", "--resolution", "accuracy=0.1"], "contradict"),
        (["--resolution", "accuracy=2"], "less than 1"),
        (["--trajectories", "--stop-after", "3"], "not allowed with"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    code, _, err = answer(capsys, str(tmp_path / "never read"), *arguments)
    assert code == 2
    assert says in err


# The command line's resolution


def test_the_resolution_is_shown_and_settable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write([Task("a", accuracy=0.800), Task("b", epochs=5, accuracy=0.801, time_s=30)])
    _, document, _ = answer(capsys, str(tmp_path))
    assert document["resolution"] == {"accuracy": 0.005, "time_s": 0.01, "energy_j": 0.02}
    assert [point["on_front"] for point in document["points"]] == [True, False]
    _, document, _ = answer(capsys, str(tmp_path), "--resolution", "accuracy=0,time_s=0,energy_j=0")
    assert [point["on_front"] for point in document["points"]] == [True, True]
    _, document, _ = answer(capsys, str(tmp_path), "--test-examples", "1000000")
    assert document["resolution"]["accuracy"] == pytest.approx(0.0004, rel=0.01)
    assert [point["on_front"] for point in document["points"]] == [True, True]
    assert pareto.main([str(tmp_path)]) == 0
    assert "Compared after rounding to accuracy 0.005, time 1 %, energy 2 %" in capsys.readouterr().out


# Trajectories and targets


def test_a_stopped_run_costs_what_its_rounds_did(tmp_path: Path) -> None:
    RunFolder(tmp_path).write([Task("t", rounds=4, time_s=10, energy_j=100, accuracy=0.8)])
    table = rows(runs_table(load([tmp_path]), EVERY_ROUND))
    assert [(row["rounds"], row["whole"]) for row in table] == [(1, False), (2, False), (3, False), (4, True)]
    assert [row["time_s"] for row in table] == [10, 20, 30, 40]
    assert [row["energy_net_j"] for row in table] == pytest.approx([50, 100, 150, 200])
    assert [row["accuracy"] for row in table] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert table[-1] == rows(runs_table(load([tmp_path])))[0]


def test_failures_and_work_count_up_to_the_round(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t", rounds=3)])
    failure = {"kind": "failure", "task": "t", "attempt": 1, "phase": "fit", "reason": "gone", "device": "d"}
    folder.append({**failure, "round": 2}, {**failure, "phase": "join"})
    assert [row["n_failures"] for row in rows(runs_table(load([tmp_path]), EVERY_ROUND))] == [1, 2, 2]


def test_stopped_runs_are_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write(
        [Task("e1", epochs=1, rounds=4, time_s=10, accuracy=0.8), Task("e5", epochs=5, rounds=4, time_s=30)]
    )
    _, document, _ = answer(capsys, str(tmp_path), "--trajectories")
    assert [(p["epochs"], p["parameters"]["rounds"]) for p in document["points"]] == [
        (e, r) for e in (1, 5) for r in (1, 2, 3, 4)
    ]
    assert [p["on_front"] for p in document["points"]] == [True] * 4 + [False] * 4
    assert document["points"][1]["label"] == "E=1, C=2, tau=none, rounds=2"
    _, document, _ = answer(capsys, str(tmp_path), "--stop-after", "2", "9")
    assert [p["parameters"]["rounds"] for p in document["points"]] == [2, 4, 2, 4]
    _, document, _ = answer(capsys, str(tmp_path), "--trajectories", "--max-time-min", "0.4")
    assert document["choice"]["label"] == "E=1, C=2, tau=none, rounds=2"


def test_of_very_many_points_the_table_shows_the_fronts_and_the_files_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RunFolder(tmp_path).write(
        [Task(f"e{e}", epochs=e, rounds=20, time_s=float(e), energy_j=10.0 * e) for e in range(1, 6)]
    )
    assert pareto.main([str(tmp_path), "--trajectories"]) == 0
    out = capsys.readouterr().out
    assert "80 more points are on no front and not shown here" in out
    assert len((tmp_path / "analysis" / "pareto.csv").read_text().splitlines()) == 101


def test_time_and_energy_to_an_accuracy(tmp_path: Path) -> None:
    """Accuracy grows evenly to the task's own, so 0.6 of 0.8 is reached in round 3 of 4, and of 0.9 as well."""
    RunFolder(tmp_path).write(
        [
            Task("a", rounds=4, seed=1, accuracy=0.8, time_s=10, energy_j=100),
            Task("b", rounds=4, seed=2, accuracy=0.65, time_s=12, energy_j=100),
            Task("c", epochs=5, rounds=4, accuracy=0.9, time_s=5, energy_j=50),
            Task("d", epochs=10, rounds=4, seed=1, accuracy=0.9),
            Task("e", epochs=10, rounds=4, seed=2, accuracy=0.5),
            Task("f", epochs=20, rounds=4, accuracy=None),
        ]
    )
    found = to_target(rows(runs_table(load([tmp_path]), EVERY_ROUND)), 0.6, "gross")
    assert [(one.label.split(",")[0], one.n_reached, one.n) for one in found] == [
        ("E=5", 1, 1),
        ("E=1", 2, 2),
        ("E=10", 1, 2),
    ]
    five, one, ten = found
    assert (five.n_rounds, five.time_s, five.energy_j) == (3, 15, 150)
    assert (one.n_rounds, one.time_s, one.energy_j) == (3.5, (30 + 48) / 2, (300 + 400) / 2)
    assert (ten.n_rounds, ten.time_s, ten.energy_j) == (None, None, None), "a mean of the lucky ones would mislead"


def test_a_target_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write([Task("a", rounds=4), Task("b", epochs=5, rounds=4, accuracy=0.5)])
    code, document, _ = answer(capsys, str(tmp_path), "--target", "0.6")
    assert code == 0
    assert [(one["n_reached"], one["time_s"]) for one in document["to_target"]] == [(1, 30.0), (0, None)]
    assert len(document["points"]) == 2, "the rounds are looked at, they are no candidates"
    assert pareto.main([str(tmp_path), "--target", "0.6"]) == 0
    out = capsys.readouterr().out
    assert "Accuracy 0.6 is first reached by E=1, C=2, tau=none: after 3.0 rounds, 30.00 s (measured)" in out
    assert pareto.main([str(tmp_path), "--target", "0.95"]) == 1
    assert "No configuration reaches accuracy 0.95 in all of its runs." in capsys.readouterr().out

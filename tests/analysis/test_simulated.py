"""Simulated times are said to be simulated wherever they are shown, and copies of a simulation do not count twice."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import cutoff, formats, pareto, pareto_table
from analysis.configurations import Point, points
from analysis.figures.pareto import save
from analysis.pareto import Analysis, analyse
from profiler.records import Row
from tests.fixtures.paper_tables import runs
from tests.fixtures.results_folder import Client, RunFolder, Task

ALL = ("accuracy", "time_s", "energy_j")
SIMULATED_TEXT = "simulated by a model of another machine, not measured"


def sweep(**more: object) -> list[Task]:
    return [
        Task("e1", epochs=1, accuracy=0.70, time_s=1, energy_j=10, **more),
        Task("e5", epochs=5, accuracy=0.90, time_s=4, energy_j=40, **more),
        Task("e10", epochs=10, accuracy=0.92, time_s=9, energy_j=90, **more),
    ]


def write_simulated(root: Path, tasks: list[Task], run_id: str = "simulated") -> None:
    RunFolder(root, run_id, clock="simulated").write(tasks)


def analysed(root: Path) -> Analysis:
    return analyse(runs(root))


def points_of(root: Path) -> list[Point]:
    return points(runs(root), ALL, "gross")


def figure_text(analysis: Analysis, path: Path) -> str:
    save(analysis, [path])
    return " ".join("".join(ET.parse(path).getroot().itertext()).split())


# Every form in which pareto shows them


def test_all_that_pareto_writes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_simulated(tmp_path, sweep(provenance="simulated"))
    assert pareto.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"All times are {SIMULATED_TEXT}." in out
    assert f"All energies are {SIMULATED_TEXT}." in out
    assert "Recommended: E=5, C=2, tau=none (knee of accuracy against time and energy), by simulated times" in out
    folder = tmp_path / "analysis"
    report = (folder / "pareto.md").read_text()
    assert f"All times are {SIMULATED_TEXT}." in report
    for text in (out, report):
        assert "times are measured" not in text
        assert "measured by" not in text
    document = json.loads((folder / "pareto.json").read_text())
    assert {point["time_provenance"] for point in document["points"]} == {"simulated"}
    assert f"All times are {SIMULATED_TEXT}." in document["notes"]
    cells = csv.DictReader((folder / "pareto.csv").read_text().splitlines())
    assert [row["time_provenance"] for row in cells] == ["simulated"] * 3
    words = " ".join("".join(ET.parse(folder / "pareto.svg").getroot().itertext()).split())
    assert "digits: simulated time; gross energy, simulated" in words
    assert "simulated time of all rounds (s)" in words
    assert "on the front, simulated" in words
    assert "on the front, measured" not in words


def test_measured_runs_are_shown_as_measured(tmp_path: Path) -> None:
    RunFolder(tmp_path, "measured").write(sweep())
    found = analysed(tmp_path)
    assert [point.time_provenance for point in found.points] == ["measured"] * 3
    told = formats.text(pareto_table.blocks(found)) + figure_text(found, tmp_path / "figure.svg")
    assert "simulated" not in told
    assert "All times are measured." in told
    assert "time (s) ± sd    time is" in told


def test_measured_and_simulated_ones_are_marked_and_not_merged(tmp_path: Path) -> None:
    RunFolder(tmp_path, "measured").write(sweep())
    write_simulated(tmp_path, sweep(provenance="simulated"))
    found = analysed(tmp_path)
    assert [(point.n, point.time_provenance) for point in found.points] == [(1, "measured"), (1, "simulated")] * 3
    assert found.points[1].label == "E=1, C=2, tau=none, time=simulated"
    mixed = "MIXED TIMES: times are of different kinds (3 measured, 3 simulated by a model of another machine"
    assert any(note.startswith(mixed) for note in found.notes)
    words = figure_text(found, tmp_path / "figure.svg")
    assert "measured and simulated time" in words
    assert "on the front, measured" in words
    assert "on the front, simulated" in words
    assert "simulated time of all rounds" not in words, "not all of them"


def test_a_simulated_time_is_said_even_without_energy(tmp_path: Path) -> None:
    write_simulated(tmp_path, [replace(task, energy_j=None) for task in sweep()])
    found = analyse(runs(tmp_path), objectives=("accuracy", "time_s"))
    assert found.notes == (f"All times are {SIMULATED_TEXT}.",)
    words = figure_text(found, tmp_path / "figure.svg")
    assert "on the front, simulated" in words
    assert "energy missing" not in words


def test_measured_times_beside_simulated_energies_are_not_called_simulated(tmp_path: Path) -> None:
    RunFolder(tmp_path).write(sweep(provenance="simulated"))
    words = figure_text(analysed(tmp_path), tmp_path / "figure.svg")
    assert "time of all rounds (s)" in words
    assert "simulated time" not in words
    assert "simulated energy of all rounds" in words


# A simulation repeats itself


def test_the_same_simulation_run_again_is_no_replicate(tmp_path: Path) -> None:
    for number in range(3):
        write_simulated(tmp_path, [Task("s1", seed=1, time_s=10), Task("s2", seed=2, time_s=12)], f"run-{number}")
    found = analysed(tmp_path)
    [point] = found.points
    assert (point.n, point.n_repeats, point.time_s) == (2, 4, pytest.approx(22))
    assert "4 simulated runs repeat the seed and the result of another" in formats.text(pareto_table.blocks(found))


def test_the_same_seed_with_another_result_is_one(tmp_path: Path) -> None:
    write_simulated(tmp_path, [Task("s1", time_s=10)], "old-model")
    write_simulated(tmp_path, [Task("s1", time_s=11)], "new-model")
    [point] = points_of(tmp_path)
    assert (point.n, point.n_repeats) == (2, 0)


def test_measured_replicates_count_however_equal_they_are(tmp_path: Path) -> None:
    for number in range(2):
        RunFolder(tmp_path, f"run-{number}").write([Task("s1")])
    [point] = points_of(tmp_path)
    assert (point.n, point.n_repeats) == (2, 0)


# Cost-only runs


def test_cost_only_runs_are_points_of_their_own(tmp_path: Path) -> None:
    write_simulated(tmp_path, [Task("a"), Task("b", training=False, accuracy=None), Task("c", training=True, seed=2)])
    cost_only, trained = points_of(tmp_path)
    assert (trained.n, trained.label, trained.accuracy) == (2, "E=1, C=2, tau=none, trained", pytest.approx(0.8))
    assert (cost_only.n, cost_only.label, cost_only.accuracy) == (1, "E=1, C=2, tau=none, cost only", None)
    assert cost_only.missing == {"accuracy": "a cost-only run has no accuracy"}


def test_only_cost_only_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_simulated(tmp_path, [Task(f"e{e}", epochs=e, time_s=e, training=False, accuracy=None) for e in (1, 5)])
    assert pareto.main([str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "no accuracy: all 2 configurations are of cost-only runs" in err
    assert "--objectives time_s,energy_j" in err
    assert pareto.main([str(tmp_path), "--objectives", "time_s,energy_j"]) == 0
    assert "Front of time_s, energy_j: E=1, C=2, tau=none" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "n"), [("training=false", 1), ("training=true", 2), ("clock=simulated", 3)])
def test_where_knows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, n: int) -> None:
    tasks = [Task("a"), Task("b", seed=2), Task("c", seed=3, training=False, accuracy=None)]
    write_simulated(tmp_path, tasks)
    assert pareto.main([str(tmp_path), "--json", "--objectives", "time_s,energy_j", "--where", text]) == 0
    assert sum(point["n"] for point in json.loads(capsys.readouterr().out)["points"]) == n


# Cutoffs


def fleet(*, faster: float = 1.0, **more: object) -> Task:
    fits = [Client("f", "fast", 10.0 / faster, 0.5), Client("s", "slow", 20.0 / faster, 0.5)]
    return Task("t", epochs=5, processors={"fast": 1, "slow": 1}, fits=fits, **more)


def slow_parity(document: Row) -> dict[str, Row]:
    entries = [c for c in document["cutoffs"] if (c["processor"], c["kind"]) == ("slow", "parity")]
    return {entry["time_provenance"]: entry for entry in entries}


def test_cutoffs_from_simulated_windows_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_simulated(tmp_path / "r", [fleet()])
    path = tmp_path / "cutoffs.json"
    assert cutoff.main([str(tmp_path / "r"), "-o", str(path)]) == 0
    out, err = capsys.readouterr()
    assert f"digits, batch size 16: every time is {SIMULATED_TEXT}" in out
    assert "2 parity cutoffs, 2 simulated" in err
    assert {entry["time_provenance"] for entry in json.loads(path.read_text())["cutoffs"]} == {"simulated"}


def test_measured_and_simulated_windows_are_not_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path / "r", "measured").write([fleet()])
    write_simulated(tmp_path / "r", [fleet(faster=2.0)])
    path = tmp_path / "cutoffs.json"
    assert cutoff.main([str(tmp_path / "r"), "--json", "-o", str(path)]) == 0
    out, err = capsys.readouterr()
    taus = {kind: entry["tau_s"] for kind, entry in slow_parity(json.loads(out)).items()}
    assert taus == {"measured": pytest.approx(10.0), "simulated": pytest.approx(5.0)}
    written = slow_parity(json.loads(path.read_text()))
    assert {kind: entry["tau_s"] for kind, entry in written.items()} == {"measured": pytest.approx(10.0)}
    assert "digits, slow, E=5: the simulated one, for there is a measured one" in err


def test_a_simulation_run_again_teaches_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_simulated(tmp_path, [fleet(rounds=3)], "a")
    write_simulated(tmp_path, [fleet(rounds=3, training=False, accuracy=None)], "b")
    assert cutoff.main([str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert slow_parity(json.loads(out))["simulated"]["inputs"]["n"] == 3
    assert "6 fit windows are left out: a simulation has repeated itself" in err

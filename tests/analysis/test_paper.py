"""The paper's tables, written as results folders, give the known fronts, hypervolumes, knees, ratios and τ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import cutoff, pareto
from analysis.pareto import Analysis, analyse
from tests.fixtures import paper_tables
from tests.fixtures.paper_tables import CPU, GPU, runs

MIN_S, KJ = 60.0, 1000.0
TIME = ("accuracy", "time_s")


def front_epochs(analysis: Analysis) -> list[int]:
    return [point.epochs for point in analysis.points if point.label in analysis.front.labels]


def test_table_2a(tmp_path: Path) -> None:
    found = analyse(runs(paper_tables.table_2a(tmp_path)), reference=(0, 100 * MIN_S, 120 * KJ))
    assert front_epochs(found) == [1, 5, 10]
    assert found.hypervolume / MIN_S / KJ == pytest.approx(5054.126336, abs=1e-6)
    time, energy = found.pairs
    by_label = {point.label: point for point in found.points}
    assert time.knee_label is not None
    assert by_label[time.knee_label].time_s == pytest.approx(36.83 * MIN_S, rel=1e-9)
    assert time.knee_height == pytest.approx(16 / 19 - 19.20 / 62.69, abs=1e-6)
    assert energy.knee_label == time.knee_label
    assert by_label[time.knee_label].energy_j == pytest.approx(50.54 * KJ, rel=1e-9)
    assert energy.knee_height == pytest.approx(16 / 19 - 40.33 / 90.74, abs=1e-6)
    assert "E=5" in found.recommendation


def test_table_2b(tmp_path: Path) -> None:
    found = analyse(runs(paper_tables.table_2b(tmp_path)), reference=(0, 40 * MIN_S, 30 * KJ))
    assert [point.clients for point in found.points if point.label in found.front.labels] == [4, 7, 10]
    assert found.hypervolume / MIN_S / KJ == pytest.approx(154.33756, abs=1e-6)
    assert [front.knee_label for front in found.pairs] == [None, None]
    assert found.pairs[1].knee_height == pytest.approx(1 / 3 - 9.32 / 17.6, abs=1e-6)


def test_table_3(tmp_path: Path) -> None:
    every = runs(paper_tables.table_3(tmp_path))
    found = analyse(every, objectives=TIME, reference=(0, 110 * MIN_S))
    assert [point.parameters["processors"] for point in found.points if point.label in found.front.labels] == [
        {GPU: 10}
    ]
    assert found.hypervolume / MIN_S == pytest.approx(19.8856, abs=1e-6)
    gpu_label = found.front.labels[0]
    assert [by for by in found.dominated_by.values() if by is not None] == [gpu_label] * 3

    cpu = analyse([r for r in every if CPU in r["processors"]], objectives=TIME, reference=(0, 110 * MIN_S))
    assert len(cpu.front.labels) == 3
    assert cpu.hypervolume / MIN_S == pytest.approx(19.3913, abs=1e-6)
    assert cpu.pairs[0].knee_height == pytest.approx(3 / 4 - 8.81 / 21.66, abs=1e-6)
    [knee] = [point for point in cpu.points if point.label == cpu.pairs[0].knee_label]
    assert knee.taus_s[CPU][0] / MIN_S == pytest.approx(2.23)


def test_table_2a_with_the_cpu_rows_keeps_only_2a(tmp_path: Path) -> None:
    both = runs(paper_tables.table_2a(tmp_path / "a")) + [
        run for run in runs(paper_tables.table_3(tmp_path / "c")) if CPU in run["processors"]
    ]
    found = analyse(both, objectives=TIME)
    assert [point.parameters["processors"] for point in found.points if point.label in found.front.labels] == [
        {GPU: 10}
    ] * 3


def test_ratios_of_table_3(tmp_path: Path) -> None:
    times = {
        (next(iter(run["processors"])), round(sum(c["tau_s"] for c in run["cutoffs"].values()), 1)): run["time_s"]
        for run in runs(paper_tables.table_3(tmp_path))
    }
    gpu_s = times.pop((GPU, 0))
    ratios = {tau_s: time_s / gpu_s for (_, tau_s), time_s in times.items()}
    assert ratios == pytest.approx({0: 1.26992, 133.8: 1.10994, 119.4: 1.00025}, abs=5e-6)


def test_parity_is_the_papers_cutoff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = paper_tables.table_3(tmp_path), tmp_path / "cutoffs.json"
    assert cutoff.main([str(folder), "-o", str(out)]) == 0
    assert "119.4" in capsys.readouterr().out
    entries = {entry["processor"]: entry for entry in json.loads(out.read_text())["cutoffs"]}
    assert set(entries) == {GPU, CPU}
    assert entries[GPU]["tau_s"] == 0
    assert entries[CPU]["tau_s"] / MIN_S == pytest.approx(1.99, abs=1e-9)
    assert entries[CPU]["round_ratio_uncut"] == pytest.approx(1.26992, abs=5e-6)
    assert entries[CPU]["round_ratio"] == pytest.approx(1.0, abs=1e-9)
    # facts, Table 3: 7.83 of 10 epochs by the round's own accounting with o = 0.52 s; here o = 1.08 s
    assert entries[CPU]["work_fraction"] == pytest.approx(119.4 / (153 - 1.08))
    assert entries[CPU]["inputs"]["n"] == 400


def test_table_3_as_it_stands_says_that_energy_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = paper_tables.table_3(tmp_path)
    assert pareto.main([str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {point["on_front"] for point in document["points"]} == {None}
    assert all("energy_j is missing in 1 of 1 runs" in point["missing"]["energy_j"] for point in document["points"])
    assert len(document["fronts"]["accuracy,time_s"]) == 1
    assert document["hypervolume"] is None

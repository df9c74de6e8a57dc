"""What a run cost: sums over rounds, and never a silently smaller one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.load import load, rows
from analysis.pareto import analyse
from analysis.runs import runs_table, whole_sum
from profiler.errors import ResultsError
from profiler.records import Row, encode_line
from tests.fixtures.results_folder import Client, RunFolder, Task


def test_sums_and_the_last_rounds_accuracy(tmp_path: Path) -> None:
    slow = Client("s", "slow", 2.0, stopped_by="cutoff", steps_done=5, steps_planned=10)
    fast = Client("f", "fast", 1.0, steps_done=10, steps_planned=10)
    RunFolder(tmp_path).write([Task("t", rounds=4, fits=[slow, fast])])
    [run] = rows(runs_table(load([tmp_path])))
    assert run["accuracy"] == pytest.approx(0.8)
    assert run["time_s"] == pytest.approx(40)
    assert run["server_s"] == pytest.approx(2)
    assert run["energy_j"] == pytest.approx(400)
    assert run["energy_err_j"] == pytest.approx(4), "gain errors are common to all rounds and add linearly"
    assert run["energy_net_j"] == pytest.approx(200)
    assert run["energy_fit_j"] == pytest.approx(100)
    assert run["energy_fit_err_j"] is None
    assert run["work_done"] == pytest.approx(0.75)
    assert run["provenance"] == "counter"


def edit_round(folder: RunFolder, number: int, **changes: object) -> None:
    lines: list[Row] = [json.loads(line) for line in folder.records.read_bytes().splitlines()]
    for row in lines:
        if row["kind"] == "round" and row["round"] == number:
            row.update(changes)
    folder.records.write_bytes(b"".join(encode_line(row) for row in lines))


def test_one_missing_round_makes_the_sum_missing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t", rounds=3)])
    edit_round(folder, 2, energy_j=None, energy_err_j=None, idle_s=None, provenance="missing", energy_reason="wrapped")
    [run] = rows(runs_table(load([tmp_path])))
    assert run["energy_j"] is None
    assert run["energy_net_j"] is None
    assert run["energy_fit_j"] == pytest.approx(75)
    assert run["n_rounds_without_energy"] == 1
    assert run["provenance"] == "missing"
    assert run["energy_reason"] == "wrapped"


def test_the_weakest_provenance_wins(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t", rounds=3)])
    edit_round(folder, 3, provenance="estimated")
    assert rows(runs_table(load([tmp_path])))[0]["provenance"] == "estimated"


def test_an_unknown_provenance_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t", rounds=3)])
    edit_round(folder, 3, provenance="guessed")
    with pytest.raises(ResultsError, match="guessed"):
        runs_table(load([tmp_path]))


def test_whole_sum() -> None:
    assert whole_sum([1.0, 2.0]) == 3.0
    assert whole_sum([1.0, None]) is None


def test_rounds_that_a_sensor_could_not_resolve_are_counted_and_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t", rounds=3)])
    edit_round(folder, 2, energy_reason="below_resolution: 0.1 s, and readings are up to 1 s old")
    table = runs_table(load([tmp_path]))
    assert rows(table)[0]["n_rounds_below_resolution"] == 1
    assert any(
        "1 of 3 rounds are shorter than the energy sensor resolves" in note for note in analyse(rows(table)).notes
    )

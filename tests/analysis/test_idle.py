"""Net energy: what two baselines make of a gross figure, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from analysis.idle import IdlePower, idle_powers, net_energy
from analysis.load import load, rows
from profiler.errors import ResultsError
from tests.fixtures.results_folder import RunFolder, Task, idle_row

ROW = {"energy_j": 100.0, "energy_err_j": 3.0, "idle_s": {"host": 10.0}}


def test_the_mean_of_before_and_after_is_taken_and_their_difference_joins_the_error() -> None:
    powers = idle_powers([idle_row("before", 4.0, 0.2), idle_row("after", 5.0, 0.1)])
    assert powers["host"].power_w == pytest.approx(4.5)
    assert powers["host"].err_w == pytest.approx(math.hypot(0.2, 2 * 0.5 / math.sqrt(3)))


def test_one_baseline_serves_as_well_and_a_missing_one_is_left_out() -> None:
    missing = idle_row("after") | {"energy_j": None, "energy_err_j": None, "provenance": "missing"}
    assert idle_powers([idle_row("before", 4.0, 0.2), missing]) == {"host": IdlePower(4.0, 0.2)}
    assert idle_powers([missing]) == {}


def test_net_is_gross_less_idle_power_times_the_time_charged() -> None:
    net_j, err_j = net_energy(ROW, {"host": IdlePower(4.0, 0.4)})
    assert net_j == pytest.approx(60.0)
    assert err_j == pytest.approx(5.0)


def test_each_meter_is_charged_its_own_idle_power() -> None:
    row = ROW | {"idle_s": {"host": 10.0, "phone": 5.0}}
    powers = {"host": IdlePower(4.0, 0.0), "phone": IdlePower(2.0, 0.0)}
    assert net_energy(row, powers) == (pytest.approx(50.0), pytest.approx(3.0))
    assert net_energy(row, {"host": IdlePower(4.0, 0.0)}) == (None, None), "never a net that is partly gross"


def test_without_energy_or_baseline_there_is_no_net() -> None:
    assert net_energy(ROW, {}) == (None, None)
    assert net_energy({**ROW, "idle_s": None}, {"host": IdlePower(4.0, 0.0)}) == (None, None)
    assert net_energy({**ROW, "energy_j": None}, {"host": IdlePower(4.0, 0.0)}) == (None, None)


def test_the_tables_carry_it_whatever_the_order_of_the_records(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a")
    folder.write([Task("t1", energy_j=100.0, rounds=1)])
    folder.append(idle_row("after", 2.5))
    (row,) = rows(load([tmp_path]).rounds)
    assert row["idle_s"] == {"host": 50.0}
    assert row["energy_net_j"] == pytest.approx(100 - 1.5 * 50)


@pytest.mark.parametrize("idle_s", [[1.0], {"host": "long"}, {"host": -1.0}, {"host": True}])
def test_a_senseless_charge_is_refused(tmp_path: Path, idle_s: object) -> None:
    folder = RunFolder(tmp_path, "a")
    folder.write([Task("t1", energy_j=100.0, rounds=1)])
    text = folder.records.read_text()
    folder.records.write_text(text.replace('"idle_s":{"host":50.0}', f'"idle_s":{json.dumps(idle_s)}'))
    with pytest.raises(ResultsError, match="idle_s must"):
        load([tmp_path])

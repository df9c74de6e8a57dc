"""The soak of fleets to which things happen, short enough for every run of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.store import Store
from profiler.records import Row
from tests.harness.running import Bench
from tests.soak.fleets import chaos, unaccounted
from tests.soak.troubles import Options, actions, plan

SMALL = Options(seed=7, rounds=9, here=2, there=1, every=1)


@pytest.mark.serial
@pytest.mark.timeout(240)
def test_a_fleet_to_which_everything_happens_ends_whole() -> None:
    figures = chaos(SMALL)
    assert figures["problems"] == []
    assert figures["rounds"] == SMALL.rounds
    assert figures["exit_status"] == 1


def test_everything_happens_and_by_seed() -> None:
    planned = plan(SMALL)
    assert planned == plan(SMALL)
    assert {action for _, action in planned} == set(actions(SMALL))
    assert [round_ for round_, _ in planned] == list(range(1, 8))
    assert planned != plan(Options(seed=8, rounds=9, every=1))


def span(device: str, round_: int) -> Row:
    place = {"task": "t", "attempt": 1, "round": round_, "device": device, "call": "fit", "name": "call"}
    return {"kind": "span", **place, "span_id": f"{device}{round_}", "clock": "server", "status": "ok"}


def test_who_is_neither_there_nor_listed_is_told(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "results", {}, "", [])
    row = {"task": "t", "attempt": 1, "time_s": 1.0, "fit_time_s": 1.0, "server_s": 0.0, "provenance": "missing"}
    counts = {"n_selected": 1, "n_results": 1, "n_failures": 0}
    absent = {"kind": "failure", "task": "t", "attempt": 1, "round": 1, "phase": "absent", "reason": "killed"}
    store.append(
        [
            {**span("here-0", 1), "start_ns": 0, "duration_s": 1.0},
            {**absent, "device": "here-1"},
            {"kind": "round", "round": 1, **row, **counts},
        ]
    )
    store.close()
    found = unaccounted(Bench(tmp_path), Options(rounds=2, here=2, there=1))
    assert found == ["round 2 is missing", "there-0 in round 1 is neither there nor listed as failed"]

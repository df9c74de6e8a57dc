"""A device whose wall clock is set while a fleet trains: the run goes on and says so; seconds and joules are right."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from fl.clock_watch import SET_KEY
from harness.init import init
from profiler.records import Row
from tests.fixtures.set_clock import SettableClock
from tests.fixtures.sshd import running_sshd
from tests.harness.running import Bench, device_entry, wait_until

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

DAY_S = 86_400.0
STEPS_S = {1: 400 * DAY_S, 3: -30 * DAY_S}  # by when the wall clock is set after which round
EXPERIMENT = 'name = "e"\nworkload = "linear"\nrounds = 6\nidle_s = 0.5\n[sweep]\nepochs = [600]\n'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, str]:
    """A run that has ended with exit code 0, and what it said."""
    bench = Bench(tmp_path_factory.mktemp("clock"))
    with running_sshd() as sshd:
        clock = SettableClock(sshd.folder, sshd.python)
        there = device_entry(
            id="there", launcher="ssh", processor="board", **sshd.options | {"python": str(clock.python)}
        )
        (bench.folder / "fleet.toml").write_text('name = "clocks"\n' + device_entry(id="here", processor="cpu") + there)
        (bench.folder / "experiment.toml").write_text(EXPERIMENT)
        with bench.running() as process:
            for round_, ahead_s in STEPS_S.items():
                wait_until(lambda n=round_: len(bench.records("round")) >= n)
                clock.set_ahead(ahead_s)
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
            assert not sshd.left_behind()
    return bench, said


def of_there(bench: Bench, name: str) -> list[Row]:
    found = [row for row in bench.records("span") if (row.get("device"), row["name"]) == ("there", name)]
    return sorted(found, key=lambda row: (row["round"] or 0, row["call"]))


def test_nothing_fails_and_every_round_has_both(run: tuple[Bench, str]) -> None:
    bench, _ = run
    assert not bench.records("failure")
    assert [row["n_results"] for row in bench.records("round")] == [2] * 6


def test_it_is_recorded_and_said_by_how_much(run: tuple[Bench, str]) -> None:
    bench, said = run
    told = [row["attributes"][SET_KEY] for row in of_there(bench, "receive") if SET_KEY in row.get("attributes", {})]
    first, second = STEPS_S.values()
    assert told == pytest.approx([first, second - first], abs=1.0)
    assert said.count("there: its wall clock was set by") == 2


def test_seconds_are_those_that_passed(run: tuple[Bench, str]) -> None:
    bench, _ = run
    calls = {(row["round"], row["call"]): row["duration_s"] for row in of_there(bench, "call")}
    assert len(calls) == 12
    for name in ("receive", "fit", "evaluate", "send", "download", "upload"):
        for row in of_there(bench, name):
            assert 0 <= row["duration_s"] <= calls[row["round"], row["call"]], name
    waits_s = [row["duration_s"] for row in of_there(bench, "wait")]
    assert all(0 <= wait_s < 120 for wait_s in waits_s)


def test_joules_are_as_before(run: tuple[Bench, str]) -> None:
    bench, _ = run
    watts = [row["energy_j"] / row["duration_s"] for row in of_there(bench, "fit")]
    before = watts[0]
    assert all(before / 4 < power_w < 4 * before for power_w in watts[1:]), watts
    assert all(row["energy_coverage"] > 0.9 for row in of_there(bench, "fit"))


def test_a_date_after_its_certificates_keeps_it_out_with_the_reason_until_it_is_set_right(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    init(tmp_path / "keys", [], 30, [])
    bench = Bench(tmp_path)
    with running_sshd() as sshd:
        clock = SettableClock(sshd.folder, sshd.python)
        options = sshd.options | {"python": str(clock.python), "meter": "none", "reconnect_s": 30}
        there = device_entry(id="there", launcher="ssh", processor="board", **options)
        head = (
            'name = "clocks"\n[server]\ntls = "keys"\n[relaunch]\nattempts = 50\npause_s = 0.2\nlongest_pause_s = 1\n'
        )
        (tmp_path / "fleet.toml").write_text(head + device_entry(id="here", processor="cpu") + there)
        (tmp_path / "experiment.toml").write_text(
            'name = "e"\nworkload = "linear"\nrounds = 2000\nidle_s = 0\nmin_clients = 1\n[sweep]\nepochs = [1000]\n'
        )
        with bench.running() as process:

            def answered(after: int) -> bool:
                return any(row["n_results"] == 2 for row in bench.records("round")[after:])

            def refused() -> bool:
                found = [row for row in bench.records("failure") if row["phase"] == "join"]
                return any("expired" in f"{row['reason']} {row.get('detail')}" for row in found)

            wait_until(lambda: answered(0))
            clock.set_ahead(31 * DAY_S)
            sshd.cut()
            wait_until(refused)
            clock.set_ahead(0)
            n_rounds = len(bench.records("round"))
            wait_until(lambda: answered(n_rounds))
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            assert process.returncode == 130, said
        assert not sshd.left_behind()

"""Whole runs over a fleet of processes and machines that are reached by ssh, with what breaks on the way."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures.sshd import Sshd, running_sshd
from tests.harness.running import Bench, wait_until

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

EXPERIMENT = (
    'name = "short"\nworkload = "digits"\nrounds = {rounds}\nidle_s = 0.5\n[sweep]\nepochs = [1]\nclients = [2]\n'
)


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with running_sshd() as server:
        yield server


@pytest.fixture
def bench(sshd: Sshd, tmp_path: Path) -> Bench:
    return mixed(sshd, Bench(tmp_path))


def mixed(sshd: Sshd, bench: Bench, *, rounds: int = 2, **more: object) -> Bench:
    """One client here, one over ssh, of six shards."""
    options = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {**sshd.options, **more}.items())
    entries = [
        'id = "here"\nprocessor = "cpu"',
        f'id = "there"\nprocessor = "cpu-there"\nlauncher = "ssh"\n{options}',
        'id = "unused-{n}"\nprocessor = "cpu"\ncount = 4',
    ]
    fleet = "".join(f"[[device]]\n{entry}\n" for entry in entries)
    (bench.folder / "fleet.toml").write_text(f'name = "mixed"\n{fleet}')
    (bench.folder / "experiment.toml").write_text(EXPERIMENT.format(rounds=rounds))
    return bench


def test_a_mixed_fleet_runs_to_its_end(sshd: Sshd, bench: Bench) -> None:
    checked = bench.run("--check", "--json")
    assert checked.returncode == 0, checked.stderr
    here, there = json.loads(checked.stdout)["devices"]
    assert (here["ok"], there["ok"]) == (True, True)
    assert "Python 3." in there["machine"]
    assert (here["reachable"], there["reachable"]) == (True, True)
    assert there["clock_offset_s"][0] <= 0 <= there["clock_offset_s"][1]

    bench.run_ok()

    spans = [row for row in bench.records("span") if row["name"] == "fit" and row["device"] == "there"]
    assert [row["round"] for row in spans] == [1, 2]
    assert all(row["energy_j"] > 0 for row in spans), "it has metered itself"
    facts = bench.device_file("there")
    assert (facts["launcher"], facts["host"], facts["reached_by"]) == ("ssh", "127.0.0.1", "tunnel")
    assert facts["packages"].startswith("fedmeter-")
    assert facts["clock_offset_low_s"] <= 0 <= facts["clock_offset_high_s"]
    assert facts["machine"]["os"]
    assert (
        (bench.run_folders()[-1] / "logs" / "there.log").read_text().startswith("fedmeter: connecting to 127.0.0.1\n")
    )
    assert sshd.left_behind() == []


def test_a_device_that_vanishes_stops_no_run(sshd: Sshd, bench: Bench) -> None:
    mixed(sshd, bench, rounds=4, reconnect_s=0)
    with bench.running() as run:
        wait_until(lambda: len(bench.records("round")) >= 1)
        sshd.stop()
        try:
            _, told = run.communicate(timeout=90)
        finally:
            sshd.start()
    assert run.returncode == 1, told
    assert [row["round"] for row in bench.records("round")] == [1, 2, 3, 4]
    (failure, *_) = (row for row in bench.records("failure") if row["device"] == "there")
    assert failure["phase"] in ("fit", "evaluate")
    assert failure["reason"]
    log = (bench.run_folders()[-1] / "logs" / "there.log").read_text()
    assert "there: run: the connection was lost" in log
    assert (bench.run_folders()[-1] / "end.json").exists()
    wait_until(lambda: not sshd.left_behind(), 10.0)


def test_a_run_that_is_killed_leaves_nothing_there(sshd: Sshd, bench: Bench) -> None:
    mixed(sshd, bench, rounds=500)
    with bench.running() as run:
        wait_until(lambda: len(bench.records("round")) >= 1)
        assert sshd.left_behind()
        own = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=30)
    wait_until(lambda: not sshd.left_behind(), 15.0)
    wait_until(lambda: not any(_runs(process) for process in own), 15.0)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

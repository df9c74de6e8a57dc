"""Whole runs in which clients do not start, or end: who is started again, who is recorded, and what a round does."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from profiler.records import Row
from tests.harness.running import REPOSITORY, Bench, finish, wait_until

pytestmark = [pytest.mark.timeout(120)]

FLEET = """name = "many"
[relaunch]
attempts = {attempts}
pause_s = 0.05
longest_pause_s = 0.1
[[device]]
id = "d-{{n}}"
count = {clients}
processor = "cpu"
"""
EXPERIMENT = 'name = "short"\nworkload = "linear"\nrounds = {rounds}\nidle_s = 0\n[sweep]\nepochs = [{epochs}]\n'

# d-1 says why and ends: always, or only the first time.
DIES_AT_START = """import os, sys
from pathlib import Path
been_here = Path(__file__).with_name("been-here")
if "fl.client" in sys.orig_argv and "d-1" in sys.orig_argv and not ({once} and been_here.exists()):
    been_here.touch()
    os.write(2, b"the flash storage is worn out\\n")
    os._exit(7)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def write(bench: Bench, *, clients: int = 2, rounds: int = 3, epochs: int = 1, attempts: int = 2) -> None:
    (bench.folder / "fleet.toml").write_text(FLEET.format(clients=clients, attempts=attempts))
    (bench.folder / "experiment.toml").write_text(EXPERIMENT.format(rounds=rounds, epochs=epochs))


def run_with(bench: Bench, sitecustomize: str) -> Any:
    (bench.folder / "sitecustomize.py").write_text(sitecustomize)
    return finish(bench.command(), bench.folder, PYTHONPATH=f"{bench.folder}{os.pathsep}{REPOSITORY}")


def pids(bench: Bench) -> dict[str, int]:
    files = (bench.run_folders()[-1] / "devices").glob("d-*.json")
    return {path.stem: json.loads(path.read_text())["pid"] for path in files}


def place(failure: Row) -> tuple[str, str, int | None]:
    return failure["device"], failure["phase"], failure.get("round")


def test_a_run_goes_on_without_a_client_that_never_starts(bench: Bench) -> None:
    write(bench)
    done = run_with(bench, DIES_AT_START.format(once=False))
    assert done.returncode == 1, done.stderr
    assert "beginning without d-1" in done.stderr
    failures = bench.records("failure")
    at_start, later = failures[:3], failures[3:]
    assert [place(row) for row in at_start] == [("d-1", "join", None)] * 3, "the first start, and two attempts"
    assert all("the flash storage is worn out" in row["detail"] for row in at_start)
    assert "ended before it joined: exit status 7" in at_start[0]["reason"]
    absent = [place(row) for row in later if row["phase"] == "absent"]
    assert absent == [("d-1", "absent", 1), ("d-1", "absent", 2), ("d-1", "absent", 3)], "every round accounts for it"
    rounds = bench.records("round")
    assert [row["n_results"] for row in rounds] == [1, 1, 1]
    assert all(row["provenance"] != "missing" for row in rounds), "who was never there has drawn nothing"
    assert [row["attempt"] for row in bench.records("task_started")] == [1]
    assert "absent, rounds 1 to 3: exit status 7" in done.stdout, "told once"


def test_a_client_that_starts_at_the_second_attempt_takes_part_in_every_round(bench: Bench) -> None:
    write(bench)
    done = run_with(bench, DIES_AT_START.format(once=True))
    assert done.returncode == 1, done.stderr
    assert [place(row) for row in bench.records("failure")] == [("d-1", "join", None)]
    assert [row["n_results"] for row in bench.records("round")] == [2, 2, 2]


def test_a_killed_client_is_back_in_the_same_task(bench: Bench) -> None:
    write(bench, rounds=12, epochs=50)
    with bench.running() as process:
        wait_until(lambda: bench.records("round"))
        before = pids(bench)
        os.kill(before["d-1"], signal.SIGKILL)
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 1, stderr
    failures = bench.records("failure")
    assert {row["device"] for row in failures} == {"d-1"}
    assert "SIGKILL" in failures[0]["detail"]
    results = [row["n_results"] for row in bench.records("round")]
    assert len(results) == 12
    assert results[-1] == 2
    assert sum(results) >= 22, "one round was lost, or two: that it was in, and that it was not there for"
    after = pids(bench)
    assert after["d-0"] == before["d-0"]
    assert after["d-1"] != before["d-1"], "the device's file tells of the client that is there now"
    assert not any(Path(f"/proc/{pid}").exists() for pid in after.values())


def test_many_clients_start_and_train(bench: Bench) -> None:
    write(bench, clients=24, rounds=2)
    bench.run_ok()
    assert [row["n_results"] for row in bench.records("round")] == [24, 24]
    assert len(set(pids(bench).values())) == 24, "one process a client"
    assert not bench.records("failure")


def test_a_run_that_was_killed_before_its_last_word_gets_it_on_resuming(bench: Bench) -> None:
    write(bench, rounds=1)
    bench.run_ok()
    (run,) = bench.run_folders()
    end = run / "end.json"
    told = json.loads(end.read_text())
    end.unlink()
    bench.run_ok("--resume", run)
    again = json.loads(end.read_text())
    varying = {"wall_time": None, "folder": None}
    assert again | varying == told | varying

"""Simulated fleets, end to end: real training in processes, virtual time, joules of a model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.run import main
from profiler.records import Row, read_lines
from tests.harness.running import environment, finish, module, wait_until

PROFILE = """name = "Toy {idle_w} W"
[power]
idle_w = {idle_w}
busy_w = 50
scope = "device"
kind = "guess"
gain_err = 0.2
source = "made for this test"
[[training]]
workload = "digits"
batch_size = 16
step_s = {step_s}
step_j = 3.0
start_s = 1.0
step_cv = {cv}
fit_cv = {cv}
download_s = 0.5
upload_s = 0.25
transfer_j = 4.0
gain_err = 0.1
kind = "guess"
source = "made for this test"
"""
FLEET = """name = "toys"
[[device]]
id = "fast-{n}"
count = 2
launcher = "simulated"
profile = "fast.toml"
processor = "fast"
[[device]]
id = "slow"
launcher = "simulated"
profile = "slow.toml"
processor = "slow"
"""
EXPERIMENT = """name = "toy"
workload = "digits"
rounds = {rounds}
batch_size = 16
lr = 0.05
idle_s = 60
[workload_options]
hidden = 16
[sweep]
epochs = {epochs}
[strategy]
name = "fedavg"
evaluate = {evaluate}
"""


def write(folder: Path, *, cv: float = 0.1, rounds: int = 2, epochs: str = "[1, 2]", evaluate: str = "true") -> None:
    (folder / "fast.toml").write_text(PROFILE.format(idle_w=1.0, step_s=0.1, cv=cv))
    (folder / "slow.toml").write_text(PROFILE.format(idle_w=2.0, step_s=0.3, cv=cv))
    (folder / "fleet.toml").write_text(FLEET)
    (folder / "experiment.toml").write_text(EXPERIMENT.format(rounds=rounds, epochs=epochs, evaluate=evaluate))


def run(folder: Path, *arguments: object, output: str = "results") -> int:
    """With one process, for each takes seconds to start, unless the arguments say otherwise."""
    fixed = ["fleet.toml", "--experiment", "experiment.toml", "-o", output, "--quiet", "--workers", "1"]
    return main([*fixed, *(str(argument) for argument in arguments)])


def records(folder: Path, output: str = "results") -> list[Row]:
    (run_folder,) = (path for path in (folder / output).iterdir() if (path / "run.json").exists())
    return list(read_lines(run_folder / "records" / "harness.jsonl"))


def of(rows: list[Row], kind: str, **wanted: object) -> list[Row]:
    return [row for row in rows if row["kind"] == kind and all(row.get(key) == value for key, value in wanted.items())]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_wall_times(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name != "wall_time"} for row in rows]


def test_records_do_not_depend_on_the_number_of_workers(folder: Path) -> None:
    write(folder)
    for workers in (1, 2):
        assert run(folder, "--workers", workers, output=f"by-{workers}") == 0
    one, two = (without_wall_times(records(folder, f"by-{workers}")) for workers in (1, 2))
    assert one == two
    assert len(of(one, "round")) == 4
    assert run(folder, "--seeds", 2, output="other") == 0
    assert [row["time_s"] for row in of(records(folder, "other"), "round")] != [
        row["time_s"] for row in of(one, "round")
    ]


def test_time_and_energy_are_what_the_profile_says(folder: Path) -> None:
    """Without jitter everything can be computed: 479 images a client make 30 steps of 16."""
    write(folder, cv=0.0, epochs="[2]", evaluate="false")
    assert run(folder) == 0
    rows = records(folder)
    fits = {row["device"]: row for row in of(rows, "span", name="fit", round=2)}
    assert fits["fast-0"]["duration_s"] == pytest.approx(1 + 60 * 0.1)
    assert fits["slow"]["duration_s"] == pytest.approx(1 + 60 * 0.3)
    assert fits["slow"]["energy_j"] == pytest.approx(2.0 * 19 + 60 * 3.0)
    assert fits["slow"]["provenance"] == "simulated"
    assert fits["slow"]["energy_err_j"] == pytest.approx(2 / 3**0.5 * ((0.2 * 38) ** 2 + (0.1 * 180) ** 2) ** 0.5)
    assert fits["slow"]["steps_s"] == pytest.approx([0.3] * 60)
    assert (fits["slow"]["steps_done"], fits["slow"]["steps_planned"], fits["slow"]["stopped_by"]) == (
        60,
        60,
        "completed",
    )
    assert "cpu_s" not in fits["slow"]
    rounds = of(rows, "round")
    assert [row["time_s"] for row in rounds] == pytest.approx([19.75, 19.75])
    # Transfers are drawn while the device waits, in the last round too. The first download comes before the first
    # measurement of a device.
    gross_j = (2 * 19.75 - 0.5) * (1 + 1 + 2) + 2 * 3 * (180 + 4.0)
    assert sum(row["energy_j"] for row in rounds) == pytest.approx(gross_j, rel=1e-6)
    charged = [row["idle_s"] for row in rounds]
    assert {device: sum(part[device] for part in charged) for device in charged[0]} == pytest.approx(
        dict.fromkeys(("fast-0", "fast-1", "slow"), 39.5 - 0.5)
    )
    waits = of(rows, "span", name="straggler_wait", round=1, device="fast-0")
    assert waits[0]["duration_s"] == pytest.approx(12.0)
    idle = {(row["device"], row["phase"]): row for row in of(rows, "idle")}
    assert idle["slow", "before"]["energy_j"] / idle["slow", "before"]["duration_s"] == pytest.approx(2.0)
    assert ("host", "before") not in idle


def test_a_cutoff_acts_in_virtual_time(folder: Path) -> None:
    write(folder, epochs="[2]")
    text = (folder / "experiment.toml").read_text() + 'cutoffs = { "fast" = 0, "slow" = 7.0 }\n'
    (folder / "experiment.toml").write_text(text)
    assert run(folder) == 0
    rows = records(folder)
    for row in of(rows, "span", name="fit"):
        if row["device"] == "slow":
            assert row["stopped_by"] == "cutoff"
            assert 6.0 < row["duration_s"] <= 7.2
            assert row["steps_done"] < row["steps_planned"] == 60
            assert len(row["steps_s"]) == row["steps_done"]
        else:
            assert (row["stopped_by"], row["steps_done"]) == ("completed", 60)
    assert max(row["fit_time_s"] for row in of(rows, "round")) < 1 + 60 * 0.1 * 1.5 + 0.75


def test_a_deadline_acts_in_virtual_time_and_the_late_one_stays(folder: Path) -> None:
    write(folder, cv=0.0, epochs="[2]", evaluate="false", rounds=3)
    text = (folder / "experiment.toml").read_text().replace("idle_s", "fit_timeout_s = 10\nidle_s")
    (folder / "experiment.toml").write_text(text)
    assert run(folder) == 1
    rows = records(folder)
    failures = of(rows, "failure")
    assert failures
    assert {row["device"] for row in failures} == {"slow"}
    assert "no answer within 10 s" in failures[0]["reason"]
    late = of(rows, "span", name="late")
    assert late[0]["duration_s"] == pytest.approx(19.75 - 10)
    assert of(rows, "round")[0]["time_s"] == pytest.approx(7.75)


def test_the_results_say_what_they_rest_on(folder: Path) -> None:
    write(folder, rounds=1, epochs="[1]")
    assert run(folder) == 0
    (run_folder,) = (folder / "results").iterdir()
    assert json.loads((run_folder / "run.json").read_text())["clock"] == "simulated"
    told: dict[str, Any] = json.loads((run_folder / "devices" / "slow.json").read_text())
    assert told["simulated_device"] == "Toy 2.0 W"
    assert told["training"]["source"] == "made for this test"
    assert told["machine"] == {"model": "Toy 2.0 W", "system": "simulated"}
    assert not list((run_folder / "samples").rglob("host.parquet"))


def test_a_worker_that_dies_costs_its_devices_one_task(folder: Path) -> None:
    """Devices 0 and 2 are one process's, device 1 another's."""
    write(folder, rounds=40, epochs="[8, 1]")
    command = module("harness.run", "fleet.toml", "--experiment", "experiment.toml", "-o", "results", "--workers", 2)
    with subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert wait_until(lambda: len(of(records(folder), "round")) > 1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(workers[0]), signal.SIGKILL)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 1, stderr
    rows = records(folder)
    failed = {row["device"] for row in of(rows, "failure")}
    assert failed in ({"fast-0", "slow"}, {"fast-1"})
    assert "the process that trains for it has ended (-9)" in of(rows, "failure")[0]["reason"]
    first, second = (row["task"] for row in of(rows, "task_finished"))
    assert of(rows, "round", task=first)[-1]["n_results"] == 3 - len(failed)
    assert of(rows, "round", task=second)[-1]["n_results"] == 3, "they are started again for the next task"


def test_an_interrupted_simulation_goes_on(folder: Path) -> None:
    write(folder, rounds=60, epochs="[8]")
    command = module("harness.run", "fleet.toml", "--experiment", "experiment.toml", "-o", "results")
    with subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert wait_until(lambda: len(of(records(folder), "round")) > 1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    (run_folder,) = (folder / "results").iterdir()
    before = of(records(folder), "round")
    assert finish(module("harness.run", "--resume", run_folder, "--quiet"), folder).returncode == 0
    rounds = of(records(folder), "round")
    assert [row["round"] for row in rounds] == list(range(1, 61))
    assert rounds[: len(before)] == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"slow.toml"', '"sloww.toml"', "device profile sloww.toml cannot be read"),
        ('"slow.toml"', '"jetson"', "device profile 'jetson' does not ship"),
        ('profile = "slow.toml"', "", "'profile' is missing"),
        ('"slow.toml"', '"google-pixel-4"', "what training 'digits' takes is not known; known are office31"),
    ],
)
def test_mistakes_are_told(folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str) -> None:
    write(folder)
    (folder / "fleet.toml").write_text(FLEET.replace(old, new))
    assert run(folder) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "results").exists() or not list((folder / "results").iterdir())


def test_check_and_dry_run_start_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder)
    assert run(folder, "--check") == 0
    assert "simulated as Toy 1.0 W" in capsys.readouterr().out
    assert run(folder, "--dry-run", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["tasks"]) == 2
    assert run(folder, "--workers", 0) == 2
    assert not (folder / "results").exists()


def test_a_workload_that_fails_in_a_worker_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder)
    text = (folder / "experiment.toml").read_text()
    (folder / "experiment.toml").write_text(text.replace("[strategy]", '[partition]\nkind = "domain"\n[strategy]'))
    assert run(folder) == 3
    error = capsys.readouterr().err
    assert "fast-0: cannot be simulated" in error
    assert "domain" in error

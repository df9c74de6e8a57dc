"""The main job in real processes over the real wire: metering, cutoffs, faults, resuming, and bad input."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.powercap import Driver, build_tree
from tests.harness.running import REPOSITORY, Bench, finish, module, wait_until

pytestmark = pytest.mark.serial


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.write()
    return bench


@dataclass
class MainJob:
    """The main job, done by hand: train, derive cutoffs, train with them, compare; metered from a powercap tree."""

    bench: Bench
    driver: Driver
    pareto: dict[str, Any]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> MainJob:
    bench = Bench(tmp_path_factory.mktemp("job"))
    bench.write(rounds=2, epochs=(1, 10), idle_s=1.0)
    root = bench.folder / "root"
    with Driver(build_tree(root), 20.0, dram_w=3.0) as driver:
        bench.run_ok("--sysfs-root", root)
        cut = finish(module("analysis.cutoff", "results/", "-o", "cutoffs.json"), bench.folder)
        assert cut.returncode == 0, cut.stderr
        bench.run_ok("--sysfs-root", root, "--cutoffs", "cutoffs.json")
    pareto = finish(module("analysis.pareto", "results/", "--json"), bench.folder)
    assert pareto.returncode == 0, pareto.stderr
    return MainJob(bench, driver, json.loads(pareto.stdout))


@pytest.mark.timeout(240)
def test_joules_match_what_was_counted_up(job: MainJob) -> None:
    """Of a whole run to 0.5 %; of every round to 2 %, since the driver itself may be some milliseconds late."""
    for run in (0, 1):
        calls = [span for span in job.bench.records("span", run) if span["name"] == "call"]
        metered_j, true_j = [], []
        for row in job.bench.records("round", run):
            mine = [span for span in calls if (span["task"], span["round"]) == (row["task"], row["round"])]
            start_ns = min(span["start_ns"] for span in mine)
            end_ns = max(span["start_ns"] + round(span["duration_s"] * 1e9) for span in mine)
            metered_j.append(row["host_energy_j"])
            true_j.append(job.driver.joules_between(start_ns, end_ns))
            assert row["provenance"] == "counter"
        assert len(metered_j) == 4
        assert metered_j == pytest.approx(true_j, rel=0.02)
        assert sum(metered_j) == pytest.approx(sum(true_j), rel=0.005)


def test_shares_add_up_to_the_host(job: MainJob) -> None:
    for row in job.bench.records("round"):
        shares_j = row["energy_j"] + row["server_energy_j"] + row["other_energy_j"]
        assert shares_j == pytest.approx(row["host_energy_j"], rel=1e-9)
        assert 0 < row["energy_fit_j"] <= row["energy_j"]
        assert 0 <= row["energy_straggler_wait_j"] <= row["energy_wait_j"] + 1e-9


def test_idle_power_and_samples_are_kept(job: MainJob) -> None:
    host = job.bench.device_file("host")
    assert [idle["phase"] for idle in host["idle"]] == ["before", "after"]
    assert [idle["power_w"] for idle in host["idle"]] == pytest.approx([23.0, 23.0], rel=0.01)
    assert all(0 < idle["power_err_w"] < 2 for idle in host["idle"])
    assert host["meter"] == "rapl (counter)"
    for task in plan(job.bench):
        assert (job.bench.run_folders()[-1] / "samples" / str(task["task"]) / "host.parquet").exists()


def test_every_phase_of_every_client_is_recorded(job: MainJob) -> None:
    spans = [span for span in job.bench.records("span", 0) if span.get("round") == 2]
    for device in ("fast", "slow"):
        for call, work in (("fit", "fit"), ("evaluate", "evaluate")):
            names = {span["name"] for span in spans if (span["device"], span["call"]) == (device, call)}
            assert names >= {"download", "receive", work, "send", "upload", "straggler_wait", "call"}
    for fit in (span for span in spans if span["name"] == "fit"):
        assert fit["steps_done"] == fit["steps_planned"] == len(fit["steps_s"])
        assert sum(fit["steps_s"]) == pytest.approx(fit["duration_s"], rel=0.2)
        assert fit["stopped_by"] == "completed"
        assert fit["peak_rss_bytes"] > 50e6
        assert 0 < fit["cpu_use"] <= 1.1
        assert fit["examples"] > 200
        assert fit["loss"] > 0
        assert fit["energy_j"] > 0
        assert fit["processor"] in ("cpu", "cpu@0.4")


def test_cutoffs_at_parity_end_the_straggling(job: MainJob) -> None:
    bench = job.bench
    fits = [span for span in bench.records("span") if span["name"] == "fit"]
    assert {span["device"] for span in fits} == {"fast", "slow"}
    assert not bench.records("failure")
    ten = {task["task"] for task in plan(bench) if task["epochs"] == 10}
    slow = [span for span in fits if span["device"] == "slow" and span["task"] in ten]
    assert len(slow) == 2
    assert all(span["stopped_by"] == "cutoff" and span["steps_done"] < span["steps_planned"] for span in slow)
    fast = [span for span in fits if span["device"] == "fast"]
    assert all(span["steps_done"] == span["steps_planned"] for span in fast)
    # The reference is the fast client of the run that the cutoff was learned from; the machine's own speed may have
    # changed by a third since.
    assert fit_call_s(bench, 1, "slow") == pytest.approx(fit_call_s(bench, 0, "fast"), rel=0.1)
    assert fit_call_s(bench, 1, "slow") == pytest.approx(fit_call_s(bench, 1, "fast"), rel=0.5)
    assert fit_call_s(bench, 0, "slow") > 1.8 * fit_call_s(bench, 0, "fast")


def test_the_analysis_compares_with_and_without_cutoffs(job: MainJob) -> None:
    points = {(point["epochs"], point["cutoff"]): point for point in job.pareto["points"]}
    assert points.keys() == {(1, "none"), (10, "none"), (1, "parity"), (10, "parity")}
    for key in ("time_s", "energy_j"):
        assert points[10, "none"][key] > points[1, "none"][key]
        assert points[10, "parity"][key] < points[10, "none"][key]
    assert {point["provenance"] for point in points.values()} == {"counter"}
    assert all(0 < point["accuracy"] <= 1 for point in points.values())
    assert points[10, "parity"]["work_done"] < points[10, "none"]["work_done"] == 1.0


def plan(bench: Bench, run: int = -1) -> list[dict[str, object]]:
    return [json.loads(line) for line in (bench.run_folders()[run] / "plan.jsonl").read_text().splitlines()]


def fit_call_s(bench: Bench, run: int, device: str) -> float:
    """Median time of a fit call with ten epochs, download and upload included."""
    ten = {task["task"] for task in plan(bench, run) if task["epochs"] == 10}
    calls = [span for span in bench.records("span", run) if span["name"] == "call" and span["call"] == "fit"]
    return statistics.median(span["duration_s"] for span in calls if span["device"] == device and span["task"] in ten)


def client_pids(bench: Bench) -> dict[str, int]:
    files = [path for path in (bench.run_folders()[-1] / "devices").glob("*.json") if path.stem in ("fast", "slow")]
    return {path.stem: json.loads(path.read_text())["pid"] for path in files}


@pytest.mark.timeout(240)
def test_a_client_killed_in_mid_round_is_recorded_and_the_run_goes_on(bench: Bench) -> None:
    bench.write(rounds=3, epochs=(10, 1))
    with bench.running() as process:
        pids = wait_until(lambda: len(client_pids(bench)) == 2 and client_pids(bench))
        wait_until(lambda: bench.records("task_started"))
        wait_until(lambda: bench.records("round"))
        os.kill(pids["slow"], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=150)
    assert process.returncode == 1, stderr
    failures = bench.records("failure")
    assert [failure["device"] for failure in failures] == ["slow"]
    assert failures[0]["phase"] in ("fit", "evaluate")
    assert "SIGKILL" in failures[0]["detail"]
    assert "slow" in stdout
    rounds = bench.records("round")
    assert len(rounds) == 6
    assert rounds[-1]["n_results"] == 2, "the client is started again for the next task"
    assert [row["status"] for row in bench.records("task_finished")] == ["completed", "completed"]


@pytest.mark.timeout(240)
def test_a_killed_harness_leaves_no_client_and_can_be_resumed(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write(rounds=3, epochs=(1, 5))
    with bench.running() as process:
        wait_until(lambda: len(bench.records("task_finished")) == 1 and len(bench.records("round")) >= 4)
        wait_until(lambda: len(list(bench.run_folders()[0].glob("checkpoints/*.npz"))) == 2)  # follows its record
        pids = client_pids(bench)
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids.values()), 10)
    run = bench.run_folders()[0]
    assert not (run / "end.json").exists()
    done = bench.run("--resume", run)
    assert done.returncode == 0, done.stderr
    assert bench.run_folders() == [run]
    started = bench.records("task_started")
    assert [row["attempt"] for row in started] == [1, 1, 2], "the finished task is not repeated"
    assert started[2]["from_round"] > 1, "the other goes on from its last round"
    last = {(row["task"], row["round"]): row["attempt"] for row in bench.records("round")}
    assert len(last) == 6
    assert json.loads((run / "end.json").read_text())["status"] == "completed"
    pareto = finish(module("analysis.pareto", "results/", "--json"), bench.folder)
    assert len(json.loads(pareto.stdout)["points"]) == 2
    assert bench.main("--resume", run) == 0
    assert "nothing to resume" in capsys.readouterr().err
    assert bench.main("--resume", run, "--rounds", 9) == 2
    assert "rounds = 9 now, 3 then" in capsys.readouterr().err


@pytest.mark.timeout(120)
def test_ctrl_c_stops_in_order(bench: Bench) -> None:
    bench.write(rounds=50, epochs=(5,))
    with bench.running() as process:
        wait_until(lambda: bench.records("round"))
        pids = client_pids(bench)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    assert not (bench.run_folders()[0] / "end.json").exists()
    assert bench.records("round")


def test_every_client_tells_what_it_runs_on(job: MainJob) -> None:
    """The clients are told nothing of the run's --sysfs-root: they describe the machine they run on."""
    for device in ("fast", "slow"):
        told = job.bench.device_file(device)["machine"]
        assert (told["release"], told["machine"]) == (platform.release(), platform.machine())
        assert told["memory_bytes"] > 2**20


@pytest.fixture
def here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """For commands that end before they start a client: `bench.main` runs them in this process."""
    monkeypatch.chdir(bench.folder)
    return bench


def test_a_dry_run_prints_the_plan_and_touches_nothing(here: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.main("--dry-run", "--epochs", "1", "5", "--json") == 0
    assert [task["epochs"] for task in json.loads(capsys.readouterr().out)["tasks"]] == [1, 5]
    assert here.main("--dry-run") == 0
    assert "slow" in capsys.readouterr().out
    assert not here.results.exists()


def test_check_probes_and_starts_nothing(here: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.main("--check") == 0
    out = capsys.readouterr().out
    assert "0.4 of a core by" in out
    assert "cpu_model" in out
    assert "unused" not in out
    assert here.main("--check", "--json") == 0
    assert json.loads(capsys.readouterr().out)["problem"] is None
    here.write(fast='require = ["rapl"]')
    (here.folder / "empty").mkdir()
    for option in ("--check", "--quiet"):
        assert here.main(option, "--sysfs-root", "empty") == 3
        assert "required sensor rapl is not available" in capsys.readouterr().err
    assert here.main("--sysfs-root", "nowhere") == 2
    assert not here.results.exists()


def test_a_port_in_use_is_named(here: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        here.write(more=f'[server]\naddress = "127.0.0.1:{port}"\n')
        assert here.main() == 3
    assert str(port) in capsys.readouterr().err


DIES_AT_START = """import os, sys
if "fl.client" in sys.orig_argv and "slow" in sys.orig_argv:
    os.write(2, b"the flash storage is worn out\\n")
    os._exit(7)
"""


@pytest.mark.timeout(120)
def test_a_client_that_dies_at_start_shows_the_end_of_its_log(bench: Bench) -> None:
    """Two are wanted at least, and one never comes."""
    (bench.folder / "sitecustomize.py").write_text(DIES_AT_START)
    bench.write(more="[relaunch]\nattempts = 1\npause_s = 0\n")
    experiment = bench.folder / "experiment.toml"
    experiment.write_text(experiment.read_text().replace("rounds =", "min_clients = 2\nrounds ="))
    done = finish(bench.command(), bench.folder, PYTHONPATH=f"{bench.folder}{os.pathsep}{REPOSITORY}")
    assert done.returncode == 3
    assert "slow" in done.stderr
    assert "exit status 7" in done.stderr
    assert "the flash storage is worn out" in done.stderr
    assert str(Path("logs") / "slow.log") in done.stderr
    assert "Traceback" not in done.stderr
    assert (bench.run_folders()[0] / "plan.jsonl").exists(), "what is known stays"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--rounds", "0"], 2, "rounds must be at least 1"),
        (["--epochs", "5", "5"], 2, "names a value twice"),
        (["--workload", "digit"], 2, "digits"),
        (["--clients", "9"], 2, "has 6 devices"),
        (["--cutoffs", "none.json"], 2, "cannot be read"),
        (["--resume", "nowhere"], 2, "not a run that can be resumed"),
        (["--strategy", "fedavgg"], 2, "fedavg"),
    ],
)
def test_wrong_usage(
    here: Bench, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert here.main(*arguments) == status
    assert message in capsys.readouterr().err
    assert not here.results.exists()

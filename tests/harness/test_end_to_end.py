"""The main job in real processes over the real wire: metering, cutoffs, faults, resuming, and bad input."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
from pathlib import Path

import pytest

from tests.fixtures.powercap import Driver, build_tree
from tests.harness.running import FLEET, REPOSITORY, Bench, finish, module, wait_until


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.write()
    return bench


@pytest.mark.timeout(240)
def test_a_powercap_tree_meters_a_whole_run(bench: Bench) -> None:
    """Joules of every round match what the driver counted up, to 0.5 %, and shares add up to the host."""
    bench.write(rounds=3, epochs=(5,), idle_s=1.0)
    tree = build_tree(bench.folder / "root")
    with Driver(tree, 20.0, dram_w=3.0) as driver:
        done = bench.run("--sysfs-root", bench.folder / "root", "--json")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert summary["tasks"][0]["provenance"] == "counter"
        calls = [span for span in bench.records("span") if span["name"] == "call"]
        for row in bench.records("round"):
            mine = [span for span in calls if span["round"] == row["round"]]
            start_ns = min(span["start_ns"] for span in mine)
            end_ns = max(span["start_ns"] + round(span["duration_s"] * 1e9) for span in mine)
            true_j = driver.joules_between(start_ns, end_ns)
            assert row["host_energy_j"] == pytest.approx(true_j, rel=0.005)
            shares_j = row["energy_j"] + row["server_energy_j"] + row["other_energy_j"]
            assert shares_j == pytest.approx(row["host_energy_j"], rel=1e-9)
            assert row["provenance"] == "counter"
            assert 0 < row["energy_fit_j"] <= row["energy_j"]
    host = bench.device_file("host")
    assert host["idle_power_w"] == pytest.approx(23.0, rel=0.01)
    assert host["meter"] == "rapl (counter)"
    assert (bench.run_folders()[0] / "samples" / summary["tasks"][0]["task"] / "host.parquet").exists()


@pytest.mark.timeout(240)
def test_cutoffs_at_parity_end_the_straggling(bench: Bench) -> None:
    """The whole job by hand: train, derive cutoffs, train with them, compare."""
    bench.write(rounds=3, epochs=(1, 10))
    bench.run_ok()
    cut = finish(module("analysis.cutoff", "results/", "-o", "cutoffs.json"), bench.folder)
    assert cut.returncode == 0, cut.stderr
    bench.run_ok("--cutoffs", "cutoffs.json")
    fits = [span for span in bench.records("span") if span["name"] == "fit"]
    assert {span["device"] for span in fits} == {"fast", "slow"}
    assert not bench.records("failure")
    ten = {task["task"] for task in plan(bench) if task["epochs"] == 10}
    slow = [span for span in fits if span["device"] == "slow" and span["task"] in ten]
    assert len(slow) == 3
    assert all(span["stopped_by"] == "cutoff" and span["steps_done"] < span["steps_planned"] for span in slow)
    fast = [span for span in fits if span["device"] == "fast"]
    assert all(span["steps_done"] == span["steps_planned"] for span in fast)
    calls = [span for span in bench.records("span") if span["name"] == "call" and span["call"] == "fit"]
    times_s = {
        device: statistics.median(
            span["duration_s"] for span in calls if span["device"] == device and span["task"] in ten
        )
        for device in ("fast", "slow")
    }
    assert times_s["slow"] == pytest.approx(times_s["fast"], rel=0.1)
    pareto = finish(module("analysis.pareto", "results/", "--json"), bench.folder)
    assert pareto.returncode == 0, pareto.stderr
    points = {(point["epochs"], bool(point["cutoff"])): point for point in json.loads(pareto.stdout)["points"]}
    assert points.keys() == {(1, False), (10, False), (1, True), (10, True)}
    for key in ("time_s", "energy_j"):
        assert points[10, False][key] > points[1, False][key]
        assert points[10, True][key] < points[10, False][key]
    assert {point["provenance"] for point in points.values()} <= {"counter", "estimated"}


def plan(bench: Bench) -> list[dict[str, object]]:
    return [json.loads(line) for line in (bench.run_folders()[-1] / "plan.jsonl").read_text().splitlines()]


def client_pids(bench: Bench) -> dict[str, int]:
    files = [path for path in (bench.run_folders()[-1] / "devices").iterdir() if path.stem != "host"]
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
def test_a_killed_harness_leaves_no_client_and_can_be_resumed(bench: Bench) -> None:
    bench.write(rounds=3, epochs=(1, 5))
    with bench.running() as process:
        wait_until(lambda: len(bench.records("task_finished")) == 1 and len(bench.records("round")) >= 4)
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
    changed = bench.run("--resume", run, "--rounds", 9)
    assert changed.returncode == 2
    assert "rounds = 9 now, 3 then" in changed.stderr


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


def test_a_dry_run_prints_the_plan_and_touches_nothing(bench: Bench) -> None:
    out = bench.run_ok("--dry-run", "--epochs", "1", "5", "--json")
    assert [task["epochs"] for task in json.loads(out)["tasks"]] == [1, 5]
    assert not bench.results.exists()


def test_check_probes_and_starts_nothing(bench: Bench) -> None:
    out = bench.run_ok("--check")
    assert "slow" in out
    assert "0.4 of a core by" in out
    assert "cpu_model" in out
    assert not bench.results.exists()
    bench.write(fleet=FLEET + 'require = ["rapl"]\n')
    empty = bench.folder / "empty"
    empty.mkdir()
    for option in ("--check", "--quiet"):
        missing = bench.run(option, "--sysfs-root", empty)
        assert missing.returncode == 3
        assert "required sensor rapl is not available" in missing.stderr
    assert not bench.results.exists()


def test_a_port_in_use_is_named(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        bench.write(fleet=FLEET + f'[server]\naddress = "127.0.0.1:{port}"\n')
        done = bench.run()
    assert done.returncode == 3
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


DIES_AT_START = """import os, sys
if "fl.client" in sys.orig_argv and "slow" in sys.orig_argv:
    os.write(2, b"the flash storage is worn out\\n")
    os._exit(7)
"""


@pytest.mark.timeout(120)
def test_a_client_that_dies_at_start_shows_the_end_of_its_log(bench: Bench) -> None:
    (bench.folder / "sitecustomize.py").write_text(DIES_AT_START)
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
        (["--clients", "9"], 2, "has 2 devices"),
        (["--cutoffs", "none.json"], 2, "cannot be read"),
        (["--resume", "nowhere"], 2, "not a run that can be resumed"),
        (["--strategy", "fedavgg"], 2, "fedavg"),
    ],
)
def test_wrong_usage(bench: Bench, arguments: list[str], status: int, message: str) -> None:
    done = bench.run(*arguments)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not bench.results.exists()

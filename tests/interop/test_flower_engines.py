"""`python -m harness.run --engine flower` and `flower-sim`: one experiment on three engines, with the oldest Flower and
the newest; federations and Ray clusters that are there; and what is left when a run is cut off: nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from analysis.cutoff import main as cutoff
from analysis.load import load
from analysis.pareto import main as pareto
from analysis.report import main as report
from profiler.records import Row
from tests.fixtures.command_lines import command_line
from tests.fixtures.environments import ROOT
from tests.interop.apps import NEWEST, OLDEST, Federation, running_federation, started
from tests.interop.engines import (
    ON_NODES,
    ON_RAY,
    OUR_OWN,
    PAIR,
    Harness,
    assert_cutoffs_obeyed,
    below,
    python_of,
    rows_of,
    runs_of,
    tasks_of,
    until_gone,
    until_round,
)
from tests.interop.flower import free_port

pytestmark = [
    pytest.mark.serial,
    pytest.mark.timeout(500),
    pytest.mark.skipif(os.environ.get("FEDMETER_INTEROP") != "full", reason="make interop"),
]

FOUR = '[[device]]\nid = "n-{n}"\ncount = 4\nprocessor = "cpu"\n'


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_one_experiment_on_three_engines(version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harness = Harness(python_of(version), tmp_path)
    for engine in (OUR_OWN, ON_NODES, ON_RAY):
        harness.run("--engine", engine)
    runs = runs_of(harness.results)
    assert runs.keys() == {OUR_OWN, ON_NODES, ON_RAY}
    assert_same_learning(runs)
    for run in runs.values():
        assert_cutoffs_obeyed(run)
    assert_same_schema(runs)
    assert_energies_differ_by_what_is_seen(runs)
    assert_analysis_reads(harness.results, runs, capsys)


def assert_same_learning(runs: Mapping[str, Path]) -> None:
    """The same tasks but for the engine, and accuracies that differ as those of two seeds do."""
    plans = {engine: tasks_of(run) for engine, run in runs.items()}
    for engine, plan in plans.items():
        for task, ours in zip(plan, plans[OUR_OWN], strict=True):
            assert task.get("engine") == (None if engine == OUR_OWN else engine)
            named = ("task", "engine")
            assert {key: task[key] for key in task if key not in named} == {
                key: ours[key] for key in ours if key not in named
            }
    for n in range(2):
        accuracies = [
            rows_of(run, kind="round", task=plans[engine][n]["task"], round=2)[0]["accuracy"]
            for engine, run in runs.items()
        ]
        assert min(accuracies) > 0.75
        assert max(accuracies) - min(accuracies) < 0.04, accuracies


def assert_same_schema(runs: Mapping[str, Path]) -> None:
    """One table, whose rows have the same columns; what an engine cannot see is not there, and run.json says why."""
    kinds = {engine: {row["kind"] for row in rows_of(run)} for engine, run in runs.items()}
    assert kinds[OUR_OWN] == kinds[ON_NODES] == kinds[ON_RAY] | {"idle"}
    for engine, run in runs.items():
        names = {row["name"] for row in rows_of(run, kind="span")}
        unseen = {"download", "upload", "wait", "receive", "send"}
        assert {"fit", "evaluate", "call", "straggler_wait"} <= names
        assert names & unseen == (unseen if engine == OUR_OWN else set())
        missing = json.loads((run / "run.json").read_text())["engine"].get("missing", {})
        assert ({"download", "upload"} <= missing.keys()) == (engine != OUR_OWN)
        assert {path.stem for path in (run / "devices").glob("*.json")} == {"host", "fast", "slow"}
        assert {row["processor"] for row in rows_of(run, kind="span", device="slow")} == {"slow-cpu"}
        fast = json.loads((run / "devices" / "fast.json").read_text())
        assert fast["machine"]["os"], "a node tells what it is, as our client does"
    columns = {engine: _columns(rows_of(run, kind="span", name="fit")) for engine, run in runs.items()}
    assert columns[OUR_OWN] == columns[ON_NODES]
    own_meter = {"rails", "attributes"}  # what a device with a meter of its own tells beside its share
    assert columns[ON_RAY] == columns[OUR_OWN] | own_meter


def _columns(rows: Sequence[Row]) -> set[str]:
    return {column for row in rows for column in row}


def assert_energies_differ_by_what_is_seen(runs: Mapping[str, Path]) -> None:
    provenances = {row["provenance"] for run in runs.values() for row in rows_of(run, kind="round")}
    assert len(provenances) == 1
    if provenances == {"missing"}:
        pytest.skip("no sensor of energy here")
    for run in runs.values():
        assert {row["energy_scope"] for row in rows_of(run, kind="span", name="fit")} == {"process"}
    on_nodes, on_ray = (rows_of(runs[engine], kind="round") for engine in (ON_NODES, ON_RAY))
    assert all(row["energy_j"] > row["energy_fit_j"] for row in on_nodes), "starts of processes are in it"
    assert all(row["host_energy_j"] > row["energy_j"] for row in on_nodes)
    assert all("host_energy_j" not in row for row in on_ray), "nobody meters between spans"
    spans = [row for row in rows_of(runs[ON_RAY], kind="span") if row["name"] in ("fit", "evaluate")]
    assert sum(row["energy_j"] for row in on_ray) == pytest.approx(sum(row["energy_j"] for row in spans))
    net = {run.name: load([run]).rounds["energy_net_j"].notna().all() for run in runs.values()}
    assert net == {run.name: engine != ON_RAY for engine, run in runs.items()}


def assert_analysis_reads(results: Path, runs: Mapping[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert pareto([str(results)]) == 0
    told = capsys.readouterr().out
    assert all(f"engine={engine}" in told for engine in runs)
    assert report([str(results)]) == 0
    for run in runs.values():
        assert cutoff([str(run), "-o", str(results.parent / "cutoffs.json")]) == 0
        found = json.loads((results.parent / "cutoffs.json").read_text())["cutoffs"]
        assert {entry["processor"] for entry in found} == {"fast-cpu", "slow-cpu"}


def test_what_is_asked_for_is_shown_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    harness = Harness(python_of(NEWEST), tmp_path, PAIR + "latency_ms = 20\n")
    assert "slow: --engine flower cannot have latency_ms" in harness.run("--engine", ON_NODES, code=2)
    assert "--engine flower-sim cannot have latency_ms, for it" in harness.run("--engine", ON_RAY, code=2)
    (tmp_path / "fleet.toml").write_text(PAIR)
    told = harness.run("--engine", ON_NODES, "--dry-run")
    assert f"engine flower, flwr {NEWEST}" in told
    assert "download: missing" in told
    assert not harness.results.exists()
    lonely = harness.run("--engine", ON_NODES, "--federation", f"127.0.0.1:{free_port()}", code=3)
    assert "`flwr run` failed" in lonely
    afar = harness.run("--engine", ON_NODES, "--federation", "192.0.2.1:8000", code=3)
    assert "in plain text" in afar


# --- what is there already -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_a_federation_that_is_there_is_joined_and_left_as_it_was(version: str, tmp_path: Path) -> None:
    """One node is told its name, the other its place."""
    python, here = python_of(version), Federation.of(version)
    harness = Harness(python, tmp_path)
    with running_federation(here, python.parent, tmp_path, ['device="fast"', "partition-id=1"]):
        for _ in range(2):
            told = harness.run("--engine", ON_NODES, "--federation", here.control, "--rounds", 1)
            assert "flower-supernode --superlink SUPERLINK --node-config 'device=\"slow\"'" in told
    for run in harness.results.iterdir():
        fits = rows_of(run, kind="span", name="fit")
        assert {row["device"] for row in fits} == {"fast", "slow"}
        assert {row["energy_scope"] for row in fits if row.get("energy_j") is not None} <= {"process"}
        assert not rows_of(run, kind="failure")


@contextmanager
def ray_cluster(python: Path, folder: Path, n_nodes: int) -> Iterator[str]:
    """A head and more nodes, processes of this machine with one CPU each; its address."""
    address = f"127.0.0.1:{free_port()}"
    temporary = folder / "ray"
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    common = ["--num-cpus=1", "--disable-usage-stats", "--block"]
    head = [python.parent / "ray", "start", "--head", f"--port={address.rpartition(':')[2]}", *common]
    head += ["--include-dashboard=false", f"--temp-dir={temporary}"]
    with ExitStack() as stack:
        stack.enter_context(started(head, folder / "head.log", env))
        until_s = time.monotonic() + 60
        while not list(temporary.glob("session_latest/node_ip_address.json")) and time.monotonic() < until_s:
            time.sleep(0.1)
        for n in range(1, n_nodes):
            node = [python.parent / "ray", "start", f"--address={address}", *common]
            stack.enter_context(started(node, folder / f"node-{n}.log", env))
        yield address


def test_a_second_ray_node_takes_part_of_the_work(short_path: Path) -> None:
    python = python_of(NEWEST)
    experiment = 'name = "ray"\nworkload = "linear"\nrounds = 3\n[sweep]\nepochs = [40]\n'
    harness = Harness(python, short_path, FOUR, experiment)
    with ray_cluster(python, short_path, 2) as address:
        script = "import ray, sys, time\nray.init(sys.argv[1])\nwhile len(ray.nodes()) < 2: time.sleep(0.1)\n"
        subprocess.run([python, "-c", script, address], check=True, timeout=120, env=harness.environment())
        harness.run("--engine", ON_RAY, "--federation", address)
    [run] = harness.results.iterdir()
    fits = rows_of(run, kind="span", name="fit")
    assert len(fits) == 12
    assert len({row["attributes"]["ray_node"] for row in fits}) == 2
    assert not rows_of(run, kind="failure")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Ray's sockets have paths of 107 characters at most."""
    folder = Path(tempfile.mkdtemp(prefix="fm-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# --- cut off ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [ON_NODES, ON_RAY])
def test_a_harness_that_is_killed_leaves_nothing_running(engine: str, tmp_path: Path) -> None:
    harness = Harness(python_of(NEWEST), tmp_path)
    with harness.running("--engine", engine, "--rounds", 1000) as process:
        until_round(harness, process)
        known = below(process)
        assert len(known) > 3
        process.kill()
        until_gone(known)


def test_an_interrupted_run_ends_all_and_goes_on_where_it_was(tmp_path: Path) -> None:
    harness = Harness(python_of(NEWEST), tmp_path)
    with harness.running("--engine", ON_RAY, "--rounds", 60) as process:
        run = until_round(harness, process)
        known = below(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        until_gone(known)
    done = len(rows_of(run, kind="round"))
    assert not (run / "end.json").exists()
    resume = [str(harness.python), "-m", "harness.run", "--resume", str(run)]
    options = {"cwd": harness.folder, "env": harness.environment(), "timeout": 240}
    refused = subprocess.run([*resume, "--engine", ON_NODES], capture_output=True, text=True, check=False, **options)
    assert (refused.returncode, "was begun on flower-sim" in refused.stderr) == (2, True)
    again = subprocess.run([*resume, "--rounds", "60"], capture_output=True, text=True, check=False, **options)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (run / "end.json").exists()
    numbers = [(row["task"], row["round"]) for row in rows_of(run, kind="round")]
    assert len(numbers) == len(set(numbers)) == 120
    assert done < 120


def is_supernode(command: Sequence[str], device: str) -> bool:
    """Not its supervisor, whose command has all of its own in it."""
    has_name = any(word.endswith("/flower-supernode") for word in command[:3])
    return has_name and f'device="{device}"' in command


def test_a_supernode_that_is_killed_is_started_again(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("processes are found by /proc")
    harness = Harness(python_of(NEWEST), tmp_path)
    with harness.running("--engine", ON_NODES, "--rounds", 3) as process:
        run = until_round(harness, process)
        [victim] = [one for one in below(process) if is_supernode(command_line(one), "slow")]
        victim.kill()
        assert process.wait(300) == 1, "finished, with failures listed"
    assert {row["device"] for row in rows_of(run, kind="failure")} == {"slow"}
    first = tasks_of(run)[0]["task"]
    fits = rows_of(run, kind="span", name="fit")
    assert max(row["round"] for row in fits if row["device"] == "slow" and row["task"] != first) == 3

"""`python -m harness.run --engine flower` over a process here and a machine that is reached by ssh: a real OpenSSH
server on loopback, with a user of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures.command_lines import command_line
from tests.fixtures.sshd import Sshd, bare_environment, running_sshd
from tests.harness.running import wait_until
from tests.interop.apps import NEWEST, OLDEST
from tests.interop.engines import (
    EXPERIMENT,
    ON_NODES,
    Harness,
    assert_cutoffs_obeyed,
    below,
    python_of,
    rows_of,
    tasks_of,
    until_gone,
    until_round,
)

pytestmark = [
    pytest.mark.serial,
    pytest.mark.timeout(500),
    pytest.mark.skipif(os.environ.get("FEDMETER_INTEROP") != "full", reason="make interop"),
]


@pytest.fixture
def sshd() -> Iterator[Sshd]:
    with running_sshd() as server:
        yield server


def with_flower(sshd: Sshd, python: Path) -> Path:
    """The interpreter of a device that has that Flower in a folder of packages alone, and none of its programs."""
    made = bare_environment(sshd.folder / python.parents[1].name.partition("+")[0], sshd.base_python)
    [site] = made.parents[1].glob("lib/python*/site-packages")
    [theirs] = python.parents[1].glob("lib/python*/site-packages")
    (site / "theirs.pth").write_text(f"{theirs}\n")
    return made


def mixed(sshd: Sshd, version: str, folder: Path, **more: object) -> Harness:
    """The fast device is a process here, the slow one is reached by ssh."""
    python = python_of(version)
    there = {**sshd.options, "python": str(with_flower(sshd, python)), **more}
    options = "\n".join(f"{key} = {json.dumps(value)}" for key, value in there.items())
    fleet = f"""
    name = "mixed"
    [[device]]
    id = "fast"
    processor = "fast-cpu"
    [[device]]
    id = "slow"
    processor = "slow-cpu"
    launcher = "ssh"
    {options}
    """
    return Harness(python, folder, fleet, EXPERIMENT)


def processes_there(sshd: Sshd) -> list[psutil.Process]:
    """All that the interpreter of a device runs there: supervisors, SuperNodes and what these have started."""
    ours = f"{sshd.folder}/flwr-"
    return [one for one in psutil.process_iter() if "".join(command_line(one)[:1]).startswith(ours)]


def left_there(sshd: Sshd, version: str = NEWEST) -> list[str]:
    """Processes, and files beside the packages that were brought.

    The oldest Flower writes a random number into the home folder, wherever it is told to keep what it keeps.
    """
    running = [str(process) for process in processes_there(sshd)]
    known = {sshd.home / ".flwr", sshd.home / ".flwr" / "source"} if version == OLDEST else set()
    kept = [path for pattern in ("*", "*/*") for path in sshd.home.glob(pattern) if path not in known]
    return running + [str(path) for path in kept if path.name != "fedmeter" and not path.name.startswith("fedmeter-")]


def test_a_fleet_of_a_process_and_a_machine_over_ssh(sshd: Sshd, tmp_path: Path) -> None:
    harness = mixed(sshd, NEWEST, tmp_path)
    told = harness.run("--engine", ON_NODES)
    assert "idle power, net energy (ssh): missing" in told
    assert_ran(harness, NEWEST)
    assert left_there(sshd) == []


def assert_ran(harness: Harness, version: str) -> str:
    """The name of the folder that our packages have there."""
    [run] = harness.results.iterdir()
    assert_cutoffs_obeyed(run)
    assert_every_call_is_answered(run)
    assert_each_is_metered_where_it_is(run)
    slow = json.loads((run / "devices" / "slow.json").read_text())
    assert (slow["launcher"], slow["reached_by"]) == ("ssh", "tunnel")
    assert slow["packages"].rpartition("-cp")[0].endswith(f"-flwr{version}")
    return str(slow["packages"])


def assert_every_call_is_answered(run: Path) -> None:
    assert not rows_of(run, kind="failure")
    for task in tasks_of(run):
        for name in ("fit", "evaluate", "call"):
            spans = rows_of(run, kind="span", name=name, task=task["task"])
            n_calls = 2 if name == "call" else 1  # a fit and an evaluation
            expected = sorted((device, n) for device in ("fast", "slow") for n in (1, 2) for _ in range(n_calls))
            assert sorted((row["device"], row["round"]) for row in spans) == expected, name


def assert_each_is_metered_where_it_is(run: Path) -> None:
    """The one here by the host's meter, which knows its idle power; the other by its own, of which nobody does."""
    fits = {device: rows_of(run, kind="span", name="fit", device=device) for device in ("fast", "slow")}
    assert all("host_cpu_s" in row["attributes"] for row in fits["slow"]), "it has looked at its machine"
    assert not any(row.get("attributes", {}).get("host_cpu_s") for row in fits["fast"])
    assert {row["device"] for row in rows_of(run, kind="idle")} == {"host"}
    if {row["provenance"] for row in fits["fast"]} == {"missing"}:
        return  # no sensor of energy here
    assert all(row["energy_j"] > 0 and row["energy_scope"] == "process" for row in fits["slow"])
    rounds = rows_of(run, kind="round")
    assert all(row["energy_j"] > row["energy_fit_j"] > 0 for row in rounds)


def test_a_harness_that_is_killed_leaves_nothing_there(sshd: Sshd, tmp_path: Path) -> None:
    harness = mixed(sshd, NEWEST, tmp_path)
    with harness.running("--engine", ON_NODES, "--rounds", 1000) as process:
        until_round(harness, process)
        known = [*below(process), *processes_there(sshd)]
        assert processes_there(sshd)
        process.kill()
        until_gone(known)
    wait_until(lambda: not left_there(sshd), 30.0)


def test_a_node_whose_supervisor_is_killed_ends_and_another_takes_its_place(sshd: Sshd, tmp_path: Path) -> None:
    harness = mixed(sshd, NEWEST, tmp_path)
    with harness.running("--engine", ON_NODES, "--rounds", 3) as process:
        run = until_round(harness, process)
        known = processes_there(sshd)
        [supervisor] = [one for one in known if any("sys.stdin.buffer.read" in word for word in command_line(one))]
        supervisor.kill()
        until_gone(known)
        assert process.wait(300) == 1, "finished, with failures listed"
    assert {row["device"] for row in rows_of(run, kind="failure")} == {"slow"}
    last = tasks_of(run)[-1]["task"]
    assert max(row["round"] for row in rows_of(run, kind="span", name="fit", device="slow", task=last)) == 3
    assert left_there(sshd) == []


def wheelhouse(python: Path, folder: Path) -> Path:
    """The oldest Flower, which installs as it is, and all that it and we need. Skips where it is out of reach."""
    command = [python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", folder]
    wanted = [f"flwr=={OLDEST}", "grpcio>=1.60", "protobuf>=5.28", "psutil>=5.9", "numpy>=1.26"]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=200, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot download flwr {OLDEST}: {done.stderr.strip()[-300:]}")
    return folder


def test_a_device_that_has_nothing_gets_its_flower_from_a_wheelhouse(sshd: Sshd, tmp_path: Path) -> None:
    wheels = wheelhouse(python_of(OLDEST), tmp_path / "wheels")
    bare = bare_environment(sshd.folder / "flwr-none", sshd.base_python, pip=True)
    harness = mixed(sshd, OLDEST, tmp_path, python=str(bare), wheelhouse=str(wheels))
    with (tmp_path / "fleet.toml").open("a") as fleet:
        fleet.write("[server]\njoin_timeout_s = 240\n")
    harness.run("--engine", ON_NODES)
    brought = assert_ran(harness, OLDEST)
    assert list((sshd.home / "fedmeter" / brought).glob(f"flwr-{OLDEST}.dist-info"))
    assert left_there(sshd, OLDEST) == []

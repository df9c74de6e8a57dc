"""What the launcher of local processes can bound beside the CPU."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.device import DeviceSpec
from harness.launcher import log_tail, signal_name
from harness.launchers import local
from harness.launchers.limits import usable_cores
from harness.launchers.local import Cores, LocalLauncher
from harness.quota import DutyCycle
from harness.spec import Table
from profiler.errors import DeviceError, SpecError
from tests.contract.test_launcher import join
from tests.fixtures.node_program import Script

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits need Linux")


def device(**options: object) -> DeviceSpec:
    return DeviceSpec("a", "local", "cpu", 0, options=LocalLauncher.read_options(Table(options, "fleet.toml")))


@linux
def test_a_client_that_takes_too_much_memory_is_ended_and_its_log_says_why(tmp_path: Path) -> None:
    """32 MB: an interpreter with numpy and grpc needs more than that to start."""
    launcher = LocalLauncher(tmp_path)
    session = launcher.start(device(memory_limit_mb=32), join(1))
    assert session.facts["memory_limited_by"] in ("cgroup-v1", "cgroup-v2", "resident-watch")
    while (status := session.exit_status()) is None:
        time.sleep(0.02)
    assert signal_name(status) == "killed by SIGKILL"
    session.stop(0.1)
    assert log_tail(session.log_path).count("taking more than memory_limit_mb = 32") == 1
    launcher.close()


@linux
def test_chosen_cores_come_before_the_placement(tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path)
    last = usable_cores()[-1]
    session = launcher.start(device(cores=[last]), join(1))
    try:
        assert session.facts["pinned_to_cores"] == [last]
        session.settle()
        assert session.pid is not None
        assert os.sched_getaffinity(session.pid) == {last}
    finally:
        session.stop(0.1)
        launcher.close()


@linux
def test_cores_that_are_not_there_are_named(tmp_path: Path) -> None:
    wrong = device(cores=[0, 4095])
    assert not LocalLauncher.check(wrong).ok
    with pytest.raises(DeviceError, match=r"a: cores = \[4095\]: this host has"):
        LocalLauncher(tmp_path).start(wrong, join(1))


def test_check_tells_by_what_limits_are_kept() -> None:
    said = LocalLauncher.check(device(cpu_limit=0.5, memory_limit_mb=128)).detail
    assert "0.5 of a core by " in said
    assert "128 MB by " in said


def test_what_is_chosen_is_not_placed_on() -> None:
    cores = Cores([0, 1])
    cores.take([0, 7])
    assert [cores.place(name, 1.0) for name in "ab"] == [1, None]


def test_cores_bound_what_a_client_can_use() -> None:
    assert LocalLauncher.cores(device(threads=4, cores=[0, 1])) == 2
    assert LocalLauncher.cores(device(threads=4, cores=[0, 1], cpu_limit=1.5)) == 1.5


@pytest.mark.parametrize("options", [{"cores": [-1]}, {"cores": [1, 1]}, {"cores": 3}, {"memory_limit_mb": 4}])
def test_limits_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        device(**options)


PROGRAM = """
import os, subprocess, sys, time
print("told", os.environ["FLWR_HOME"], os.environ["OMP_NUM_THREADS"], flush=True)
subprocess.run([sys.executable, "-c", "import os, time; print('below', os.getpid(), flush=True); time.sleep(600)"])
"""


@linux
@pytest.mark.serial
def test_another_program_has_its_limits_on_all_below_it_and_ends_with_it(tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path)
    chosen = usable_cores()[0]
    told = replace(join(1), nodes=Script(PROGRAM, environment={"FLWR_HOME": "/somewhere"}))
    session = launcher.start(device(cores=[chosen], threads=3), told)
    try:
        until_s = time.monotonic() + 60
        while "below" not in log_tail(session.log_path) and time.monotonic() < until_s:
            time.sleep(0.02)
        first, second = log_tail(session.log_path).splitlines()
        assert first == "told /somewhere 3"
        below = int(second.split()[1])
        session.settle()
        assert os.sched_getaffinity(below) == {chosen}
    finally:
        session.stop(3.0)
    assert not psutil.pid_exists(below)


@linux
def test_a_limit_that_new_processes_would_escape_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP and the watch of memory know one process."""
    monkeypatch.setattr(local, "limit_cpu", lambda cores, name: DutyCycle(cores))
    launcher = LocalLauncher(tmp_path)
    with pytest.raises(DeviceError, match="cpu_limit of a SuperNode needs a cgroup") as raised:
        launcher.start(device(cpu_limit=0.5), replace(join(1), nodes=Script("raise SystemExit")))
    assert "leave out cpu_limit" in str(raised.value)

"""CPU quotas, for real: a busy loop gets the part of a core that it was given, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cgroups import sweep_stale_cgroups
from harness.host import process_cpu_s
from harness.launchers.tether import tethered
from harness.quota import CgroupQuota, DutyCycle, Quota, limit_cpu

pytestmark = [pytest.mark.serial, pytest.mark.skipif(sys.platform != "linux", reason="quotas need Linux")]

BUSY = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def start(quota: Quota) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(tethered([sys.executable, "-S", "-c", BUSY]))
    quota.attach(process.pid)
    return process


def measured_cores(pid: int, duration_s: float = 1.5) -> float:
    time.sleep(0.3)
    before_s, start_s = process_cpu_s(pid), time.monotonic()
    time.sleep(duration_s)
    after_s, end_s = process_cpu_s(pid), time.monotonic()
    assert before_s is not None
    assert after_s is not None
    return (after_s - before_s) / (end_s - start_s)


def quotas() -> list[object]:
    return [pytest.param(limit_cpu, id="best"), pytest.param(lambda cores, name: DutyCycle(cores), id="sigstop")]


@pytest.mark.parametrize("make", quotas())
def test_a_busy_loop_gets_its_part_of_a_core(make: object) -> None:
    """At most its part; less where others compete for the cores while this runs."""
    quota: Quota = make(0.3, "test")  # type: ignore[operator]
    process = start(quota)
    try:
        assert 0.1 < measured_cores(process.pid) < 0.36
    finally:
        process.kill()
        process.wait()
        quota.release()
    if isinstance(quota, CgroupQuota):
        assert not quota.folder.exists()


@pytest.mark.parametrize("cores", [0.5, 0.25])
@pytest.mark.parametrize("make", quotas())
def test_a_quota_is_kept_to_a_tenth(make: object, cores: float) -> None:
    """In one second of several, since others may want the cores too."""
    quota: Quota = make(cores, "kept")  # type: ignore[operator]
    process = start(quota)
    try:
        assert any(abs(measured_cores(process.pid, 1.0) / cores - 1) <= 0.1 for _ in range(20))
    finally:
        process.kill()
        process.wait()
        quota.release()


@pytest.mark.parametrize("make", quotas())
def test_a_process_whose_limit_is_lifted_runs_on(make: object) -> None:
    """In one half second of several, since others may want the cores too: a limited one never gets there."""
    quota: Quota = make(0.1, "lifted")  # type: ignore[operator]
    process = start(quota)
    try:
        time.sleep(0.2)
        quota.lift()
        assert any(measured_cores(process.pid, 0.5) > 0.5 for _ in range(40))
    finally:
        process.kill()
        process.wait()
        quota.release()


def test_cgroups_of_dead_harnesses_are_swept() -> None:
    quota = limit_cpu(0.5, "stale", pid=2**22 + 17)  # above the kernel's highest pid
    if not isinstance(quota, CgroupQuota):
        pytest.skip("no cgroup can be made here")
    assert quota.folder.exists()
    sweep_stale_cgroups()
    assert not quota.folder.exists()


def test_a_child_dies_with_its_parent() -> None:
    """The parent is killed outright: nothing of ours runs any more, and the kernel ends the child."""
    script = (
        "import subprocess, sys, time\n"
        "from harness.launchers.tether import tethered\n"
        f"child = subprocess.Popen(tethered([sys.executable, '-S', '-c', {BUSY!r}]))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if process_is_gone(pid):
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def process_is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"

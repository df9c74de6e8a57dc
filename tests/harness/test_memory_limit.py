"""Memory limits, for real: a process that takes too much is ended and it is known why; one that does not lives on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cgroups import in_cgroup
from harness.launchers.limits import MB
from harness.memory_limit import CgroupMemory, MemoryLimit, ResidentWatch, limit_memory
from harness.quota import CgroupQuota

pytestmark = [pytest.mark.serial, pytest.mark.skipif(sys.platform != "linux", reason="limits need Linux")]

LIMIT_MB = 64
# Takes memory bit by bit after a line on stdin, so that the limit is there before.
GREEDY = """
import sys, time
sys.stdin.readline()
taken = []
for _ in range({mb}):
    taken.append(b"x" * 2**20)
    time.sleep(0.005)
"""

Make = Callable[[int, str], MemoryLimit]


def best(limit_bytes: int, name: str) -> MemoryLimit:
    return limit_memory(limit_bytes, name)


def watched(limit_bytes: int, name: str) -> MemoryLimit:
    return ResidentWatch(limit_bytes)


def outcome(limit: MemoryLimit, mb: int) -> tuple[int, bool]:
    """Exit status of a process that takes so much, and whether the limit says that it was exceeded."""
    process = subprocess.Popen([sys.executable, "-S", "-c", GREEDY.format(mb=mb)], stdin=subprocess.PIPE)
    try:
        limit.attach(process.pid)
        process.communicate(b"go\n", timeout=30)
        return process.returncode, limit.was_exceeded()
    finally:
        process.kill()
        process.wait()
        limit.release()


@pytest.mark.parametrize("make", [best, watched])
def test_who_takes_too_much_is_ended(make: Make) -> None:
    limit = make(LIMIT_MB * MB, "greedy")
    assert outcome(limit, 4 * LIMIT_MB) == (-9, True)


@pytest.mark.parametrize("make", [best, watched])
def test_who_stays_below_lives(make: Make) -> None:
    assert outcome(make(LIMIT_MB * MB, "modest"), LIMIT_MB // 4) == (0, False)


def test_limits_of_one_client_share_a_cgroup_where_there_is_one_hierarchy(tmp_path: Path) -> None:
    """The files of cgroup v2, as far as they are read and written."""
    base = tmp_path / "sys/fs/cgroup/runs"
    proc = tmp_path / "proc/self"
    base.mkdir(parents=True)
    proc.mkdir(parents=True)
    (tmp_path / "proc/mounts").write_text("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n")
    (proc / "cgroup").write_text("0::/runs\n")
    (base / "cgroup.subtree_control").write_text("cpu memory pids\n")
    quota = in_cgroup("cpu", "a", lambda cgroup: CgroupQuota(cgroup, 0.5), root=tmp_path)
    limit = limit_memory(LIMIT_MB * MB, "a", root=tmp_path)
    assert isinstance(quota, CgroupQuota)
    assert isinstance(limit, CgroupMemory)
    folder = base / f"fedmeter-{os.getpid()}-a"
    assert (quota.folder, limit.by) == (folder, "cgroup-v2")
    assert (folder / "memory.max").read_text() == str(LIMIT_MB * MB)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "cpu.max").read_text() == "max 20000", "no CPU limit while a client starts"
    quota.attach(1)
    assert (folder / "cpu.max").read_text() == "10000 20000"
    (folder / "memory.events").write_text("low 0\nmax 9\noom 0\noom_kill 0\noom_group_kill 0\n")
    assert not limit.was_exceeded()
    (folder / "memory.events").write_text("low 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n")
    assert limit.was_exceeded()


def test_a_limit_that_cannot_be_set_leaves_the_others_in_place(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/mounts").write_text("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.subtree_control").write_text("cpu memory\n")
    folder = tmp_path / f"sys/fs/cgroup/fedmeter-{os.getpid()}-b"
    folder.mkdir()
    (folder / "memory.max").mkdir()  # writing fails
    assert isinstance(limit_memory(LIMIT_MB * MB, "b", root=tmp_path), ResidentWatch)
    assert folder.exists()

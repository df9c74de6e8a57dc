"""CPU time of a process and of all below it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.processes import LOOK_S, ProcessTree, with_descendants

SPIN = "import time\nwhile time.process_time() < {cpu_s}: pass\n"


class Machine:
    """Processes that a test makes up: which are below the root, and what each has used."""

    def __init__(self) -> None:
        self.used_s: dict[int, float] = {1: 0.0}
        self.now_s = 0.0

    def tree(self) -> ProcessTree:
        return ProcessTree(
            1, members=lambda pid: [pid, *self.used_s], cpu_s=lambda pid: self.used_s.get(pid), now_s=lambda: self.now_s
        )


def test_the_time_of_those_that_have_ended_stays() -> None:
    machine = Machine()
    tree = machine.tree()
    machine.used_s |= {1: 0.5, 2: 1.0}
    assert tree.cpu_s() == 1.5
    machine.used_s = {1: 0.5, 3: 0.25}
    machine.now_s += LOOK_S
    assert tree.cpu_s() == 1.75


def test_another_process_under_the_same_number_is_another() -> None:
    machine = Machine()
    tree = machine.tree()
    machine.used_s |= {2: 3.0}
    assert tree.cpu_s() == 3.0
    machine.used_s |= {2: 0.5}
    assert tree.cpu_s() == 3.5


def test_newcomers_are_seen_at_the_next_look() -> None:
    machine = Machine()
    tree = machine.tree()
    assert tree.cpu_s() == 0.0
    machine.used_s |= {2: 1.0}
    machine.now_s += LOOK_S / 2
    assert tree.cpu_s() == 0.0
    machine.now_s += LOOK_S
    assert tree.cpu_s() == 1.0


@pytest.mark.serial
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_real_tree_counts_what_its_children_use() -> None:
    child = SPIN.format(cpu_s=0.4)
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\nsys.stdin.read()\n"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE) as process:
        tree = ProcessTree(process.pid)
        until_s = time.monotonic() + 60
        while tree.cpu_s() < 0.35 and time.monotonic() < until_s:
            time.sleep(0.02)
        assert tree.cpu_s() >= 0.35
        process.communicate()


def test_descendants_of_a_process_tree(tmp_path: Path) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 11), (13, 1)):
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} (a) name) S {parent} 0 0")
    assert with_descendants(10, tmp_path) == [10, 11, 12]
    assert os.getpid() in with_descendants(os.getppid())

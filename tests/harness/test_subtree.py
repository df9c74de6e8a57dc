"""A command and all that it has started end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.launchers.subtree import tethered_subtree

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(sys.platform != "linux", reason="subreapers are Linux's"),
]

# Starts a process in a session of its own, tells its pid, and then waits, or ends.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(600 if sys.argv[2] == "stays" else 0)
sys.exit(7)
"""


def started(folder: Path, how: str) -> tuple[subprocess.Popen[bytes], int]:
    """The supervisor, and the process that has left its parent's session."""
    told = folder / "pid"
    process = subprocess.Popen(tethered_subtree([sys.executable, "-c", PARENT, str(told), how]))
    until_s = time.monotonic() + 60
    while not (told.exists() and told.read_text()) and time.monotonic() < until_s:
        time.sleep(0.02)
    return process, int(told.read_text())


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until_gone(pid: int) -> None:
    until_s = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert not is_running(pid)


def test_being_told_to_end_ends_all_of_it(tmp_path: Path) -> None:
    process, escaped = started(tmp_path, "stays")
    assert is_running(escaped)
    process.terminate()
    process.wait(60)
    until_gone(escaped)


def test_being_told_twice_ends_it_as_well(tmp_path: Path) -> None:
    """A parent with several threads dies several times, and each time its child is told."""
    process, escaped = started(tmp_path, "stays")
    for _ in range(3):
        os.kill(process.pid, signal.SIGTERM)
    process.wait(60)
    until_gone(escaped)


def test_its_own_end_ends_what_it_has_started(tmp_path: Path) -> None:
    process, escaped = started(tmp_path, "ends")
    assert process.wait(60) == 7
    until_gone(escaped)


def test_the_end_of_who_started_it_ends_it(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from tests.harness.test_subtree import started\n"
        "process, _ = started(Path(sys.argv[1]), 'stays')\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as harness:
        assert harness.stdout is not None
        supervisor = int(harness.stdout.readline())
        escaped = int((tmp_path / "pid").read_text())
        harness.kill()
    until_gone(supervisor)
    until_gone(escaped)

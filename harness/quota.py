"""Slowing a process down to a part of a core: by a cgroup CPU quota where one can be set, else by SIGSTOP and SIGCONT.

Whoever limits a process must not sample power inside it: the sampler would run only while the process does, and see
the power of running alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Protocol

from harness.host import process_cpu_s

log = logging.getLogger("harness")

PERIOD_S = 0.02
"""Length of one on-off cycle. Short, so that a training step is slowed rather than stopped now and then."""

_CGROUP_PREFIX = "fedmeter-"


class Quota(Protocol):
    """A CPU limit of one process."""

    by: str

    def attach(self, pid: int) -> None:
        """Limit a process from now on, all its threads. Harmless where it has ended."""
        ...

    def lift(self) -> None:
        """Let the process run at full speed again: it is about to be ended. Harmless once released."""
        ...

    def release(self) -> None:
        """The process has ended: leave nothing behind."""
        ...


class CgroupQuota:
    """A CPU quota of the kernel's bandwidth control, cgroup v1 (cpu.cfs_quota_us) or v2 (cpu.max).

    Source: Linux Documentation/scheduler/sched-bwc.rst and Documentation/admin-guide/cgroup-v2.rst.
    """

    def __init__(self, folder: Path, cores: float, version: int) -> None:
        self.by = f"cgroup-v{version}"
        self.folder = folder
        self._version = version
        period_us = round(PERIOD_S * 1e6)
        quota_us = max(1000, round(cores * period_us))
        if version == 1:
            (folder / "cpu.cfs_period_us").write_text(str(period_us))
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (folder / "cpu.max").write_text(f"{quota_us} {period_us}")

    def attach(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            (self.folder / "cgroup.procs").write_text(str(pid))

    def lift(self) -> None:
        name, unlimited = ("cpu.cfs_quota_us", "-1") if self._version == 1 else ("cpu.max", "max")
        with contextlib.suppress(FileNotFoundError):  # released before: a session may be stopped twice
            (self.folder / name).write_text(unlimited)

    def release(self) -> None:
        remove_cgroup(self.folder)


class DutyCycle:
    """SIGSTOP and SIGCONT in turn, `PERIOD_S` a cycle. Works for any process of the same user.

    A cycle is stretched where the process got more than its part, which happens when this thread is woken late on a
    busy machine: over time the process has its part of a core, whatever the machine does.
    """

    by = "sigstop"

    def __init__(self, cores: float) -> None:
        self._cores = cores
        self._on_s = min(1.0, cores) * PERIOD_S
        self._credit_s = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def attach(self, pid: int) -> None:
        self._thread = threading.Thread(target=self._run, args=(pid,), name=f"duty-{pid}", daemon=True)
        self._thread.start()

    def lift(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def release(self) -> None:
        self.lift()

    def _run(self, pid: int) -> None:
        try:
            handle = os.pidfd_open(pid) if sys.platform == "linux" else None
        except OSError:
            return
        try:
            while not self._ended.is_set():
                self._cycle(pid, handle)
        except ProcessLookupError:
            return
        finally:
            with contextlib.suppress(ProcessLookupError):
                _send(pid, handle, signal.SIGCONT)
            if handle is not None:
                os.close(handle)

    def _cycle(self, pid: int, handle: int | None) -> None:
        began_s, used_s = time.monotonic(), process_cpu_s(pid)
        _send(pid, handle, signal.SIGCONT)
        if self._ended.wait(self._on_s + self._credit_s):
            return
        _send(pid, handle, signal.SIGSTOP)
        after_s = process_cpu_s(pid)
        spent_s = 0.0 if used_s is None or after_s is None else after_s - used_s
        length_s = max(PERIOD_S, (spent_s - self._credit_s) / self._cores)
        # What it could not use, since others had the core, it may use in the next cycle, but not later.
        credit_s = self._credit_s + self._cores * length_s - spent_s
        self._credit_s = min(max(0.0, credit_s), PERIOD_S - self._on_s)
        self._ended.wait(max(0.0, began_s + length_s - time.monotonic()))


def _send(pid: int, handle: int | None, signal_: signal.Signals) -> None:
    """By process descriptor where there is one: a pid can be another process's by now."""
    if sys.platform == "linux" and handle is not None:
        signal.pidfd_send_signal(handle, signal_)
    else:
        os.kill(pid, signal_)


def limit_cpu(cores: float, name: str, *, root: Path = Path("/"), pid: int | None = None) -> Quota:
    """The best quota that this machine allows. `root` is the file system root to look for cgroups below."""
    for version, base in _cgroup_bases(root):
        folder = base / f"{_CGROUP_PREFIX}{pid or os.getpid()}-{name}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            return CgroupQuota(folder, cores, version)
        except OSError as error:
            log.info("cgroup v%d cannot limit %s: %s", version, name, error)
            remove_cgroup(folder)
    return DutyCycle(cores)


def sweep_stale_cgroups(root: Path = Path("/")) -> None:
    """Remove what harnesses that were killed left behind. A cgroup with a process in it cannot be removed."""
    for _, base in _cgroup_bases(root):
        for folder in base.glob(f"{_CGROUP_PREFIX}*-*"):
            owner = folder.name.removeprefix(_CGROUP_PREFIX).split("-")[0]
            if owner.isdigit() and not (root / "proc" / owner).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


def remove_cgroup(folder: Path) -> None:
    """Remove an emptied cgroup. The kernel can take some milliseconds to let go of a process that has ended."""
    for _ in range(100):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
        else:
            return
    log.warning("cgroup %s could not be removed", folder)


def _cgroup_bases(root: Path) -> list[tuple[int, Path]]:
    """(version, folder) of this process's own cgroups that have a CPU controller to hand on to a child."""
    try:
        mounts = [line.split() for line in (root / "proc/mounts").read_text().splitlines()]
        own = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    bases: list[tuple[int, Path]] = []
    for _, mount_point, fs_type, options, *_ in mounts:
        mounted = root / mount_point.lstrip("/")
        for _, controllers, path in own:
            folder = mounted / path.lstrip("/")
            if fs_type == "cgroup" and "cpu" in options.split(",") and "cpu" in controllers.split(","):
                bases.append((1, folder))
            elif fs_type == "cgroup2" and controllers == "" and _hands_on_cpu(folder):
                bases.append((2, folder))
    return bases


def _hands_on_cpu(folder: Path) -> bool:
    try:
        return "cpu" in (folder / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False

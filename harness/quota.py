"""Slowing a process down to a part of a core: by a cgroup CPU quota where one can be set, else by SIGSTOP and SIGCONT.

Whoever limits a process must not sample power inside it: the sampler would run only while the process does, and see
the power of running alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Protocol

from harness.cgroups import Cgroup, in_cgroup
from harness.host import process_cpu_s

PERIOD_S = 0.02
"""Length of one on-off cycle. Short, so that a training step is slowed rather than stopped now and then."""


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

    def __init__(self, cgroup: Cgroup, cores: float) -> None:
        self._cgroup = cgroup
        self.by, self.folder = cgroup.by, cgroup.folder
        self._period_us = round(PERIOD_S * 1e6)
        self._quota_us = max(1000, round(cores * self._period_us))
        if cgroup.version == 1:
            cgroup.write("cpu.cfs_period_us", self._period_us)
        self._set(self._quota_us)  # whether it can be set must show before a client is started
        self._set(None)  # on v2 the client may be in it already, for its memory

    def attach(self, pid: int) -> None:
        self._set(self._quota_us)
        self._cgroup.add(pid)

    def lift(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # released before: a session may be stopped twice
            self._set(None)

    def release(self) -> None:
        self._cgroup.remove()

    def _set(self, quota_us: int | None) -> None:
        if self._cgroup.version == 1:
            self._cgroup.write("cpu.cfs_quota_us", -1 if quota_us is None else quota_us)
        else:
            self._cgroup.write("cpu.max", f"{'max' if quota_us is None else quota_us} {self._period_us}")


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
    quota = in_cgroup("cpu", name, lambda cgroup: CgroupQuota(cgroup, cores), root=root, pid=pid)
    return quota or DutyCycle(cores)

"""A bound on a client's memory: by a cgroup where one can be set, else by a watch that ends what grows beyond it.

RLIMIT_AS would bound addresses instead, of which an interpreter with numpy reserves many times what it uses.
"""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import Protocol

import psutil

from harness.cgroups import Cgroup, in_cgroup

log = logging.getLogger("harness")

WATCH_PERIOD_S = 0.05
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class MemoryLimit(Protocol):
    """A memory limit of one process."""

    @property
    def by(self) -> str: ...

    def attach(self, pid: int) -> None:
        """Limit a process from now on: what it has by now may not count. Harmless where it has ended."""
        ...

    def was_exceeded(self) -> bool:
        """Whether the process was ended for it."""
        ...

    def release(self) -> None:
        """The process has ended: leave nothing behind."""
        ...


class CgroupMemory:
    """Limit of the kernel, swap included where it is accounted for: memory.limit_in_bytes (v1) or memory.max (v2)."""

    def __init__(self, cgroup: Cgroup, limit_bytes: int) -> None:
        self._cgroup = cgroup
        self.by = cgroup.by
        v1 = cgroup.version == 1
        cgroup.write("memory.limit_in_bytes" if v1 else "memory.max", limit_bytes)
        try:
            cgroup.write(*("memory.memsw.limit_in_bytes", limit_bytes) if v1 else ("memory.swap.max", 0))
        except OSError as error:
            log.info("%s: swap is not limited: %s", cgroup.folder.name, error)

    def attach(self, pid: int) -> None:
        self._cgroup.add(pid)

    def was_exceeded(self) -> bool:
        try:
            told = (self._cgroup.folder / self._events).read_text()
        except OSError:
            return False
        kills = _KILLS.search(told)
        return kills is not None and int(kills[1]) > 0

    @property
    def _events(self) -> str:
        return "memory.oom_control" if self._cgroup.version == 1 else "memory.events"

    def release(self) -> None:
        self._cgroup.remove()


class ResidentWatch:
    """Reads the resident memory of the process, without its children, 20 times a second, and kills it beyond the limit.

    A leap between two looks can go beyond; a limit of the kernel cannot.
    """

    by = "resident-watch"

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._is_exceeded = threading.Event()
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def attach(self, pid: int) -> None:
        self._thread = threading.Thread(target=self._watch, args=(pid,), name=f"memory-{pid}", daemon=True)
        self._thread.start()

    def was_exceeded(self) -> bool:
        return self._is_exceeded.is_set()

    def release(self) -> None:
        self._released.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _watch(self, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            while not self._released.wait(WATCH_PERIOD_S):
                if process.memory_info().rss > self._limit_bytes:
                    self._is_exceeded.set()  # first, so that whoever sees it ended knows why
                    process.kill()
                    return
        except psutil.Error:
            return


def limit_memory(limit_bytes: int, name: str, *, root: Path = Path("/"), pid: int | None = None) -> MemoryLimit:
    """The best limit that this machine allows. `root` is the file system root to look for cgroups below."""
    limit = in_cgroup("memory", name, lambda cgroup: CgroupMemory(cgroup, limit_bytes), root=root, pid=pid)
    return limit or ResidentWatch(limit_bytes)

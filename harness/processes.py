"""Processes below a process: which there are now, and what CPU time they have used together, those before included."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from harness.host import process_cpu_s

LOOK_S = 0.25
"""How often a tree is looked through: reading a process's clock is cheap, finding out whose child it is is not."""


def with_descendants(pid: int, root: Path = Path("/")) -> list[int]:
    """A process and all below it, by /proc/PID/stat (proc_pid_stat(5)); itself alone where that cannot be read."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in root.glob("proc/[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children[parent].append(int(entry.parent.name))
    found = [pid]
    for one in found:
        found += children[one]
    return found


class ProcessTree:
    """CPU time of a process and of all that it starts. What one uses between two looks and its end is not seen."""

    def __init__(
        self,
        pid: int,
        *,
        members: Callable[[int], list[int]] = with_descendants,
        cpu_s: Callable[[int], float | None] = process_cpu_s,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pid = pid
        self._members = members
        self._cpu_s = cpu_s
        self._now_s = now_s
        self._looked_s = -LOOK_S
        self._used_s: dict[int, float] = {}
        self._ended_s = 0.0

    def cpu_s(self) -> float:
        """Seconds; never less than before."""
        if self._now_s() - self._looked_s >= LOOK_S:
            self._looked_s = self._now_s()
            self._keep(self._members(self._pid))
        for pid, before_s in list(self._used_s.items()):
            used_s = self._cpu_s(pid)
            if used_s is None:
                continue
            if used_s < before_s:  # another process under its number
                self._ended_s += before_s
            self._used_s[pid] = used_s
        return self._ended_s + sum(self._used_s.values())

    def _keep(self, pids: list[int]) -> None:
        for pid in self._used_s.keys() - set(pids):
            self._ended_s += self._used_s.pop(pid)
        for pid in pids:
            self._used_s.setdefault(pid, 0.0)

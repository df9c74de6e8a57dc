"""Cgroups of this harness, one a client and hierarchy: made below its own, swept where a harness was killed.

On cgroup v1 each controller has a hierarchy of its own; on v2 there is one, and the limits of a client share a folder.
Sources: Linux Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

log = logging.getLogger("harness")

T = TypeVar("T")

_PREFIX = "fedmeter-"
CONTROLLERS = ("cpu", "memory")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A folder of the cgroup file system, version 1 or 2."""

    folder: Path
    version: int

    @property
    def by(self) -> str:
        """What it is called in records."""
        return f"cgroup-v{self.version}"

    def write(self, file: str, value: object) -> None:
        """Raises OSError."""
        (self.folder / file).write_text(str(value))

    def add(self, pid: int) -> None:
        """Put a process into it, all its threads. Harmless where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.write("cgroup.procs", pid)

    def remove(self) -> None:
        """Remove an emptied one. The kernel can take some milliseconds to let go of a process that has ended."""
        for _ in range(100):
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)
            else:
                return
        log.warning("cgroup %s could not be removed", self.folder)


def in_cgroup(
    controller: str, name: str, limit: Callable[[Cgroup], T], *, root: Path = Path("/"), pid: int | None = None
) -> T | None:
    """What `limit` makes of a new cgroup with this controller; None where none can be made, or it raises OSError.

    `root` is the file system root to look below, `pid` the process that the cgroup belongs to (None: this one).
    """
    for version, base in _bases(root, controller):
        cgroup = Cgroup(base / f"{_PREFIX}{pid or os.getpid()}-{name}", version)
        is_new = not cgroup.folder.exists()
        try:
            cgroup.folder.mkdir(exist_ok=version == 2)
            return limit(cgroup)
        except OSError as error:
            log.info("%s: no limit of %s for %s: %s", cgroup.by, controller, name, error)
            if is_new:
                cgroup.remove()
    return None


def sweep_stale_cgroups(root: Path = Path("/")) -> None:
    """Remove what harnesses that were killed left behind. A cgroup with a process in it cannot be removed."""
    for base in {base for controller in CONTROLLERS for _, base in _bases(root, controller)}:
        for folder in base.glob(f"{_PREFIX}*-*"):
            owner = folder.name.removeprefix(_PREFIX).split("-")[0]
            if owner.isdigit() and not (root / "proc" / owner).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _bases(root: Path, controller: str) -> list[tuple[int, Path]]:
    """(version, folder) of this process's own cgroups that have a controller to hand on to a child."""
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
            if fs_type == "cgroup" and controller in options.split(",") and controller in controllers.split(","):
                bases.append((1, folder))
            elif fs_type == "cgroup2" and controllers == "" and _hands_on(folder, controller):
                bases.append((2, folder))
    return bases


def _hands_on(folder: Path, controller: str) -> bool:
    try:
        return controller in (folder / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False

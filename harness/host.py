"""Facts about this host, for devices/*.json and run.json."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from fl.instrument import DEVICE_PREFIX
from harness.device import DeviceSpec
from profiler.files import printable
from profiler.machine_facts import machine_facts

_TOLD_NAME = re.compile(rf"{re.escape(DEVICE_PREFIX)}[A-Za-z0-9_@.-]{{1,64}}")
_MAX_TOLD, _MAX_TOLD_CHARS = 400, 200
_PACKAGES = ("fedmeter", "grpcio", "numpy", "protobuf", "psutil", "torch")


def available_cores() -> int:
    """Logical processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def host_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Hardware, operating system and how both are set up. What cannot be read is left out."""
    return {"memory_bytes": int(psutil.virtual_memory().total), **machine_facts(root), "cores": available_cores()}


def process_cpu_s(pid: int) -> float | None:
    """CPU seconds of another process, all its threads, to the nanosecond; None where it has ended.

    Linux encodes the CPU clock of a process in the clock id: ~pid << 3 | CPUCLOCK_SCHED, CPUCLOCK_SCHED = 2
    (include/linux/posix-timers.h). /proc/PID/stat counts in ticks of 10 ms, too coarse for sharing at 20 Hz.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, OverflowError):
        pass
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)


def device_facts(device: DeviceSpec, session: Mapping[str, Any], properties: Mapping[str, object]) -> dict[str, Any]:
    """A device: what the fleet file says, how it was started, and under `machine` what it told of itself.

    `properties` are those of the client, which came over the network. None stands for a client that told nothing.
    """
    entry = {"device": device.id, "processor": device.processor, "shard": device.shard, "host": "host"}
    return {**entry, **session, "machine": told_facts(properties) or None}


def told_facts(properties: Mapping[str, object]) -> dict[str, Any]:
    """The `device.*` properties of a client, as far as they are sane: names, sizes and numbers are not ours."""
    facts = {
        name[len(DEVICE_PREFIX) :]: printable(value, _MAX_TOLD_CHARS) if isinstance(value, str) else value
        for name, value in properties.items()
        if _TOLD_NAME.fullmatch(name) and _is_sane(value)
    }
    return dict(itertools.islice(sorted(facts.items()), _MAX_TOLD))


def _is_sane(value: object) -> bool:
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def versions() -> dict[str, str]:
    """Versions of what moves numbers."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state(source: Path) -> dict[str, Any] | None:
    """Commit of the checkout that a source file is tracked in and whether it was changed, None outside one."""
    folder = source.parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or _git(folder, "ls-files", "--error-unmatch", source.name) is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

"""Facts about this host, for devices/*.json and run.json."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from harness.device import DeviceSpec
from profiler.machine import processor_name

_PACKAGES = ("fedmeter", "grpcio", "numpy", "protobuf", "psutil", "torch")


def available_cores() -> int:
    """Logical processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def host_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Hardware and operating system. What cannot be read is left out."""
    facts: dict[str, Any] = {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cpu_model": processor_name(root) or platform.processor(),
        "cores": available_cores(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "governor": _first_line(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "python": platform.python_version(),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


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


def device_facts(device: DeviceSpec, session: Mapping[str, Any]) -> dict[str, Any]:
    """A device of this host: what the fleet file says, and how it was started."""
    return {"device": device.id, "processor": device.processor, "shard": device.shard, "host": "host", **session}


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


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
    except (OSError, IndexError):
        return None

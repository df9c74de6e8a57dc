"""What a device entry can bound of a client that shares this host: the same words for processes and containers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from harness.spec import Table

MB = 1024 * 1024
LEAST_MEMORY_MB = 16
MAX_MEMORY_MB = 1 << 30


def read_limits(entry: Table) -> dict[str, Any]:
    """Take `threads` (1), `cpu_limit` (in cores), `memory_limit_mb` (of 2^20 bytes) and `cores` (their numbers).

    Absent means no limit. Raises SpecError.
    """
    options: dict[str, Any] = {"threads": entry.take("threads", int, 1)}
    entry.at_least("threads", options["threads"], 1)
    for key, kind, least in (("cpu_limit", float, 0.05), ("memory_limit_mb", int, LEAST_MEMORY_MB)):
        value = entry.take(key, kind, None)
        if value is not None:
            entry.at_least(key, value, least)
            options[key] = min(value, MAX_MEMORY_MB)
    if cores := entry.numbers("cores", [], minimum=0):
        options["cores"] = cores
    return options


def allowed_cores(options: Mapping[str, Any]) -> float:
    """How many cores a client with these limits can use."""
    most = [float(options["threads"]), float(options.get("cpu_limit", options["threads"]))]
    return min([*most, float(len(options["cores"]))] if "cores" in options else most)


def usable_cores() -> list[int]:
    """The cores this process may run on; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


def missing_cores(options: Mapping[str, Any]) -> str:
    """Which of the chosen `cores` this host does not have, in words; empty where it has them all."""
    usable = usable_cores()
    absent = [core for core in options.get("cores", []) if core not in usable]
    return f"cores = {absent}: this host has {usable} for us" if absent else ""

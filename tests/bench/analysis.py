"""Fronts, cutoffs and the report of large results: time, and memory of the command with all that it starts."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import moocore
import numpy as np
import psutil

from analysis.fronts import on_front
from tests.bench.figures import Figure, compare, cpu_ms
from tests.fixtures.large_results import Size, write_large

_MANY = Size(tasks=25, rounds=500, clients=100)  # 10^7 spans, 5.5 GB
_SOME = Size(tasks=25, rounds=50, clients=100)
_FORMS = (("analysis.pareto", "fronts"), ("analysis.cutoff", "cutoffs"), ("analysis.report", "report"))


def million() -> list[Figure]:
    """A front of a million points, few of them on it, and many."""
    rng = np.random.default_rng(0)
    uniform = rng.random((1_000_000, 3))
    shell = np.abs(rng.standard_normal((1_000_000, 3))) + 0.5
    shell /= np.linalg.norm(shell, axis=1, keepdims=True) * rng.choice([1.0, 1.001], (1_000_000, 1))
    return [_front("uniform", uniform), _front("near a sphere", shell)]


def _front(name: str, points: np.ndarray) -> Figure:
    minimise = [False] * 3
    return compare(
        f"front of 10^6 points, {name} ({sum(on_front(points, minimise)):,} on it; CPU)",
        "ms",
        lambda: cpu_ms(lambda: on_front(points, minimise)),
        "moocore alone",
        lambda: cpu_ms(lambda: moocore.is_nondominated(points, maximise=minimise)),
        goal="< 5 s",
        repeats=3,
    )


def results() -> list[Figure]:
    """Fronts, cutoffs and the report of 10^6 spans."""
    return _of_size(_SOME, {})


def results_10m() -> list[Figure]:
    """Fronts, cutoffs and the report of 10^7 spans."""
    goals = {"records": "both < 180 s, 4 GB; report 4 GB", "tables": "both < 30 s, 4 GB; report < 300 s, 4 GB"}
    return _of_size(_MANY, goals | {"making": "< 180 s"})


def _of_size(size: Size, goals: dict[str, str]) -> list[Figure]:
    with tempfile.TemporaryDirectory() as root:
        write_large(Path(root), size)
        of_records = _each(root, f"{size.n_spans:.0e} spans of JSONL", goals.get("records", ""))
        making = _figures(f"tables of {size.n_spans:.0e} spans", [_run("analysis.load", root)], goals.get("making", ""))
        return of_records + making + _each(root, f"{size.n_spans:.0e} spans of Parquet", goals.get("tables", ""))


def _each(root: str, what: str, goal: str) -> list[Figure]:
    return [
        figure
        for module, name in _FORMS
        for figure in _figures(f"{name} of {what}", [_run(module, root, "-o", f"{root}/{name}")], goal)
    ]


def _figures(what: str, runs: Iterable[_Taken], goal: str) -> list[Figure]:
    taken = list(runs)
    return [
        Figure(what, "s", [one.wall_s for one in taken], goal=goal),
        Figure(f"{what}: CPU", "s", [one.cpu_s for one in taken]),
        Figure(f"{what}: memory", "GB", [one.peak_gb for one in taken]),
    ]


@dataclass(frozen=True)
class _Taken:
    """Of a command with all its processes; the peak is of the sum of their resident sets, read 20 times a second."""

    wall_s: float
    cpu_s: float
    peak_gb: float


def _run(module: str, *arguments: str) -> _Taken:
    start_s, start_cpu_s, peak_bytes = time.monotonic(), _children_cpu_s(), 0
    with subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _tree_bytes(watched))
            time.sleep(0.05)
    if process.returncode != 0:
        raise RuntimeError(f"{module} ended with {process.returncode}")
    return _Taken(time.monotonic() - start_s, _children_cpu_s() - start_cpu_s, peak_bytes / 1e9)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree_bytes(process: psutil.Process) -> int:
    def of(one: psutil.Process) -> int:
        try:
            return int(one.memory_info().rss)
        except psutil.Error:  # it has just ended
            return 0

    try:
        return sum(of(one) for one in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0

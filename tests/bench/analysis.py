"""Fronts and cutoffs of large results: time, and the memory of the command with all processes that it starts."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import moocore
import numpy as np
import psutil

from analysis.fronts import on_front
from tests.bench.figures import Figure, compare, cpu_ms
from tests.fixtures.large_results import Size, write_large

_MANY = Size(tasks=25, rounds=500, clients=100)  # 10^7 spans, 5.5 GB
_SOME = Size(tasks=25, rounds=50, clients=100)
_FORMS = (("analysis.pareto", "fronts"), ("analysis.cutoff", "cutoffs"))


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
    """Fronts and cutoffs of 10^6 spans."""
    return _of_size(_SOME, {})


def results_10m() -> list[Figure]:
    """Fronts and cutoffs of 10^7 spans."""
    return _of_size(_MANY, {"records": "< 180 s, 4 GB", "tables": "< 30 s, 4 GB"})


def _of_size(size: Size, goals: dict[str, str]) -> list[Figure]:
    with tempfile.TemporaryDirectory() as root:
        write_large(Path(root), size)
        of_records = _both(root, f"{size.n_spans:.0e} spans of JSONL", goals.get("records", ""))
        making = _figures(f"tables of {size.n_spans:.0e} spans", [_run("analysis.load", root)], "")
        return of_records + making + _both(root, f"{size.n_spans:.0e} spans of Parquet", goals.get("tables", ""))


def _both(root: str, what: str, goal: str) -> list[Figure]:
    return [
        figure
        for module, name in _FORMS
        for figure in _figures(f"{name} of {what}", [_run(module, root, "-o", f"{root}/{name}")], goal)
    ]


def _figures(what: str, runs: Iterable[tuple[float, float]], goal: str) -> list[Figure]:
    seconds, peaks_gb = zip(*runs, strict=True)
    return [Figure(what, "s", seconds, goal=goal), Figure(f"{what}: memory", "GB", peaks_gb)]


def _run(module: str, *arguments: str) -> tuple[float, float]:
    """Wall seconds, and the largest sum of the resident sets of the process and its children, in GB."""
    start_s, peak_bytes = time.monotonic(), 0
    with subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _tree_bytes(watched))
            time.sleep(0.05)
    if process.returncode != 0:
        raise RuntimeError(f"{module} ended with {process.returncode}")
    return time.monotonic() - start_s, peak_bytes / 1e9


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

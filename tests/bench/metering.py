"""What a running sampler takes: CPU, threads, processes and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from profiler.clock import SystemClock
from profiler.sampler import Sampler
from profiler.sensors.rapl import RaplSensor
from tests.bench.figures import Figure, compare
from tests.fixtures.powercap import ROOT, driven_tree

SAMPLING_S = 4.0
TICKS_OF_20_MIN = 20 * 60 * 100


def sampling() -> list[Figure]:
    """CPU of the sampler's thread over three file rails, beside the same files read in the barest loop there is."""
    with driven_tree() as root:
        return [
            compare(
                f"sampler, 3 file rails at {rate_hz:g} Hz (CPU)",
                "% of a core",
                lambda rate_hz=rate_hz: _sampler_percent(root, rate_hz),  # type: ignore[misc]
                "bare loop",
                lambda rate_hz=rate_hz: _bare_percent(root, rate_hz),  # type: ignore[misc]
                goal=goal,
                repeats=7,
            )
            for rate_hz, goal in ((10.0, "<= 0.4 %, ratio <= 2"), (100.0, "<= 1.3 %"))
        ]


def _sampler_percent(root: Path, rate_hz: float) -> float:
    with Sampler(RaplSensor(root, SystemClock()), rate_hz=rate_hz) as sampler:
        time.sleep(SAMPLING_S)
    return 100 * sampler.cost_s / SAMPLING_S


def _bare_percent(root: Path, rate_hz: float) -> float:
    """Descriptors kept, one system call a rail, time stamps, no lock, no way to stop it between two readings."""
    paths = [root / "sys/class/powercap/intel-rapl:0" / name for name in ("", "intel-rapl:0:0", "intel-rapl:0:1")]
    files = [os.open(path / "energy_uj", os.O_RDONLY) for path in paths]
    cost_s = []

    def loop() -> None:
        end_s = due_s = time.monotonic()
        end_s += SAMPLING_S
        while due_s < end_s:
            before_ns = time.monotonic_ns()
            values = [int(os.pread(file, 64, 0)) for file in files]
            readings.append(((before_ns + time.monotonic_ns()) // 2, values))
            due_s += 1 / rate_hz
            time.sleep(max(0.0, due_s - time.monotonic()))
        cost_s.append(time.thread_time())

    readings: list[tuple[int, list[int]]] = []
    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    for file in files:
        os.close(file)
    return 100 * cost_s[0] / SAMPLING_S


def footprint() -> list[Figure]:
    """Threads and processes of a sampler, and memory beside a process that has numpy."""
    with driven_tree() as root:
        command = [sys.executable, "-m", "tests.bench.footprint", str(root), "3", str(TICKS_OF_20_MIN)]
        runs = [json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout) for _ in range(3)]
        threads = set(threading.enumerate())
        processes = _children()
        with Sampler(RaplSensor(root, SystemClock())):
            started = len(set(threading.enumerate()) - threads)
            born = len(_children() - processes)
    return [
        Figure("threads of a sampler", "", [started], goal="1"),
        Figure("child processes of a sampler", "", [born], goal="0"),
        Figure(
            "memory added to a process with numpy, at 100 Hz",
            "MB",
            [run["added_bytes"] / 1e6 for run in runs],
            goal="< 3 MB",
        ),
        Figure(
            "grown by the 120,000 readings of 20 min",
            "kB",
            [run["grown_bytes"] / 1e3 for run in runs],
            goal="< 200 kB",
        ),
    ]


def _children() -> set[str]:
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}

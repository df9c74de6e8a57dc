"""What a running sampler takes: CPU, threads, processes, memory, and what training loses by it."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from scipy import stats

from profiler.clock import SystemClock
from profiler.sampler import Sampler
from profiler.sensors.rapl import RaplSensor
from tests.bench.figures import Figure, compare
from tests.fixtures.powercap import ROOT, driven_tree

SAMPLING_S = 4.0
PAIRS = 100
STEPS_OF_A_LEG = 100
LEGS_OF_A_PAIR = 6  # of each kind, in turn: the speed of a virtual machine drifts within a second
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


def slowdown() -> list[Figure]:
    """Training on scikit-learn's digits, with and without a sampler at 10 Hz, in pairs whose order alternates."""
    leg = _training_leg()
    leg()  # warms up
    with driven_tree() as root:
        pairs = [_pair(leg, root, sampled_first=bool(i % 2)) for i in range(PAIRS)]
    return [
        _slowdown_figure("wall", [(sampled[0], plain[0]) for sampled, plain in pairs], "< 1 %"),
        _slowdown_figure("CPU of its thread", [(sampled[1], plain[1]) for sampled, plain in pairs], ""),
    ]


Leg = Callable[[], tuple[float, float]]


def _pair(leg: Leg, root: Path, *, sampled_first: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """Seconds of wall and of CPU of all legs with a sampler, and of all without."""
    sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
    for n in range(2 * LEGS_OF_A_PAIR):
        is_sampled = sampled_first == (n % 2 == 0)
        with Sampler(RaplSensor(root, SystemClock())) if is_sampled else nullcontext():
            wall_s, cpu_s = leg()
        sums[is_sampled][0] += wall_s
        sums[is_sampled][1] += cpu_s
    return (sums[True][0], sums[True][1]), (sums[False][0], sums[False][1])


def _training_leg() -> Leg:
    import torch
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)

    def leg() -> tuple[float, float]:
        start_s, start_cpu_s = time.perf_counter(), time.thread_time()
        for step in range(STEPS_OF_A_LEG):
            batch = slice(step % 14 * 128, (step % 14 + 1) * 128)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return time.perf_counter() - start_s, time.thread_time() - start_cpu_s

    return leg


def _slowdown_figure(what: str, pairs: list[tuple[float, float]], goal: str) -> Figure:
    """Mean of the logarithms of the ratios, with Student's 95 % interval of it."""
    logs = [math.log(sampled_s / plain_s) for sampled_s, plain_s in pairs]
    mean, half = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    half *= float(stats.t.ppf(0.975, len(logs) - 1))
    low, middle, high = (100 * math.expm1(value) for value in (mean - half, mean, mean + half))
    name = f"training slowed at 10 Hz, {what}: {middle:+.2f} %, 95 % from {low:+.2f} to"
    return Figure(name, "%", [high], f"{len(pairs)} pairs without it", goal=goal)

"""What training loses to a sampler at 10 Hz, by two ways.

With and without: legs of training with a sampler and without one, in turn. It shows whatever a sampler does, and the
speed of a shared machine drifts by more than that within a second.

Around readings: under one sampler, the steps done in the 20 ms from just before each reading, beside those done in the
20 ms before these. All that a sampler does is to wake up and read, so what is lost there is what it costs, and what
drifts slower than 20 ms falls out. An effect that lasted for longer, from one reading to the next, would fall out as
well: that is what the first way is for.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from profiler.clock import SystemClock
from profiler.sampler import Sampler
from profiler.sensors.rapl import RaplSensor
from tests.bench.figures import Figure
from tests.fixtures.powercap import driven_tree

RATE_HZ = 10.0
PAIRS = 100
READINGS_OF_A_PAIR = 12
STRETCH_S = 0.020  # less than half the shortest time between two readings
LEAD_S = 0.002  # a reading is timed where it begins; its thread wakes up before that
LEG_S = 0.5  # five readings
SETTLING_S = 0.15  # the first reading of a sampler's thread comes within this

Step = Callable[[], None]


def slowdown() -> list[Figure]:
    """Training on scikit-learn's digits by one thread; upper limits of 95 % intervals, from 100 pairs each."""
    step = _training_step()
    _train(step, 2.0)  # warms up
    with driven_tree() as root:
        around = _around_readings(step, root)
        walls, cpus = zip(
            *[_with_and_without(step, root, sampled_first=bool(n % 2)) for n in range(PAIRS)], strict=True
        )
    return [
        _figure("around its readings", around, f"{PAIRS} x {READINGS_OF_A_PAIR} stretches before them", "< 1 %"),
        _figure("with and without, wall", walls, f"{PAIRS} legs without it"),
        _figure("with and without, CPU of its thread", cpus, f"{PAIRS} legs without it"),
    ]


def _figure(what: str, slowdowns: Sequence[float], peer: str, goal: str = "") -> Figure:
    """The mean of the pairs with Student's 95 % interval of it."""
    mean, half = statistics.fmean(slowdowns), statistics.stdev(slowdowns) / math.sqrt(len(slowdowns))
    half *= float(stats.t.ppf(0.975, len(slowdowns) - 1))
    name = f"training slowed at 10 Hz, {what}: {100 * mean:+.2f} %, 95 % from {100 * (mean - half):+.2f} to"
    return Figure(name, "%", [100 * (mean + half)], peer, goal=goal)


def _around_readings(step: Step, root: Path) -> list[float]:
    sensor = _TimedSensor(root, SystemClock())
    ends_s = []
    with Sampler(sensor, SystemClock(), rate_hz=RATE_HZ):
        while len(sensor.read_s) < PAIRS * READINGS_OF_A_PAIR + 3:  # the first is an edge, as the last will be
            step()
            ends_s.append(time.perf_counter())
    readings_s = sensor.read_s[2 : PAIRS * READINGS_OF_A_PAIR + 2]
    return lost_around(np.array(readings_s), np.array(ends_s), READINGS_OF_A_PAIR)


def lost_around(
    readings_s: npt.NDArray[np.float64], ends_s: npt.NDArray[np.float64], readings_of_a_pair: int
) -> list[float]:
    """The part of all steps that readings have cost, one a pair of stretches: of so many readings each.

    Steps are counted in equal times. The other way round, the time of equally many steps, a step that somebody else
    has interrupted would be met by readings more often than a short one, and be charged to them.
    """

    def done(t_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.interp(t_s, ends_s, np.arange(len(ends_s)))

    from_s = readings_s - LEAD_S
    before, since = done(from_s) - done(from_s - STRETCH_S), done(from_s + STRETCH_S) - done(from_s)
    lost = (before - since).reshape(-1, readings_of_a_pair).mean(axis=1)
    between_readings = np.diff(done(readings_s)).mean()
    return [float(part) for part in lost / between_readings]


class _TimedSensor(RaplSensor):
    def __init__(self, root: Path, clock: SystemClock) -> None:
        super().__init__(root, clock)
        self.read_s: list[float] = []

    def read(self) -> list[float | None]:
        self.read_s.append(time.perf_counter())
        return super().read()


def _with_and_without(step: Step, root: Path, *, sampled_first: bool) -> tuple[float, float]:
    """How much longer a step takes beside a sampler: wall, and CPU of its thread."""
    took_s = {}
    for is_sampled in (sampled_first, not sampled_first):
        with Sampler(RaplSensor(root, SystemClock()), rate_hz=RATE_HZ) if is_sampled else nullcontext():
            _train(step, SETTLING_S)
            took_s[is_sampled] = _train(step, LEG_S)
    (wall_s, cpu_s), (plain_wall_s, plain_cpu_s) = took_s[True], took_s[False]
    return math.log(wall_s / plain_wall_s), math.log(cpu_s / plain_cpu_s)


def _train(step: Step, duration_s: float) -> tuple[float, float]:
    """Seconds a step, of wall and of CPU."""
    start_s, start_cpu_s, n = time.perf_counter(), time.thread_time(), 0
    while time.perf_counter() - start_s < duration_s:
        step()
        n += 1
    return (time.perf_counter() - start_s) / n, (time.thread_time() - start_cpu_s) / n


def _training_step() -> Step:
    import torch
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = torch.arange(14 * 128).reshape(14, 128)
    turn = itertools.cycle((x[batch], y[batch]) for batch in batches)

    def step() -> None:
        inputs, labels = next(turn)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step

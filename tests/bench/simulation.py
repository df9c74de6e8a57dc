"""What simulating a large fleet without training takes, beside a numpy pass that draws a time a client and sums."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from harness.cost_only import Calls, simulate_round
from harness.device_model import Group, Population, costs_of
from profiler.devices import load_device
from tests.bench.figures import Figure, compare

_PROFILES = ("raspberry-pi-4", "jetson-orin-nano", "jetson-tx2-cpu")
_DEVICES = 1_000_000
_FLEET = 'name = "million"\n' + "".join(
    f'[[device]]\nid = "{name}-{{n}}"\ncount = {_DEVICES // 4 * (2 if n == 0 else 1)}\nlauncher = "simulated"\n'
    f'profile = "{name}"\nprocessor = "{name}"\n'
    for n, name in enumerate(_PROFILES)
)
_EXPERIMENT = """name = "million"
workload = "cifar10-resnet18"
rounds = 1000
batch_size = 32
lr = 0.01
idle_s = 60
[strategy]
name = "fedavg"
clients = 1000
[simulation]
steps_per_epoch = 16
model_bytes = 44700000
"""


def simulation() -> list[Figure]:
    """A whole round in process; a thousand rounds of the command itself, from start to written results."""
    groups = [
        Group(name, name, costs_of(load_device(name), "cifar10-resnet18", 16), _DEVICES // 4 * (2 if n == 0 else 1))
        for n, name in enumerate(_PROFILES)
    ]
    population = Population(groups, 1)
    calls = Calls.of([group.costs for group in groups], 44_700_000, evaluates=False)
    everybody = np.arange(population.size)

    def whole_round() -> object:
        return simulate_round(population, calls, everybody, np.random.default_rng(0), 1e9).energy_j.sum()

    def plain(n: int, rounds: int) -> object:
        rng, total_j = np.random.default_rng(0), 0.0
        for _ in range(rounds):
            times_s = rng.lognormal(4.0, 0.3, n)
            total_j += float((2.0 * times_s.max() + 3.0 * times_s).sum())
        return total_j

    seconds, mib = _command()
    return [
        compare(
            "a round of 10^6 simulated devices",
            "s",
            lambda: _wall_s(whole_round),
            "numpy: a lognormal time each, and sums",
            lambda: _wall_s(lambda: plain(_DEVICES, 1)),
            goal="< 1 s",
        ),
        Figure(
            "10^6 devices, 1,000 rounds of 1,000, the command",
            "s",
            [seconds],
            "numpy: a lognormal time each, and sums",
            [_wall_s(lambda: plain(1000, 1000))],
            goal="< 10 s",
        ),
        Figure("its peak memory", "MiB", [mib], goal="< 1000 MiB"),
    ]


def _wall_s(work: Callable[[], object]) -> float:
    start_s = time.monotonic()
    work()
    return time.monotonic() - start_s


def _command() -> tuple[float, float]:
    """Wall seconds and peak resident MiB of one run."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("fleet", _FLEET), ("experiment", _EXPERIMENT)):
            Path(folder, f"{name}.toml").write_text(text)
        command = [sys.executable, "-m", "harness.run", f"{folder}/fleet.toml", "--experiment"]
        command += [f"{folder}/experiment.toml", "--no-training", "--quiet", "-o", f"{folder}/results"]
        seconds = _wall_s(lambda: subprocess.run(command, check=True, capture_output=True))
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024

"""The workload without torch: what it needs, that it learns, and that its data are the same everywhere."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fl.workload import Partition
from fl.workloads.linear import Linear
from profiler.errors import UsageError


def test_it_needs_numpy_alone() -> None:
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'sklearn', 'scipy')))\n"  # None: an import of it fails
        "from fl.workload import Partition, load_workload\n"
        "workload = load_workload('linear')\n"
        "arrays, n, _ = workload.client(0, Partition()).fit(workload.initial_parameters(0), {})\n"
        "print(n, len(arrays))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == ["1600", "2"]


def test_one_client_with_all_data_comes_near_the_best_rule() -> None:
    """The best rule here is linear (equal covariances), and knows the centres."""
    workload = Linear()
    parameters = workload.initial_parameters(0)
    client = workload.client(0, Partition())
    for round_ in range(workload.defaults.rounds):
        parameters, _, _ = client.fit(parameters, {"round": round_})
    _, accuracy = workload.evaluate(parameters)
    assert 0.8 < accuracy <= 0.87


def test_the_gradient_is_that_of_the_loss() -> None:
    """One step on all examples, beside central differences of the loss in float32."""
    workload = Linear(features=5, examples=200)
    client = workload.client(0, Partition())
    start = workload.initial_parameters(3)
    stepped, _, _ = client.fit(start, {"lr": 1.0, "batch_size": 1000})
    for tensor, index in ((0, (2, 7)), (1, (4,))):
        losses = []
        for sign in (1, -1):
            moved = [array.copy() for array in start]
            moved[tensor][index] += sign * 0.05
            losses.append(client.evaluate(moved, {})[0])
        gradient = (losses[0] - losses[1]) / 0.1
        assert start[tensor][index] - stepped[tensor][index] == pytest.approx(gradient, rel=0.01, abs=1e-4)


def test_fedprox_keeps_it_near_where_it_began() -> None:
    workload = Linear(features=8, examples=500)
    client, start = workload.client(0, Partition()), workload.initial_parameters(0)

    def moved(mu: float) -> float:
        return float(np.abs(client.fit(start, {"epochs": 3, "proximal_mu": mu})[0][0] - start[0]).sum())

    assert moved(5.0) < 0.7 * moved(0.0)


def test_its_data_are_the_same_with_every_numpy() -> None:
    """By value: shards and scores of two machines would not fit together otherwise."""
    workload = Linear()
    loss, accuracy = workload.evaluate([np.ones((64, 10), np.float32) * np.arange(10, dtype=np.float32), np.zeros(10)])
    assert (loss, accuracy) == (pytest.approx(32.722, rel=1e-4), 0.08)


def test_options_are_checked() -> None:
    for options in ({"features": 0}, {"examples": 99}, {"features": 65536, "examples": 1_000_000}, {"features": True}):
        with pytest.raises(UsageError):
            Linear(**options)

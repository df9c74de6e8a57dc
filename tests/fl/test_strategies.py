"""Who takes part, with which config and deadline; and how partial work is weighed."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.messages import FitRes, Parameters
from fl.proxy import ClientInfo
from fl.strategies.cutoff import Cutoff
from fl.strategies.fedavg import FedAvg
from fl.strategy import load_strategy
from profiler.errors import UsageError

FLEET = [ClientInfo(f"tx2-{number}", "tx2-gpu" if number < 5 else "tx2-cpu") for number in range(10)]
OPTIONS: dict[str, Any] = {"epochs": 5, "batch_size": 16, "lr": 0.01}


def drawn(strategy: FedAvg, round_: int, clients: list[ClientInfo] | None = None) -> list[str]:
    return [assignment.device for assignment in strategy.configure_fit(round_, clients or FLEET)]


def test_what_a_client_is_told() -> None:
    strategy = FedAvg(epochs=5, batch_size=16, lr=0.01, seed=3, telemetry="flat")
    assignment = strategy.configure_fit(7, FLEET)[0]
    assert assignment.config == {
        "round": 7,
        "epochs": 5,
        "batch_size": 16,
        "lr": 0.01,
        "cutoff_s": 0.0,
        "seed": 3,
        "telemetry": "flat",
    }
    assert assignment.deadline_s == 600.0


def test_everybody_takes_part_unless_told_otherwise() -> None:
    everybody = [client.device for client in FLEET]
    assert drawn(FedAvg(**OPTIONS), 1) == everybody
    assert drawn(FedAvg(clients=10, **OPTIONS), 1) == everybody
    assert drawn(FedAvg(clients=99, **OPTIONS), 1) == everybody


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**62), st.integers(1, 1000), st.permutations(FLEET), st.data())
def test_the_draw_follows_from_seed_and_round_alone(
    clients: int, seed: int, round_: int, order: list[ClientInfo], data: st.DataObject
) -> None:
    strategy = FedAvg(clients=clients, seed=seed, **OPTIONS)
    chosen = drawn(strategy, round_)
    assert len(set(chosen)) == clients
    assert chosen == sorted(chosen)
    assert drawn(strategy, round_, order) == chosen
    lost = data.draw(st.sampled_from(FLEET))
    survivors = drawn(strategy, round_, [client for client in FLEET if client is not lost])
    assert set(chosen) - {lost.device} <= set(survivors)


def test_the_draw_is_fair_over_rounds_and_differs_between_seeds() -> None:
    strategy = FedAvg(clients=3, **OPTIONS)
    counts = Counter(device for round_ in range(1000) for device in drawn(strategy, round_))
    # Binomial(1000, 0.3): standard deviation 14.5
    assert all(abs(counts[client.device] - 300) < 75 for client in FLEET)
    other = FedAvg(clients=3, seed=1, **OPTIONS)
    assert [drawn(strategy, round_) for round_ in range(5)] != [drawn(other, round_) for round_ in range(5)]


def test_those_who_fit_evaluate_unless_switched_off() -> None:
    strategy = FedAvg(clients=3, **OPTIONS)
    asked = strategy.configure_evaluate(4, FLEET)
    assert [assignment.device for assignment in asked] == drawn(strategy, 4)
    assert {assignment.config["round"] for assignment in asked} == {4}
    assert FedAvg(evaluate=False, **OPTIONS).configure_evaluate(4, FLEET) == []


def test_a_cutoff_goes_to_the_clients_of_its_processor() -> None:
    strategy = Cutoff(cutoffs={"tx2-cpu": 119.4, "tx2-gpu": 0}, fit_timeout_s=60.0, **OPTIONS)
    told = {assignment.device: assignment for assignment in strategy.configure_fit(1, FLEET)}
    assert told["tx2-9"].config["cutoff_s"] == 119.4
    assert told["tx2-9"].deadline_s == pytest.approx(3 * 119.4 + 30)
    assert told["tx2-0"].config["cutoff_s"] == 0.0
    assert isinstance(told["tx2-0"].config["cutoff_s"], float)
    assert told["tx2-0"].deadline_s == 60.0


@settings(max_examples=100, deadline=None)
@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_the_deadline_is_later_than_the_cutoff(cutoff_s: float, timeout_s: float) -> None:
    strategy = Cutoff(cutoffs={"tx2-cpu": cutoff_s}, fit_timeout_s=timeout_s, **OPTIONS)
    for assignment in strategy.configure_fit(1, FLEET):
        assert assignment.deadline_s is not None
        assert assignment.deadline_s >= timeout_s
        sent = assignment.config["cutoff_s"]
        assert sent == 0 or assignment.deadline_s >= cutoff_s + 30


def test_partial_work_counts_in_full() -> None:
    """F_i = (x - e_i)^2 / 2, e = (0, 1), k = (10, 5) steps of lr 0.01: weights by data size converge to 0.33887.

    Weights by examples processed would converge to 0.20400, further from the optimum 0.5.
    """
    strategy, x = Cutoff(cutoffs={"tx2-cpu": 1.0}, **OPTIONS), np.array([0.0])
    for round_ in range(400):
        aggregator = strategy.aggregator(round_, Parameters((x,)))
        for device, optimum, steps in (("whole", 0.0, 10), ("partial", 1.0, 5)):
            local = optimum + (x - optimum) * (1 - 0.01) ** steps
            aggregator.fold(device, FitRes(Parameters((local,)), 100, {"fit.steps_done": steps}))
        result = aggregator.result()
        assert result is not None
        x = result.arrays[0]
    assert x[0] == pytest.approx(0.33887, abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"clients": 0},
        {"seed": -1},
        {"lr": 0.0},
        {"lr": math.nan},
        {"fit_timeout_s": math.inf},
        {"telemetry": "ful"},
        {"cutoffs": {"tx2-cpu": -1.0}},
        {"cutoffs": {"tx2-cpu": math.nan}},
    ],
)
def test_refuses_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options)).removesuffix("s")):
        Cutoff(**{**OPTIONS, **options})


def test_unknown_strategies_and_options_are_usage_errors() -> None:
    with pytest.raises(UsageError, match=r"no 'fedavgg'.*Did you mean 'fedavg'\?.*cutoff, .*fedavg"):
        load_strategy("fedavgg", **OPTIONS)
    with pytest.raises(UsageError, match=r"'fedavg': got an unexpected keyword argument 'cutof'"):
        load_strategy("fedavg", cutof={}, **OPTIONS)
    with pytest.raises(UsageError, match=r"missing a required.* argument: 'lr'"):
        load_strategy("cutoff", epochs=1, batch_size=1)

"""Strategies that learn, over real rounds: what is observed of a round decides the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from fl.in_process import InProcessProxy
from fl.instrument import instrument
from fl.loop import CallRecord, RoundResult, run_rounds
from fl.messages import Array, Config, Parameters, Scalar
from fl.proxy import ClientInfo
from fl.steps import steps
from fl.strategy import Strategy, load_strategy
from profiler.clock import SystemClock

MODEL = Parameters((np.zeros(3, np.float32),))
N_STEPS = 20


class Sleeper:
    """Takes its time over each of its steps."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return {}

    def get_parameters(self, config: Config) -> list[Array]:
        return list(MODEL.arrays)

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        for _ in steps(range(N_STEPS)):
            time.sleep(self._step_s)
        return [array + 1 for array in parameters], 10, {}

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        return 0.0, 10, {}


def run(
    strategy: Strategy, steps_s: Mapping[str, float], rounds: int, energies: Mapping[str, float]
) -> list[RoundResult]:
    """Devices are called by their processor and a number: `fast-1`."""
    proxies = [
        InProcessProxy(ClientInfo(device, device.partition("-")[0]), instrument(Sleeper(step_s)))
        for device, step_s in steps_s.items()
    ]

    def energies_of(calls: Sequence[CallRecord]) -> Mapping[str, float]:
        return {call.device: energies[call.device] for call in calls if call.device in energies}

    async def all_rounds() -> list[RoundResult]:
        made = run_rounds(
            strategy,
            lambda: proxies,
            parameters=MODEL,
            rounds=range(1, rounds + 1),
            clock=SystemClock(),
            energies_of=energies_of,
        )
        return [result async for result in made]

    try:
        return asyncio.run(asyncio.wait_for(all_rounds(), 60.0))
    finally:
        for proxy in proxies:
            proxy.close()


def options(**more: object) -> dict[str, object]:
    return {"epochs": 1, "batch_size": 1, "lr": 0.1, "evaluate": False, **more}


def fits(result: RoundResult) -> dict[str, Mapping[str, Scalar]]:
    return {call.device: call.answer.result.metrics for call in result.calls if call.answer is not None}


def test_an_adaptive_cutoff_ends_the_straggling_after_the_rounds_it_measures() -> None:
    strategy = load_strategy("adaptive", **options(measure_rounds=1))
    first, second = run(strategy, {"fast-1": 0.01, "slow-1": 0.04}, 2, {})
    assert fits(first)["slow-1"]["fit.steps_done"] == N_STEPS
    cut = fits(second)["slow-1"]
    assert cut["fit.stopped_by_cutoff"] == 1
    assert 1 <= int(cut["fit.steps_done"]) < N_STEPS / 2
    assert float(cut["fit.cutoff_s"]) == pytest.approx(float(fits(first)["fast-1"]["fit.duration_s"]), rel=0.3)
    assert second.fit_time_s < 0.6 * first.fit_time_s


def test_a_deadline_leaves_out_who_was_too_slow_the_round_before() -> None:
    strategy = load_strategy("fedavg", **options(round_deadline_s=0.5))
    first, second = run(strategy, {"fast-1": 0.002, "slow-1": 0.04}, 2, {})
    assert set(fits(first)) == {"fast-1", "slow-1"}
    assert set(fits(second)) == {"fast-1"}


def test_an_energy_budget_is_kept_from_the_second_round_on() -> None:
    strategy = load_strategy("fedavg", **options(round_energy_j=5.0))
    devices = {f"any-{number}": 0.0 for number in range(4)}
    first, *later = run(strategy, devices, 4, dict.fromkeys(devices, 2.0))
    assert len(fits(first)) == 4
    assert all(len(fits(result)) == 2 for result in later)

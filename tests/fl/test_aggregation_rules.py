"""What each rule makes of updates, against known answers and the formulas of its paper written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.messages import FitRes, Parameters
from fl.strategies.fedavg import FedAvg
from fl.strategies.fednova import FedNova, effective_steps
from fl.strategies.fedopt import FedAdagrad, FedAdam, FedAvgM, FedYogi
from fl.strategies.robust import FedMedian, Krum, TrimmedMean
from fl.strategy import Strategy
from profiler.errors import ClientFailure, UsageError

OPTIONS: dict[str, Any] = {"epochs": 1, "batch_size": 16, "lr": 0.01}
Floats = npt.NDArray[np.float64]


def fold(strategy: Strategy, x: Floats, updates: list[tuple[Floats, int, int]], round_: int = 1) -> Floats:
    """The model after updates of (weights, examples, steps)."""
    aggregator = strategy.aggregator(round_, Parameters((x,)))
    for n, (weights, examples, steps) in enumerate(updates):
        aggregator.fold(f"d{n}", FitRes(Parameters((weights,)), examples, {"fit.steps_done": steps}))
    result = aggregator.result()
    assert result is not None
    return np.asarray(result.arrays[0])


def fixed_point(strategy: Strategy) -> float:
    """F_i = (x - e_i)² / 2, e = (0, 1), k = (10, 5) steps of lr 0.01, equal data: the optimum is 0.5."""
    x = np.array([0.3])
    for round_ in range(600):
        local = [optimum + (x - optimum) * 0.99**steps for optimum, steps in ((0.0, 10), (1.0, 5))]
        x = fold(strategy, x, [(local[0], 100, 10), (local[1], 100, 5)], round_)
    return float(x[0])


def test_where_partial_work_leads() -> None:
    """Only FedNova finds the optimum, but for its step size; weighing by work done doubles the bias."""
    assert fixed_point(FedNova(**OPTIONS)) == pytest.approx(0.5062, abs=5e-5)
    assert fixed_point(FedAvg(**OPTIONS)) == pytest.approx(0.33887, abs=1e-5)
    assert fixed_point(FedAvg(weigh_by="processed", **OPTIONS)) == pytest.approx(0.20400, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_with_equal_steps_and_data_all_are_the_mean(examples: list[int], steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(5)
    updates = [(rng.standard_normal(5), n, steps) for n in examples]
    mean = np.average([weights for weights, _, _ in updates], axis=0, weights=examples)
    np.testing.assert_allclose(fold(FedAvg(**OPTIONS), x, updates), mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fold(FedNova(**OPTIONS), x, updates), mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fold(FedNova(momentum=0.9, **OPTIONS), x, updates), mean, rtol=0, atol=1e-11)
    alike = [(weights, 7, steps) for weights, _, _ in updates]
    plain = np.mean([weights for weights, _, _ in updates], axis=0)
    np.testing.assert_allclose(fold(FedAvg(weigh_by="processed", **OPTIONS), x, alike), plain, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fold(FedAvgM(server_momentum=0.0, **OPTIONS), x, updates), mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.9), (5, 0.5), (40, 0.9)])
def test_effective_steps_are_what_each_gradient_weighs_in_the_end(steps: int, momentum: float) -> None:
    velocity = np.zeros(steps)
    moved = np.zeros(steps)
    for step in range(steps):
        velocity *= momentum
        velocity[step] += 1
        moved += velocity
    assert effective_steps(steps, momentum) == pytest.approx(moved.sum())


@pytest.mark.parametrize("steps", [None, 0, True, 1.5, "many", 10**9])
def test_a_client_that_does_not_count_its_steps_is_refused_by_name(steps: object) -> None:
    metrics: Any = {} if steps is None else {"fit.steps_done": steps}
    for strategy in (FedNova(**OPTIONS), FedAvg(weigh_by="processed", **OPTIONS)):
        aggregator = strategy.aggregator(1, Parameters((np.zeros(2),)))
        with pytest.raises(ClientFailure, match=r"fit\.steps_done") as caught:
            aggregator.fold("phone", FitRes(Parameters((np.ones(2),)), 10, metrics))
        assert caught.value.device == "phone"
        assert aggregator.result() is None


ROUNDS = [np.random.default_rng(seed).standard_normal((3, 4)) for seed in range(5)]


def plain_fedopt(rule: Callable[[Floats, Floats], Floats], beta_1: float, lr: float, tau: float) -> Floats:
    """Algorithm 2 of Reddi et al. as printed, over rounds whose mean updates are ROUNDS."""
    x, m, v = np.zeros(4), np.zeros(4), np.full(4, tau**2)
    for updates in ROUNDS:
        delta = np.mean(updates - x, axis=0)
        m = beta_1 * m + (1 - beta_1) * delta
        v = rule(v, delta)
        x = x + lr * m / (np.sqrt(v) + tau)
    return x


@pytest.mark.parametrize(
    ("strategy", "beta_1", "rule"),
    [
        (FedAdagrad(**OPTIONS), 0.0, lambda v, d: v + d**2),
        (FedYogi(**OPTIONS), 0.9, lambda v, d: v - 0.01 * d**2 * np.sign(v - d**2)),
        (FedAdam(**OPTIONS), 0.9, lambda v, d: 0.99 * v + 0.01 * d**2),
    ],
    ids=["adagrad", "yogi", "adam"],
)
def test_adaptive_optimizers_do_as_printed(
    strategy: Strategy, beta_1: float, rule: Callable[[Floats, Floats], Floats]
) -> None:
    x = np.zeros(4)
    for updates in ROUNDS:
        x = fold(strategy, x, [(weights, 10, 1) for weights in updates])
    np.testing.assert_allclose(x, plain_fedopt(rule, beta_1, 0.1, 1e-3), rtol=1e-12)


def test_server_momentum_carries_a_direction_on() -> None:
    """A constant Δ of 1 with β = 0.5: steps of 1, 1.5, 1.75."""
    strategy, x = FedAvgM(server_momentum=0.5, **OPTIONS), np.zeros(1)
    path = []
    for _ in range(3):
        x = fold(strategy, x, [(x + 1, 10, 1)])
        path.append(float(x[0]))
    assert path == pytest.approx([1.0, 2.5, 4.25])


@pytest.mark.parametrize("make", [FedAvgM, FedAdam, FedNova, FedMedian, TrimmedMean, Krum])
def test_integer_tensors_survive(make: Callable[..., Strategy]) -> None:
    """BatchNorm's num_batches_tracked: other frameworks weigh it in its own type, and make it 0."""
    model = Parameters((np.zeros(2, np.float32), np.array(0, np.int64)))
    aggregator = make(**OPTIONS).aggregator(1, model)
    for device, count in (("a", 40), ("b", 44), ("c", 42)):
        aggregator.fold(
            device, FitRes(Parameters((np.ones(2, np.float32), np.array(count, np.int64))), 10, {"fit.steps_done": 4})
        )
    result = aggregator.result()
    assert result is not None
    assert result.arrays[1].dtype == np.int64
    assert int(result.arrays[1]) == (40 if make is Krum else 42), "three like updates: Krum takes the first"


def test_a_liar_moves_the_mean_and_not_the_robust_rules() -> None:
    x = np.zeros(3)
    honest = [(np.full(3, value), 100, 1) for value in (0.9, 1.0, 1.1, 1.2)]
    liar = (np.full(3, 1e6), 10**9, 1)
    updates = [*honest, liar]
    assert fold(FedAvg(**OPTIONS), x, updates)[0] > 1e5
    np.testing.assert_allclose(fold(FedMedian(**OPTIONS), x, updates), 1.1)
    np.testing.assert_allclose(fold(TrimmedMean(trim=0.2, **OPTIONS), x, updates), (1.0 + 1.1 + 1.2) / 3)
    assert fold(Krum(byzantine=1, **OPTIONS), x, updates)[0] in (1.0, 1.1)
    np.testing.assert_allclose(fold(Krum(byzantine=1, keep=4, **OPTIONS), x, updates), 1.05)


def test_krum_scores_by_the_nearest_others() -> None:
    """N = 5, f = 1: each by its 2 nearest. 0, 1, 2 are a cluster around 1; the tie of 4 and 5 does not matter."""
    values = (0.0, 1.0, 2.0, 10.0, 11.0)
    updates = [(np.array([value]), 1, 1) for value in values]
    assert fold(Krum(byzantine=1, **OPTIONS), np.zeros(1), updates)[0] == 1.0


def test_krum_breaks_ties_by_device() -> None:
    updates = [(np.array([value]), 1, 1) for value in (5.0, 5.0, 5.0)]
    assert fold(Krum(**OPTIONS), np.zeros(1), updates)[0] == 5.0
    mirrored = [(np.array([value]), 1, 1) for value in (-1.0, 1.0)]
    assert fold(Krum(**OPTIONS), np.zeros(1), mirrored)[0] == -1.0


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)))
def test_no_rule_depends_on_who_came_first(order: list[int]) -> None:
    rng = np.random.default_rng(0)
    updates = {f"d{n}": rng.standard_normal(7).astype(np.float32) for n in range(5)}
    model = Parameters((np.zeros(7, np.float32),))
    for make in (FedAvg, FedMedian, TrimmedMean, Krum, FedAvgM, FedYogi):
        results = []
        for devices in (sorted(updates), [f"d{n}" for n in order]):
            aggregator = make(**OPTIONS).aggregator(1, model)
            for device in devices:
                aggregator.fold(device, FitRes(Parameters((updates[device],)), 10 + int(device[1]), {}))
            result = aggregator.result()
            assert result is not None
            results.append(result.arrays[0].tobytes())
        assert results[0] == results[1], make.__name__


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (FedNova, {"momentum": 1.0}),
        (FedNova, {"weigh_by": "processed"}),
        (FedAvg, {"weigh_by": "loss"}),
        (FedAvgM, {"server_momentum": -0.1}),
        (FedAdam, {"beta_2": 1.0}),
        (FedAdam, {"tau": 0.0}),
        (FedYogi, {"server_lr": 0.0}),
        (TrimmedMean, {"trim": 0.5}),
        (Krum, {"byzantine": -1}),
        (Krum, {"keep": 0}),
        (FedMedian, {"weigh_by": "processed"}),
    ],
)
def test_refuses_options_out_of_range(make: Callable[..., Strategy], options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        make(**options, **OPTIONS)

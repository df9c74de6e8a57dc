"""What is drawn for a cutoff's interval, and whether the interval holds the best τ as often as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.cutoff import Cutoff, Limits, cutoffs
from analysis.cutoff_resampling import Pool, bootstrap_intervals, pool_of_windows
from analysis.stats import Values
from analysis.windows import FitWindow, Group, Windows
from tests.fixtures.cutoff_experiments import drawn


def windows(processor: str, *fits: FitWindow) -> Windows:
    return Windows(processor, fits)


def many(processor: str, mean_s: float, *, runs: int, devices: int, rounds: int, seed: int = 0) -> Windows:
    random = np.random.default_rng(seed)
    return windows(
        processor,
        *(
            FitWindow(mean_s + float(random.normal()), 0.5, None, f"run {run}", f"device {device}", round_)
            for run in range(runs)
            for device in range(devices)
            for round_ in range(rounds)
        ),
    )


def parity(fast: Windows, slow: Windows) -> Cutoff:
    groups = {Group("digits", 10, 8): {"fast": fast, "slow": slow}}
    return next(one for one in cutoffs(groups, {}, limits=Limits()) if (one.kind, one.processor) == ("parity", "slow"))


@pytest.mark.parametrize(
    ("runs", "devices", "rounds", "level", "n"),
    [(3, 2, 2, "runs", 3), (1, 4, 3, "devices", 4), (1, 1, 5, "fits", 5)],
)
def test_the_widest_level_that_there_are_several_of_is_drawn(
    runs: int, devices: int, rounds: int, level: str, n: int
) -> None:
    fits, pool = pool_of_windows(many("p", 10, runs=runs, devices=devices, rounds=rounds), np.random.default_rng(0))
    assert (pool.level, pool.n_independent, pool.n_units) == (level, n, n)
    assert len(fits) == pool.n_elements == runs * devices * rounds


def test_a_single_fit_is_drawn_by_its_steps() -> None:
    steps_s = np.random.default_rng(0).normal(1, 0.2, 100)
    one = windows("fast", FitWindow(float(steps_s.sum()), 0.5, np.cumsum(steps_s)))
    made = parity(one, replace(one, processor="slow"))
    assert made.interval_from == "100 steps"
    assert not made.interval_trusted
    assert made.interval is not None
    half_s = (made.interval[1] - made.interval[0]) / 2
    assert half_s == pytest.approx(1.66 * 0.2 * 100**0.5, rel=0.35), "1.66 standard errors of a sum of 100 steps"


def test_steps_that_follow_each_other_widen_the_interval_of_a_single_fit() -> None:
    random, drift, steps_s = np.random.default_rng(4), 0.0, []
    for _ in range(400):
        drift = 0.9 * drift + float(random.normal(0, 0.05))
        steps_s.append(1 + drift)

    def width_s(steps: Values) -> float:
        one = windows("fast", FitWindow(float(steps.sum()), 0.5, np.cumsum(steps)))
        interval = parity(one, replace(one, processor="slow")).interval
        assert interval is not None
        return interval[1] - interval[0]

    in_order = np.array(steps_s)
    assert width_s(in_order) > 2 * width_s(random.permutation(in_order))


def test_fits_of_one_run_are_not_taken_for_independent() -> None:
    """Ten runs that differ by 1 s, 40 fits each that do not: the interval is that of ten values, not of 400.

    The standard error of a median is 1.25 times that of a mean: 0.4 s, where 400 fits would have 0.06 s.
    """
    random = np.random.default_rng(2)
    means_s = random.normal(10, 1, 10)
    fits = [
        FitWindow(float(m + random.normal(0, 0.01)), 0.5, None, f"{n}", "d", r)
        for n, m in enumerate(means_s)
        for r in range(40)
    ]
    made = parity(windows("fast", *fits), many("slow", 30, runs=10, devices=1, rounds=1))
    assert made.interval is not None
    assert (made.interval_from, made.interval_trusted) == ("10 runs", True)
    assert (made.interval[1] - made.interval[0]) / 2 > 1.645 * 0.4 * 0.6


def test_fewer_than_ten_runs_are_not_trusted() -> None:
    made = parity(many("fast", 10, runs=9, devices=2, rounds=2), many("slow", 20, runs=12, devices=2, rounds=2))
    assert (made.interval_from, made.interval_trusted) == ("9 runs", False)


def test_draws_are_of_units_first() -> None:
    pool = Pool(np.array([0, 0, 0, 1, 1]), "runs", 2)
    random = np.random.default_rng(0)
    counts = pool.draw_units(random, 500)
    weights = pool.draw_within(random, counts)
    assert (counts.sum(axis=1) == 2).all()
    assert weights[:, :3].sum(axis=1).tolist() == (3 * counts[:, 0]).tolist()
    assert weights[:, 3:].sum(axis=1).tolist() == (2 * counts[:, 1]).tolist()
    again = weights * pool.redraw_units(random, counts)
    assert (again[:, 3:].sum(axis=1)[counts[:, 1] == 2] == 4).all(), "a unit drawn twice is all that is left to draw"


def means(runs: int, seed: int) -> tuple[Pool, Values]:
    random = np.random.default_rng(seed)
    return Pool(np.repeat(np.arange(runs), 4), "runs", runs), np.exp(
        np.repeat(random.normal(0, 0.5, runs), 4) + random.normal(0, 0.2, runs * 4)
    )


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """120 experiments of ten runs whose fits are alike, the mean of a skewed distribution.

    Between 81 % and 98 %, three binomial standard deviations about 90 %; `make soak` asks 500 of every rule.
    """
    truth, held, percentile_held = float(np.exp((0.5**2 + 0.2**2) / 2)), 0, 0
    for seed in range(120):
        pool, values = means(10, seed)

        def mean(weights: dict[str, Values], values: Values = values) -> dict[str, Values]:
            return {"mean": weights["p"] @ values / weights["p"].sum(axis=1)}

        interval = bootstrap_intervals({"p": pool}, mean, {"mean": ["p"]}, seed=seed)["mean"]
        assert interval is not None
        held += interval[0] <= truth <= interval[1]
        random = np.random.default_rng(seed)
        naive = random.multinomial(40, np.full(40, 1 / 40), size=1000) @ values / 40
        low, high = np.quantile(naive, [0.05, 0.95])
        percentile_held += low <= truth <= high
    assert 0.81 <= held / 120 <= 0.98
    assert percentile_held / 120 < 0.75, "what the plain percentile of pooled fits would have held"


def test_every_rule_of_an_experiment_has_an_interval_around_it() -> None:
    problem = drawn(1, 10)
    models = {("digits", 8): problem.model}
    made = cutoffs({problem.group: problem.by_processor}, models, limits=problem.limits)
    given = [one for one in made if one.tau_s]
    assert {one.kind for one in given} == {"parity", "time", "energy", "joint", "accuracy", "knee", "recommended"}
    for one in given:
        assert one.interval is not None, one
        assert one.interval[0] <= one.tau_s <= one.interval[1]
        assert (one.interval_from, one.interval_trusted) == ("10 runs", True)

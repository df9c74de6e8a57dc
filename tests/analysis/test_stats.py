from __future__ import annotations

import numpy as np
import pytest

from analysis import stats


def mean_interval(values: list[float], seed: int = 0) -> stats.Interval | None:
    return stats.bootstrap_interval([values], lambda sample, axis: np.mean(sample, axis=axis), seed=seed)


def test_fewer_than_two_values_have_no_spread() -> None:
    assert stats.mean([]) is None
    assert stats.sd([1.0]) is None
    assert mean_interval([1.0]) is None
    assert stats.sd([1.0, 3.0]) == pytest.approx(2**0.5)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(10, 1, 50).tolist()
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4)
    assert mean_interval(values, seed=4) != mean_interval(values, seed=5)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """A 90 % interval of the mean of 40 values: between 80 % and 97 % of 150 draws (3.5 binomial sd about 0.88)."""
    random = np.random.default_rng(7)
    hits = 0
    for seed in range(150):
        interval = mean_interval(random.normal(5, 2, 40).tolist(), seed=seed)
        assert interval is not None
        hits += interval[0] <= 5 <= interval[1]
    assert 0.80 <= hits / 150 <= 0.97


def test_equal_values_give_a_point() -> None:
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)

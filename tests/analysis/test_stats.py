from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from analysis import stats


def test_fewer_than_two_values_have_no_spread() -> None:
    assert stats.mean([]) is None
    assert stats.sd([1.0]) is None
    assert stats.sd([1.0, 3.0]) == pytest.approx(2**0.5)


VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)


@given(VALUES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_of_a_mean_is_that_of_the_t_test(values: list[float], level: float) -> None:
    found = stats.mean_interval(values, level=level)
    if np.ptp(values) == 0:
        assert found == (pytest.approx(values[0]), pytest.approx(values[0]))
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = ttest_1samp(values, 0).confidence_interval(level)
    scale = max(1.0, float(np.abs(values).max()))
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9 * scale)


def test_the_interval_of_two_values_by_hand() -> None:
    """12.706 is t of one degree of freedom at 97.5 %; the sd of 9 and 11 over the root of 2 is 1."""
    assert stats.mean_interval([9.0, 11.0]) == pytest.approx((10 - 12.7062, 10 + 12.7062), abs=1e-4)
    assert stats.mean_interval([9.0]) is None
    assert stats.mean_interval([]) is None


def test_the_interval_of_a_mean_covers_as_often_as_it_says() -> None:
    """Three replicates, 2,000 draws: 95 % within 4 binomial sd (0.5 %)."""
    random = np.random.default_rng(5)
    intervals = [stats.mean_interval(random.normal(5, 2, 3).tolist()) for _ in range(2000)]
    hits = sum(interval is not None and interval[0] <= 5 <= interval[1] for interval in intervals)
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)


# Weighted quantiles


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.data())
def test_a_weighted_quantile_is_that_of_the_values_repeated(values: list[int], data: st.DataObject) -> None:
    """Definition 2 of Hyndman and Fan, as numpy has it."""
    weights = data.draw(st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values)).filter(any))
    level = data.draw(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.95, 0.99]))
    ordered = np.sort(np.array(values, dtype=np.float64))
    found = stats.weighted_quantile(ordered, np.array([weights], dtype=np.float64), level)
    expected = np.quantile(np.repeat(ordered, weights), level, method="averaged_inverted_cdf")
    assert found.tolist() == [pytest.approx(float(expected))]


def test_rows_of_weights_are_independent() -> None:
    weights = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 2.0], [5.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    assert stats.weighted_quantile(np.array([1.0, 2.0, 4.0]), weights, 0.5).tolist() == [2.0, 4.0, 1.0, 1.5]


# Blocks


def autoregressive(r: float, n: int, seed: int) -> list[float]:
    random, values = np.random.default_rng(seed), [0.0]
    for _ in range(n - 1):
        values.append(r * values[-1] + float(random.normal()))
    return values


def test_blocks_grow_with_autocorrelation_and_are_single_values_without() -> None:
    assert stats.block_length(np.random.default_rng(0).normal(size=500)) == 1
    assert stats.block_length([3.0] * 50) == 1
    lengths = [stats.block_length(autoregressive(r, 1000, seed=3)) for r in (0.3, 0.6, 0.9)]
    assert lengths == sorted(lengths)
    assert lengths[0] > 1
    assert stats.lag1_autocorrelation(autoregressive(0.8, 20_000, 1)) == pytest.approx(0.8, abs=0.02)


def test_blocks_keep_the_spread_of_the_mean_that_single_values_lose() -> None:
    """An AR(1) of r = 0.8 has a mean that spreads (1 + r)/(1 - r) = 9 times as much, in variance, as if independent."""
    series = np.array(autoregressive(0.8, 4000, seed=5))
    drawn = stats.resample_blocks(series, 400, np.random.default_rng(0))
    assert drawn.shape == (400, 4000)
    assert np.isin(drawn, series).all()
    ratio = drawn.mean(axis=1).var() / (series.var() / series.size)
    assert 5 < ratio < 11, "blocks of finite length lose a little of 9"


# Studentised intervals


def test_errors_and_draws_that_follow_student_give_students_interval() -> None:
    random = np.random.default_rng(1)
    samples = random.normal(0, 1, (40_000, 8))
    draws, errors = 5 + samples.mean(axis=1), samples.std(axis=1, ddof=1) / 8**0.5
    found = stats.studentised_interval(5.0, 0.5, draws, errors)
    assert found == pytest.approx((5 - 1.895 * 0.5, 5 + 1.895 * 0.5), abs=0.03)


def test_a_skewed_ratio_gives_the_longer_side_to_the_other_end() -> None:
    draws = np.array([0.0, *np.linspace(-1, 4, 999)])
    found = stats.studentised_interval(0.0, 1.0, draws, np.ones(1000))
    assert found is not None
    assert -found[0] > found[1]


def test_where_no_interval_can_be_told() -> None:
    draws, errors = np.array([1.0, 2.0, np.nan, np.nan, np.nan]), np.ones(5)
    assert stats.studentised_interval(1.5, 1.0, draws, errors) is None
    assert stats.studentised_interval(1.5, float("nan"), np.ones(5), errors) is None
    assert stats.studentised_interval(2.0, 0.0, np.full(5, 2.0), np.zeros(5)) == (2.0, 2.0)
    assert stats.t_interval(1.0, 0.1, 1) is None


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6))
def test_the_t_interval_of_a_mean_needs_the_error_with_n(values: list[float]) -> None:
    """The bootstrap's error divides by n where Student's divides by n - 1."""
    error = float(np.std(values)) / len(values) ** 0.5
    expected = stats.mean_interval(values, level=0.9)
    assert stats.t_interval(float(np.mean(values)), error, len(values), level=0.9) == pytest.approx(expected, abs=1e-9)

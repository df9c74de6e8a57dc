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

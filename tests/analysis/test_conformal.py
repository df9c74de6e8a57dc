"""Conformal intervals: they cover what they promise, whatever the model, and small cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.conformal import SPLIT_POINTS, conformal, jackknife_plus, least_points, split
from analysis.stats import Values


def mean_model(x: Values, y: Values, targets: Values) -> Values:
    return np.full(len(targets), y.mean())


def wrong_model(x: Values, y: Values, targets: Values) -> Values:
    """Takes the smallest for everything."""
    return np.full(len(targets), y.min())


def blank(n: int) -> Values:
    return np.zeros((n, 1))


def test_jackknife_plus_by_hand() -> None:
    y = np.arange(9.0)  # left out, the mean of the rest is (36 - y) / 8, and the residual |9 y - 36| / 8
    found = jackknife_plus(mean_model, blank(9), y, blank(1), 0.9)
    assert found.value[0] == 4.0
    assert found.high[0] == pytest.approx(max((36 - value) / 8 + abs(9 * value - 36) / 8 for value in y))
    assert found.low[0] == pytest.approx(min((36 - value) / 8 - abs(9 * value - 36) / 8 for value in y))


@pytest.mark.parametrize("model", [mean_model, wrong_model])
@pytest.mark.parametrize("n", [10, 20, SPLIT_POINTS])
def test_intervals_cover_what_they_promise(model: object, n: int) -> None:
    covered = []
    for seed in range(600):
        values = np.random.default_rng(seed).lognormal(size=n + 1)
        found = conformal(model, blank(n), values[:n], blank(1), seed=seed)  # type: ignore[arg-type]
        covered.append(found.low[0] <= values[n] <= found.high[0])
    assert 0.87 <= np.mean(covered) <= 0.97


@given(st.lists(st.floats(-1e6, 1e6), min_size=9, max_size=30), st.permutations(range(9)))
def test_the_order_of_points_does_not_matter_and_the_value_lies_within(values: list[float], order: list[int]) -> None:
    y = np.array(values)
    again = y.copy()
    again[:9] = y[list(order)]
    one, other = (conformal(mean_model, blank(len(y)), some, blank(2)) for some in (y, again))
    assert one.low == pytest.approx(other.low, abs=1e-6)
    assert one.high == pytest.approx(other.high, abs=1e-6)
    assert np.all((one.low <= one.value) & (one.value <= one.high))


def test_too_few_points_give_no_interval() -> None:
    assert least_points(0.9) == 9
    assert least_points(0.5) == 1
    with pytest.raises(ValueError, match="8 points cannot give a 90% interval: 9 are needed"):
        conformal(mean_model, blank(8), np.arange(8.0), blank(1))


def test_split_is_as_wide_as_the_residuals_that_were_kept() -> None:
    found = split(mean_model, blank(60), np.full(60, 3.0), blank(1), 0.9, seed=0)
    assert (found.low[0], found.value[0], found.high[0]) == (3.0, 3.0, 3.0)

"""Dominance beyond the measurement's resolution: boxes, their laws, and what the command line takes."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import fronts
from analysis.resolution import EXACT, MEASURED, Resolution, binomial_se, boxes, parse
from profiler.errors import UsageError

ALL = ("accuracy", "time_s", "energy_j")
SENSES = (True, False, False)
COARSE = Resolution(0.05, 0.1, 0.1)
ROW = st.tuples(st.floats(0, 1), st.floats(1e-3, 1e6), st.floats(-1e4, 1e6))
ROWS = st.lists(ROW, min_size=1, max_size=12)


def front_of(rows: list[tuple[float, ...]], resolution: Resolution) -> set[tuple[float, ...]]:
    flags = fronts.on_front(boxes(rows, ALL, resolution), SENSES)
    return {row for row, flag in zip(rows, flags, strict=True) if flag}


def test_a_difference_within_the_resolution_decides_nothing() -> None:
    good, cheap = (0.801, 300.0, 3000.0), (0.800, 100.0, 1000.0)
    assert front_of([good, cheap], EXACT) == {good, cheap}
    assert front_of([good, cheap], MEASURED) == {cheap}, "a thousandth of accuracy is no gain on three times the cost"
    better = (0.81, 300.0, 3000.0)
    assert front_of([better, cheap], MEASURED) == {better, cheap}


def test_what_rounds_alike_is_a_tie() -> None:
    rows = [(0.8, 100.0, 1000.0), (0.8, 100.1, 1000.0), (0.8, 100.0, 1001.0)]
    assert front_of(rows, MEASURED) == set(rows)
    assert front_of(rows, EXACT) == {rows[0]}


@given(ROWS, st.integers(0, 1000))
def test_the_front_does_not_depend_on_row_order_and_is_never_empty(rows: list[tuple[float, ...]], seed: int) -> None:
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert front_of(shuffled, COARSE) == front_of(rows, COARSE) != set()


@given(ROWS)
def test_every_dominated_point_has_a_dominator_on_the_front(rows: list[tuple[float, ...]]) -> None:
    """What pairwise comparison with a tolerance does not give: it is not transitive."""
    compared = boxes(rows, ALL, COARSE)
    flags = fronts.on_front(compared, SENSES)
    for by, flag in zip(fronts.dominators(compared, SENSES), flags, strict=True):
        assert flag == (by is None)
        assert by is None or flags[by]


@given(ROWS)
def test_without_a_resolution_values_stay_as_they_are(rows: list[tuple[float, ...]]) -> None:
    assert boxes(rows, ALL, EXACT).tolist() == [list(row) for row in rows]


@given(ROW, ROW)
def test_boxes_keep_the_order_and_tell_apart_what_is_two_resolutions_apart(
    first: tuple[float, ...], second: tuple[float, ...]
) -> None:
    (a, b), pairs = boxes([first, second], ALL, COARSE), list(zip(first, second, strict=True))
    for column, (x, y) in enumerate(pairs):
        assert np.sign(b[column] - a[column]) in (0, np.sign(y - x))
    if abs(first[0] - second[0]) > 2 * COARSE.accuracy:
        assert a[0] != b[0]
    if max(first[1], second[1]) > min(first[1], second[1]) * (1 + COARSE.time_s) ** 2:
        assert a[1] != b[1]
    if first[2] * second[2] <= 0 and first[2] != second[2]:
        assert a[2] != b[2], "what costs net energy is told from what gains some"


def test_three_points_that_would_dominate_each_other_pair_by_pair() -> None:
    """Each is better than the next by 1.5 resolutions in one thing and worse by 0.75 in the others, in a circle."""
    circle = [(1.5, 0.0, 0.75), (0.75, 1.5, 0.0), (0.0, 0.75, 1.5)]
    rows = [(0.5 + 0.05 * a, 1.1**t, 1.1**e) for a, t, e in circle]
    assert front_of(rows, COARSE), "somebody has to stay"


def test_an_objective_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        boxes([(0.5, math.nan, 1.0)], ALL, MEASURED)


def test_nothing_has_no_boxes() -> None:
    assert boxes([], ALL, MEASURED).shape == (0, 3)


def test_parsing() -> None:
    assert parse(None) == MEASURED
    assert parse("accuracy=0, time_s=0.05") == Resolution(0.0, 0.05, MEASURED.energy_j)
    for text in ("accuracy=1", "time_s=-0.1", "energy_j=x", "energy_j", "accuracy=nan"):
        with pytest.raises(UsageError, match="at least 0 and less than 1"):
            parse(text)
    with pytest.raises(UsageError, match="Did you mean 'time_s'"):
        parse("time=0.1")


def test_the_standard_error_of_an_accuracy() -> None:
    assert binomial_se(0.67, 10_000) == pytest.approx(0.0047, abs=5e-5)
    assert binomial_se(1.0, 400) == pytest.approx(1 / 400), "one example is the least that can differ"

"""The geometry of fronts, against a slow oracle and against the facts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import fronts

SENSES = (True, False, False)
# Few distinct values, so that ties and duplicates are common.
POINTS = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), min_size=1, max_size=14)


def oracle(points: list[tuple[float, ...]], maximise: tuple[bool, ...]) -> list[bool]:
    """Non-dominated by definition: nobody is as good in everything and better in something."""
    costs = np.where(maximise, -np.array(points), np.array(points))

    def dominated(mine: np.ndarray) -> bool:
        return any((other <= mine).all() and (other < mine).any() for other in costs)

    return [not dominated(mine) for mine in costs]


@given(POINTS)
def test_the_front_is_non_dominated_and_ties_stay(points: list[tuple[float, ...]]) -> None:
    assert fronts.on_front(points, SENSES) == oracle(points, SENSES)


@given(POINTS, st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_row_order(points: list[tuple[float, ...]], random: object) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)
    before = {point for point, flag in zip(points, fronts.on_front(points, SENSES), strict=True) if flag}
    after = {point for point, flag in zip(shuffled, fronts.on_front(shuffled, SENSES), strict=True) if flag}
    assert before == after
    reference = (0.0, 5.0, 5.0)
    assert fronts.hypervolume(points, reference, SENSES) == pytest.approx(
        fronts.hypervolume(shuffled, reference, SENSES)
    )


@given(POINTS)
def test_duplicates_are_ties(points: list[tuple[float, ...]]) -> None:
    flags = fronts.on_front(points, SENSES)
    assert fronts.on_front([*points, *points], SENSES) == flags + flags


@given(POINTS)
def test_every_dominated_point_names_one_of_the_front_that_dominates_it(points: list[tuple[float, ...]]) -> None:
    flags = fronts.on_front(points, SENSES)
    for index, by in enumerate(fronts.dominators(points, SENSES)):
        assert (by is None) == flags[index]
        if by is not None:
            assert flags[by]
            assert oracle([points[by], points[index]], SENSES) == [True, False]


@given(POINTS, st.tuples(*[st.integers(0, 4).map(float)] * 3))
def test_hypervolume_never_shrinks_with_one_more_point(
    points: list[tuple[float, ...]], more: tuple[float, ...]
) -> None:
    reference = (-1.0, 5.0, 5.0)
    less = fronts.hypervolume(points, reference, SENSES)
    assert fronts.hypervolume([*points, more], reference, SENSES) >= less - 1e-9


def test_hypervolume_of_one_point_is_its_box() -> None:
    assert fronts.hypervolume([(0.5, 2.0, 3.0)], (0.0, 4.0, 7.0), SENSES) == pytest.approx(0.5 * 2 * 4)
    assert fronts.hypervolume([], (0.0, 4.0, 7.0), SENSES) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        fronts.on_front([(0.5, 1.0, bad)], SENSES)


@pytest.mark.parametrize(
    ("costs", "gains", "index", "height"),
    [
        ((17.63, 36.83, 80.32), (0.48, 0.64, 0.67), 1, 0.5358),
        ((10.21, 50.54, 100.95), (0.48, 0.64, 0.67), 1, 0.3976),
        ((80.34, 89.15, 102.0), (0.63, 0.66, 0.67), 1, 0.3433),
        ((10.4, 19.72, 28.0), (0.84, 0.85, 0.87), None, -0.1962),
    ],
)
def test_knees_of_the_paper(
    costs: tuple[float, ...], gains: tuple[float, ...], index: int | None, height: float
) -> None:
    found = fronts.knee(costs, gains)
    assert found.index == index
    assert found.height == pytest.approx(height, abs=5e-5)


@pytest.mark.parametrize("points", [[], [(1, 1)], [(1, 1), (2, 2)], [(1, 1), (2, 2), (2, 2)]])
def test_too_few_points_have_no_knee(points: list[tuple[float, float]]) -> None:
    found = fronts.knee([x for x, _ in points], [y for _, y in points])
    assert found.index is None
    assert "needs 3" in found.reason


def test_a_straight_front_has_no_knee() -> None:
    found = fronts.knee([0, 1, 2], [0, 1, 2])
    assert found.index is None
    assert "above the chord" in found.reason


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=9), st.integers(1, 9))
def test_a_knee_does_not_depend_on_units(points: list[tuple[int, int]], factor: int) -> None:
    costs, gains = [float(x) for x, _ in points], [float(y) for _, y in points]
    plain, scaled = fronts.knee(costs, gains), fronts.knee([factor * x for x in costs], gains)
    assert (plain.height is None) == (scaled.height is None)
    if plain.height is not None:
        assert scaled.height == pytest.approx(plain.height, abs=1e-9)

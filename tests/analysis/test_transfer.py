"""Transfer between devices: exact cases, and real devices that are held out. `make bench` has the whole table."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from analysis.transfer import Points, common_level, estimate, reach, transfer
from profiler.errors import ResultsError
from tests.fixtures.data import device_data
from tests.fixtures.device_times import (
    board_targets,
    mean_coverage,
    over_targets,
    phone_targets,
    power_score,
    time_score,
    unmeasured_score,
)

N_DRAWS = 6


def made(n: int = 12, seed: int = 0) -> Points:
    rng = np.random.default_rng(seed)
    work_s = rng.lognormal(sigma=1.0, size=(n, 1))
    return Points.of(work_s * np.array([1.0, 2.0]))


def test_a_device_that_is_always_as_much_slower_is_told_exactly() -> None:
    points, targets = made(), made(5, seed=1)
    found = transfer(points, 3 * points.known_s[:, 0], targets)
    assert found.value == pytest.approx(3 * targets.known_s[:, 0], rel=1e-3)
    assert np.all(found.high / found.low < 1.01)


def test_it_does_not_depend_on_the_unit_or_on_the_order_of_known_devices() -> None:
    points, targets = made(), made(5, seed=1)
    own_s = points.known_s[:, 1] ** 1.2 * np.random.default_rng(2).lognormal(sigma=0.1, size=12)
    first = transfer(points, own_s, targets)
    swapped = transfer(Points.of(points.known_s[:, ::-1]), own_s, Points.of(targets.known_s[:, ::-1]))
    in_ms = transfer(Points.of(1e3 * points.known_s), 1e3 * own_s, Points.of(1e3 * targets.known_s))
    assert swapped.value == pytest.approx(first.value, rel=1e-6)
    assert in_ms.value == pytest.approx(1e3 * first.value, rel=1e-6)
    assert in_ms.high == pytest.approx(1e3 * first.high, rel=1e-6)


def test_too_few_points_are_refused() -> None:
    points = made(9)
    with pytest.raises(ResultsError, match="a transfer needs 10"):
        transfer(points, points.known_s[:, 0], points)


def test_reach_is_one_inside_and_tells_how_far_outside() -> None:
    points = Points.of(np.array([[1.0], [4.0]]))
    assert reach(points, Points.of(np.array([[2.0], [12.0], [0.25]]))) == pytest.approx([1.0, 3.0, 4.0])


def test_an_estimate_goes_with_speed_and_is_wide() -> None:
    one = estimate(np.array([[2.0]]), np.array([100.0]), 50.0)
    assert one.value[0] == pytest.approx(4.0)
    assert one.high[0] / one.low[0] > 16
    alike = estimate(np.full((1, 20), 2.0), np.full(20, 100.0), 100.0)
    assert alike.value[0] == pytest.approx(2.0)
    assert alike.high[0] / alike.low[0] > 4, "devices that agree may still differ from the next"


def test_power_is_that_of_the_points() -> None:
    found = common_level(np.full(10, 7.0), 2)
    assert found.value == pytest.approx([7.0, 7.0])


# Real devices, none of whose own figures, of whatever runtime, are among what is known


def test_boards_that_are_held_out_are_predicted_from_ten_points() -> None:
    targets = board_targets(device_data())
    assert len(targets) == 8
    times = [time_score(target, 10, N_DRAWS) for target in targets]
    powers = [power_score(target, 10, N_DRAWS) for target in targets]
    assert over_targets(times, "mean_error") <= 0.18
    assert over_targets(powers, "mean_error") <= 0.12
    assert 0.85 <= mean_coverage(times) <= 0.97
    assert 0.85 <= mean_coverage(powers) <= 0.97
    guesses = [unmeasured_score(target) for target in targets]
    assert over_targets(guesses, "factor") > 2 * over_targets(times, "factor")
    assert mean_coverage(guesses) >= 0.9


def test_phones_that_are_held_out_are_predicted_from_twenty_points() -> None:
    scores = list(map(partial(time_score, n_points=20, n_draws=N_DRAWS), phone_targets(device_data())))
    assert len(scores) == 9
    assert over_targets(scores, "mean_error") <= 0.16
    assert 0.85 <= mean_coverage(scores) <= 0.97

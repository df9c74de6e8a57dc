"""When a device is steady: intervals that respect autocorrelation, drift, and heat that is found and continued."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.steady import Bins, Course, binned, effective_n, fit_curve, judge, slow_noise
from tests.fixtures.courses import CORRELATED, SLOW, STEP_S, WHITE, Board, correlated, course


def test_independent_steps_count_each_and_correlated_ones_less() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    assert effective_n(rng.normal(size=n)) > 0.8 * n
    for rho in (0.5, 0.82):  # an AR(1) of that lag-1 correlation: tau = (1 + rho) / (1 - rho)
        expected = n * (1 - rho) / (1 + rho)
        counts = [effective_n(correlated(np.random.default_rng(seed), n, rho)) for seed in range(10)]
        assert np.mean(counts) == pytest.approx(expected, rel=0.25), rho


def test_the_interval_of_correlated_steps_covers_their_mean() -> None:
    covered = []
    for seed in range(200):
        noise = correlated(np.random.default_rng(seed), 1000, 0.82)
        found = judge(Course(np.arange(1.0, 1001.0), 1 + 0.1 * noise))
        covered.append(abs(found.step_s - 1) <= found.step_err_s)
    assert 0.88 <= np.mean(covered) <= 1.0, "of 95 %"


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=300))
def test_binning_keeps_steps_and_their_sum(steps_s: list[float]) -> None:
    ends_s = np.cumsum(steps_s)
    bins: Bins = binned(Course(ends_s - np.array(steps_s) / 2, np.array(steps_s)))
    assert bins.weight.sum() == len(steps_s)
    assert float(bins.weight @ bins.mean_s) == pytest.approx(sum(steps_s))


def test_slow_noise_of_independent_steps_is_their_variance_whatever_was_fitted() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 30, 120).astype(np.float64)
    at_s = np.arange(120.0)
    found = []
    for _ in range(500):
        bins = Bins(at_s, 1 + 0.3 * rng.normal(size=120) / np.sqrt(weight), weight)
        found.append(slow_noise(bins, np.column_stack([np.ones(120), at_s, np.exp(-at_s / 40)])).variance_s2)
    assert np.mean(found) == pytest.approx(0.09, rel=0.1)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.1, 10))
def test_slow_noise_is_blind_to_what_was_fitted_and_grows_as_a_square(
    level: float, slope: float, factor: float
) -> None:
    rng = np.random.default_rng(1)
    at_s, weight = np.arange(60.0), rng.integers(1, 9, 60).astype(np.float64)
    design = np.column_stack([np.ones(60), at_s])
    rest_s = rng.normal(size=60)
    plain = slow_noise(Bins(at_s, rest_s, weight), design).variance_s2
    moved = slow_noise(Bins(at_s, level + slope * at_s + factor * rest_s, weight), design).variance_s2
    assert moved == pytest.approx(factor**2 * plain, rel=1e-6)


def test_too_few_bins_for_a_wave_still_leave_an_interval() -> None:
    found = judge(Course(np.array([400.0, 400.1]), np.array([0.1, 0.12])))
    assert found.step_err_s > 0.01, "two steps after a long warm-up"


@pytest.mark.parametrize("board", [WHITE, CORRELATED, SLOW], ids=lambda board: board.name)
def test_intervals_of_steady_boards_hold_what_they_say(board: Board) -> None:
    """Of 90 % for twenty minutes and for drift, of 95 % for the mean; `tests.soak.steady` goes the whole way."""
    held = []
    for seed in range(200):
        made = board.even_course(seed)
        found, heat = judge(made), fit_curve(made, is_steady=True, seed=seed)
        low_s, high_s = np.quantile([one.mean_s(1200.0) for one in heat.replicates], [0.05, 0.95])
        mean, drift = abs(found.step_s - STEP_S) <= found.step_err_s, abs(found.drift) <= found.drift_err
        held.append((min(low_s, heat.curve.first_s) <= STEP_S <= max(high_s, heat.curve.first_s), mean, drift))
    horizon, mean, drift = np.mean(held, axis=0)
    assert 0.85 <= horizon <= 0.95
    assert 0.91 <= mean <= 0.99
    assert 0.85 <= drift <= 0.95


def test_a_quiet_device_is_steady_and_one_that_heats_up_is_not() -> None:
    assert judge(course(seed=1, part=0.0, cv=0.02)).is_steady
    warm = judge(course(seed=1, part=0.25, cv=0.02))
    assert not warm.is_steady
    # Over the last half of 300 s: 0.25 (exp(-0.5) - exp(-1)) in 150 s, twice that in 300, of 1.13 at its middle
    assert warm.drift == pytest.approx(0.25 * (np.exp(-0.5) - np.exp(-1)) * 2 / 1.13, rel=0.1)


def test_a_few_odd_steps_make_no_drift() -> None:
    quiet = course(seed=2, part=0.0, cv=0.02)
    steps_s = quiet.steps_s.copy()
    steps_s[-5:] *= 8
    assert abs(judge(Course(quiet.at_s, steps_s)).drift) < 0.02


def test_heat_is_found_with_its_constant_and_size() -> None:
    found = fit_curve(course(seed=3, part=0.25, cv=0.02), is_steady=False)
    assert found.is_found
    assert found.curve.added_s / found.curve.first_s == pytest.approx(0.25, rel=0.15)
    assert found.curve.constant_s == pytest.approx(300, rel=0.3)


def test_without_heat_none_is_found_but_for_chance() -> None:
    found = [fit_curve(course(seed=seed, part=0.0, cv=0.13), is_steady=True) for seed in range(20)]
    assert sum(one.is_found for one in found) <= 1
    constant = next(one for one in found if not one.is_found)
    assert constant.curve.added_s == 0


def test_what_is_found_is_said_in_plain_types() -> None:
    """It goes into a file, and numpy's own truth values are no JSON."""
    found = [fit_curve(course(seed=seed, part=0.0, cv=0.13, seconds=60.0), is_steady=False) for seed in range(10)]
    assert {type(one.is_found) for one in found} == {bool}


def test_load_that_comes_and_goes_is_not_taken_for_heat() -> None:
    noisy = []
    for seed in range(10):
        quiet = course(seed=seed, part=0.0, cv=0.02)
        slow = correlated(np.random.default_rng(seed), quiet.steps_s.size, 0.995)
        noisy.append(fit_curve(Course(quiet.at_s, quiet.steps_s * np.exp(0.1 * slow)), is_steady=False))
    assert sum(one.is_found for one in noisy) <= 2


def test_replicates_of_a_short_run_leave_open_what_a_long_one_settles() -> None:
    def openness(seconds: float, seed: int) -> float:
        found = fit_curve(course(seed, part=0.25, cv=0.13, seconds=seconds), is_steady=False)
        means_s = [one.mean_s(1200.0) for one in found.replicates]
        return float(np.quantile(means_s, 0.95) - np.quantile(means_s, 0.05))

    short, long = ([openness(seconds, seed) for seed in range(8)] for seconds in (60.0, 300.0))
    assert np.median(short) > 2 * np.median(long)

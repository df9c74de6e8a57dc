"""The arithmetic of simulated devices against closed forms, and whole fits against fits made step by step."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.steps import StepControl, steps
from harness.device_model import Costs, FitPace, Fits, Group, Population, assumptions, costs_of, draw_fits, fit_rng
from profiler.clock import FakeClock
from profiler.devices import Training, known_devices, load_device, read_device
from profiler.errors import SpecError

TRAINING = Training(
    workload="digits",
    batch_size=32,
    step_s=0.3,
    step_j=2.0,
    start_s=0.0,
    slow_after_s=math.inf,
    slow_factor=1.0,
    step_cv=0.13,
    fit_cv=0.0,
    evaluate_share=1 / 3,
    download_s=0.5,
    upload_s=0.25,
    transfer_j=1.0,
    gain_err=0.1,
    kind="guess",
    energy_kind="guess",
    source="a test",
)
N = 20_000


def costs(training: Training = TRAINING, steps_per_epoch: int | None = 200) -> Costs:
    return Costs(2.0, 0.1, training, 0.0, 0.0, 0.0, 0.0, steps_per_epoch)


def fits(training: Training, *, cutoff_s: float = 0.0, n: int = N, steps_per_epoch: int = 200, seed: int = 0) -> Fits:
    population = Population([Group("a", "cpu", costs(training, steps_per_epoch), n, cutoff_s)], epochs=1)
    return draw_fits(population, np.zeros(n, dtype=np.int64), np.random.default_rng(seed))


def stepwise(
    training: Training, *, cutoff_s: float, n: int, steps_per_epoch: int = 200
) -> tuple[list[float], list[int]]:
    """Windows and steps done of fits that go through `fl.steps` on a virtual clock."""
    windows_s, done = [], []
    for number in range(n):
        clock, pace = FakeClock(), FitPace(costs(training), fit_rng(0, 1, number))

        def step_over(control: StepControl, clock: FakeClock = clock, pace: FitPace = pace) -> None:
            clock.advance(pace.step((clock.monotonic_ns() - control.started_ns) / 1e9, 1.0)[0])

        control = StepControl(clock, cutoff_s=cutoff_s, epochs=1, pace=step_over)
        with control.active():
            clock.advance(training.start_s)
            for _ in steps(range(steps_per_epoch)):
                pass
        windows_s.append(clock.monotonic_ns() / 1e9)
        done.append(control.steps_done)
    return windows_s, done


def test_a_fit_without_a_cutoff_has_the_mean_and_spread_of_its_steps() -> None:
    drawn = fits(replace(TRAINING, start_s=5.0))
    assert drawn.window_s.mean() == pytest.approx(5 + 60, rel=2e-4)
    assert drawn.window_s.std() == pytest.approx(0.13 * 0.3 * math.sqrt(200), rel=0.03)
    assert (drawn.steps_done == 200).all()


def test_a_fits_own_pace_moves_all_its_steps() -> None:
    drawn = fits(replace(TRAINING, fit_cv=0.07))
    assert drawn.window_s.std() / drawn.window_s.mean() == pytest.approx(
        math.hypot(0.07, 0.13 / math.sqrt(200)), rel=0.03
    )


def test_without_jitter_everything_is_exact() -> None:
    calm = replace(TRAINING, step_cv=0.0, start_s=1.0)
    assert fits(calm, n=3).window_s == pytest.approx(61.0)
    windows_s, done = stepwise(calm, cutoff_s=0.0, n=1)
    assert (windows_s, done) == ([pytest.approx(61.0)], [200])


def test_the_slowdown_stretches_what_lies_beyond_it() -> None:
    hot = replace(TRAINING, step_cv=0.0, slow_after_s=30.0, slow_factor=2.0)
    assert fits(hot, n=1).window_s == pytest.approx(30 + 2 * 30)
    windows_s, _ = stepwise(hot, cutoff_s=0.0, n=1)
    assert windows_s == [pytest.approx(90.0)]
    within = replace(hot, slow_after_s=30.15)  # in the middle of a step
    assert stepwise(within, cutoff_s=0.0, n=1)[0] == [pytest.approx(30.15 + 2 * 29.85)]


@pytest.mark.parametrize(
    ("training", "cutoff_s"),
    [
        (TRAINING, 40.0),
        (replace(TRAINING, start_s=10.0, fit_cv=0.05), 40.0),
        (replace(TRAINING, slow_after_s=20.0, slow_factor=1.8), 50.0),
        (replace(TRAINING, fit_cv=0.07), 60.0),  # some end by themselves, some are cut
        (replace(TRAINING, step_cv=0.4), 30.0),
    ],
)
def test_cut_fits_are_those_that_steps_makes(training: Training, cutoff_s: float) -> None:
    drawn, n = fits(training, cutoff_s=cutoff_s), 400
    windows_s, done = stepwise(training, cutoff_s=cutoff_s, n=n)
    # fl.steps knows the quantile from the steps so far, and guards a little too much or too little
    step_s = training.step_s * training.slow_factor
    assert drawn.window_s.mean() == pytest.approx(
        np.mean(windows_s), abs=0.2 * step_s + 4 * np.std(windows_s) / math.sqrt(n)
    )
    assert drawn.steps_done.mean() == pytest.approx(np.mean(done), abs=0.3 + 4 * np.std(done) / math.sqrt(n))
    assert np.mean(drawn.window_s > cutoff_s) < 0.06
    assert drawn.window_s.max() < cutoff_s + 3 * step_s


def test_cut_work_is_that_of_renewal_theory() -> None:
    """Cox 1962: the steps that end by t have mean t/mu + (cv^2 - 1)/2 and variance cv^2 t/mu."""
    training = replace(TRAINING, step_cv=0.13)
    drawn = fits(training, cutoff_s=60.0, steps_per_epoch=10_000)
    guard = 0.3 * 1.2206  # q95 of a gamma variable of mean 1 and cv 0.13
    t_over_mu = (60 - guard) / 0.3
    assert drawn.steps_done.mean() == pytest.approx(1 + t_over_mu + (0.13**2 - 1) / 2, abs=0.05)
    assert drawn.steps_done.std() == pytest.approx(math.sqrt(0.13**2 * t_over_mu + 1 / 12), rel=0.05)
    # the step that crosses the guard is as much longer as its residual life
    assert drawn.window_s.mean() == pytest.approx(60 - guard + 0.3 * (1 + 0.13**2) / 2, abs=0.01)


@given(st.floats(0.01, 500), st.floats(0, 0.5), st.integers(1, 400))
def test_a_cut_fit_does_at_least_one_step_and_never_more_than_planned(cutoff_s: float, cv: float, n_steps: int) -> None:
    drawn = fits(replace(TRAINING, step_cv=cv, fit_cv=cv), cutoff_s=cutoff_s, n=50, steps_per_epoch=n_steps)
    assert (drawn.steps_done >= 1).all()
    assert (drawn.steps_done <= drawn.steps_planned).all()
    assert np.isfinite(drawn.window_s).all()
    assert (drawn.window_s > 0).all()


def test_steps_of_another_workload_stand_for_those_of_the_profile() -> None:
    assert costs(steps_per_epoch=None).worth(own_steps=18, batch_size=8) == 0.25
    assert costs(steps_per_epoch=157).worth(own_steps=18, batch_size=8) == pytest.approx(157 / 18)
    coarse = [FitPace(costs(), fit_rng(0, 1, n)).step(0.0, 8.0) for n in range(2000)]
    seconds, joules = np.array(coarse).T
    assert seconds.mean() == pytest.approx(8 * 0.3, rel=0.01)
    assert seconds.std() / seconds.mean() == pytest.approx(0.13 / math.sqrt(8), rel=0.1)
    assert (joules == 16.0).all()


def test_each_device_and_round_has_its_own_draws() -> None:
    draws = {FitPace(costs(), fit_rng(*key)).step(0.0, 1.0) for key in ((0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0))}
    assert len(draws) == 4
    assert FitPace(costs(), fit_rng(3, 4, 5)).step(0.0, 1.0) == FitPace(costs(), fit_rng(3, 4, 5)).step(0.0, 1.0)


def test_transfers_follow_from_the_link_or_from_the_training() -> None:
    told = costs()
    assert (told.download_s(10**9), told.upload_s(1), told.transfer_j(7)) == (0.5, 0.25, 1.0)
    pi = costs_of(load_device("raspberry-pi-4"), "digits")
    assert pi.download_s(110_000_000) == pytest.approx(1.002)
    assert pi.transfer_j(1_000_000) == pytest.approx(4e-3)


def test_what_a_simulation_needs_is_asked_for() -> None:
    pi = load_device("raspberry-pi-4")
    with pytest.raises(SpecError, match=r"'mnist' takes is not known; known are cifar10-resnet18.*costs_of"):
        costs_of(pi, "mnist")
    with pytest.raises(SpecError, match=r"has no \[power\]"):
        costs_of(replace(pi, power=None), "digits")
    with pytest.raises(SpecError, match=r"has no \[link\]"):
        costs_of(replace(pi, link=None), "digits")


def test_assumptions_are_json_with_sources() -> None:
    for device in known_devices():
        for training in device.training:
            told = assumptions(device, costs_of(device, training.workload))
            assert told["training"]["slow_after_s"] is None or math.isfinite(told["training"]["slow_after_s"])
            assert len(told["power"]["source"]) > 20
            assert told["training"]["kind"] in ("measured", "datasheet", "fitted", "guess")


WHOLE = """
name = "Board"
[power]
idle_w = 1
busy_w = 3.5
scope = "device"
kind = "datasheet"
source = "its datasheet, table 3"
[link]
download_bytes_s = 1e6
upload_bytes_s = 1e6
latency_s = 0.1
byte_j = 0
kind = "guess"
source = "none"
[[training]]
workload = "digits"
batch_size = 16
step_s = 0.1
step_j = 0.5
gain_err = 0.5
kind = "guess"
source = "none"
"""


def test_a_profile_may_leave_out_what_is_nothing() -> None:
    training = read_device(WHOLE, "board.toml").training_of("digits")
    assert (training.start_s, training.step_cv, training.slow_after_s, training.slow_factor) == (0, 0, math.inf, 1)
    assert training.energy_kind == "guess"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("gain_err = 0.5", "", r"\[\[training\]\] number 1: 'gain_err' is missing"),
        ("step_j = 0.5", "step_j = -1", "'step_j' must be at least 0"),
        ("batch_size = 16", "batch_size = 0", "'batch_size' must be at least 1"),
        ("byte_j = 0", "", r"\[link\]: 'byte_j' is missing"),
        ("download_bytes_s = 1e6", "download_bytes_s = 0", "'download_bytes_s' must be at least 1"),
        ("latency_s = 0.1", "latency_s = inf", "'latency_s' must be finite"),
        ("step_s = 0.1", "step_s = 0.1\nslow_factor = 0.5", "'slow_factor' must be at least 1"),
        ("step_s = 0.1", "step_s = 0.1\nstep_ms = 3", "unknown key 'step_ms'. Did you mean 'step_s'"),
        ('workload = "digits"', 'workload = ""', "'workload' is empty"),
    ],
)
def test_every_mistake_in_a_profile_is_told_by_key(old: str, new: str, said: str) -> None:
    with pytest.raises(SpecError, match=said) as raised:
        read_device(WHOLE.replace(old, new), "board.toml")
    assert "board.toml" in str(raised.value)


def test_a_training_that_stands_twice_is_refused() -> None:
    again = WHOLE[WHOLE.index("[[training]]") :]
    with pytest.raises(SpecError, match=r"\[\[training\]\] of 'digits' stands twice"):
        read_device(WHOLE + again, "board.toml")


def test_a_profile_is_found_by_name_or_by_path(tmp_path: object) -> None:
    with pytest.raises(SpecError, match="Did you mean 'jetson-tx2-gpu'"):
        load_device("jetson-tx2-gpuu")
    with pytest.raises(SpecError, match="cannot be read"):
        load_device("no/such.toml")

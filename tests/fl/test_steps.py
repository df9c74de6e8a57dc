"""Step times, planned steps and the cutoff, on a clock that the test moves."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from fl.steps import WINDOW_STEPS, RecentQuantile, StepControl, steps
from profiler.clock import FakeClock
from profiler.errors import UsageError


class Training:
    """A training loop whose k-th step takes the k-th duration; the last one repeats."""

    def __init__(self, durations_s: Iterable[float], cutoff_s: float | None = None, epochs: int = 1) -> None:
        self.clock = FakeClock()
        self.control = StepControl(self.clock, cutoff_s=cutoff_s, epochs=epochs)
        self._durations_s = iter(durations_s)
        self.window_s = 0.0

    def run(self, loader: Iterable[int]) -> list[int]:
        seen = []
        with self.control.active():
            for _ in range(self.control.epochs):
                for batch in steps(loader):
                    seen.append(batch)
                    self.clock.advance(next(self._durations_s))
        self.window_s = self.clock.monotonic_ns() / 1e9
        return seen


class Unsized:
    """A stream as torch's DataLoader shows one: it has __len__ and refuses."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._length))

    def __len__(self) -> int:
        raise TypeError("a stream has no length")


def repeat(duration_s: float, times: int = 10_000) -> list[float]:
    return [duration_s] * times


def test_outside_of_a_fit_only_iterates() -> None:
    batches = steps([1, 2, 3])
    assert list(batches) == [1, 2, 3]
    assert list(batches) == [1, 2, 3]
    assert len(batches) == 3
    assert tqdm(batches, disable=True).total is None or len(tqdm(batches, disable=True)) == 3


def test_length_of_a_stream_is_refused_as_the_loader_does() -> None:
    with pytest.raises(TypeError, match="Unsized has no length"):
        len(steps(Unsized(3)))
    assert steps(Unsized(3))
    assert list(steps(Unsized(3))) == [0, 1, 2]


def test_a_whole_fit_is_timed_step_by_step() -> None:
    training = Training([3.0, 1.0, 1.5, 2.0], epochs=2)
    assert training.run([7, 8]) == [7, 8, 7, 8]
    control = training.control
    assert control.durations_s == (3.0, 1.0, 1.5, 2.0)
    assert (control.steps_done, control.steps_planned, control.stopped_by) == (4, 4, "completed")
    assert control.used
    assert control.warmup_steps == 1


def test_a_client_that_never_asks_has_no_steps() -> None:
    control = StepControl(FakeClock(), cutoff_s=1.0, epochs=3)
    with control.active():
        pass
    assert not control.used
    assert (control.steps_done, control.steps_planned, control.warmup_steps) == (0, None, 0)


@pytest.mark.parametrize("cutoff_s", [None, 0, 0.0])
def test_no_cutoff(cutoff_s: float | None) -> None:
    training = Training(repeat(1e6), cutoff_s, epochs=3)
    assert len(training.run(range(5))) == 15
    assert training.control.stopped_by == "completed"


def test_stops_before_the_step_that_would_cross() -> None:
    training = Training(repeat(1.0), cutoff_s=10.5, epochs=4)
    training.run(range(5))
    control = training.control
    assert (control.steps_done, control.steps_planned, control.stopped_by) == (10, 20, "cutoff")
    assert training.window_s == 10.0


def test_a_stop_in_an_epoch_ends_the_later_ones_too() -> None:
    training = Training(repeat(1.0), cutoff_s=2.0, epochs=3)
    assert training.run([1, 2, 3, 4]) == [1, 2]
    assert training.control.steps_planned == 12


def test_always_does_one_step() -> None:
    training = Training(repeat(5.0), cutoff_s=0.001)
    training.run(range(3))
    assert (training.control.steps_done, training.control.stopped_by) == (1, "cutoff")


@pytest.mark.parametrize("loader", [range(3), Unsized(3)])
def test_work_that_is_finished_at_the_cutoff_is_completed(loader: Iterable[int]) -> None:
    training = Training(repeat(1.0), cutoff_s=3.0)
    training.run(loader)
    assert (training.control.steps_done, training.control.stopped_by) == (3, "completed")


def test_a_stream_stops_too_and_has_no_plan() -> None:
    training = Training(repeat(1.0), cutoff_s=3.0)
    training.run(Unsized(5))
    control = training.control
    assert (control.steps_done, control.steps_planned, control.stopped_by) == (3, None, "cutoff")


def test_a_slow_first_step_is_not_held_against_the_others() -> None:
    training = Training([10.0, *repeat(1.0)], cutoff_s=20.0)
    training.run(range(100))
    assert (training.control.steps_done, training.window_s) == (11, 20.0)


def test_a_device_that_becomes_slow_is_judged_by_its_slow_steps() -> None:
    fast, slow = repeat(0.01, 2000), repeat(1.0)
    training = Training([*fast, *slow], cutoff_s=200.0)
    training.run(range(10**6))
    assert training.window_s <= 200.0
    assert training.window_s > 199.0


def test_loading_counts_for_the_rule_but_not_as_step_time() -> None:
    clock = FakeClock()

    class SlowLoader:
        def __len__(self) -> int:
            return 10

        def __iter__(self) -> Iterator[int]:
            for batch in range(10):
                clock.advance(3.0)
                yield batch

    control = StepControl(clock, cutoff_s=11.0, epochs=1)
    with control.active():
        for _ in steps(SlowLoader()):
            clock.advance(1.0)
    assert control.durations_s == (1.0, 1.0)
    assert clock.monotonic_ns() == 8_000_000_000


def test_time_between_epochs_counts_against_the_cutoff() -> None:
    clock = FakeClock()
    control = StepControl(clock, cutoff_s=10.0, epochs=2)
    with control.active():
        for _ in range(2):
            for _ in steps(range(3)):
                clock.advance(1.0)
            clock.advance(6.0)
    assert (control.steps_done, control.stopped_by) == (4, "cutoff")


def test_the_cutoff_counts_from_entering_the_fit() -> None:
    clock = FakeClock()
    control = StepControl(clock, cutoff_s=5.0, epochs=1)
    clock.advance(100.0)
    with control.active():
        for _ in steps(range(10)):
            clock.advance(1.0)
    assert control.steps_done == 5


def test_a_loop_left_by_break_keeps_its_last_step() -> None:
    clock = FakeClock()
    control = StepControl(clock, cutoff_s=None, epochs=1)
    with control.active():
        for batch in steps(range(10)):
            clock.advance(1.0)
            if batch == 2:
                break
    assert control.durations_s == (1.0, 1.0, 1.0)


def test_an_iterator_that_outlives_the_fit_adds_nothing() -> None:
    clock = FakeClock()
    control = StepControl(clock, cutoff_s=None, epochs=1)
    with control.active():
        batches = iter(steps(range(10)))
        next(batches)
        next(batches)
    clock.advance(1.0)
    assert list(batches) == list(range(2, 10))
    assert control.steps_done == 1


def test_more_epochs_than_announced_are_planned_as_they_begin() -> None:
    control = StepControl(FakeClock(), cutoff_s=None, epochs=1)
    with control.active():
        for _ in range(3):
            list(steps(range(4)))
    assert (control.steps_done, control.steps_planned) == (12, 12)


def test_a_control_is_seen_in_its_own_context_alone() -> None:
    control = StepControl(FakeClock(), cutoff_s=None, epochs=1)
    inner = StepControl(FakeClock(), cutoff_s=None, epochs=1)
    with control.active():
        with inner.active():
            list(steps(range(2)))
        stranger = threading.Thread(target=lambda: list(steps(range(50))))
        stranger.start()
        stranger.join()
        list(steps(range(3)))
    list(steps(range(7)))
    assert (control.steps_done, inner.steps_done) == (3, 2)


@pytest.mark.parametrize("cutoff_s", [-1.0, math.nan, math.inf])
def test_refuses_a_senseless_cutoff(cutoff_s: float) -> None:
    with pytest.raises(UsageError, match="cutoff_s"):
        StepControl(FakeClock(), cutoff_s=cutoff_s, epochs=1)


def test_refuses_no_epochs() -> None:
    with pytest.raises(UsageError, match="epochs = 0"):
        StepControl(FakeClock(), cutoff_s=None, epochs=0)


def test_renewal_theory_on_gamma_steps() -> None:
    """Mean 0.30 s, CV 0.13, 60 s: the floor rule does tau/mu + (CV^2 - 1)/2 = 199.508 steps; q95 a little fewer."""
    mean_s, cv, cutoff_s, seeds = 0.30, 0.13, 60.0, 300
    done, over_s, last_s = [], [], []
    for seed in range(seeds):
        durations = np.random.default_rng(seed).gamma(cv**-2, mean_s * cv**2, 300)
        training = Training(durations, cutoff_s)
        training.run(range(300))
        done.append(training.control.steps_done)
        over_s.append(training.window_s - cutoff_s)
        last_s.append(training.control.durations_s[-1])
    assert np.mean(done) == pytest.approx(199.5, abs=0.6)
    assert np.mean(np.array(over_s) > 0) <= 0.01
    assert all(over < last for over, last in zip(over_s, last_s, strict=True))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=60),
    st.integers(1, 100_000),
    st.integers(1, 3),
    st.booleans(),
)
def test_laws_of_any_fit(millis: list[int], cutoff_ms: int, epochs: int, sized: bool) -> None:
    durations_s = [value / 1000 for value in millis] * epochs
    training = Training(durations_s, cutoff_ms / 1000, epochs)
    training.run(range(len(millis)) if sized else Unsized(len(millis)))
    control = training.control
    total = len(millis) * epochs
    assert 1 <= control.steps_done <= total
    assert (control.stopped_by == "completed") == (control.steps_done == total)
    assert control.steps_planned == (total if sized else None)
    assert sum(control.durations_s) == pytest.approx(training.window_s)
    if control.steps_done > 1:  # the last step began before the cutoff
        assert training.window_s - control.durations_s[-1] < cutoff_ms / 1000


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=80), st.integers(1, 30))
def test_quantile_of_the_last_values(values: list[int], window: int) -> None:
    quantile = RecentQuantile(window)
    for value in values:
        quantile.add(value)
    recent = values[-window:]
    assert quantile.value() == np.quantile(recent, 0.95, method="inverted_cdf")


def test_quantile_memory_is_bounded() -> None:
    quantile = RecentQuantile()
    for value in range(3 * WINDOW_STEPS):
        quantile.add(value)
    assert len(quantile._sorted) == len(quantile._arrived) == WINDOW_STEPS

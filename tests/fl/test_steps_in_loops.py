"""`steps` in the training loops that people have: generators, DataLoaders, threads, nested loops, exceptions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from fl.steps import StepControl, steps
from profiler.clock import FakeClock


def control(clock: FakeClock, cutoff_s: float | None = None, epochs: int = 1) -> StepControl:
    return StepControl(clock, cutoff_s=cutoff_s, epochs=epochs)


def test_a_generator_is_timed_and_has_no_plan() -> None:
    clock = FakeClock()

    def batches() -> Iterator[int]:
        for n in range(4):
            clock.advance(0.5)  # loading
            yield n

    with control(clock).active() as watch:
        assert [n for n in steps(batches()) if clock.advance(1.0) is None] == [0, 1, 2, 3]
    assert watch.durations_s == (1.5,) * 4
    assert watch.steps_planned is None


def test_a_torch_data_loader_is_cut_at_the_cutoff_and_keeps_its_plan() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.arange(20))
    clock, seen = FakeClock(), 0
    with control(clock, cutoff_s=6.5, epochs=2).active() as watch:
        for _ in range(2):
            for (batch,) in steps(torch.utils.data.DataLoader(data, batch_size=2)):
                seen += len(batch)
                clock.advance(1.0)
    assert (watch.steps_done, watch.steps_planned, watch.stopped_by, seen) == (6, 20, "cutoff", 12)


def test_of_nested_loops_the_innermost_counts() -> None:
    """Epochs wrapped as well as batches would count each epoch as one more step, as long as all of its own."""
    clock = FakeClock()
    with control(clock, epochs=3).active() as watch:
        for _ in steps(range(3)):
            for _ in steps(range(4)):
                clock.advance(1.0)
    assert (watch.steps_done, watch.steps_planned) == (12, 12)
    assert watch.durations_s == (1.0,) * 12


def test_a_nested_loop_is_cut_too() -> None:
    clock = FakeClock()
    with control(clock, cutoff_s=5.5, epochs=3).active() as watch:
        for _ in steps(range(3)):
            for _ in steps(range(4)):
                clock.advance(1.0)
    assert (watch.steps_done, watch.stopped_by) == (5, "cutoff")
    assert clock.monotonic_ns() - watch.started_ns == 5_000_000_000


def test_an_exception_in_the_loop_keeps_the_step_and_the_next_loop_goes_on() -> None:
    clock = FakeClock()
    with control(clock, epochs=2).active() as watch:
        with suppress(ZeroDivisionError):
            for _ in steps(range(5)):
                clock.advance(1.0)
                _ = 1 / 0
        for _ in steps(range(5)):
            clock.advance(1.0)
    assert watch.steps_done == 6
    assert watch.durations_s == (1.0,) * 6


def test_a_loader_that_raises_costs_no_step() -> None:
    clock = FakeClock()

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    with control(clock).active() as watch, pytest.raises(OSError, match="disk"):
        clock.advance(sum(1.0 for _ in steps(broken())))
    assert watch.steps_done == 1


def test_a_loop_in_another_thread_only_iterates() -> None:
    """A loader's own thread is not the training loop; it neither counts nor is cut."""
    clock, seen = FakeClock(), list[int]()
    with control(clock, cutoff_s=0.001).active() as watch:
        thread = threading.Thread(target=lambda: seen.extend(steps(range(50))))
        thread.start()
        thread.join()
    assert seen == list(range(50))
    assert not watch.used

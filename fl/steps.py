"""The training-loop iterator: `for batch in steps(loader)` times every step and obeys the cutoff.

    for _ in range(epochs):
        for batch in steps(loader):
            train(batch)

Inside a fit a `StepControl` is current and watches; anywhere else `steps` only iterates, so that the same training loop
runs with and without fedmeter.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, Literal, TypeVar

from profiler.clock import Clock
from profiler.errors import UsageError

T = TypeVar("T")
StopReason = Literal["completed", "cutoff"]

# The first step pays for allocator, thread pool and caches; its time says little about those to come.
WARMUP_STEPS = 1
QUANTILE = 0.95
# The rule looks at recent steps only: bounded memory, and a device that throttles is judged by how slow it is now.
WINDOW_STEPS = 1024

_END = object()
_current: ContextVar[StepControl | None] = ContextVar("fedmeter_step_control", default=None)


class RecentQuantile:
    """The 0.95 quantile (nearest rank) of the last `WINDOW_STEPS` values, kept up to date one value at a time."""

    def __init__(self, window: int = WINDOW_STEPS) -> None:
        self._window = window
        self._arrived: deque[int] = deque()
        self._sorted: list[int] = []

    def add(self, value: int) -> None:
        if len(self._arrived) == self._window:
            del self._sorted[bisect_left(self._sorted, self._arrived.popleft())]
        self._arrived.append(value)
        insort(self._sorted, value)

    def value(self) -> int:
        """Raises IndexError while nothing has been added."""
        return self._sorted[math.ceil(QUANTILE * len(self._sorted)) - 1]


class _Epoch:
    """One loop over a loader. `has_loops`: it turned out to be around others, which count instead."""

    def __init__(self, length: int | None) -> None:
        self.length = length
        self.has_loops = False


Pace = Callable[["StepControl"], None]


class StepControl:
    """Times the steps of one fit and stops it before the step that would probably cross the cutoff.

    The cutoff (s; None or 0 for none) counts from entering `active()` on `clock`. Before each step but the first the
    fit stops where elapsed + q95(step times so far) > cutoff. Checked after the step
    instead, a fit would overshoot by (mu^2 + sigma^2) / (2 mu) on average, the mean residual life of renewal theory.

    `pace` is told of every step that is over, before the clock is read: on a simulated device it advances the clock.

    Raises UsageError where cutoff or epochs make no sense.
    """

    def __init__(self, clock: Clock, *, cutoff_s: float | None, epochs: int, pace: Pace | None = None) -> None:
        if cutoff_s is not None and not (math.isfinite(cutoff_s) and cutoff_s >= 0):
            raise UsageError(f"cutoff_s = {cutoff_s}: a cutoff is a finite number of seconds, 0 for none.")
        if epochs < 1:
            raise UsageError(f"epochs = {epochs}: a fit trains for at least one epoch.")
        self.cutoff_s = cutoff_s or None
        self.epochs = epochs
        self.stopped_by: StopReason = "completed"
        self.used = False
        self._clock = clock
        self._pace = pace
        self._started_ns = clock.monotonic_ns()
        self._is_active = False
        self._open: list[_Epoch] = []
        self._epochs_begun = 0
        self._steps_begun: int | None = 0  # in the epochs begun so far; None once a length is unknown
        self._epoch_steps = 0
        self._durations_s = array("d")
        self._warmup_cost_ns = 0
        self._cost_ns = RecentQuantile()

    @contextmanager
    def active(self) -> Iterator[StepControl]:
        """Be the control of every `steps` in this context; the cutoff counts from here."""
        token = _current.set(self)
        self._started_ns = self._clock.monotonic_ns()
        self._is_active = True
        try:
            yield self
        finally:
            self._is_active = False
            _current.reset(token)

    @property
    def started_ns(self) -> int:
        """From when the cutoff counts, on the control's clock."""
        return self._started_ns

    @property
    def steps_done(self) -> int:
        return len(self._durations_s)

    @property
    def steps_planned(self) -> int | None:
        """Steps that all epochs call for; None where a loader does not tell its length, or none was iterated."""
        if self._steps_begun is None or not self.used:
            return None
        return self._steps_begun + max(0, self.epochs - self._epochs_begun) * self._epoch_steps

    @property
    def epoch_steps(self) -> int:
        """Steps of the epoch that began last; 0 where its loader does not tell."""
        return self._epoch_steps

    @property
    def durations_s(self) -> tuple[float, ...]:
        """Of each step: from asking for its batch to asking for the next, loading included. Warm-up comes first."""
        return tuple(self._durations_s)

    @property
    def warmup_steps(self) -> int:
        return min(WARMUP_STEPS, self.steps_done)

    def iterate(self, loader: Iterable[T]) -> Iterator[T]:
        """One epoch. What `steps` does where this control is current."""
        epoch = self._begin_epoch(loader)
        if self.stopped_by == "cutoff":
            return
        try:
            yield from self._batches(iter(loader), epoch)
        finally:
            self._open.remove(epoch)

    def _batches(self, iterator: Iterator[T], epoch: _Epoch) -> Iterator[T]:
        while True:
            asked_ns = self._clock.monotonic_ns()
            if self._would_cross(asked_ns):
                if self._is_work_left(iterator):
                    self.stopped_by = "cutoff"
                return
            try:
                batch = next(iterator)
            except StopIteration:
                return
            try:
                yield batch
            finally:  # also where the loop is left early: the batch was handed out
                if not epoch.has_loops:
                    self._finish_step(asked_ns)

    def _begin_epoch(self, loader: Iterable[T]) -> _Epoch:
        if self._open and not self._open[-1].has_loops:
            self._take_back(self._open[-1])
        epoch = _Epoch(_length(loader))
        self.used = True
        self._epochs_begun += 1
        self._plan(epoch.length)
        if self.stopped_by != "cutoff":
            self._open.append(epoch)
        return epoch

    def _take_back(self, outer: _Epoch) -> None:
        """A loop around this one: of nested loops the innermost counts, for its body is the training step."""
        outer.has_loops = True
        self._epochs_begun -= 1
        if self._steps_begun is not None and outer.length is not None:
            self._steps_begun -= outer.length

    def _plan(self, length: int | None) -> None:
        if length is None or self._steps_begun is None:
            self._steps_begun = None
        else:
            self._epoch_steps = length
            self._steps_begun += length

    def _would_cross(self, now_ns: int) -> bool:
        if self.cutoff_s is None or self.steps_done == 0:
            return False
        cost_ns = self._cost_ns.value() if self.steps_done > WARMUP_STEPS else self._warmup_cost_ns
        return now_ns - self._started_ns + cost_ns > self.cutoff_s * 1e9

    def _is_work_left(self, iterator: Iterator[T]) -> bool:
        planned = self.steps_planned
        return next(iterator, _END) is not _END if planned is None else self.steps_done < planned

    def _finish_step(self, asked_ns: int) -> None:
        if not self._is_active:  # an iterator that outlived the fit; nobody may change its steps any more
            return
        if self._pace is not None:
            self._pace(self)
        duration_ns = self._clock.monotonic_ns() - asked_ns
        self._durations_s.append(duration_ns / 1e9)
        if self.steps_done > WARMUP_STEPS:
            self._cost_ns.add(duration_ns)
        else:
            self._warmup_cost_ns = max(self._warmup_cost_ns, duration_ns)


class Steps(Generic[T]):
    """What `steps` returns: iterable once an epoch, with the loader's own length."""

    def __init__(self, loader: Iterable[T]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[T]:
        control = _current.get()
        return iter(self._loader) if control is None else control.iterate(self._loader)

    def __len__(self) -> int:
        """Raises TypeError where the loader has no length."""
        length = _length(self._loader)
        if length is None:
            raise TypeError(f"{type(self._loader).__name__} has no length")
        return length

    def __bool__(self) -> bool:
        return True


def steps(loader: Iterable[T]) -> Steps[T]:
    """The batches of `loader`, each timed as one training step; fewer of them where the cutoff comes first.

    Call it once an epoch, in the context (thread or task) in which `fit` was called; in any other it only iterates. Of
    nested loops the innermost counts. After a stop it yields nothing more. The result has the loader's length, which
    progress bars ask for.
    """
    return Steps(loader)


def _length(loader: Iterable[T]) -> int | None:
    if not isinstance(loader, Sized):
        return None
    try:
        return len(loader)
    except TypeError:  # a DataLoader over a stream has __len__ and refuses
        return None

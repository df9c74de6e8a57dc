"""One background thread a sensor: reads at a jittered rate, sums in small batches, counts its own cost.

What a thread that wakes ten times a second costs is mostly waking up, and then running code that has long left the
processor's caches: a microsecond of work in a busy loop takes five there. So a tick does no more than read, and the
readings are summed 32 at a time, or when somebody asks.
"""

from __future__ import annotations

import math
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from profiler.accumulate import RailAccumulator
from profiler.clock import Clock, SystemClock
from profiler.errors import SensorError
from profiler.integrate import GAP_PERIODS, between, total
from profiler.kept_samples import KeptSamples
from profiler.quantities import EnergyReading
from profiler.sensor import Available, Explains, Sensor

_MAX_REASONS = 4
_BATCH = 32  # readings kept before they are summed: three cold rails take 90 us a reading alone and 20 us among others

# The moment of a reading, its values or why there are none, and what the sensor said of rails without a value.
_Reading = tuple[int, "tuple[float | None, ...] | str", "Sequence[str | None]"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of every rail, in the order of `Available.rails`.

    `t_ns` is the midpoint of the clock before and after the read. `values` are J or W by the rail's kind;
    `energy_j` is cumulative and unwrapped since the sampler's first good sample. None: not read this time.
    """

    t_ns: int
    values: tuple[float | None, ...]
    energy_j: tuple[float | None, ...]


class Sampler:
    """Meters one sensor: `with Sampler(sensor) as sampler: window = sampler.open_window(); ...; window.close()`.

    The times between samples are `1 / rate_hz` ± `jitter` of that, drawn from `random.Random(seed)`: a regular sampler
    in step with a periodic load reads only its peaks or only its valleys. `rate_hz=0` starts no thread and samples at
    the edges of windows only, which suits counters that cannot wrap between two edges; a power rail is then missing.

    A read that fails becomes a gap, told by the coverage and the reason of the reading, never an exception.
    `on_sample` is called for every sample under the sampler's lock, in the thread that took it. It must be quick, must
    not raise and must not call the sampler.

    Raises SensorError where the sensor is not available or cannot be opened, ValueError on a senseless rate or jitter.
    """

    def __init__(
        self,
        sensor: Sensor,
        clock: Clock | None = None,
        *,
        rate_hz: float = 10.0,
        jitter: float = 0.3,
        seed: int = 0,
        on_sample: Callable[[Sample], None] | None = None,
    ) -> None:
        if not (0 <= rate_hz < math.inf and 0 <= jitter < 1):
            raise ValueError(f"rate_hz must be finite and >= 0 and jitter in 0..1, got {rate_hz} and {jitter}")
        self.sensor = sensor
        self.available = _available(sensor)
        self.rate_hz = rate_hz
        self._explains = sensor if isinstance(sensor, Explains) else None
        self._clock: Clock = SystemClock() if clock is None else clock
        self._jitter = jitter
        self._random = random.Random(seed)
        self._on_sample = on_sample
        # Without a thread no power rail is covered; its cumulative joules are bridged all the same.
        max_gap_s = GAP_PERIODS / rate_hz if rate_hz > 0 else 0.0
        self._rails = tuple(RailAccumulator(rail, max_gap_s) for rail in self.available.rails)
        self._windows: weakref.WeakSet[Window] = weakref.WeakSet()
        self._unsummed: list[_Reading] = []
        self._batch = _BATCH if on_sample is None else 1
        self._lock = threading.Lock()
        # Held while the thread is to run. An Event makes, takes and drops a lock of its own at every wait.
        self._running = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_open = False
        # CPU seconds of threads that have ended, and the clock of the one that runs. One value, so that whoever reads
        # it never counts a thread twice.
        self._thread_cost: tuple[float, int | None] = (0.0, None)
        self._edge_cost_s = 0.0
        self._failure: str | None = None  # why the last read gave nothing

    @property
    def cost_s(self) -> float:
        """CPU seconds the sampler itself has used: its thread, and the samples taken in other threads."""
        ended_s, clock = self._thread_cost
        if clock is not None:
            try:
                ended_s += time.clock_gettime(clock)
            except OSError:  # it has ended meanwhile
                ended_s, _ = self._thread_cost
        return ended_s + self._edge_cost_s

    @property
    def is_running(self) -> bool:
        return self._is_open

    def start(self) -> None:
        """Open the sensor, take a first sample and start the thread. Does nothing where it runs already."""
        with self._lock:
            if self._is_open:
                return
            try:
                self.sensor.open()
            except OSError as error:
                raise SensorError(f"{self.sensor.name}: cannot be opened: {error}.") from error
            self._is_open = True
        self.sample_now()
        if self.rate_hz > 0:
            self._running.acquire()
            self._thread = threading.Thread(target=self._run, name=f"profiler-{self.sensor.name}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close the sensor. Windows that are still open lose coverage from here on."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._running.release()
            thread.join()
        if self._is_open:
            self.sample_now()
            with self._lock:
                self._is_open = False
                self.sensor.close()

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def sample_now(self) -> Sample:
        """Read in the calling thread; the sample counts like any other."""
        before_s = time.thread_time()
        with self._lock:
            sample = self._sample()
            self._edge_cost_s += time.thread_time() - before_s
        return sample

    def open_window(self, kept: KeptSamples | None = None) -> Window:
        """Start of a stretch of time whose energy is wanted; takes a sample at this edge. Never raises.

        `kept` gets the window's samples, those at both edges included.
        """
        before_s = time.thread_time()
        with self._lock:
            sample = self._sample()
            if kept is None:
                window = Window(self, sample, self._rails, self._failure)
            else:
                window = _KeepingWindow(self, sample, self._rails, self._failure, kept)
            self._windows.add(window)
            self._edge_cost_s += time.thread_time() - before_s
        return window

    def total(self, readings: Sequence[EnergyReading]) -> EnergyReading:
        """The sensor's total of one window's readings."""
        return total(readings, self.available.total, self.available.scope)

    def _close(self, window: Window) -> tuple[EnergyReading, ...]:
        before_s = time.thread_time()
        with self._lock:
            sample = self._sample()
            self._windows.discard(window)
            readings = window._read(sample, self._rails)
            self._edge_cost_s += time.thread_time() - before_s
        return readings

    def _run(self) -> None:
        ended_s, clock = self._thread_cost[0], _cpu_clock()
        self._thread_cost = (ended_s, clock)
        due_s = time.monotonic()  # real time paces the thread, whatever clock stamps the samples
        shortest_s, spread_s = (1 - self._jitter) / self.rate_hz, 2 * self._jitter / self.rate_hz
        draw = self._random.random  # `uniform` is Python code, and cold as well
        # Code that has gone cold: a keyword argument costs 10 us a tick, and `with` 5 us to find what it calls.
        wait, take, drop = self._running.acquire, self._lock.acquire, self._lock.release
        while True:
            now_s = time.monotonic()
            due_s = max(due_s + shortest_s + spread_s * draw(), now_s)
            if wait(True, due_s - now_s):
                self._running.release()
                self._thread_cost = (ended_s + time.thread_time(), None)
                return
            take()
            try:
                self._tick()
                if clock is None:
                    self._thread_cost = (ended_s + time.thread_time(), None)
            finally:
                drop()

    def _tick(self) -> None:
        """What the thread does each time it wakes; the caller holds the lock."""
        self._read()
        if len(self._unsummed) >= self._batch:
            self._sum()

    def _sample(self) -> Sample:
        """One sample, with all that was read before it summed; the caller holds the lock."""
        self._read()
        return self._sum()

    def _read(self) -> None:
        """One reading, yet to be summed; the caller holds the lock."""
        before_ns = self._clock.monotonic_ns()
        why: Sequence[str | None] = ()
        try:
            outcome = tuple(self.sensor.read()) if self._is_open else "the sampler was not running"
            if self._explains is not None and None in outcome:
                why = self._explains.why()
        except (SensorError, OSError, ValueError) as error:
            outcome = str(error) or type(error).__name__
        self._unsummed.append(((before_ns + self._clock.monotonic_ns()) // 2, outcome, why))

    def _sum(self) -> Sample:
        """Add what was read to every rail and window; gives the last of it. The caller holds the lock."""
        unsummed, self._unsummed = self._unsummed, []
        windows = tuple(self._windows)
        for t_ns, outcome, why in unsummed:
            values, self._failure = self._checked(outcome)
            bridged = [rail.add(t_ns, value) for rail, value in zip(self._rails, values, strict=True)]
            if why:
                bridged = _explained(values, bridged, why)
            for window in windows:
                window._note(t_ns, values, bridged, self._failure)
        sample = Sample(t_ns, values, tuple(rail.energy_j for rail in self._rails))
        if self._on_sample is not None:
            self._on_sample(sample)
        return sample

    def _checked(self, outcome: tuple[float | None, ...] | str) -> tuple[tuple[float | None, ...], str | None]:
        """One value or None a rail, and why there is none at all."""
        if isinstance(outcome, tuple) and len(outcome) == len(self._rails):
            return tuple([value if value is not None and math.isfinite(value) else None for value in outcome]), None
        why = outcome if isinstance(outcome, str) else f"{len(outcome)} values for {len(self._rails)} rails"
        said = why if why.startswith(f"{self.sensor.name}:") else f"{self.sensor.name}: {why}"
        return (None,) * len(self._rails), said


def _cpu_clock() -> int | None:
    """A clock of this thread's CPU time that other threads can read; None where there are no such clocks, as on macOS.

    To ask for it at each tick, here, would add 6 % to what a tick takes.
    """
    if hasattr(time, "pthread_getcpuclockid"):
        return time.pthread_getcpuclockid(threading.get_ident())
    return None


def _explained(
    values: Sequence[float | None], bridged: Sequence[str | None], why: Sequence[str | None]
) -> list[str | None]:
    """What the sensor says of rails without a value, where it says something."""
    return [
        why[i] or reason if value is None and i < len(why) else reason
        for i, (value, reason) in enumerate(zip(values, bridged, strict=True))
    ]


def _available(sensor: Sensor) -> Available:
    outcome = sensor.probe()
    if isinstance(outcome, Available):
        return outcome
    raise SensorError(f"{sensor.name}: {outcome.reason}", remedy=outcome.remedy)


class Window:
    """A stretch of time on one sampler, from `Sampler.open_window` to `close`."""

    def __init__(self, sampler: Sampler, opened: Sample, rails: Sequence[RailAccumulator], failure: str | None) -> None:
        self.sampler = sampler
        self.opened_ns = opened.t_ns
        self._marks = tuple(rail.mark() for rail in rails)
        self._seen_ns = [opened.t_ns] * len(rails)
        self._max_gap_ns = [0] * len(rails)
        self._reasons: list[dict[str, None]] = [{failure: None} if failure else {} for _ in rails]
        self._readings: tuple[EnergyReading, ...] | None = None

    def close(self) -> tuple[EnergyReading, ...]:
        """One reading a rail; takes a sample at this edge. Closing again gives the same. Never raises."""
        if self._readings is None:
            self._readings = self.sampler._close(self)
        return self._readings

    def _note(
        self, t_ns: int, values: tuple[float | None, ...], bridged: Sequence[str | None], failure: str | None
    ) -> None:
        for i, value in enumerate(values):
            reason = failure or bridged[i]
            if reason and len(self._reasons[i]) < _MAX_REASONS:
                self._reasons[i][reason] = None
            self._max_gap_ns[i] = max(self._max_gap_ns[i], t_ns - self._seen_ns[i])
            if value is not None:
                self._seen_ns[i] = t_ns

    def _read(self, closed: Sample, rails: Sequence[RailAccumulator]) -> tuple[EnergyReading, ...]:
        return tuple(
            between(
                rail.rail,
                opened,
                rail.mark(),
                max_gap_s=max_gap_ns / 1e9,
                reason="; ".join(reasons) or None,
            )
            for rail, opened, max_gap_ns, reasons in zip(
                rails, self._marks, self._max_gap_ns, self._reasons, strict=True
            )
        )


class _KeepingWindow(Window):
    """A class of its own, so that other windows do not even ask whether there is anything to keep."""

    def __init__(
        self,
        sampler: Sampler,
        opened: Sample,
        rails: Sequence[RailAccumulator],
        failure: str | None,
        kept: KeptSamples,
    ) -> None:
        super().__init__(sampler, opened, rails, failure)
        self._kept = kept
        kept.add(opened.t_ns, opened.values)

    def _note(
        self, t_ns: int, values: tuple[float | None, ...], bridged: Sequence[str | None], failure: str | None
    ) -> None:
        super()._note(t_ns, values, bridged, failure)
        self._kept.add(t_ns, values)

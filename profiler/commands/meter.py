"""Metering one piece of work with one sensor: its figures, its peaks, and what is known while it runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from profiler.accumulate import Mark, RailAccumulator
from profiler.clock import Clock
from profiler.commands.child import Finished
from profiler.commands.figures import Figures
from profiler.integrate import GAP_PERIODS, between, total
from profiler.quantities import EnergyReading
from profiler.resources import ResourceReader
from profiler.sampler import Sample, Sampler
from profiler.sensor import Available, Sensor

_MIN_PEAK_JITTERS = 10.0  # over a shorter time the staleness of a reading could double the power
_LIVE_S = 1.0  # power "now" is the mean over this time: what a person can read


class PeakPower:
    """The largest mean power between two samples, of every rail and of the total.

    Two samples that happen to be close together (one at an edge, one of the thread) say more about the staleness of a
    counter than about power, so a pair is at least half a sampling period apart, and ten times the edge jitter.
    """

    def __init__(self, available: Available, rate_hz: float) -> None:
        jitter_s = max((rail.edge_jitter_s for rail in available.rails), default=0.0)
        self._min_s = max(0.5 / rate_hz, _MIN_PEAK_JITTERS * jitter_s)
        self._total = _positions(available)
        self._earlier: list[tuple[int, float] | None] = [None] * (len(available.rails) + 1)
        self._peaks_w: list[float | None] = [None] * (len(available.rails) + 1)

    def __call__(self, sample: Sample) -> None:
        for i, energy_j in enumerate((*sample.energy_j, _sum(sample.energy_j, self._total))):
            if energy_j is not None:
                self._note(i, sample.t_ns, energy_j)

    def _note(self, i: int, t_ns: int, energy_j: float) -> None:
        earlier = self._earlier[i]
        if earlier is not None:
            dt_s = (t_ns - earlier[0]) / 1e9
            if dt_s < self._min_s:
                return
            power_w, peak_w = (energy_j - earlier[1]) / dt_s, self._peaks_w[i]
            self._peaks_w[i] = power_w if peak_w is None else max(power_w, peak_w)
        self._earlier[i] = (t_ns, energy_j)

    def of(self, readings: Sequence[EnergyReading], duration_s: float) -> tuple[float | None, ...]:
        """One a reading (every rail's, then the total's), at least its mean power; None where the energy is missing."""
        peaks_w: list[float | None] = []
        for reading, peak_w in zip(readings, self._peaks_w, strict=True):
            if reading.energy_j is None or duration_s <= 0:
                peaks_w.append(None)
            else:
                mean_w = reading.energy_j / duration_s
                peaks_w.append(mean_w if peak_w is None else max(mean_w, peak_w))
        return tuple(peaks_w)


class Live:
    """The readings so far and the power now, while a sampler runs. Give it as `on_sample`; ask from any thread."""

    def __init__(self, available: Available, rate_hz: float) -> None:
        self._available = available
        self._total = _positions(available)
        self._lock = threading.Lock()
        self._rails = [RailAccumulator(rail, GAP_PERIODS / rate_hz) for rail in available.rails]
        self._reasons: list[str | None] = [None] * len(self._rails)
        self._opened: list[Mark | None] | None = None
        self._recent: deque[Sample] = deque()

    def __call__(self, sample: Sample) -> None:
        with self._lock:
            for i, value in enumerate(sample.values):
                self._reasons[i] = self._rails[i].add(sample.t_ns, value)
            if self._opened is None:
                self._opened = [rail.mark() for rail in self._rails]
            self._recent.append(sample)
            while len(self._recent) > 2 and sample.t_ns - self._recent[1].t_ns >= _LIVE_S * 1e9:
                self._recent.popleft()

    def readings(self) -> list[EnergyReading]:
        """Every rail's since the first sample, then the total's."""
        with self._lock:
            marks = [None] * len(self._rails) if self._opened is None else self._opened
            rails = [
                between(rail.rail, opened, rail.mark(), max_gap_s=0.0, reason=reason)
                for rail, opened, reason in zip(self._rails, marks, self._reasons, strict=True)
            ]
        return [*rails, total(rails, self._available.total, self._available.scope)]

    def powers_w(self) -> list[float | None]:
        """Every rail's mean power over the last second, then the total's; None where it cannot be read now."""
        with self._lock:
            if len(self._recent) < 2:
                return [None] * (len(self._rails) + 1)
            before, now = self._recent[0], self._recent[-1]
        dt_s = (now.t_ns - before.t_ns) / 1e9
        pairs = zip(self._with_total(before), self._with_total(now), strict=True)
        return [None if dt_s <= 0 or a is None or b is None else (b - a) / dt_s for a, b in pairs]

    def _with_total(self, sample: Sample) -> tuple[float | None, ...]:
        return (*sample.energy_j, _sum(sample.energy_j, self._total))


class Meter:
    """One sensor around one piece of work. `listeners` get every sample, under the rules of `Sampler.on_sample`.

    `resources` tells, at the edges of the work, how the machine is doing.

    Raises SensorError where the sensor is unavailable.
    """

    def __init__(self, sensor: Sensor, clock: Clock, rate_hz: float, resources: ResourceReader | None = None) -> None:
        self._clock = clock
        self._resources = resources
        self._last_ns = 0
        self._sampler = Sampler(sensor, clock, rate_hz=rate_hz, on_sample=self._note)
        self.available = self._sampler.available
        self._peaks = PeakPower(self.available, rate_hz)
        self.listeners: list[Callable[[Sample], None]] = [self._peaks]

    def _note(self, sample: Sample) -> None:
        self._last_ns = sample.t_ns
        for listener in self.listeners:
            listener(sample)

    def run(
        self,
        work: Callable[[], Finished | None],
        *,
        command: Sequence[str] = (),
        on_open: Callable[[int], None] | None = None,
    ) -> Figures:
        """Do the work and meter it. `on_open` gets the time of the first sample that counts.

        Raises SensorError where the sensor cannot be opened, and what `work` raises.
        """
        reader = self._resources
        before = None if reader is None else reader.mark()
        with self._sampler as sampler:
            window = sampler.open_window()
            if on_open is not None:
                on_open(window.opened_ns)
            start_ns = self._clock.monotonic_ns()
            finished = work()
            end_ns = self._clock.monotonic_ns()
            rails = window.close()
            closed_ns = self._last_ns
            used = None if reader is None or before is None else reader.since(before)
            self.listeners = []  # what the sampler reads when it stops is not part of the work
        readings = (*rails, sampler.total(rails))
        return Figures(
            sensor=sampler.sensor.name,
            available=self.available,
            rate_hz=sampler.rate_hz,
            start_ns=window.opened_ns,
            end_ns=closed_ns,
            duration_s=(end_ns - start_ns) / 1e9,
            readings=readings,
            peaks_w=self._peaks.of(readings, (closed_ns - window.opened_ns) / 1e9),
            sampler_cpu_s=sampler.cost_s,
            command=tuple(command),
            finished=finished,
            machine=used,
        )


def _positions(available: Available) -> tuple[int, ...]:
    return tuple(i for i, rail in enumerate(available.rails) if rail.name in available.total)


def _sum(energies_j: Sequence[float | None], positions: Sequence[int]) -> float | None:
    parts = [energies_j[i] for i in positions]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None

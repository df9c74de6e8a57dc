"""A meter of one device elsewhere: samples a sensor that asks the device from this host, on this host's clock.

A reading tells of some moment between question and answer, so half of the longest answer in a window joins the age of
its readings, and with that the error and what counts as below the resolution.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.integrate import GAP_PERIODS, integrate, total
from profiler.quantities import EnergyReading, Rail, Scope
from profiler.sampler import Sample, Sampler
from profiler.sensor import Available, Sensor, Unavailable

RATE_HZ = 1.0  # each sample starts a process here and some on the device, which draw power themselves
MAX_SAMPLES = 100_000  # more than a day
_LOOK_AGAIN_S = 30.0
_MAX_REASONS = 4


class _Timed:
    """A sensor, with how long its last read took and why it gave nothing."""

    def __init__(self, sensor: Sensor, clock: Clock) -> None:
        self.name = sensor.name
        self.latency_s = 0.0
        self.trouble: str | None = None
        self._sensor = sensor
        self._clock = clock

    def probe(self) -> Available | Unavailable:
        return self._sensor.probe()

    def open(self) -> None:
        self._sensor.open()

    def read(self) -> list[float | None]:
        began_ns = self._clock.monotonic_ns()
        self.trouble = None
        try:
            return self._sensor.read()
        except SensorError as error:
            self.trouble = Exception.__str__(error).rstrip(".")
            raise
        finally:
            self.latency_s = (self._clock.monotonic_ns() - began_ns) / 1e9

    def close(self) -> None:
        self._sensor.close()


@dataclass(frozen=True, slots=True)
class _Entry:
    sample: Sample
    latency_s: float
    trouble: str | None


class SensorMeter:
    """A `harness.energy_sources.DeviceMeter`. `hide` takes out of texts what nobody else should read.

    A sensor that cannot be used, as that of a phone which charges, is looked at again each time that `look` is called
    half a minute after the last: its reason stands for what was drawn till then.
    """

    def __init__(
        self,
        device: str,
        sensor: Sensor,
        clock: Clock,
        *,
        rate_hz: float = RATE_HZ,
        hide: Callable[[str], str] = lambda text: text,
        max_samples: int = MAX_SAMPLES,
    ) -> None:
        self._device = device
        self._sensor = _Timed(sensor, clock)
        self._clock = clock
        self._rate_hz = rate_hz
        self._hide = hide
        self._max_samples = max_samples
        self._sampler: Sampler | None = None
        self._refusal = "its meter was never looked at"
        self._looked_ns: int | None = None
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._times_ns: list[int] = []

    @property
    def facts(self) -> dict[str, Any]:
        """For the device's file."""
        if self._sampler is None:
            return {"metered_from_here": False, "energy_missing": self._refusal}
        found = self._sampler.available
        return {
            "metered_from_here": True,
            "sensor": self._sensor.name,
            "provenance": found.provenance.value,
            "energy_scope": found.scope.value,
            "total_of": list(found.total),
            "notes": self._hide(found.notes),
        }

    def look(self) -> None:
        """Begin to sample, where that has not begun and is possible. Takes as long as the sensor's probe does."""
        if self._sampler is not None or not self._is_due():
            return
        try:
            sampler = Sampler(self._sensor, self._clock, rate_hz=self._rate_hz, on_sample=self._note)
            sampler.start()
        except SensorError as error:
            refusal = Exception.__str__(error).removeprefix(f"{self._sensor.name}: ")
            self._refusal = self._hide(refusal)
        else:
            self._sampler = sampler

    def _is_due(self) -> bool:
        now_ns = self._clock.monotonic_ns()
        if self._looked_ns is not None and now_ns - self._looked_ns < _LOOK_AGAIN_S * 1e9:
            return False
        self._looked_ns = now_ns
        return True

    @property
    def refusal(self) -> str:
        """Why nothing is sampled; empty where it is."""
        return "" if self._sampler is not None else self._refusal

    def stop(self) -> None:
        """What was sampled can still be asked for."""
        if self._sampler is not None:
            self._sampler.stop()

    def catch_up(self) -> None:
        if self._sampler is not None and self._sampler.is_running:
            self._sampler.sample_now()

    def energy(self, start_ns: int, end_ns: int) -> EnergyReading:
        """The total of the sensor's rails in a window of this host's clock, with error and coverage."""
        if self._sampler is None:
            return EnergyReading.missing(self._device, Scope.DEVICE, self._refusal)
        found, entries = self._sampler.available, self._around(start_ns, end_ns)
        latency_s = max((entry.latency_s for entry in entries if entry.trouble is None), default=0.0)
        readings = [
            self._of_rail(replace(rail, edge_jitter_s=rail.edge_jitter_s + latency_s / 2), n, entries, start_ns, end_ns)
            for n, rail in enumerate(found.rails)
            if rail.name in found.total
        ]
        reading = total(readings, found.total, found.scope, rail=self._device)
        if reading.energy_j is not None:
            entries = [entry for entry in entries if start_ns <= entry.sample.t_ns <= end_ns]
        return self._told(reading, entries)

    def _of_rail(self, rail: Rail, n: int, entries: Sequence[_Entry], start_ns: int, end_ns: int) -> EnergyReading:
        samples = [(entry.sample.t_ns, entry.sample.values[n]) for entry in entries]
        return integrate(rail, samples, start_ns, end_ns, max_gap_s=GAP_PERIODS / self._rate_hz)

    def _told(self, reading: EnergyReading, entries: Sequence[_Entry]) -> EnergyReading:
        """With what the sensor said where it gave nothing: that comes first where it is why there is no figure."""
        troubles = [self._hide(entry.trouble) for entry in entries if entry.trouble is not None]
        why = "; ".join(list(dict.fromkeys(troubles))[:_MAX_REASONS])
        if not why:
            return reading
        parts = [why, reading.reason] if reading.energy_j is None else [reading.reason, why]
        return replace(reading, reason="; ".join(part for part in parts if part))

    def _around(self, start_ns: int, end_ns: int) -> list[_Entry]:
        """The samples within, and two on either side."""
        with self._lock:
            first = max(0, bisect_left(self._times_ns, start_ns) - 2)
            return self._entries[first : bisect_left(self._times_ns, end_ns) + 2]

    def _note(self, sample: Sample) -> None:
        """Called by the sampler, under its lock, for each sample, in the thread that took it."""
        with self._lock:
            if self._times_ns and sample.t_ns <= self._times_ns[-1]:
                return
            self._entries.append(_Entry(sample, self._sensor.latency_s, self._sensor.trouble))
            self._times_ns.append(sample.t_ns)
            if len(self._entries) > self._max_samples:
                n_oldest = max(1, self._max_samples // 10)
                del self._entries[:n_oldest], self._times_ns[:n_oldest]

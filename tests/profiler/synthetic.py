"""Synthetic devices: loads whose energy is known in closed form, and sensors that read them with their usual faults.

Nothing here knows how energy is estimated. A load is a sum of steps (the duty cycle of training), a ramp, a sinusoid
and an exponential approach; each has its power and its antiderivative. A sensor class is a `Rail`, the limits its
datasheet would state, and how it is read. What is systematic is drawn once a device within those limits: the gain, the
offset, the phase of its refresh, the start of its counter. What is random is drawn at every sample.

Every span is met on another device: over the spans of one device a systematic error is one error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from profiler.quantities import Rail, RailKind

Array = NDArray[np.float64]
Samples = list[tuple[int, float | None]]

LEAD_S = 2.0  # what the load does before a span opens and after it has closed is drawn for so long
_NS = 1e9


class Load(Protocol):
    """True power over time, and the joules since second 0."""

    def power_w(self, t_s: Array) -> Array: ...

    def energy_j(self, t_s: Array) -> Array: ...


@dataclass(frozen=True)
class Steps:
    """Power that switches: `levels_w[i]` from `edges_s[i]` on. The first edge lies before every moment asked for."""

    edges_s: Array
    levels_w: Array
    _before_j: Array = field(init=False)

    def __post_init__(self) -> None:
        steps_j = np.diff(self.edges_s) * self.levels_w[:-1]
        object.__setattr__(self, "_before_j", np.concatenate([[0.0], np.cumsum(steps_j)]))

    def _at(self, t_s: Array) -> NDArray[np.intp]:
        return np.searchsorted(self.edges_s, t_s, side="right") - 1

    def power_w(self, t_s: Array) -> Array:
        return np.asarray(self.levels_w[self._at(t_s)])

    def energy_j(self, t_s: Array) -> Array:
        at = self._at(t_s)
        return np.asarray(self._before_j[at] + self.levels_w[at] * (t_s - self.edges_s[at]))


@dataclass(frozen=True)
class Ramp:
    """0 W until `start_s`, then a linear rise by `rise_w` within `rise_s`, then constant."""

    start_s: float
    rise_s: float
    rise_w: float

    def power_w(self, t_s: Array) -> Array:
        return np.asarray(self.rise_w * np.clip((t_s - self.start_s) / self.rise_s, 0, 1))

    def energy_j(self, t_s: Array) -> Array:
        rising_s = np.clip(t_s - self.start_s, 0, self.rise_s)
        risen_s = np.maximum(t_s - self.start_s - self.rise_s, 0)
        return np.asarray(self.rise_w * (rising_s**2 / (2 * self.rise_s) + risen_s))


@dataclass(frozen=True)
class Sinusoid:
    """`amplitude_w` sin(2π t / `period_s` + `phase`)."""

    amplitude_w: float
    period_s: float
    phase: float

    def power_w(self, t_s: Array) -> Array:
        return np.asarray(self.amplitude_w * np.sin(2 * math.pi * t_s / self.period_s + self.phase))

    def energy_j(self, t_s: Array) -> Array:
        angle = 2 * math.pi / self.period_s
        return np.asarray(self.amplitude_w / angle * (math.cos(self.phase) - np.cos(angle * t_s + self.phase)))


@dataclass(frozen=True)
class Approach:
    """0 W until `start_s`, then `rise_w` (1 - exp(-t / `tau_s`)): a fan that spins up, a regulator that settles."""

    start_s: float
    tau_s: float
    rise_w: float

    def power_w(self, t_s: Array) -> Array:
        since_s = np.maximum(t_s - self.start_s, 0)
        return np.asarray(self.rise_w * -np.expm1(-since_s / self.tau_s))

    def energy_j(self, t_s: Array) -> Array:
        since_s = np.maximum(t_s - self.start_s, 0)
        return np.asarray(self.rise_w * (since_s + self.tau_s * np.expm1(-since_s / self.tau_s)))


@dataclass(frozen=True)
class Sum:
    parts: Sequence[Load]

    def power_w(self, t_s: Array) -> Array:
        return np.asarray(sum(part.power_w(t_s) for part in self.parts))

    def energy_j(self, t_s: Array) -> Array:
        return np.asarray(sum(part.energy_j(t_s) for part in self.parts))


@dataclass(frozen=True)
class LoadKind:
    """What is drawn for a load: ranges of its power and its step lengths, and how far it swings, as a part of power."""

    base_w: tuple[float, float] = (2.0, 60.0)
    step_s: tuple[float, float] = (0.05, 0.5)
    swing: tuple[float, float] = (0.1, 0.8)
    drift: float = 0.2
    starts_with_span: float = 0.5  # of the spans: idle before, idle after


def random_load(rng: np.random.Generator, kind: LoadKind, duration_s: float) -> Load:
    """A device that trains: steps of random lengths between two levels that wander, over slow drifts."""
    base_w = math.exp(rng.uniform(*np.log(kind.base_w)))
    drift_w = base_w * kind.drift
    slow: list[Load] = [
        Ramp(rng.uniform(-LEAD_S, duration_s), rng.uniform(0.5, 5), drift_w * rng.uniform(-1, 1)),
        Sinusoid(drift_w / 2 * rng.uniform(0, 1), rng.uniform(2, 20), rng.uniform(0, 2 * math.pi)),
        Approach(rng.uniform(-LEAD_S, duration_s), rng.uniform(0.5, 3), drift_w * rng.uniform(-1, 1)),
    ]
    return Sum([_training(rng, kind, duration_s, base_w), *slow])


def _training(rng: np.random.Generator, kind: LoadKind, duration_s: float, base_w: float) -> Steps:
    mean_s = math.exp(rng.uniform(*np.log(kind.step_s)))
    n_steps = 2 * math.ceil((duration_s + 3 * LEAD_S) / mean_s / 0.5 / 2)
    lengths_s = mean_s * rng.uniform(0.5, 1.5, n_steps)
    edges_s = -1.5 * LEAD_S + np.cumsum(lengths_s) - lengths_s[0] - rng.uniform(0, mean_s)
    swing_w = base_w * rng.uniform(*kind.swing)
    levels_w = base_w + swing_w * (np.arange(n_steps) % 2) * rng.uniform(0.8, 1.2, n_steps)
    if rng.uniform() < kind.starts_with_span:
        inside = (edges_s > 0) & (edges_s < duration_s)
        idle_w = base_w * rng.uniform(0.5, 1)
        edges_s = np.concatenate([[edges_s[0], 0.0], edges_s[inside], [duration_s]])
        levels_w = np.concatenate([[idle_w, base_w + swing_w], levels_w[inside], [idle_w]])
    return Steps(edges_s, levels_w)


@dataclass(frozen=True)
class SensorClass:
    """A rail's stated limits and how its device is read.

    `noise` is the standard deviation of white noise as a part of the reading; `ages_s` the range of how old a power
    reading is; `refresh_s` the period at which a gauge or a counter has a new value, 0: at every read; `is_boxcar`: the
    new value is the mean since the one before. `rate_hz` and `jitter` are the sampler's, `p_late` the part of the
    samples that the scheduler delays, exponentially by `late_s`. `p_lost` of the samples are lost one by one, and
    `outages` stretches of `outage_s` are lost altogether.
    """

    name: str
    rail: Rail
    duration_s: tuple[float, float] = (3.0, 8.0)
    load: LoadKind = LoadKind()
    noise: float = 0.0
    refresh_s: float = 0.0
    is_boxcar: bool = False
    rate_hz: float = 10.0
    jitter: float = 0.3
    p_late: float = 0.05
    late_s: float = 0.05
    p_lost: float = 0.0
    outages: tuple[int, int] = (0, 0)
    outage_s: tuple[float, float] = (0.4, 1.2)


@dataclass(frozen=True)
class Device:
    """One device of a class: its systematic errors and its load, fixed for the span that is met on it."""

    kind: SensorClass
    duration_s: float
    load: Load
    gain: float
    offset_w: float
    phase_s: float
    start_j: float

    @property
    def truth_j(self) -> float:
        first_j, last_j = self.load.energy_j(np.array([0.0, self.duration_s]))
        return float(last_j - first_j)

    def read(self, rng: np.random.Generator, t_s: Array) -> Array:
        if self.kind.rail.kind is RailKind.COUNTER_J:
            return self._count(t_s)
        watts = self._seen_w(rng, t_s) * (1 + self.gain) + self.offset_w
        digit_w = self.kind.rail.resolution
        return np.asarray(np.round(watts / digit_w) * digit_w if digit_w > 0 else watts)

    def _refreshed(self, t_s: Array) -> Array:
        refresh_s = self.kind.refresh_s
        return np.asarray(np.floor((t_s + self.phase_s) / refresh_s) * refresh_s - self.phase_s)

    def _count(self, t_s: Array) -> Array:
        rail, at_s = self.kind.rail, self._refreshed(t_s) if self.kind.refresh_s > 0 else t_s
        counted_j = self.start_j + (1 + self.gain) * self.load.energy_j(at_s) + self.offset_w * at_s
        if rail.resolution > 0:
            counted_j = np.floor(counted_j / rail.resolution) * rail.resolution
        return np.asarray(counted_j % rail.wrap_j if rail.wrap_j else counted_j)

    def _seen_w(self, rng: np.random.Generator, t_s: Array) -> Array:
        """What the converter saw when a reading was made; one refresh, one value and one noise."""
        refresh_s = self.kind.refresh_s
        if refresh_s == 0:
            ages_s = rng.uniform(0, self.kind.rail.edge_jitter_s, t_s.size)
            return self._noisy(rng, self.load.power_w(t_s - ages_s))
        at_s, which = np.unique(self._refreshed(t_s), return_inverse=True)
        if self.kind.is_boxcar:
            mean_w = (self.load.energy_j(at_s) - self.load.energy_j(at_s - refresh_s)) / refresh_s
            return self._noisy(rng, mean_w)[which]
        return self._noisy(rng, self.load.power_w(at_s))[which]

    def _noisy(self, rng: np.random.Generator, watts: Array) -> Array:
        return np.asarray(watts * (1 + self.kind.noise * rng.standard_normal(watts.size)))


@dataclass(frozen=True)
class Span:
    """One span on one device: what a sampler took, edges included (`marked`), and a recorder without edges."""

    device: Device
    duration_ns: int
    marked: Samples
    recorded: Samples

    @property
    def truth_j(self) -> float:
        return self.device.truth_j


def draw_device(rng: np.random.Generator, kind: SensorClass) -> Device:
    duration_s = round(rng.uniform(*kind.duration_s), 6)  # whole ns
    rail = kind.rail
    return Device(
        kind=kind,
        duration_s=duration_s,
        load=random_load(rng, kind.load, duration_s),
        gain=rng.uniform(-rail.gain_err, rail.gain_err),
        offset_w=rng.uniform(-rail.offset_err_w, rail.offset_err_w),
        phase_s=rng.uniform(0, kind.refresh_s),
        start_j=rng.uniform(0, rail.wrap_j or 1000.0),
    )


def sample_times_s(rng: np.random.Generator, kind: SensorClass, start_s: float, end_s: float) -> Array:
    """When a thread wakes: at jittered intervals, some late; the next is due counted from the late one."""
    n = math.ceil((end_s - start_s) * kind.rate_hz / (1 - kind.jitter)) + 1
    gaps_s = (1 + rng.uniform(-kind.jitter, kind.jitter, n)) / kind.rate_hz
    gaps_s += rng.exponential(kind.late_s, n) * (rng.uniform(size=n) < kind.p_late)
    times_s = start_s + rng.uniform(0, 1 / kind.rate_hz) + np.cumsum(gaps_s)
    return np.asarray(times_s[times_s < end_s])


def lost(rng: np.random.Generator, kind: SensorClass, t_s: Array, duration_s: float) -> NDArray[np.bool_]:
    """Which samples did not come: single ones, and all within an outage."""
    gone = np.asarray(rng.uniform(size=t_s.size) < kind.p_lost)
    for _ in range(int(rng.integers(kind.outages[0], kind.outages[1] + 1))):
        begin_s = rng.uniform(0, duration_s)
        gone |= (t_s >= begin_s) & (t_s < begin_s + rng.uniform(*kind.outage_s))
    return gone


def draw_span(rng: np.random.Generator, kind: SensorClass) -> Span:
    device = draw_device(rng, kind)
    between_s = sample_times_s(rng, kind, -LEAD_S / 4, device.duration_s + LEAD_S / 4)
    t_s = np.sort(np.concatenate([between_s, [0.0, device.duration_s]]))
    t_ns = np.round(t_s * _NS).astype(np.int64)
    values: list[float | None] = [float(value) for value in device.read(rng, t_ns / _NS)]
    for i in np.flatnonzero(lost(rng, kind, t_s, device.duration_s)):
        values[i] = None
    marked = list(zip(t_ns.tolist(), values, strict=True))
    edges_ns = (0, round(device.duration_s * _NS))
    recorded = [sample for sample in marked if sample[0] not in edges_ns]
    return Span(device, edges_ns[1], marked, recorded)

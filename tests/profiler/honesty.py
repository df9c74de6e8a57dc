"""How honest a stated error is: many spans of each class of synthetic sensor, through both estimators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from profiler.accumulate import Mark, RailAccumulator
from profiler.integrate import GAP_PERIODS, between, integrate
from profiler.quantities import EnergyReading
from tests.profiler.rails import UNIT_J, counter_rail, power_rail
from tests.profiler.synthetic import LoadKind, SensorClass, Span, draw_span

# Limits are those of sensors we read: RAPL and a counter of coarse units, INA3221 at 5 V over 5 mOhm (40 mW a digit)
# and at 20 V over 2 mOhm (394 mW), a fuel gauge. Several contributions of like size, as they come; of one source alone
# a bound with k = 2 covers another part of the spans, see the tests.
_COUNTER = counter_rail(wrap_j=500.0, resolution=0.5, gain_err=0.002, edge_jitter_s=0.02)
_INA_SMALL = power_rail(resolution=0.04, offset_err_w=0.08, gain_err=0.0135, edge_jitter_s=0.002)
_INA_LARGE = power_rail(resolution=0.394, offset_err_w=0.2, gain_err=0.0135, edge_jitter_s=0.002)
_GAUGE = power_rail(min_period_s=0.5, resolution=0.01, gain_err=0.05, edge_jitter_s=0.5)

COUNTER = SensorClass("counter", _COUNTER, refresh_s=0.02, duration_s=(1.5, 6.0))
QUANTISED = SensorClass("quantised", _INA_LARGE, duration_s=(2.0, 5.0))
NOISY = SensorClass("noisy", _INA_SMALL, noise=0.2, duration_s=(2.0, 5.0))
JITTERED = SensorClass("jittered", _INA_SMALL, duration_s=(2.0, 5.0), load=LoadKind(step_s=(0.02, 1.0)), p_late=0.2)
HELD = SensorClass("held", _GAUGE, refresh_s=0.5, noise=0.02, rate_hz=4.0, duration_s=(8.0, 16.0))
GAPS = SensorClass("gaps", _INA_SMALL, duration_s=(4.0, 7.0), p_lost=0.1, outages=(1, 2))
COUNTER_GAPS = SensorClass(
    "counter with gaps",
    replace(_COUNTER, resolution=UNIT_J, wrap_j=2000.0),
    refresh_s=0.02,
    duration_s=(2.0, 5.0),
    p_lost=0.1,
    outages=(1, 2),
)
CLASSES = (COUNTER, QUANTISED, NOISY, JITTERED, HELD, GAPS, COUNTER_GAPS)

Estimator = Callable[[Span], EnergyReading]


def streamed(span: Span) -> EnergyReading:
    """As the sampler does it: sums only, and marks at the edges, where it takes a sample."""
    kind = span.device.kind
    accumulator = RailAccumulator(kind.rail, GAP_PERIODS / kind.rate_hz)
    marks: dict[int, Mark | None] = {}
    for t_ns, value in span.marked:
        accumulator.add(t_ns, value)
        if t_ns in (0, span.duration_ns):
            marks[t_ns] = accumulator.mark()
    return between(kind.rail, marks[0], marks[span.duration_ns], max_gap_s=0.0)


def recorded(span: Span) -> EnergyReading:
    """As a trace is cut that somebody recorded: no sample lies at an edge."""
    kind = span.device.kind
    return integrate(kind.rail, span.recorded, 0, span.duration_ns, max_gap_s=GAP_PERIODS / kind.rate_hz)


ESTIMATORS: dict[str, Estimator] = {"streamed": streamed, "recorded": recorded}


@dataclass(frozen=True)
class Honesty:
    """What the stated errors of many spans are worth. `coverage`: the part of the spans whose truth lies within."""

    n_spans: int
    n_missing: int
    coverage: float
    ratio: float  # the median bound over the median true error
    bias: float  # the mean error in units of the mean bound


def judge(kind: SensorClass, n_spans: int, seed: int) -> dict[str, Honesty]:
    """Both estimators over the same spans, each on another device."""
    rng = np.random.default_rng(seed)
    spans = [draw_span(rng, kind) for _ in range(n_spans)]
    truths_j = np.array([span.truth_j for span in spans])
    return {name: _honesty(truths_j, [estimate(span) for span in spans]) for name, estimate in ESTIMATORS.items()}


def _honesty(truths_j: NDArray[np.float64], readings: list[EnergyReading]) -> Honesty:
    known = np.array([reading.energy_j is not None for reading in readings])
    energies_j = np.array([reading.energy_j or 0.0 for reading in readings])[known]
    bounds_j = np.array([reading.energy_err_j or 0.0 for reading in readings])[known]
    errors_j = energies_j - truths_j[known]
    return Honesty(
        n_spans=int(known.sum()),
        n_missing=int((~known).sum()),
        coverage=float(np.mean(np.abs(errors_j) <= bounds_j)),
        ratio=float(np.median(bounds_j) / np.median(np.abs(errors_j))),
        bias=float(np.mean(errors_j) / np.mean(bounds_j)),
    )

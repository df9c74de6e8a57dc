"""Calibrating a device: train for real, fit after fit as rounds do, until steps are steady or time is up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fl.instrument import instrument
from fl.messages import Config
from fl.steps import Pace
from fl.workload import NumPyClient, Option
from harness.steady import DRIFT_S, MIN_STEPS, Course, Steadiness, binned, fit_curve, judge
from profiler.calibrations import Point, PowerFigure
from profiler.clock import Clock
from profiler.errors import UsageError
from profiler.quantities import EnergyReading, Provenance, Scope, weakest
from profiler.records import SpanRecord
from profiler.resources import ResourceReader
from profiler.sampler import Sampler
from profiler.span import Profiler

WARMUP_STEPS = 10
"""First steps that do not count: allocators, compiled kernels and caches are filled by them."""
_FIRST_FIT_S = 2.0
_LONGEST_FIT_S = 30.0
_FIT_SHARE = 0.25  # a fit is so long beside all before it: few of them, and none that hides a change
_STEPS_PER_FIT = (20, 5000)
STEADY_FITS = 2
"""Fits in a row after which a device must look steady: of many looks one is lucky, and stops before heat shows."""
_NO_METER = "no sensor was given"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Training:
    """What to train: one workload, its options and one batch size, for at most `limit_s` seconds."""

    workload: str
    options: Mapping[str, Option]
    batch_size: int
    lr: float
    limit_s: float
    seed: int = 0


class Calibrator:
    """Calibrates on one clock with the samplers of a device, which must be running."""

    def __init__(
        self,
        samplers: Sequence[Sampler],
        clock: Clock,
        resources: ResourceReader | None = None,
        progress: Progress = lambda line: None,
    ) -> None:
        self._samplers = tuple(samplers)
        self._clock = clock
        self._resources = resources
        self._progress = progress

    def idle(self, duration_s: float) -> PowerFigure:
        """What the device draws while nothing is trained."""
        records: list[SpanRecord] = []
        with self._profiler(records).span("idle"):
            self._clock.sleep(duration_s)
        return mean_power(records, self._sensors)

    def measure(self, client: NumPyClient, training: Training, *, pace: Pace | None = None) -> Point:
        """Raises UsageError where the training loop does not go through `fl.steps`, or takes too few steps."""
        records: list[SpanRecord] = []
        metered = instrument(client, self._profiler(records), pace=pace, facts=dict)
        fixed: Config = {"batch_size": training.batch_size, "lr": training.lr, "seed": training.seed}
        parameters = metered.get_parameters({})
        plan = FitPlan(1, min(training.limit_s, _FIRST_FIT_S))
        n_steady = 0
        while True:
            config = {**fixed, "round": len(records) + 1, "epochs": plan.epochs, "cutoff_s": plan.cutoff_s}
            parameters, _, _ = metered.measured_fit(parameters, config)
            elapsed_s = _elapsed_s(records)
            found = steadiness_of(records)
            self._progress(_line(elapsed_s, training.limit_s, found))
            n_steady = n_steady + 1 if found is not None and found.is_steady else 0
            is_steady = n_steady >= STEADY_FITS
            if is_steady or elapsed_s >= training.limit_s * (1 - 1e-3):
                return point_of(records, training, is_steady=is_steady, sensors=self._sensors)
            plan = plan.next(records[-1], elapsed_s, training.limit_s - elapsed_s)

    def _profiler(self, records: list[SpanRecord]) -> Profiler:
        return Profiler(self._samplers, self._clock, resources=self._resources or False, sink=records)

    @property
    def _sensors(self) -> str:
        return "+".join(sampler.sensor.name for sampler in self._samplers)


@dataclass(frozen=True, slots=True)
class FitPlan:
    """One fit: so many epochs, and the cutoff that ends it before they are over."""

    epochs: int
    cutoff_s: float

    def next(self, record: SpanRecord, elapsed_s: float, left_s: float) -> FitPlan:
        """The fit after the one of this record. Raises UsageError where that took no step that `fl.steps` saw."""
        if not record.steps_s:
            raise UsageError(
                "training took no step that fl.steps saw: there is nothing to calibrate.",
                remedy="Let the training loop be `for batch in steps(loader)`.",
            )
        step_s = max(1e-9, float(np.median(record.steps_s)))
        least_s, most_s = (n * step_s for n in _STEPS_PER_FIT)
        wanted_s = max(_FIRST_FIT_S, min(_LONGEST_FIT_S, _FIT_SHARE * elapsed_s), least_s)
        fit_s = min(left_s, most_s, wanted_s)
        planned = record.attributes.get("steps_planned")
        per_epoch = planned / self.epochs if isinstance(planned, int) else len(record.steps_s)
        return FitPlan(max(1, math.ceil(fit_s / step_s / max(1.0, per_epoch))), fit_s)


def _elapsed_s(records: Sequence[SpanRecord]) -> float:
    return (records[-1].end_ns - records[0].start_ns) / 1e9


def _line(elapsed_s: float, limit_s: float, found: Steadiness | None) -> str:
    if found is None:
        return f"{elapsed_s:.0f} of at most {limit_s:.0f} s: warming up"
    err = found.step_err_s / found.step_s
    return (
        f"{elapsed_s:.0f} of at most {limit_s:.0f} s: {found.step_s:.4g} s a step ± {100 * err:.1f} %, {drift(found)}"
    )


def drift(found: Steadiness | Point) -> str:
    """In words, as a part of step time; what is off by more than all of it is not known."""
    if found.drift_err > 1:
        return "drift not known"
    return f"drift {100 * found.drift:+.1f} ± {100 * found.drift_err:.1f} % in {DRIFT_S:.0f} s"


# From spans to figures. Pure.


def course_of(records: Sequence[SpanRecord]) -> Course:
    """The steps after warm-up: without the first `WARMUP_STEPS` of all, and those that each fit calls its own."""
    at_s: list[float] = []
    steps_s: list[float] = []
    n_seen = 0
    for record in records:
        durations_s = np.asarray(record.steps_s)
        offset_s = (record.end_ns - records[0].start_ns) / 1e9 - float(durations_s.sum())
        skipped = max(record.warmup_steps, WARMUP_STEPS - n_seen)
        at_s += (offset_s + np.cumsum(durations_s) - durations_s / 2)[skipped:].tolist()
        steps_s += durations_s[skipped:].tolist()
        n_seen += durations_s.size
    return Course(np.array(at_s), np.array(steps_s))


def steadiness_of(records: Sequence[SpanRecord]) -> Steadiness | None:
    """None before there are enough steps to say."""
    course = course_of(records)
    return judge(course) if course.steps_s.size >= MIN_STEPS else None


def point_of(records: Sequence[SpanRecord], training: Training, *, is_steady: bool, sensors: str) -> Point:
    """Raises UsageError for fewer than two steps after warm-up."""
    course = course_of(records)
    if course.steps_s.size < 2:
        raise UsageError(
            f"{training.workload}: {sum(len(record.steps_s) for record in records)} steps in {training.limit_s:.0f} s, "
            f"of which the first {WARMUP_STEPS} do not count.",
            remedy="Give it more --minutes.",
        )
    found, heat, bins = judge(course), fit_curve(course, is_steady=is_steady, seed=training.seed), binned(course)
    return Point(
        workload=training.workload,
        options=dict(training.options),
        batch_size=training.batch_size,
        stopped_by="steady" if is_steady else "time",
        n_steps=int(course.steps_s.size),
        n_warmup=sum(len(record.steps_s) for record in records) - int(course.steps_s.size),
        effective_n=found.effective_n,
        duration_s=_elapsed_s(records),
        start_s=_start_s(records),
        step_s=found.step_s,
        step_err_s=found.step_err_s,
        step_q95_s=float(np.quantile(course.steps_s, 0.95)),
        drift=found.drift,
        drift_err=found.drift_err,
        is_throttled=heat.is_found,
        curve=heat.curve,
        replicates=heat.replicates,
        power=mean_power(records, sensors),
        throttling=_throttling(records),
        trace=tuple(zip(bins.at_s.tolist(), bins.mean_s.tolist(), strict=True)),
    )


def _start_s(records: Sequence[SpanRecord]) -> float:
    """What a fit takes beside its steps: the median over fits. The first, which warms up, only where it is alone."""
    later = records[1:] or records
    return max(0.0, float(np.median([record.duration_s - math.fsum(record.steps_s) for record in later])))


def _throttling(records: Sequence[SpanRecord]) -> str | None:
    told = [record.resources.throttling for record in records if record.resources.throttling is not None]
    return ", ".join(sorted({word for text in told for word in text.split(", ") if word})) if told else None


def mean_power(records: Sequence[SpanRecord], sensors: str) -> PowerFigure:
    """Joules over seconds of some spans. Their errors are a gain's above all, which is common to them: they add up."""
    totals = [record.total or EnergyReading.missing("total", Scope.DEVICE, _NO_METER) for record in records]
    duration_s = math.fsum(record.duration_s for record in records)
    gaps = [total.reason or _NO_METER for total in totals if total.energy_j is None]
    scope = totals[-1].scope
    if gaps or duration_s <= 0:
        reason = gaps[0] if gaps else "it lasted 0 s"
        return PowerFigure(None, None, Provenance.MISSING, scope, duration_s, sensors, reason)
    energy_j = math.fsum(total.energy_j or 0.0 for total in totals)
    err_j = math.fsum(total.energy_err_j or 0.0 for total in totals)
    provenance = weakest(total.provenance for total in totals)
    return PowerFigure(energy_j / duration_s, err_j / duration_s, provenance, scope, duration_s, sensors)

"""How long a step takes on a device that never took part: calibrated, transferred, estimated or refused. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from analysis.conformal import least_points
from analysis.known_devices import Configuration, KnownDevice, matrix, options_text
from analysis.stats import LEVEL, Interval
from analysis.transfer import MAX_RANGE, MAX_REACH, MIN_POINTS, Points, common_level, estimate, reach, transfer
from profiler.calibrations import Calibration, Point
from profiler.errors import ResultsError, UsageError
from profiler.quantities import Provenance, weakest

HORIZON_S = 1200.0
MAX_OPEN = 0.10
"""What heat does within the horizon may be open by this part of the step time, each way."""
MIN_REPLICATES = 20
CALIBRATED, TRANSFERRED, ESTIMATED = "calibrated", "transferred", "estimated"


@dataclass(frozen=True, slots=True)
class NewDevice:
    """All that was calibrated on one processor, or nothing but its speed, in the unit of `speeds` of known ones."""

    processor: str
    clock: str
    points: tuple[Point, ...] = ()
    speed: float | None = None

    @classmethod
    def of(cls, calibrations: Sequence[Calibration], speed: float | None = None) -> NewDevice:
        """Raises UsageError where they are not of one processor and one clock."""
        named = {(calibration.processor, calibration.clock) for calibration in calibrations}
        if len(named) != 1:
            told = ", ".join(sorted(f"{processor} ({clock})" for processor, clock in named))
            raise UsageError(f"--calibration: files of different devices: {told}.", remedy="Name those of one device.")
        ((processor, clock),) = named
        return cls(processor, clock, tuple(point for one in calibrations for point in one.points), speed)


@dataclass(frozen=True, slots=True)
class StepEstimate:
    """Seconds of a step and watts while training, each with its 90 % interval, and where they come from (`basis`)."""

    step_s: float
    interval_s: Interval
    start_s: float
    basis: str
    note: str
    power_w: float | None = None
    power_interval_w: Interval | None = None
    power_provenance: Provenance = Provenance.MISSING


@dataclass(frozen=True, slots=True)
class KnownSteps:
    """Known devices, and the speeds that were told of them."""

    devices: Sequence[KnownDevice] = ()
    speeds: Mapping[str, float] = field(default_factory=dict)


def step_estimate(
    device: NewDevice, wanted: Configuration, known: KnownSteps, horizon_s: float = HORIZON_S
) -> StepEstimate:
    """The best there is. Raises ResultsError, with every reason, where the data carry none."""
    own = next((point for point in device.points if wanted.is_met_by(configuration_of(point))), None)
    if own is not None:
        return calibrated(own, horizon_s)
    batch = "" if wanted.is_of_profile else f" --batch-size {wanted.batch_size}"
    reasons = [f"{wanted.workload}{batch} was not calibrated"]
    for way in (_transferred, _estimated) if device.speed is not None else (_transferred,):
        try:
            return way(device, wanted, known)
        except ResultsError as refusal:
            reasons.append(refusal.args[0].rstrip("."))
    raise ResultsError(
        f"{'; '.join(reasons)}.",
        remedy=f"Run python -m harness.calibrate --workload {wanted.workload}{batch} on it.",
    )


def configuration_of(point: Point) -> Configuration:
    return Configuration(point.workload, point.batch_size, options_text(point.options))


def calibrated(point: Point, horizon_s: float) -> StepEstimate:
    """The mean step over the horizon, by the fitted course. Raises ResultsError where that is too open."""
    means_s = np.array([curve.mean_s(horizon_s) for curve in point.replicates])
    if means_s.size < MIN_REPLICATES:
        raise ResultsError(f"the calibration has {means_s.size} replicates, fewer than {MIN_REPLICATES}.")
    step_s = point.curve.mean_s(horizon_s)
    low_s, high_s = (float(end) for end in np.quantile(means_s, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    low_s, high_s = min(low_s, step_s), max(high_s, step_s)
    is_open = (high_s - low_s) / 2 / step_s
    if is_open > MAX_OPEN:
        raise ResultsError(
            f"after {point.duration_s:.0f} s of calibration the mean step of {horizon_s / 60:.0f} minutes is open by "
            f"{100 * is_open:.0f} %.",
            remedy="Calibrate again with more --minutes, on a device that does nothing else.",
        )
    note = "" if point.stopped_by == "steady" or point.is_throttled else "not steady when time was up"
    if point.is_throttled:
        note = f"slows down by {100 * point.curve.added_s / point.curve.first_s:.0f} % as it heats up"
    power_w, err_w = point.power.power_w, point.power.power_err_w
    return StepEstimate(
        *(step_s, (low_s, high_s), point.start_s, CALIBRATED, note, power_w),
        None if power_w is None or err_w is None else (max(0.0, power_w - err_w), power_w + err_w),
        point.power.provenance,
    )


def _transferred(device: NewDevice, wanted: Configuration, known: KnownSteps) -> StepEstimate:
    measured = {configuration_of(point): point for point in device.points}
    teachers, shared = _teachers(device, measured, wanted, known)
    if not teachers:
        raise ResultsError(
            f"no transfer: no known device has run it and {MIN_POINTS} of the configurations that were calibrated."
        )
    workloads = {one.workload for one in shared}
    if wanted.workload not in workloads and len(workloads) < least_points():
        raise ResultsError(
            f"no transfer from {', '.join(sorted(workloads))} to another workload: what devices differ by in the one "
            f"says little of the other ({least_points()} calibrated workloads would tell)."
        )
    points, target = (_points(teachers, some) for some in (shared, [wanted]))
    outside = float(reach(points, target)[0])
    if outside > MAX_REACH:
        raise ResultsError(f"no transfer: it lies {outside:.1f} times outside of what was calibrated.")
    found = transfer(points, np.array([measured[one].step_s for one in shared]), target)
    low_s, high_s = float(found.low[0]), float(found.high[0])
    if high_s > MAX_RANGE * low_s:
        raise ResultsError(f"no transfer: it could take {low_s:.2g} to {high_s:.2g} s a step.")
    start_s = float(np.median([point.start_s for point in measured.values()]))
    note = f"from {len(shared)} points and {', '.join(teacher.name for teacher in teachers)}"
    plain = StepEstimate(float(found.value[0]), (low_s, high_s), start_s, TRANSFERRED, note)
    return _with_common_power(plain, [measured[one] for one in shared])


def _teachers(
    device: NewDevice, measured: Iterable[Configuration], wanted: Configuration, known: KnownSteps
) -> tuple[list[KnownDevice], list[Configuration]]:
    """Known devices that have run what is wanted, and what all of them and the new one have run: `MIN_POINTS` or more.

    As many devices as leave so many points, those first that share most.
    """
    of_it = [one for one in known.devices if wanted in one.step_s and one.clock == device.clock]
    of_it = [one for one in of_it if one.name != device.processor]
    teachers: list[KnownDevice] = []
    shared = list(measured)
    for teacher in sorted(of_it, key=lambda one: -sum(configuration in one.step_s for configuration in shared)):
        left = [configuration for configuration in shared if configuration in teacher.step_s]
        if len(left) >= MIN_POINTS:
            teachers.append(teacher)
            shared = left
    return teachers, shared


def _points(teachers: Sequence[KnownDevice], some: Sequence[Configuration]) -> Points:
    return Points.of(matrix(teachers, some), np.log([[one.batch_size] for one in some]))


def _with_common_power(plain: StepEstimate, points: Sequence[Point]) -> StepEstimate:
    """Power differs less between workloads than between devices: what it drew at the points."""
    powers_w = [point.power.power_w for point in points if point.power.power_w]
    if len(powers_w) < least_points():
        return plain
    found = common_level(np.array(powers_w), 1)
    return replace(
        plain,
        power_w=float(found.value[0]),
        power_interval_w=(float(found.low[0]), float(found.high[0])),
        power_provenance=weakest([Provenance.ESTIMATED, *(point.power.provenance for point in points)]),
    )


def _estimated(device: NewDevice, wanted: Configuration, known: KnownSteps) -> StepEstimate:
    if device.speed is None:
        raise ResultsError("its --speed is not told.")
    told = [
        one for one in known.devices if one.clock == device.clock and wanted in one.step_s and one.name in known.speeds
    ]
    if not told:
        raise ResultsError("no device of known --known-speed has run it.")
    found = estimate(matrix(told, [wanted]), np.array([known.speeds[one.name] for one in told]), device.speed)
    note = f"from speeds alone, of {', '.join(one.name for one in told)}"
    return StepEstimate(float(found.value[0]), (float(found.low[0]), float(found.high[0])), 0.0, ESTIMATED, note)

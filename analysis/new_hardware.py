"""τ for a device that never took part, from its calibration. Pure.

The step time comes from the device's own calibration of the workload; or it is transferred from known devices by what
both have run; or it is estimated from specifications. Each has an interval, and where the data do not carry one the
answer is a refusal with its reason. With W = start + K · step of a fit of K steps:

parity   τ = W_ref - max(0, c - c_ref), none where even the slow end of W is within it
work     τ = the slow end of W: all the steps, in 95 of 100 cases
accuracy τ = start + K' · slow step, K' the steps that the accuracy within `max_drop` of the uncut one takes
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from analysis.conformal import least_points
from analysis.known_devices import Configuration, KnownDevice, matrix, options_text
from analysis.stats import LEVEL, Interval, Values
from analysis.transfer import MAX_RANGE, MAX_REACH, MIN_POINTS, Points, common_level, estimate, reach, transfer
from analysis.windows import Group, Windows
from profiler.calibrations import Calibration, Point
from profiler.errors import ResultsError, UsageError
from profiler.quantities import Provenance, weakest

KINDS = ("parity", "work", "accuracy")
HORIZON_S = 1200.0
MAX_OPEN = 0.10
"""What heat does within the horizon may be open by this part of the step time, each way."""
MIN_REPLICATES = 20
CALIBRATED, TRANSFERRED, ESTIMATED = "calibrated", "transferred", "estimated"


class Accuracies(Protocol):
    """Accuracy by completed epochs: an `analysis.cutoff.AccuracyModel`."""

    @property
    def epochs(self) -> Values: ...

    @property
    def accuracies(self) -> Values: ...

    def predict(self, work_epochs: Values) -> Values: ...


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
class Recommendation:
    """τ of one kind. `tau_s` 0 means none; None is a refusal, and `note` says why.

    `interval` is of τ, `work_interval` of the part of the steps done by it, `window_interval` of a whole fit.
    `energy_j` is of one fit under τ, its interval that of power alone. All are of level 90 %.
    """

    workload: str
    processor: str
    epochs: int
    batch_size: int
    kind: str
    reference: str
    tau_s: float | None
    basis: str
    time_provenance: str
    interval: Interval | None = None
    work_fraction: float | None = None
    work_interval: Interval | None = None
    step_s: float | None = None
    step_interval: Interval | None = None
    window_s: float | None = None
    window_interval: Interval | None = None
    energy_j: float | None = None
    energy_interval: Interval | None = None
    energy_provenance: str = Provenance.MISSING.value
    note: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What else is known: devices, the speeds that were told of them, and what the results plan."""

    devices: Sequence[KnownDevice] = ()
    speeds: Mapping[str, float] = field(default_factory=dict)
    planned: Mapping[Group, int] = field(default_factory=dict)
    configurations: Mapping[Group, Sequence[Configuration]] = field(default_factory=dict)
    accuracies: Mapping[tuple[str, int], Accuracies] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the recommendations are to be."""

    reference: str | None = None
    max_drop: float = 0.01
    horizon_s: float = HORIZON_S
    comm_s: float | None = None


# Step time


def step_estimate(device: NewDevice, wanted: Configuration, known: Known, horizon_s: float = HORIZON_S) -> StepEstimate:
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


def _transferred(device: NewDevice, wanted: Configuration, known: Known) -> StepEstimate:
    measured = {configuration_of(point): point for point in device.points}
    teachers = [
        one
        for one in known.devices
        if one.clock == device.clock and one.name != device.processor and wanted in one.step_s
    ]
    shared = [one for one in measured if all(one in teacher.step_s for teacher in teachers)]
    if not teachers or len(shared) < MIN_POINTS:
        raise ResultsError(
            f"no transfer: {len(teachers)} known devices have run it, and share {len(shared) if teachers else 0} "
            f"calibrated configurations with this one ({MIN_POINTS} are needed)."
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


def _estimated(device: NewDevice, wanted: Configuration, known: Known) -> StepEstimate:
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


# Cutoffs


def recommendations(
    device: NewDevice, groups: Mapping[Group, Mapping[str, Windows]], known: Known, wish: Wish
) -> list[Recommendation]:
    """Every kind for every group of the device's own clock; a refusal where the data do not carry one."""
    made: list[Recommendation] = []
    for group, by_processor in groups.items():
        if group.clock != device.clock or (wish.reference is not None and wish.reference not in by_processor):
            continue
        reference = wish.reference or min(by_processor, key=lambda name: (by_processor[name].median_window_s, name))
        made += _of_group(device, group, by_processor[reference], known, wish)
    return made


def _of_group(device: NewDevice, group: Group, reference: Windows, known: Known, wish: Wish) -> list[Recommendation]:
    labels = (group.workload, device.processor, group.epochs, group.batch_size)
    refused = Recommendation(*labels, "", reference.processor, None, "refused", "missing")
    there = known.configurations.get(group, [])
    n_steps = known.planned.get(group)
    if len(there) != 1 or n_steps is None:
        why = "its runs have different workload options" if n_steps is not None else "its runs do not tell their steps"
        return [replace(refused, kind=kind, note=f"refused: {why}.") for kind in KINDS]
    try:
        step = step_estimate(device, there[0], known, wish.horizon_s)
    except ResultsError as refusal:
        return [replace(refused, kind=kind, note=f"refused: {refusal}") for kind in KINDS]
    fit = Fit(step, n_steps)
    blank = replace(
        refused,
        basis=step.basis,
        time_provenance="estimated" if step.basis != CALIBRATED else _measured_word(group),
        step_s=step.step_s,
        step_interval=step.interval_s,
        window_s=fit.window_s(step.step_s),
        window_interval=fit.window_interval,
        note=step.note,
    )
    model = known.accuracies.get((group.workload, group.batch_size))
    return [
        _parity(blank, fit, reference, wish.comm_s),
        fit.under(replace(blank, kind="work"), fit.window_interval[1], fit.window_interval),
        _accuracy(blank, fit, group.epochs, model, wish.max_drop),
    ]


def _measured_word(group: Group) -> str:
    return "simulated" if group.clock == "simulated" else "measured"


@dataclass(frozen=True, slots=True)
class Fit:
    """A fit of `n_steps` steps on the new device."""

    step: StepEstimate
    n_steps: int

    def window_s(self, step_s: float) -> float:
        return self.step.start_s + self.n_steps * step_s

    @property
    def window_interval(self) -> Interval:
        low_s, high_s = self.step.interval_s
        return self.window_s(low_s), self.window_s(high_s)

    def work(self, tau_s: float, step_s: float) -> float:
        """The part of the steps that end by τ: floor rule, at least one, for a client always does one."""
        done = math.floor((tau_s - self.step.start_s) / step_s + 1e-9)
        return min(1.0, max(1, done) / self.n_steps)

    def under(self, blank: Recommendation, tau_s: float, interval: Interval | None) -> Recommendation:
        """The row for τ (0: none), with the work and the joules of a fit under it."""
        low_s, high_s = self.step.interval_s
        until_s = tau_s or math.inf
        window_s = min(until_s, self.window_s(self.step.step_s))
        power = self.step.power_interval_w
        return replace(
            blank,
            tau_s=tau_s,
            interval=interval,
            work_fraction=self.work(until_s, self.step.step_s) if tau_s else 1.0,
            work_interval=(self.work(until_s, high_s), self.work(until_s, low_s)) if tau_s else (1.0, 1.0),
            energy_j=None if self.step.power_w is None else self.step.power_w * window_s,
            energy_interval=None if power is None else (power[0] * window_s, power[1] * window_s),
            energy_provenance=self.step.power_provenance.value,
        )


def _parity(blank: Recommendation, fit: Fit, reference: Windows, comm_s: float | None) -> Recommendation:
    later_s = 0.0 if comm_s is None else max(0.0, comm_s - reference.median_comm_s)
    tau_s = reference.median_window_s - later_s
    told = "" if comm_s is not None else "communication taken as the reference's"
    row = replace(blank, kind="parity", note="; ".join(part for part in (blank.note, told) if part))
    slow_s = fit.step.interval_s[1]
    if tau_s < fit.step.start_s + slow_s:
        return replace(row, note=f"refused: not even one step of up to {slow_s:.3g} s may end by {tau_s:.3g} s.")
    if fit.window_interval[1] <= tau_s:
        return fit.under(replace(row, note=f"{row.note}; ends before {tau_s:.4g} s by itself"), 0.0, None)
    return fit.under(row, tau_s, None)


def _accuracy(
    blank: Recommendation, fit: Fit, epochs: int, model: Accuracies | None, max_drop: float
) -> Recommendation:
    row = replace(blank, kind="accuracy")
    kept = [] if model is None else [float(one) for one in model.epochs if one <= epochs]
    if model is None or len(kept) < 2 or kept[-1] != epochs:
        return replace(row, note=f"refused: needs runs with accuracy at two values of E up to {epochs}.")
    grid = np.linspace(kept[0], epochs, 401)
    predicted = model.predict(grid)
    enough = grid[int(np.argmax(predicted >= predicted[-1] - max_drop - 1e-12))]
    needed = Fit(fit.step, math.ceil(fit.n_steps * float(enough) / epochs - 1e-9))
    low_s, high_s = needed.window_interval
    return fit.under(row, high_s, (low_s, high_s))

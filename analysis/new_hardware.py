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

from analysis.known_devices import Configuration
from analysis.stats import Interval, Values
from analysis.step_estimates import CALIBRATED, HORIZON_S, KnownSteps, NewDevice, StepEstimate, step_estimate
from analysis.windows import Group, Windows
from profiler.errors import ResultsError
from profiler.quantities import Provenance

KINDS = ("parity", "work", "accuracy")


class Accuracies(Protocol):
    """Accuracy by completed epochs: an `analysis.cutoff.AccuracyModel`."""

    @property
    def epochs(self) -> Values: ...

    @property
    def accuracies(self) -> Values: ...

    def predict(self, work_epochs: Values) -> Values: ...


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
    """What else is known: other devices, and what the results plan and reach."""

    steps: KnownSteps = field(default_factory=KnownSteps)
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
        step = step_estimate(device, there[0], known.steps, wish.horizon_s)
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

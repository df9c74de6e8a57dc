"""Time and energy of simulated devices, from what `profiler.devices` knows of the real ones. Pure.

A fit takes `start_s`, then its steps; step i takes step_s · F · G_i, where F is drawn once a fit and G_i for each step,
both gamma distributed with mean 1. What lies beyond `slow_after_s` is stretched by `slow_factor`. Energy is idle power
times all the time, `step_j` a step and `transfer_j` a call: work costs the same joules whether it is done fast or slow,
which is what Table 2a of the paper says (25.2 J an epoch at 7.2 s and at 13 s).

Gamma, since a sum of K steps is then a gamma variable again: `draw_fits` draws whole fits of a million devices at once
from the very distribution that `FitPace` draws step by step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import gamma

from profiler.devices import Device, Training
from profiler.errors import SpecError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GAIN_ERRS = {"measured": 0.1, "datasheet": 0.3, "fitted": 0.3, "guess": 0.5}
"""How far idle power may be off on another device of the kind where its file says no `gain_err`: our judgement."""
_BLOCK = 256
_LEAST_CV = 1e-6  # below it nothing varies
_GUARD = 0.95  # the quantile of step times that `fl.steps` guards a cutoff with


@dataclass(frozen=True, slots=True)
class Costs:
    """What a fit, an evaluation and a transfer take on one kind of device, for one workload.

    `steps_per_epoch` is how many steps of the profile an epoch is worth, however many the trained workload really has;
    None: the workload's own. `byte_s` and `byte_j` apply where the profile's training has no figures of its own.
    """

    idle_w: float
    idle_gain_err: float
    training: Training
    download_byte_s: float
    upload_byte_s: float
    latency_s: float
    byte_j: float
    steps_per_epoch: int | None = None

    def download_s(self, n_bytes: int) -> float:
        told_s = self.training.download_s
        return self.latency_s + n_bytes * self.download_byte_s if told_s is None else told_s

    def upload_s(self, n_bytes: int) -> float:
        told_s = self.training.upload_s
        return self.latency_s + n_bytes * self.upload_byte_s if told_s is None else told_s

    def transfer_j(self, n_bytes: int) -> float:
        """Of one call, both ways together, on top of idle power."""
        told_j = self.training.transfer_j
        return n_bytes * self.byte_j if told_j is None else told_j

    def worth(self, own_steps: int, batch_size: int) -> float:
        """How many steps of the profile one step of the workload stands for.

        Where the experiment does not say, a step costs in proportion to its batch.
        """
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch / own_steps
        return batch_size / self.training.batch_size


def costs_of(device: Device, workload: str, steps_per_epoch: int | None = None) -> Costs:
    """Raises SpecError, naming the device, where its file lacks what a simulation needs."""
    training, power, link = device.training_of(workload), device.power, device.link
    if power is None:
        raise SpecError(
            f"device {device.name!r} has no [power].", remedy="Add idle_w, busy_w, scope, kind and source to its file."
        )
    if link is None and None in (training.download_s, training.upload_s, training.transfer_j):
        raise SpecError(
            f"device {device.name!r} has no [link], and training {workload!r} no download_s, upload_s, transfer_j.",
            remedy="Add a [link] to its file.",
        )
    return Costs(
        idle_w=power.idle_w,
        idle_gain_err=GAIN_ERRS[power.kind] if power.gain_err is None else power.gain_err,
        training=training,
        download_byte_s=0.0 if link is None else 1 / link.download_bytes_s,
        upload_byte_s=0.0 if link is None else 1 / link.upload_bytes_s,
        latency_s=0.0 if link is None else link.latency_s,
        byte_j=0.0 if link is None else link.byte_j,
        steps_per_epoch=steps_per_epoch,
    )


def assumptions(device: Device, costs: Costs) -> dict[str, Any]:
    """All that a simulated device's figures rest on, for devices/<id>.json; JSON has no infinity, so None stands."""

    def plain(part: object) -> dict[str, Any]:
        return {name: None if value == float("inf") else value for name, value in asdict(part).items()}  # type: ignore[call-overload]

    parts = {"power": device.power, "link": device.link, "training": costs.training}
    told = {name: plain(part) for name, part in parts.items() if part is not None}
    return {"simulated_device": device.name, "steps_per_epoch": costs.steps_per_epoch, **told}


def fit_rng(seed: int, round_: int, device: int) -> np.random.Generator:
    """Each device's own stream in each round of a task, so that no draw depends on another device."""
    return np.random.default_rng([seed, round_, device])


class FitPace:
    """One fit's step times, one after another."""

    def __init__(self, costs: Costs, rng: np.random.Generator) -> None:
        self._training = costs.training
        self._rng = rng
        self._pace = _gammas(rng, costs.training.fit_cv, 1)[0]
        self._worth = 0.0
        self._draws: Iterator[float] = iter(())

    def step(self, elapsed_s: float, worth: float) -> tuple[float, float]:
        """Seconds and joules (above idle) of a step that begins `elapsed_s` into its fit and is worth so many steps."""
        training = self._training
        if worth != self._worth:
            self._worth, self._draws = worth, iter(())
        draw = next(self._draws, None)
        if draw is None:
            self._draws = iter(_gammas(self._rng, training.step_cv / worth**0.5, _BLOCK).tolist())
            draw = next(self._draws)
        plain_s = training.step_s * worth * self._pace * draw
        return _stretched(training, elapsed_s, plain_s), training.step_j * worth


def _stretched(training: Training, elapsed_s: float, plain_s: float) -> float:
    """How long some work takes whose first part may lie before the slowdown."""
    before_s = min(plain_s, max(0.0, training.slow_after_s - elapsed_s))
    return before_s + (plain_s - before_s) * training.slow_factor


def _gammas(rng: np.random.Generator, cv: float, n: int) -> Floats:
    """float64[n] with mean 1."""
    if cv < _LEAST_CV:
        return np.ones(n)
    shape = cv**-2
    return np.asarray(rng.standard_gamma(shape, n) / shape)


@dataclass(frozen=True, slots=True)
class Group:
    """Devices of one kind in a population: the first `count` places after those of the groups before it."""

    name: str
    processor: str
    costs: Costs
    count: int
    cutoff_s: float = 0.0


class Population:
    """The devices of a fleet as columns, one entry a group; a device is a number from 0."""

    def __init__(self, groups: Sequence[Group], epochs: int) -> None:
        """Raises SpecError where a group does not say how many steps an epoch has: nobody loads its data."""
        for group in groups:
            if group.costs.steps_per_epoch is None:
                raise SpecError(
                    "a simulation without training needs the number of steps an epoch.",
                    remedy="Add [simulation] steps_per_epoch = N to the experiment.",
                )
        self.groups = tuple(groups)
        self.size = sum(group.count for group in groups)
        self._ends = np.cumsum([group.count for group in groups])
        trainings = [group.costs.training for group in groups]
        self.n_steps = np.array([epochs * (group.costs.steps_per_epoch or 0) for group in groups])
        self.cutoff_s = np.array([group.cutoff_s for group in groups])
        self.idle_w = np.array([group.costs.idle_w for group in groups])
        self.step_s = np.array([training.step_s for training in trainings])
        self.step_j = np.array([training.step_j for training in trainings])
        self.start_s = np.array([training.start_s for training in trainings])
        self.slow_after_s = np.array([training.slow_after_s for training in trainings])
        self.slow_factor = np.array([training.slow_factor for training in trainings])
        self.step_cv = np.array([training.step_cv for training in trainings])
        self.fit_cv = np.array([training.fit_cv for training in trainings])
        self.guard = np.array([_guard(training.step_cv) for training in trainings])

    def group_of(self, devices: Ints) -> Ints:
        """int64[n]: the index of each device's group."""
        return np.asarray(np.searchsorted(self._ends, devices, side="right"))


@lru_cache(maxsize=256)
def _guard(cv: float) -> float:
    """The 95 % quantile of a gamma variable of mean 1."""
    return float(gamma.ppf(_GUARD, cv**-2, scale=cv**2)) if cv >= _LEAST_CV else 1.0


@dataclass(frozen=True, slots=True)
class Fits:
    """Columns of some fits: float64[n] seconds of each window and int64[n] steps done of planned."""

    window_s: Floats
    steps_done: Ints
    steps_planned: Ints


def draw_fits(population: Population, group: Ints, rng: np.random.Generator) -> Fits:
    """Whole fits at once, each as `FitPace` and the stop rule of `fl.steps` would make it.

    Without a cutoff that is exact. With one, the steps that fit in before the guard are normally distributed, and the
    step that ends the fit is as much longer than the rest as renewal theory says (Cox, Renewal Theory, 1962, 3.3 and
    5.2: mean t/mu + (cv^2 - 1)/2, variance cv^2 t/mu; the residual life is a uniform part of a length-biased step).
    """
    n_steps, cv = population.n_steps[group], population.step_cv[group]
    pace_s = population.step_s[group] * _drawn(rng, population.fit_cv[group])
    work_s = pace_s * n_steps * _drawn(rng, cv / np.sqrt(n_steps))
    window_s = _slowed(population, group, population.start_s[group] + work_s)
    steps_done = n_steps.copy()
    _cut(population, group, pace_s, rng, window_s, steps_done)
    return Fits(window_s, steps_done, n_steps)


def _drawn(rng: np.random.Generator, cv: Floats) -> Floats:
    """float64[n] gamma variables with mean 1, each with its own coefficient of variation."""
    shape = 1 / np.maximum(cv, _LEAST_CV) ** 2
    return np.asarray(np.where(cv < _LEAST_CV, 1.0, rng.standard_gamma(shape) / shape))


def _slowed(population: Population, group: Ints, plain_s: Floats) -> Floats:
    threshold_s = population.slow_after_s[group]
    over_s = np.maximum(0.0, plain_s - threshold_s)
    return np.asarray(np.minimum(plain_s, threshold_s) + over_s * population.slow_factor[group])


def _cut(
    population: Population,
    group: Ints,
    pace_s: Floats,
    rng: np.random.Generator,
    window_s: Floats,
    steps_done: Ints,
) -> None:
    """End those fits whose last step would not begin in time, in place."""
    is_slow = population.cutoff_s[group] > population.slow_after_s[group]
    last_step_s = pace_s * np.where(is_slow, population.slow_factor[group], 1.0)
    last_begins_s = window_s - last_step_s
    guard_s = last_step_s * population.guard[group]
    has_cutoff = population.cutoff_s[group] > 0
    cut = np.flatnonzero(has_cutoff & (last_begins_s + guard_s > population.cutoff_s[group]) & (steps_done > 1))
    if not cut.size:
        return
    g, step_s, cv = group[cut], last_step_s[cut], population.step_cv[group[cut]]
    start_s = population.start_s[g]
    room_s = np.maximum(start_s, population.cutoff_s[g] - guard_s[cut])  # a step may begin until then
    over_s = np.maximum(0.0, room_s - population.slow_after_s[g])
    plain_s = np.minimum(room_s, population.slow_after_s[g]) + over_s / population.slow_factor[g] - start_s
    mean_steps = np.maximum(0.0, plain_s) / pace_s[cut]
    ended = mean_steps + (cv**2 - 1) / 2 + cv * np.sqrt(mean_steps) * rng.standard_normal(cut.size)
    # A draw between two whole numbers falls to either in proportion, which keeps the mean. One step is always done.
    done = np.floor(np.maximum(0.0, ended) + rng.random(cut.size)).astype(np.int64) + 1
    shape = 1 / np.maximum(cv, _LEAST_CV) ** 2
    biased = np.where(cv < _LEAST_CV, 1.0, rng.standard_gamma(shape + 1) / shape)
    residual_s = np.where(mean_steps > 0, rng.random(cut.size), 1.0) * biased * step_s
    window_s[cut] = room_s + residual_s
    steps_done[cut] = np.minimum(done, steps_done[cut] - 1)

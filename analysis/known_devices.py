"""What known devices take for a step of each configuration: from results, calibrations, published tables, profiles.

Measured and simulated times are never mixed: a device profile is a model and counts as simulated.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.load import SIMULATED, SYSTEM, Results, rows
from analysis.windows import Group, uncut_tasks
from profiler.calibrations import Calibration
from profiler.devices import Device
from profiler.published import Published
from profiler.records import Row

PROFILE_BATCH = 0
"""The batch size of a simulated run that counts its steps as those of the device's profile, whatever their size."""


class Configuration(NamedTuple):
    """What a step time is of. `options` is JSON with sorted keys, `{}` for none.

    Of a simulated run it is the workload whose costs stand for its own; its options cost nothing.
    """

    workload: str
    batch_size: int
    options: str = "{}"

    def is_met_by(self, other: Configuration) -> bool:
        return self == other._replace(batch_size=self.batch_size if self.is_of_profile else other.batch_size)

    @property
    def is_of_profile(self) -> bool:
        return self.batch_size == PROFILE_BATCH


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """One processor: the mean seconds of a step, by configuration. `clock` is `system` or `simulated`."""

    name: str
    clock: str
    step_s: Mapping[Configuration, float]


def options_text(options: Mapping[str, object] | None) -> str:
    return json.dumps(options or {}, sort_keys=True)


def from_results(results: Results) -> list[KnownDevice]:
    """Finished fits of tasks without a cutoff: the median over fits of duration over steps."""
    found: defaultdict[tuple[str, str], defaultdict[Configuration, list[float]]]
    found = defaultdict(lambda: defaultdict(list))
    for task, span in _whole_fits(results):
        if span["duration_s"] > 0:
            each_s = span["duration_s"] / _steps(task, span)
            found[span["processor"], task["clock"]][_configuration(task)].append(each_s)
    return [
        KnownDevice(name, clock, {configuration: float(np.median(each)) for configuration, each in by.items()})
        for (name, clock), by in sorted(found.items())
    ]


def planned_steps(results: Results) -> dict[Group, int]:
    """Steps of a whole fit: the median over clients, whose shards may differ."""
    found: defaultdict[Group, list[int]] = defaultdict(list)
    for task, span in _whole_fits(results):
        group = Group(task["workload"], task["epochs"], task["batch_size"], task["clock"])
        found[group].append(_steps(task, span))
    return {group: round(float(np.median(steps))) for group, steps in found.items()}


def configurations(results: Results) -> dict[Group, list[Configuration]]:
    """The configurations that each group pools: several where workloads were run with other options."""
    found: defaultdict[Group, set[Configuration]] = defaultdict(set)
    for task in uncut_tasks(results).values():
        group = Group(task["workload"], task["epochs"], task["batch_size"], task["clock"])
        found[group].add(_configuration(task))
    return {group: sorted(there) for group, there in found.items()}


def _whole_fits(results: Results) -> Iterable[tuple[Row, Row]]:
    tasks = uncut_tasks(results)
    for span in rows(results.spans[results.spans["name"] == "fit"]):
        task = tasks.get((span["run_id"], span["task"]))
        is_whole = span["status"] == "ok" and span["stopped_by"] == "completed" and span["processor"]
        if task is not None and is_whole and span["steps_planned"]:
            yield task, span


def _configuration(task: Row) -> Configuration:
    if task["clock"] != SIMULATED:
        return Configuration(task["workload"], task["batch_size"], options_text(task["workload_options"]))
    simulation = task["simulation"] or {}
    batch_size = PROFILE_BATCH if simulation.get("steps_per_epoch") else task["batch_size"]
    return Configuration(simulation.get("costs_of") or task["workload"], batch_size)


def _steps(task: Row, span: Row) -> int:
    per_epoch = (task["simulation"] or {}).get("steps_per_epoch") if task["clock"] == SIMULATED else None
    return int(per_epoch * task["epochs"] if per_epoch else span["steps_planned"])


def from_calibrations(calibrations: Iterable[Calibration]) -> list[KnownDevice]:
    """Calibrations of other devices; several of one processor are one device."""
    found: defaultdict[tuple[str, str], dict[Configuration, float]] = defaultdict(dict)
    for calibration in calibrations:
        for point in calibration.points:
            key = Configuration(point.workload, point.batch_size, options_text(point.options))
            found[calibration.processor, calibration.clock][key] = point.step_s
    return [KnownDevice(name, clock, by) for (name, clock), by in found.items()]


def from_published(lines: Iterable[Published]) -> list[KnownDevice]:
    """Measured step times of the literature, of the workload `MODEL on DATASET`."""
    found: defaultdict[str, dict[Configuration, float]] = defaultdict(dict)
    for line in lines:
        if line.quantity_kind == "measured" and line.step_time_s is not None and line.examples_per_step is not None:
            key = Configuration(f"{line.model} on {line.dataset}", line.examples_per_step)
            found[f"{line.device}, {line.processor}"][key] = line.step_time_s
    return [KnownDevice(name, SYSTEM, by) for name, by in found.items()]


def from_profiles(devices: Iterable[Device]) -> list[KnownDevice]:
    return [
        KnownDevice(
            device.name,
            SIMULATED,
            {Configuration(training.workload, training.batch_size): training.step_s for training in device.training},
        )
        for device in devices
        if device.training
    ]


def matrix(
    devices: Sequence[KnownDevice], wanted: Sequence[Configuration]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """float64[n_wanted, n_devices] of devices that know them all."""
    return np.array([[device.step_s[one] for device in devices] for one in wanted], dtype=np.float64)

"""FleetSpec and ExperimentSpec become tasks, each with an id that is the hash of its parameters. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from fl.workload import Defaults
from harness.cutoffs import find_cutoff
from harness.device import DeviceSpec
from harness.experiment import Cutoff, ExperimentSpec
from harness.fleet import FleetSpec
from profiler.errors import SpecError
from profiler.records import Row


@dataclass(frozen=True, slots=True)
class Task:
    """One federated training: its parameters and nothing that changes from run to run."""

    workload: str
    partition: dict[str, Any]
    rounds: int
    epochs: int
    clients: int
    batch_size: int
    lr: float
    seed: int
    strategy: str
    strategy_options: dict[str, Any]
    processors: dict[str, int]
    cutoffs: dict[str, Cutoff]

    @property
    def id(self) -> str:
        parameters = {**asdict(self), "cutoffs": {name: asdict(cutoff) for name, cutoff in self.cutoffs.items()}}
        text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def tau_s(self) -> dict[str, float]:
        return {processor: cutoff.tau_s for processor, cutoff in self.cutoffs.items()}

    @property
    def label(self) -> str:
        kinds = sorted({cutoff.kind for cutoff in self.cutoffs.values() if cutoff.tau_s > 0})
        return f"E={self.epochs} C={self.clients}" + (f" tau={'/'.join(kinds)}" if kinds else "")

    def row(self) -> Row:
        """The task as a record of kind `task`."""
        return {"kind": "task", "task": self.id, **asdict(self)}


def make_plan(fleet: FleetSpec, experiment: ExperimentSpec, defaults: Defaults) -> tuple[Task, ...]:
    """Every task of the sweep, seeds innermost, so that an interrupted run has whole configurations.

    Raises SpecError where the experiment asks for more clients than the fleet has, or for a cutoff that is not there.
    """
    client_counts = experiment.clients or (len(fleet.devices),)
    if max(client_counts) > len(fleet.devices):
        raise SpecError(f"{max(client_counts)} clients asked for, but {fleet.where} has {len(fleet.devices)} devices.")
    if experiment.min_clients > min(client_counts):
        raise SpecError(f"min_clients is {experiment.min_clients}, but a task has {min(client_counts)} clients.")
    return tuple(
        _task(fleet.first(clients), fleet, experiment, defaults, epochs=epochs, seed=seed)
        for clients, epochs, seed in product(client_counts, experiment.epochs, experiment.seeds)
    )


def _task(
    devices: tuple[DeviceSpec, ...],
    fleet: FleetSpec,
    experiment: ExperimentSpec,
    defaults: Defaults,
    *,
    epochs: int,
    seed: int,
) -> Task:
    batch_size = experiment.batch_size or defaults.batch_size
    processors = dict(sorted(Counter(device.processor for device in devices).items()))
    cutoffs = {}
    if experiment.cutoffs or experiment.strategy == "cutoff":
        for processor in processors:
            cutoffs[processor] = find_cutoff(
                experiment.cutoffs,
                workload=experiment.workload,
                processor=processor,
                epochs=epochs,
                batch_size=batch_size,
            )
    return Task(
        workload=experiment.workload,
        partition=asdict(experiment.partition(len(fleet.devices))),
        rounds=experiment.rounds or defaults.rounds,
        epochs=epochs,
        clients=len(devices),
        batch_size=batch_size,
        lr=experiment.lr or defaults.lr,
        seed=seed,
        strategy=experiment.strategy,
        strategy_options=experiment.strategy_options,
        processors=processors,
        cutoffs=cutoffs,
    )

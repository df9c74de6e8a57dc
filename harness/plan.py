"""FleetSpec and ExperimentSpec become tasks, each with an id that is the hash of its parameters. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from fl.workload import Defaults
from harness.cutoffs import find_cutoff
from harness.experiment import FIXED, Case, Cutoff, ExperimentSpec
from harness.fleet import FleetSpec
from profiler.errors import SpecError, nearest
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
    workload_options: dict[str, Any] = field(default_factory=dict)
    simulation: dict[str, Any] = field(default_factory=dict)
    training: bool = True
    engine: str | None = None

    @property
    def id(self) -> str:
        """What came later than the others counts only where it says something, so that older ids stay."""
        parameters = {**asdict(self), "cutoffs": {name: asdict(cutoff) for name, cutoff in self.cutoffs.items()}}
        for name, unsaid in (("workload_options", {}), ("simulation", {}), ("training", True), ("engine", None)):
            if parameters[name] == unsaid:
                del parameters[name]
        text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def tau_s(self) -> dict[str, float]:
        return {processor: cutoff.tau_s for processor, cutoff in self.cutoffs.items()}

    @property
    def label(self) -> str:
        taus = {
            f"{cutoff.tau_s:g}s" if cutoff.kind == FIXED else cutoff.kind
            for cutoff in self.cutoffs.values()
            if cutoff.tau_s > 0
        }
        return f"E={self.epochs} C={self.clients}" + (f" tau={'/'.join(sorted(taus))}" if taus else "")

    def row(self) -> Row:
        """The task as a record of kind `task`."""
        return {"kind": "task", "task": self.id, **asdict(self)}


def make_plan(
    fleet: FleetSpec,
    experiment: ExperimentSpec,
    defaults: Defaults,
    *,
    training: bool = True,
    engine: str | None = None,
) -> tuple[Task, ...]:
    """Every task of every case and of the sweep, seeds innermost, so that an interrupted run has whole configurations.

    Raises SpecError where the experiment asks for more clients than the fleet has, for processors that it has not, or
    for a cutoff that is not there.
    """
    tasks = [
        _task(case, clients, fleet, experiment, defaults, epochs=epochs, seed=seed, training=training, engine=engine)
        for case in experiment.cases
        for clients, epochs, seed in product(
            _client_counts(case, fleet, experiment), experiment.epochs, experiment.seeds
        )
    ]
    return tuple({task.id: task for task in tasks}.values())


def _labels(case: Case, fleet: FleetSpec) -> list[str]:
    known = list(dict.fromkeys(group.processor for group in fleet.groups if group.count))
    for label in case.processors:
        if label not in known:
            raise SpecError(
                f"{fleet.where} has no processor '{label}', which a case asks for.", remedy=nearest(label, known)
            )
    return list(case.processors) or known


def _client_counts(case: Case, fleet: FleetSpec, experiment: ExperimentSpec) -> tuple[int, ...]:
    labels = _labels(case, fleet)
    there = sum(group.count for group in fleet.groups if group.processor in labels)
    counts = experiment.clients or (there,)
    if max(counts) > there:
        whose = f" of processor {', '.join(case.processors)}" if case.processors else ""
        raise SpecError(f"{max(counts)} clients asked for, but {fleet.where} has {there} devices{whose}.")
    if experiment.min_clients > min(counts):
        raise SpecError(f"min_clients is {experiment.min_clients}, but a task has {min(counts)} clients.")
    return counts


def _task(
    case: Case,
    clients: int,
    fleet: FleetSpec,
    experiment: ExperimentSpec,
    defaults: Defaults,
    *,
    epochs: int,
    seed: int,
    training: bool,
    engine: str | None,
) -> Task:
    batch_size = experiment.batch_size or defaults.batch_size
    counts: Counter[str] = Counter()
    for group, count in fleet.first(clients, _labels(case, fleet)):
        counts[group.processor] += count
    cutoffs = _cutoffs(case, experiment, counts, epochs, batch_size)
    simulation = {"costs_of": experiment.costs_of, "steps_per_epoch": experiment.steps_per_epoch}
    return Task(
        workload=experiment.workload,
        partition=asdict(experiment.partition(fleet.shards)),
        rounds=experiment.rounds or defaults.rounds,
        epochs=epochs,
        clients=clients,
        batch_size=batch_size,
        lr=experiment.lr or defaults.lr,
        seed=seed,
        strategy="cutoff" if case.cutoffs and experiment.strategy == "fedavg" else experiment.strategy,
        strategy_options=experiment.strategy_options,
        processors=dict(sorted(counts.items())),
        cutoffs=cutoffs,
        workload_options=experiment.workload_options,
        simulation={name: value for name, value in simulation.items() if value is not None and fleet.has_simulated},
        training=training,
        engine=engine,
    )


def _cutoffs(
    case: Case, experiment: ExperimentSpec, processors: Collection[str], epochs: int, batch_size: int
) -> dict[str, Cutoff]:
    """Of each processor of a task: the case's own, or else the experiment's."""
    given = case.cutoffs or experiment.cutoffs
    if not given and experiment.strategy != "cutoff":
        return {}
    return {
        processor: find_cutoff(
            given, workload=experiment.workload, processor=processor, epochs=epochs, batch_size=batch_size
        )
        for processor in sorted(processors)
    }

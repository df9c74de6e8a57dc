"""What is run: an experiment file (TOML) becomes an ExperimentSpec. It says nothing of devices."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from fl.workload import Partition
from harness.spec import Table, parse_toml, read_spec
from profiler.errors import SpecError

FIXED = "fixed"
PARTITION_KINDS = ("iid", "dirichlet", "domain")


@dataclass(frozen=True, slots=True)
class Cutoff:
    """The cutoff of one processor: tau in seconds (0: none) and how it was found (fixed, parity, knee, ...)."""

    tau_s: float
    kind: str


@dataclass(frozen=True, slots=True)
class CutoffEntry:
    """One line of a cutoffs file: where a cutoff applies. None in `epochs` or `batch_size`: any."""

    processor: str
    cutoff: Cutoff
    workload: str | None = None
    epochs: int | None = None
    batch_size: int | None = None

    @property
    def label(self) -> str:
        return f"{self.workload or 'any'} {self.processor} E={self.epochs or 'any'} B={self.batch_size or 'any'}"


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a comparison: who of the fleet takes part, by label (none: all), and fixed cutoffs of theirs."""

    processors: tuple[str, ...] = ()
    cutoffs: tuple[CutoffEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class ExperimentSpec:
    """A sweep, for each of its cases.

    None means: the workload's default (`rounds`, `batch_size`, `lr`), all clients (`clients`), or the fleet that the
    command names (`fleet`). `costs_of` and `steps_per_epoch` are for simulated devices: whose costs the workload's
    training stands for, how many of its steps an epoch is worth, and the size of a model that is not there.
    """

    name: str
    workload: str
    rounds: int | None
    epochs: tuple[int, ...]
    clients: tuple[int, ...] | None
    seeds: tuple[int, ...]
    batch_size: int | None
    lr: float | None
    partition_kind: str
    partition_alpha: float
    partition_seed: int
    strategy: str
    strategy_options: dict[str, Any] = field(default_factory=dict)
    cutoffs: tuple[CutoffEntry, ...] = ()
    idle_s: float = 60.0
    fit_timeout_s: float = 600.0
    min_clients: int = 1
    workload_options: dict[str, Any] = field(default_factory=dict)
    cases: tuple[Case, ...] = (Case(),)
    fleet: str | None = None
    costs_of: str | None = None
    steps_per_epoch: int | None = None
    model_bytes: int | None = None

    def partition(self, shards: int) -> Partition:
        return Partition(self.partition_kind, shards, self.partition_alpha, self.partition_seed)


def load_experiment(name: str) -> tuple[ExperimentSpec, str]:
    """An experiment file at a path, or a shipped one by name, and its text. Raises SpecError."""
    text, where = read_spec(name, "harness.experiments", "experiment")
    return parse_experiment(text, where), text


def parse_experiment(text: str, where: str) -> ExperimentSpec:
    table = parse_toml(text, where)
    partition, sweep, strategy = table.table("partition"), table.table("sweep"), table.table("strategy")
    options, simulation = table.table("workload_options"), table.table("simulation")
    clients = sweep.numbers("clients", [], minimum=1)
    spec = ExperimentSpec(
        name=table.take("name", str),
        workload=table.take("workload", str),
        rounds=table.take("rounds", int, None),
        epochs=tuple(sweep.numbers("epochs", [1], minimum=1)),
        clients=tuple(clients) or None,
        seeds=tuple(sweep.numbers("seeds", [1], minimum=0)),
        batch_size=table.take("batch_size", int, None),
        lr=table.take("lr", float, None),
        partition_kind=partition.take("kind", str, "iid"),
        partition_alpha=partition.take("alpha", float, 0.5),
        partition_seed=partition.take("seed", int, 0),
        strategy=strategy.take("name", str, "fedavg"),
        cutoffs=_fixed_cutoffs(strategy),
        strategy_options=strategy.rest(),
        idle_s=table.take("idle_s", float, 60.0),
        fit_timeout_s=table.take("fit_timeout_s", float, 600.0),
        min_clients=table.take("min_clients", int, 1),
        workload_options=_options(options),
        cases=_cases(table),
        fleet=table.take("fleet", str, None),
        costs_of=simulation.take("costs_of", str, None),
        steps_per_epoch=simulation.take("steps_per_epoch", int, None),
        model_bytes=simulation.take("model_bytes", int, None),
    )
    for part in (partition, sweep, strategy, simulation, table):
        part.finish()
    return check_experiment(spec, where)


def check_experiment(spec: ExperimentSpec, where: str) -> ExperimentSpec:
    """The spec itself, when its numbers make sense. Raises SpecError."""
    minima = {
        "rounds": 1,
        "batch_size": 1,
        "idle_s": 0,
        "fit_timeout_s": 1,
        "min_clients": 1,
        "partition_seed": 0,
        "steps_per_epoch": 1,
        "model_bytes": 1,
    }
    for name, minimum in minima.items():
        value = getattr(spec, name)
        if value is not None and not value >= minimum:
            raise SpecError(f"{where}: {name} must be at least {minimum}, got {value}.")
        if value == math.inf:
            raise SpecError(f"{where}: {name} must be finite.")
    if spec.lr is not None and not 0 < spec.lr < 1e6:
        raise SpecError(f"{where}: lr must be above 0, got {spec.lr}.")
    if spec.partition_kind not in PARTITION_KINDS:
        raise SpecError(
            f"{where}: partition kind must be one of {', '.join(PARTITION_KINDS)}, got '{spec.partition_kind}'."
        )
    if not 0 < spec.partition_alpha < 1e6:
        raise SpecError(f"{where}: partition alpha must be above 0, got {spec.partition_alpha}.")
    if not spec.epochs or not spec.seeds:
        raise SpecError(f"{where}: a sweep needs at least one value of epochs and of seeds.")
    return spec


def _options(table: Table) -> dict[str, Any]:
    """Of the workload: text, numbers, true and false, which a command line can carry to a client."""
    options = table.rest()
    for name, value in options.items():
        if not isinstance(value, (str, int, float)):
            raise SpecError(f"{table.where}: '{name}' must be text, a number, true or false, got {value!r}.")
    return options


def _cases(table: Table) -> tuple[Case, ...]:
    """`[[case]] processors = ["tx2-cpu"]`, `cutoffs = { "tx2-cpu" = 119.4 }`; without any, one of the whole fleet."""
    cases = []
    for entry in table.tables("case"):
        labels: list[Any] = entry.take("processors", list, [])
        if any(not isinstance(label, str) for label in labels):
            raise SpecError(f"{entry.where}: 'processors' holds labels.")
        cases.append(Case(tuple(labels), _fixed_cutoffs(entry)))
        entry.finish()
    return tuple(cases) or (Case(),)


def _fixed_cutoffs(table: Table) -> tuple[CutoffEntry, ...]:
    """`cutoffs = { "tx2-cpu" = 119.4 }` of a strategy or a case: the same tau whatever the epochs."""
    given: dict[str, Any] = table.take("cutoffs", dict, {})
    entries = []
    for processor, tau_s in given.items():
        if isinstance(tau_s, bool) or not isinstance(tau_s, (int, float)) or not 0 <= tau_s < 1e9:
            raise SpecError(f"{table.where}: the cutoff of '{processor}' must be seconds from 0, got {tau_s!r}.")
        entries.append(CutoffEntry(processor, Cutoff(float(tau_s), FIXED)))
    return tuple(entries)


def with_cutoffs(spec: ExperimentSpec, entries: tuple[CutoffEntry, ...]) -> ExperimentSpec:
    """The same experiment with the cutoffs of a file. FedAvg is called `cutoff` then; others keep their name."""
    strategy = "cutoff" if spec.strategy == "fedavg" else spec.strategy
    return replace(spec, strategy=strategy, cutoffs=entries)

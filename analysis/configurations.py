"""Configurations: what somebody can choose (E, C, cutoffs, ...), with what it cost, replicates aggregated.

A configuration is a task's parameters less the seed, and the clock: simulated runs are no replicates of measured ones.
Nor are cost-only runs, which train nothing, of those that train. Cutoffs that are derived (parity, knee, accuracy, ...)
do not split configurations, since every replicate measures its τ anew; fixed ones do.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.cli import printable
from analysis.load import SIMULATED
from analysis.stats import mean, sd
from analysis.words import TIME_PROVENANCE
from profiler.quantities import Provenance, weakest
from profiler.records import KINDS, Row

OBJECTIVES: Mapping[str, bool] = {"accuracy": True, "time_s": False, "energy_j": False}
"""Objective -> whether more is better."""
EnergyKind = Literal["gross", "net", "fit"]
ENERGY_COLUMNS: Mapping[EnergyKind, tuple[str, str]] = {
    "gross": ("energy_j", "energy_err_j"),
    "net": ("energy_net_j", "energy_net_err_j"),
    "fit": ("energy_fit_j", "energy_fit_err_j"),
}
DERIVED_KINDS = ("parity", "knee", "accuracy", "time", "energy", "joint", "recommended")
PARAMETERS = (*(column.name for column in KINDS["task"] if column.name not in ("task", "seed")), "clock")
# Always in a label; the others only where they differ between the points shown.
_ALWAYS_LABELLED = ("epochs", "clients", "cutoffs")
_RESULTS = ("accuracy", "time_s", "energy_j", "energy_net_j", "energy_fit_j")


@dataclass(frozen=True, slots=True)
class Replicate:
    """One run of a configuration, with the values that are averaged. `energy_j` is of the kind asked for."""

    run_id: str
    task: str
    seed: int
    accuracy: float | None
    time_s: float | None
    energy_j: float | None

    def value(self, objective: str) -> float | None:
        return {"accuracy": self.accuracy, "time_s": self.time_s, "energy_j": self.energy_j}[objective]


@dataclass(frozen=True, slots=True)
class Point:
    """One configuration. Values are means over `n` replicates, `*_sd` their spread (None for one replicate).

    `energy_j` is the kind of energy that was asked for, `energy_err_j` the mean of its expanded uncertainties (k = 2).
    `missing` names objectives without a value and why; `n_left_out` counts replicates left out for the same cause, and
    `n_repeats` simulated ones that were copies. `replicates` are the `n` that the means are of.
    """

    label: str
    workload: str
    epochs: int
    clients: int
    cutoff: str
    parameters: Mapping[str, object]
    n: int
    accuracy: float | None
    accuracy_sd: float | None
    time_s: float | None
    time_sd_s: float | None
    energy_j: float | None
    energy_sd_j: float | None
    energy_err_j: float | None
    provenance: Provenance
    energy_scope: str | None
    work_done: float | None
    n_failures: int
    n_rounds: int
    n_rounds_below_resolution: int
    tasks: tuple[str, ...]
    runs: tuple[str, ...]
    taus_s: Mapping[str, tuple[float, ...]]
    missing: Mapping[str, str]
    n_left_out: int = 0
    n_repeats: int = 0
    replicates: tuple[Replicate, ...] = ()

    @property
    def time_provenance(self) -> str:
        """`measured` or `simulated`."""
        return TIME_PROVENANCE[str(self.parameters["clock"])]

    def value(self, objective: str) -> float | None:
        """The mean of `accuracy`, `time_s` or `energy_j`."""
        return {"accuracy": self.accuracy, "time_s": self.time_s, "energy_j": self.energy_j}[objective]

    def has(self, objectives: Iterable[str]) -> bool:
        return all(self.value(objective) is not None for objective in objectives)


def has_cutoff(cutoffs: Mapping[str, Mapping[str, object]] | None) -> bool:
    """Whether any τ applies: 0 means none."""
    return any(cutoff["tau_s"] for cutoff in (cutoffs or {}).values())


def points(runs: Iterable[Row], objectives: Sequence[str], energy: EnergyKind) -> list[Point]:
    """Configurations of some rows of `runs_table`, replicates aggregated, in the order of their parameters.

    A replicate without one of the objectives is left out and counted, if others have them all; a configuration where
    none has them all keeps the rest, and `missing` says what it lacks.
    """
    made = [_point(label, members, objectives, energy) for label, members in grouped(runs).items()]
    return sorted(made, key=_place)


def _place(point: Point) -> tuple[object, ...]:
    return point.workload, point.clients, point.epochs, point.cutoff, point.parameters["rounds"], point.label


def grouped(runs: Iterable[Row], *, ignoring: Collection[str] = ()) -> dict[str, list[Row]]:
    """The runs of each configuration, under a short and unique label; parameters in `ignoring` split none."""
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for run in runs:
        groups[_identity(run, ignoring)].append(run)
    labels = _labels({key: members[0] for key, members in groups.items()}, ignoring)
    return {labels[key]: members for key, members in groups.items()}


def without_repeats(runs: Sequence[Row], results: Sequence[str] = _RESULTS) -> list[Row]:
    """Runs of one configuration without simulated ones whose seed and results (columns) another has already.

    A simulation repeats itself exactly whenever it is run again. Counted twice it would make a mean look surer.
    """
    kept: dict[object, Row] = {}
    for number, run in enumerate(runs):
        simulated = run["clock"] == SIMULATED
        kept.setdefault((run["seed"], *(run[name] for name in results)) if simulated else number, run)
    return list(kept.values())


def _identity(run: Row, ignoring: Collection[str]) -> str:
    known = {name: run.get(name) for name in PARAMETERS if name != "cutoffs" and name not in ignoring}
    return json.dumps([known, _cutoff_identity(run["cutoffs"])], sort_keys=True, default=str)


def _cutoff_identity(cutoffs: Mapping[str, Row]) -> list[tuple[str, str, float]]:
    """What of the cutoffs tells configurations apart: for derived kinds the kind alone."""
    if not has_cutoff(cutoffs):
        return []
    derived = [(processor, c["kind"], 0.0) for processor, c in cutoffs.items() if c["kind"] in DERIVED_KINDS]
    others = [
        (processor, c["kind"], float(c["tau_s"]))
        for processor, c in cutoffs.items()
        if c["kind"] not in DERIVED_KINDS and c["tau_s"]
    ]
    return sorted(derived + others)


def _labels(groups: Mapping[str, Row], ignoring: Collection[str]) -> dict[str, str]:
    """A short and unique label for each configuration."""
    varying = [
        name
        for name in PARAMETERS
        if name not in ignoring and len({_text(name, run[name]) for run in groups.values()}) > 1
    ]
    shown = [*_ALWAYS_LABELLED, *(name for name in varying if name not in _ALWAYS_LABELLED)]
    labels = {key: ", ".join(_text(name, run[name]) for name in shown) for key, run in groups.items()}
    counts: defaultdict[str, list[str]] = defaultdict(list)
    for key, label in labels.items():
        counts[label].append(key)
    for keys in counts.values():
        for number, key in enumerate(sorted(keys) if len(keys) > 1 else [], start=1):
            labels[key] += f" #{number}"
    return labels


def _text(name: str, value: object) -> str:
    if name == "epochs":
        return f"E={value}"
    if name == "clients":
        return f"C={value}"
    if name == "cutoffs" and isinstance(value, dict):
        return f"tau={cutoff_text(value)}"
    if name == "strategy" and value == "cutoff":
        return "strategy=fedavg"  # the same but for tau, which the label shows
    if name == "training":
        return "trained" if value else "cost only"
    if name == "engine":
        return f"engine={value if isinstance(value, str) else 'fedmeter'}"
    if name == "clock":
        return f"time={TIME_PROVENANCE[str(value)]}"
    if name == "processors" and isinstance(value, dict):
        return "on=" + printable("+".join(sorted(value)))
    if isinstance(value, dict):
        inner = ",".join(f"{key}:{value[key]}" for key in sorted(value))
        return printable(f"{name}={inner}"[:60])
    return printable(f"{name}={value}"[:60])


def cutoff_text(cutoffs: Mapping[str, Row]) -> str:
    """`none`, one kind for all (`parity`), one time for all (`90 s`), or processor by processor."""
    if not has_cutoff(cutoffs):
        return "none"
    texts = {processor: _one_cutoff(cutoff) for processor, cutoff in sorted(cutoffs.items())}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return printable("; ".join(f"{processor}: {text}" for processor, text in texts.items()))


def _one_cutoff(cutoff: Row) -> str:
    if cutoff["kind"] in DERIVED_KINDS:
        return str(cutoff["kind"])
    return f"{cutoff['tau_s']:.6g} s" if cutoff["tau_s"] else "none"


def _point(label: str, members: Sequence[Row], objectives: Sequence[str], energy: EnergyKind) -> Point:
    energy_column, err_column = ENERGY_COLUMNS[energy]
    columns = {"accuracy": "accuracy", "time_s": "time_s", "energy_j": energy_column}
    wanted = [columns[objective] for objective in objectives]
    distinct = without_repeats(members)
    whole = [run for run in distinct if all(run[column] is not None for column in wanted)]
    used = sorted(whole or distinct, key=lambda run: (run["seed"], run["run_id"], run["task"]))
    first = used[0]
    values = {name: _known(used, column) for name, column in columns.items()}
    errors = _known(used, err_column)
    return Point(
        label=label,
        workload=printable(first["workload"]),
        epochs=first["epochs"],
        clients=first["clients"],
        cutoff=cutoff_text(first["cutoffs"]),
        parameters={name: first[name] for name in PARAMETERS},
        n=len(used),
        accuracy=mean(values["accuracy"]),
        accuracy_sd=sd(values["accuracy"]),
        time_s=mean(values["time_s"]),
        time_sd_s=sd(values["time_s"]),
        energy_j=mean(values["energy_j"]),
        energy_sd_j=sd(values["energy_j"]),
        energy_err_j=mean(errors) if values["energy_j"] else None,
        provenance=weakest(Provenance(run["provenance"]) for run in used),
        energy_scope="+".join(sorted({run["energy_scope"] for run in used if run["energy_scope"]})) or None,
        work_done=mean(_known(used, "work_done")),
        n_failures=sum(run["n_failures"] for run in used),
        n_rounds=sum(run["n_rounds"] for run in used),
        n_rounds_below_resolution=sum(run["n_rounds_below_resolution"] for run in used),
        tasks=tuple(sorted({run["task"] for run in used})),
        runs=tuple(sorted({run["run_id"] for run in used})),
        taus_s=_taus(used),
        missing={name: why_missing(used, name, columns[name]) for name in objectives if not values[name]},
        n_left_out=len(distinct) - len(used),
        n_repeats=len(members) - len(distinct),
        replicates=tuple(_replicate(run, energy_column) for run in used),
    )


def _replicate(run: Row, energy_column: str) -> Replicate:
    return Replicate(
        *(run["run_id"], run["task"], run["seed"]), run["accuracy"], run["time_s"], energy_j=run[energy_column]
    )


def _known(members: Sequence[Row], column: str) -> list[float]:
    """The values of a column, or none at all where one is missing: a mean of the rest is a mean of other runs."""
    values = [run[column] for run in members]
    return [] if None in values else values


def why_missing(members: Sequence[Row], objective: str, column: str) -> str:
    """Why some runs have no value of an objective."""
    lacking = [run for run in members if run[column] is None]
    if objective == "accuracy" and not any(run["training"] for run in lacking):
        return "a cost-only run has no accuracy"
    if objective == "accuracy":
        return f"the last round of {len(lacking)} of {len(members)} runs has no accuracy"
    if objective == "time_s":
        return f"{len(lacking)} of {len(members)} runs have a round without a time"
    why = sorted({run["energy_reason"] for run in lacking if run["energy_reason"]})
    n_rounds = sum(run["n_rounds_without_energy"] for run in lacking)
    text = f"{column} is missing in {len(lacking)} of {len(members)} runs ({n_rounds} rounds without energy_j)"
    return printable(f"{text}: {'; '.join(why)}") if why else text


def _taus(members: Sequence[Row]) -> dict[str, tuple[float, ...]]:
    taus: defaultdict[str, list[float]] = defaultdict(list)
    for run in members:
        for processor, cutoff in run["cutoffs"].items():
            taus[processor].append(float(cutoff["tau_s"]))
    return {processor: tuple(values) for processor, values in taus.items()}

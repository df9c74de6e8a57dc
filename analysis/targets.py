"""Time and energy to an accuracy: what each configuration had cost when its global model first reached it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.configurations import ENERGY_COLUMNS, EnergyKind, grouped, without_repeats
from analysis.stats import mean
from analysis.words import TIME_PROVENANCE
from profiler.quantities import Provenance, weakest
from profiler.records import Row


@dataclass(frozen=True, slots=True)
class ToTarget:
    """One configuration: means over its `n` runs, None unless all of them reach the target.

    The mean of those that do would be of the lucky ones. `n_rounds` is the number of the round after which the test
    accuracy first was at least the target; time and energy are of all rounds up to it.
    """

    label: str
    n: int
    n_reached: int
    n_rounds: float | None
    time_s: float | None
    time_provenance: str
    energy_j: float | None
    provenance: Provenance


def to_target(runs: Iterable[Row], target: float, energy: EnergyKind) -> tuple[ToTarget, ...]:
    """Every configuration of rows of `runs_table` that has a row for every round, by growing time to the target.

    Those that do not reach it in every run come last. Runs without any accuracy are left out.
    """
    trajectories: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in runs:
        trajectories[row["run_id"], row["task"]].append(row)
    whole = [row for of_run in trajectories.values() for row in of_run if row["whole"] and row["accuracy"] is not None]
    found = []
    for label, members in grouped(whole).items():
        distinct = without_repeats(members)
        reached = [_first_at(trajectories[run["run_id"], run["task"]], target) for run in distinct]
        found.append(_summed_up(label, distinct, [row for row in reached if row is not None], energy))
    return tuple(sorted(found, key=lambda one: (one.time_s is None, one.time_s or 0.0, one.label)))


def _first_at(trajectory: Iterable[Row], target: float) -> Row | None:
    reached = [row for row in trajectory if row["accuracy"] is not None and row["accuracy"] >= target]
    return min(reached, key=lambda row: int(row["n_rounds"]), default=None)


def _summed_up(label: str, members: Sequence[Row], reached: Sequence[Row], energy: EnergyKind) -> ToTarget:
    whole = len(reached) == len(members)
    return ToTarget(
        label=label,
        n=len(members),
        n_reached=len(reached),
        n_rounds=_mean_of(reached, "n_rounds") if whole else None,
        time_s=_mean_of(reached, "time_s") if whole else None,
        time_provenance=TIME_PROVENANCE[str(members[0]["clock"])],
        energy_j=_mean_of(reached, ENERGY_COLUMNS[energy][0]) if whole else None,
        provenance=weakest(Provenance(run["provenance"]) for run in (reached or members)),
    )


def _mean_of(rows: Iterable[Row], column: str) -> float | None:
    values = [row[column] for row in rows]
    return None if None in values else mean(values)

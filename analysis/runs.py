"""One row per finished (run, task): what a configuration cost and gave, summed over its rounds.

Errors of energy are summed linearly over rounds. A gain error is common to all rounds of one meter, so it does not
average out; adding in quadrature would understate it (JCGM 100:2008, 5.2.2, inputs with correlation +1).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from analysis.load import Results, rows
from analysis.stats import mean
from profiler.errors import ResultsError
from profiler.quantities import BELOW_RESOLUTION, Provenance, weakest
from profiler.records import Row

_SUMS = ("energy_j", "energy_err_j", "energy_net_j", "energy_net_err_j", "energy_fit_j", "energy_fit_err_j")
_Key = tuple[str, str]


def runs_table(results: Results) -> pd.DataFrame:
    """One row per finished (run, task), with the task's parameters.

    `time_s` and `server_s` are sums over rounds, `accuracy` and `loss` the last round's. Each energy is a sum too, None
    where any round lacks it (`n_rounds_without_energy` counts those of energy_j). `provenance` is the weakest.
    `work_done` is the mean of steps done over steps planned, None where no fit span tells. Raises ResultsError on a
    provenance that is none.
    """
    rounds, fits = _by_task(rows(results.rounds)), _by_task(_fits(results))
    failures = _by_task(rows(results.failures))
    table = []
    for task in rows(results.tasks):
        key = (task["run_id"], task["task"])
        if task["finished"]:
            own = rounds[key]
            table.append(task | _sums(own) | {"work_done": _work_done(fits[key]), "n_failures": len(failures[key])})
    frame: pd.DataFrame = pd.DataFrame(table, dtype="object")
    return frame


def _fits(results: Results) -> list[Row]:
    return rows(results.spans[results.spans["name"] == "fit"][["run_id", "task", "steps_done", "steps_planned"]])


def _by_task(records: Iterable[Row]) -> defaultdict[_Key, list[Row]]:
    grouped: defaultdict[_Key, list[Row]] = defaultdict(list)
    for row in records:
        grouped[row["run_id"], row["task"]].append(row)
    return grouped


def _sums(rounds: Sequence[Row]) -> Row:
    last = max(rounds, key=lambda row: int(row["round"]))
    scopes = sorted({row["energy_scope"] for row in rounds if row["energy_scope"] is not None})
    reasons = sorted({row["energy_reason"] for row in rounds if row["energy_reason"] is not None})
    return {
        "accuracy": last["accuracy"],
        "loss": last["loss"],
        "time_s": whole_sum(row["time_s"] for row in rounds),
        "server_s": whole_sum(row["server_s"] for row in rounds),
        **{name: whole_sum(row[name] for row in rounds) for name in _SUMS},
        "provenance": weakest(_provenance(row) for row in rounds).value,
        "energy_scope": "+".join(scopes) or None,
        "energy_reason": "; ".join(reasons) or None,
        "n_rounds": len(rounds),
        "n_rounds_without_energy": sum(row["energy_j"] is None for row in rounds),
        "n_rounds_below_resolution": sum(BELOW_RESOLUTION in (row["energy_reason"] or "") for row in rounds),
    }


def whole_sum(values: Iterable[float | None]) -> float | None:
    """The sum, or None where one is missing: a silently smaller total is a wrong total."""
    known = list(values)
    return math.fsum(value for value in known if value is not None) if None not in known else None


def _provenance(row: Row) -> Provenance:
    value: Any = row["provenance"] or Provenance.MISSING.value
    try:
        return Provenance(value)
    except ValueError:
        raise ResultsError(
            f"run {row['run_id']}, task {row['task']}, round {row['round']}: provenance {value!r:.40} is unknown.",
            remedy=f"It must be one of {', '.join(Provenance)}.",
        ) from None


def _work_done(fits: Iterable[Row]) -> float | None:
    return mean(
        [
            row["steps_done"] / row["steps_planned"]
            for row in fits
            if row["steps_done"] is not None and row["steps_planned"]
        ]
    )

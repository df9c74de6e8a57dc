"""One row per finished (run, task): what a configuration cost and gave, summed over its rounds.

Errors of energy are summed linearly over rounds. A gain error is common to all rounds of one meter, so it does not
average out; adding in quadrature would understate it (JCGM 100:2008, 5.2.2, inputs with correlation +1).
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.load import Results, rows
from profiler.errors import ResultsError
from profiler.quantities import BELOW_RESOLUTION, Provenance, weakest
from profiler.records import Row

_SUMS = ("energy_j", "energy_err_j", "energy_net_j", "energy_net_err_j", "energy_fit_j", "energy_fit_err_j")
_Key = tuple[str, str]
EVERY_ROUND = range(1, sys.maxsize)
"""For `stop_after`."""


def runs_table(results: Results, stop_after: Container[int] = ()) -> pd.DataFrame:
    """One row per finished (run, task), with the task's parameters.

    `time_s` and `server_s` are sums over rounds, `accuracy` and `loss` the last round's. Each energy is a sum too, None
    where any round lacks it (`n_rounds_without_energy` counts those of energy_j). `provenance` is the weakest.
    `work_done` is the mean of steps done over steps planned, None where no fit span tells. Raises ResultsError on a
    provenance that is none.

    For each round in `stop_after` that a task went beyond there is one more row: what it had cost and given up to
    there, with that round as its `rounds`. `whole` is False in such rows.
    """
    rounds, work = _by_task(rows(results.rounds)), _work(results)
    failures = _by_task(rows(results.failures))
    table = []
    for task in rows(results.tasks):
        key = (task["run_id"], task["task"])
        if task["finished"]:
            own = sorted(rounds[key], key=lambda row: int(row["round"]))
            for sums in [*_stopped(own, stop_after), _sums(own)]:
                last = sums.pop("last_round")
                whole = last == own[-1]["round"]
                stopped = {"whole": whole} | ({} if whole else {"rounds": last})
                told = {"work_done": _work_done(work[key], last), "n_failures": _count_until(failures[key], last)}
                table.append(task | stopped | sums | told)
    frame: pd.DataFrame = pd.DataFrame(table, dtype="object")
    return frame


class _Work(NamedTuple):
    """Of one round: the sum of steps done over steps planned, and over how many fits."""

    round: int
    fraction_sum: float
    n_fits: int


def _work(results: Results) -> defaultdict[_Key, list[_Work]]:
    spans = results.spans
    fits = spans.loc[spans["name"] == "fit", ["run_id", "task", "round", "steps_done", "steps_planned"]]
    done, planned = (fits[name].to_numpy("float64", na_value=math.nan) for name in ("steps_done", "steps_planned"))
    known = ~np.isnan(done) & (planned > 0)
    told = fits.loc[known, ["run_id", "task", "round"]].assign(fraction=done[known] / planned[known])
    of_rounds = told.groupby(["run_id", "task", "round"], observed=True)["fraction"].agg(["sum", "size"])
    grouped: defaultdict[_Key, list[_Work]] = defaultdict(list)
    for (run_id, task, round_), total, size in zip(of_rounds.index, of_rounds["sum"], of_rounds["size"], strict=True):
        grouped[run_id, task].append(_Work(int(round_), float(total), int(size)))
    return grouped


def _work_done(work: Iterable[_Work], last_round: int) -> float | None:
    until = [of_round for of_round in work if of_round.round <= last_round]
    n_fits = sum(of_round.n_fits for of_round in until)
    return math.fsum(of_round.fraction_sum for of_round in until) / n_fits if n_fits else None


def _by_task(records: Iterable[Row]) -> defaultdict[_Key, list[Row]]:
    grouped: defaultdict[_Key, list[Row]] = defaultdict(list)
    for row in records:
        grouped[row["run_id"], row["task"]].append(row)
    return grouped


def _count_until(failures: Iterable[Row], last_round: int) -> int:
    return sum(row["round"] is None or row["round"] <= last_round for row in failures)


def _stopped(rounds: Sequence[Row], stop_after: Container[int]) -> Iterator[Row]:
    for n, row in enumerate(rounds[:-1], start=1):
        if row["round"] in stop_after:
            yield _sums(rounds[:n])


def _sums(rounds: Sequence[Row]) -> Row:
    """Sums of rounds in their order, and the values of the last one."""
    last = rounds[-1]
    scopes = sorted({row["energy_scope"] for row in rounds if row["energy_scope"] is not None})
    reasons = sorted({row["energy_reason"] for row in rounds if row["energy_reason"] is not None})
    return {
        "last_round": last["round"],
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

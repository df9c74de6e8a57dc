"""One row per finished (run, task): what a configuration cost and gave, summed over its rounds.

Errors of energy are summed linearly over rounds. A gain error is common to all rounds of one meter, so it does not
average out; adding in quadrature would understate it (JCGM 100:2008, 5.2.2, inputs with correlation +1).
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

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
            failed = sorted(row["round"] or 0 for row in failures[key])  # outside rounds: counts from the start
            for sums in [*_stopped(own, stop_after), _sums(own)]:
                last = sums.pop("last_round")
                whole = last == own[-1]["round"]
                stopped = {"whole": whole} | ({} if whole else {"rounds": last})
                told = {"work_done": work[key].done(last), "n_failures": bisect_right(failed, last)}
                table.append(task | stopped | sums | told)
    frame: pd.DataFrame = pd.DataFrame(table, dtype="object")
    return frame


@dataclass(slots=True)
class _Work:
    """Round by round, ascending: sums so far of steps done over steps planned, and of how many fits."""

    rounds: list[int] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    n_fits: list[int] = field(default_factory=list)

    def add(self, round_: int, fraction: float, n_fits: int) -> None:
        self.rounds.append(round_)
        self.fractions.append(fraction + (self.fractions[-1] if self.fractions else 0.0))
        self.n_fits.append(n_fits + (self.n_fits[-1] if self.n_fits else 0))

    def done(self, last_round: int) -> float | None:
        """Mean of steps done over steps planned up to a round."""
        n = bisect_right(self.rounds, last_round)
        return self.fractions[n - 1] / self.n_fits[n - 1] if n else None


def _work(results: Results) -> defaultdict[_Key, _Work]:
    spans = results.spans
    fits = spans.loc[spans["name"] == "fit", ["run_id", "task", "round", "steps_done", "steps_planned"]]
    done, planned = (fits[name].to_numpy("float64", na_value=math.nan) for name in ("steps_done", "steps_planned"))
    known = ~np.isnan(done) & (planned > 0)
    told = fits.loc[known, ["run_id", "task", "round"]].assign(fraction=done[known] / planned[known])
    told = told.sort_values("fraction")  # so that no sum depends on the order of records
    of_rounds = told.groupby(["run_id", "task", "round"], observed=True)["fraction"].agg(["sum", "size"])
    grouped: defaultdict[_Key, _Work] = defaultdict(_Work)
    for (run_id, task, round_), total, size in zip(of_rounds.index, of_rounds["sum"], of_rounds["size"], strict=True):
        grouped[run_id, task].add(int(round_), float(total), int(size))
    return grouped


def _by_task(records: Iterable[Row]) -> defaultdict[_Key, list[Row]]:
    grouped: defaultdict[_Key, list[Row]] = defaultdict(list)
    for row in records:
        grouped[row["run_id"], row["task"]].append(row)
    return grouped


def _stopped(rounds: Sequence[Row], stop_after: Container[int]) -> Iterator[Row]:
    """Sums up to each wanted round but the last, in one pass: `_sums` of each would be quadratic in the rounds."""
    sums = {name: list(accumulate((row[name] for row in rounds), _plus)) for name in ("time_s", "server_s", *_SUMS)}
    weakest_yet = list(accumulate((_provenance(row) for row in rounds), lambda *both: weakest(both)))
    told = _Told()
    for n, row in enumerate(rounds[:-1]):
        told.add(row)
        if row["round"] in stop_after:
            values = {name: of_rounds[n] for name, of_rounds in sums.items()}
            yield {**_last(row), **values, "provenance": weakest_yet[n].value, **told.columns()}


def _sums(rounds: Sequence[Row]) -> Row:
    """Sums of rounds in their order, and the values of the last one."""
    told = _Told()
    for row in rounds:
        told.add(row)
    values = {name: whole_sum(row[name] for row in rounds) for name in ("time_s", "server_s", *_SUMS)}
    return {
        **_last(rounds[-1]),
        **values,
        "provenance": weakest(_provenance(row) for row in rounds).value,
        **told.columns(),
    }


def _last(row: Row) -> Row:
    return {"last_round": row["round"], "accuracy": row["accuracy"], "loss": row["loss"]}


def _plus(total: float | None, value: float | None) -> float | None:
    return None if total is None or value is None else total + value


@dataclass(slots=True)
class _Told:
    """What the rounds so far say of their energies."""

    scopes: set[str] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)
    n_rounds: int = 0
    n_without_energy: int = 0
    n_below_resolution: int = 0

    def add(self, row: Row) -> None:
        self.scopes |= {row["energy_scope"]} - {None}
        self.reasons |= {row["energy_reason"]} - {None}
        self.n_rounds += 1
        self.n_without_energy += row["energy_j"] is None
        self.n_below_resolution += BELOW_RESOLUTION in (row["energy_reason"] or "")

    def columns(self) -> Row:
        return {
            "energy_scope": "+".join(sorted(self.scopes)) or None,
            "energy_reason": "; ".join(sorted(self.reasons)) or None,
            "n_rounds": self.n_rounds,
            "n_rounds_without_energy": self.n_without_energy,
            "n_rounds_below_resolution": self.n_below_resolution,
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

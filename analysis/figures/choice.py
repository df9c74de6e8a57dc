"""Which of many tasks and rounds a figure shows: the most telling ones, chosen by rule, so that nobody picks by eye."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pandas as pd

from analysis.cli import printable
from analysis.configurations import grouped, has_cutoff
from analysis.load import SIMULATED, Results, rows
from analysis.page_spans import TaskKey as TaskKey
from analysis.runs import runs_table
from profiler.records import Row


@dataclass(frozen=True, slots=True)
class Shown:
    """A finished task (a row of `runs_table`) with the label of its configuration."""

    label: str
    task: Row

    @property
    def key(self) -> TaskKey:
        return self.task["run_id"], self.task["task"]


def finished(results: Results) -> dict[str, list[Shown]]:
    """Workload -> its finished tasks, labelled as in the tables, by clients, epochs and label.

    Simulated tasks are `WORKLOAD (simulated)`: a picture of both would compare what cannot be compared.
    """
    by_workload: defaultdict[str, list[Row]] = defaultdict(list)
    for run in rows(runs_table(results)):
        by_workload[printable(run["workload"]) + (" (simulated)" if run["clock"] == SIMULATED else "")].append(run)
    return {
        workload: sorted((Shown(label, run) for label, runs in grouped(members).items() for run in runs), key=_order)
        for workload, members in sorted(by_workload.items())
    }


def _order(shown: Shown) -> tuple[object, ...]:
    return shown.task["clients"], shown.task["epochs"], shown.label, *shown.key


def telling(tasks: list[Shown], limit: int = 2) -> list[Shown]:
    """The longest task without a cutoff, and the longest with one of as many epochs: what a cutoff changes.

    Of equal ones the latest run's.
    """

    def length(shown: Shown) -> tuple[object, ...]:
        return shown.task["epochs"], shown.task["time_s"] or 0.0, shown.key

    uncut = [shown for shown in tasks if not has_cutoff(shown.task["cutoffs"])]
    cut = [shown for shown in tasks if has_cutoff(shown.task["cutoffs"])]
    chosen = [max(uncut, key=length)] if uncut else []
    alike = [shown for shown in cut if not chosen or shown.task["epochs"] == chosen[0].task["epochs"]]
    chosen += [max(alike or cut, key=length)] if cut else []
    return chosen[:limit]


def rows_by_task(records: list[Row]) -> dict[TaskKey, list[Row]]:
    found: defaultdict[TaskKey, list[Row]] = defaultdict(list)
    for row in records:
        found[row["run_id"], row["task"]].append(row)
    return dict(found)


def median_round(rounds: list[Row]) -> int:
    """The round whose time is the (lower) median: neither the warm-up nor an accident."""
    ordered = sorted(rounds, key=lambda row: (row["time_s"], row["round"]))
    return int(ordered[(len(ordered) - 1) // 2]["round"])


def drawn_rounds(results: Results) -> dict[TaskKey, int]:
    """The tasks that are shown span by span, and which round of each."""
    rounds = rows_by_task(rows(results.rounds))
    chosen = [shown.key for tasks in finished(results).values() for shown in telling(tasks)]
    return {key: median_round(rounds[key]) for key in chosen}


def of_task(spans: pd.DataFrame, key: TaskKey) -> pd.DataFrame:
    """The spans of one task."""
    if spans.empty:
        return spans
    own: pd.DataFrame = spans[(spans["run_id"] == key[0]) & (spans["task"] == key[1])]
    return own

"""`--where KEY=VALUE`: only some of the runs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Sequence

from analysis import cli
from analysis.configurations import PARAMETERS, cutoff_text
from profiler.errors import UsageError
from profiler.records import Row


def add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="use only such runs")


def where(runs: Sequence[Row], filters: Sequence[str]) -> list[Row]:
    """The runs that pass every KEY=VALUE. Raises UsageError on an unknown key, and where nothing is left."""
    kept = list(runs)
    for text in filters:
        key, equals, wanted = text.partition("=")
        if not equals:
            raise UsageError(f"--where {text}: give KEY=VALUE.")
        cli.choose("--where", key, [*PARAMETERS, "seed", "processor", "cutoff", "run_id", "experiment"])
        there = sorted({value for run in kept for value in values(run, key)})
        kept = [run for run in kept if _same(wanted, values(run, key))]
        if not kept:
            raise UsageError(f"--where {text} leaves nothing.", remedy=f"There is {key}={', '.join(there)}.")
    return kept


def values(run: Row, key: str) -> list[str]:
    """What KEY=VALUE is compared with: several where a run has several processors."""
    if key in ("processor", "processors"):
        return [cli.printable(name) for name in run["processors"]]
    if key in ("cutoff", "cutoffs"):
        return [cutoff_text(run["cutoffs"])]
    value = run[key]
    return [str(value).lower() if isinstance(value, bool) else cli.printable(str(value))]


def refuse_mixed_workloads(workloads: Iterable[str]) -> None:
    """Raise UsageError where there are several: their accuracies and costs are of different things."""
    names = sorted(set(workloads))
    if len(names) > 1:
        raise UsageError(
            f"{len(names)} workloads cannot be compared: {', '.join(names)}.",
            remedy=f"Choose one: --where workload={shlex.quote(names[0])}.",
        )


def _same(wanted: str, values: Sequence[str]) -> bool:
    if wanted in values:
        return True
    try:
        return float(wanted) in [float(value) for value in values]
    except ValueError:
        return False

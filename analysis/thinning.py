"""A part of very many fit calls that says as much: every k-th round of each task, with all calls in it.

Medians and quantiles of some ten thousand calls are known to within a per cent; a hundred times as many take a hundred
times the memory to say the same. Rounds are taken whole, since clients of one round wait for each other, and evenly
over a task, since devices slow down as they warm up.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analysis.spans import SpanSelection, SpanSource

_COUNTED = ("run_id", "task", "round", "name")


def thinned(sources: Sequence[SpanSource], selection: SpanSelection) -> tuple[list[pa.Table], list[str]]:
    """The selected spans of at most about `max_calls` fits, and a sentence where any are left out.

    Rounds k, 2k, ... of every task are kept, at least one of each, and spans outside rounds. Of fewer fits all are.
    """
    tables = (table for source in sources for table in source.tables(selection.kept, selection.names))
    if selection.max_calls is None:
        return list(tables), []
    n_calls, shortest = _count(table for source in sources for table in source.tables(_COUNTED, frozenset({"fit"})))
    every = min(math.ceil(n_calls / selection.max_calls), shortest)
    if every <= 1:
        return list(tables), []
    kept = [table.filter(pa.array(_rounds(table) % every == 0)) for table in tables]
    n_kept, _ = _count(kept)
    return kept, [f"of {n_calls:,} fit calls {n_kept:,} are used, those of one round in {every}."]


def _rounds(table: pa.Table) -> npt.NDArray[np.int64]:
    """0 outside rounds."""
    return np.asarray(table["round"].fill_null(0).to_numpy())


def _count(tables: Iterable[pa.Table]) -> tuple[int, int]:
    """How many fits there are, and how many rounds the task with the fewest has."""
    n_calls = 0
    rounds: defaultdict[tuple[str, str], int] = defaultdict(int)
    for table in tables:
        fits = table.filter(pc.equal(table["name"], "fit")).select(["run_id", "task", "round"])
        n_calls += len(fits)
        for key, last in fits.to_pandas().groupby(["run_id", "task"], observed=True)["round"].max().dropna().items():
            rounds[key] = max(rounds[key], int(last))
    return n_calls, min(rounds.values(), default=1)

"""A part of very many fit calls that says as much: every k-th round of each task, with all calls in it.

Medians and quantiles of a hundred thousand calls are known to within a fraction of a per cent; ten times as many take
ten times the memory to say the same. Rounds are taken whole, since clients of one round wait for each other, and evenly
over a task, since devices slow down as they warm up.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.load import Results

MAX_CALLS = 100_000


def thinned(results: Results, max_calls: int = MAX_CALLS) -> tuple[Results, list[str]]:
    """Results with at most about so many fit spans, and a sentence where any are left out.

    Rounds k, 2k, ... of every task are kept, at least one of each, and spans outside rounds; tasks, rounds and failures
    are as they were. Of fewer calls all are kept. `steps_s` holds lists, as records do.
    """
    spans = results.spans
    fits = spans[spans["name"] == "fit"]
    n_calls = len(fits)
    shortest = fits.groupby(["run_id", "task"], observed=True)["round"].max().min() if n_calls > max_calls else 1
    every = min(math.ceil(n_calls / max_calls), int(shortest))
    notes = []
    if every > 1:
        kept = spans["round"].isna() | (spans["round"] % every == 0)
        spans = spans[kept.to_numpy(dtype=bool)]
        n_kept = int((spans["name"] == "fit").sum())
        notes.append(f"of {n_calls:,} fit calls {n_kept:,} are used, those of one round in {every}.")
    steps_s = [value.tolist() if isinstance(value, np.ndarray) else value for value in spans["steps_s"]]
    return replace(results, spans=spans.assign(steps_s=pd.Series(steps_s, spans.index, dtype="object"))), notes

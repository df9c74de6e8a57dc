"""What figures and the report show of spans, of however many: sums of all, and those of a few rounds as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

TaskKey = tuple[str, str]
"""Run id and task."""
_KEYS = ["run_id", "task", "device", "processor", "name", "provenance", "energy_scope", "in_round"]
_SUMS = ["energy_j", "n_known", "n_missing"]
_MAX_PENDING = 200_000


@dataclass(frozen=True, slots=True)
class PageSpans:
    """`energies` are sums by task, device, processor, name, provenance, scope, and whether in a round.

    Their `energy_j` is of the `n_known` spans that have one; `n_missing` have none. `drawn` are spans of chosen tasks:
    those of one round, and the calls of all rounds by the server's clock.
    """

    energies: pd.DataFrame
    drawn: pd.DataFrame

    @classmethod
    def of(cls, batches: Iterable[pd.DataFrame], rounds: Mapping[TaskKey, int]) -> PageSpans:
        """Of batches with the columns of `PAGE_SPANS`; `rounds` are the chosen tasks, and which round of each."""
        sums: list[pd.DataFrame] = []
        drawn: list[pd.DataFrame] = []
        n_pending = 0
        for batch in batches:
            drawn.append(_drawn(batch, rounds))
            sums.append(_summed(_counted(batch)))
            n_pending += len(sums[-1])
            if n_pending > _MAX_PENDING:
                sums, n_pending = [_summed(pd.concat(sums))], 0
        if not sums:
            return cls(pd.DataFrame(columns=[*_KEYS, *_SUMS]), pd.DataFrame())
        filled = [part for part in drawn if len(part)] or drawn[:1]  # pandas 2 warns of empty ones
        return cls(_summed(pd.concat(sums)), pd.concat(filled, ignore_index=True))


def _counted(batch: pd.DataFrame) -> pd.DataFrame:
    known = batch["energy_j"].notna()
    counted: pd.DataFrame = batch.assign(
        in_round=batch["round"].notna(), n_known=known.astype(int), n_missing=(~known).astype(int)
    )
    return counted


def _summed(spans: pd.DataFrame) -> pd.DataFrame:
    summed: pd.DataFrame = spans.groupby(_KEYS, observed=True, dropna=False)[_SUMS].sum().reset_index()
    return _uncategorised(summed)


def _drawn(batch: pd.DataFrame, rounds: Mapping[TaskKey, int]) -> pd.DataFrame:
    calls = (batch["name"] == "call") & (batch["clock"] == "server")
    wanted = pd.Series(False, index=batch.index)
    for (run_id, task), round_ in rounds.items():
        in_round = (batch["round"] == round_).fillna(False).astype(bool)
        wanted |= (batch["run_id"] == run_id) & (batch["task"] == task) & (in_round | calls)
    return _uncategorised(batch[wanted])


def _uncategorised(spans: pd.DataFrame) -> pd.DataFrame:
    """With text as such: two batches have not the same categories."""
    texts = [name for name in spans.columns if isinstance(spans[name].dtype, pd.CategoricalDtype)]
    plain: pd.DataFrame = spans.astype(dict.fromkeys(texts, "object"))
    return plain

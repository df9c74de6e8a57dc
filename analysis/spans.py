"""Spans as columns: those alone that somebody needs, of millions, in a few bytes each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.parquet import DERIVED_COLUMNS, table_schema
from profiler.records import KINDS

_KEYS = ("task", "attempt", "round")
_NET = tuple(column.name for column in DERIVED_COLUMNS["span"])
_NET_INPUTS = ("energy_j", "energy_err_j", "idle_s")
UNIQUE = ("task", "attempt", "round", "device", "call", "name", "span_id")
"""No two spans of a run are alike in all of these."""
_TYPES = {column.name: column.type for column in (*KINDS["span"], *DERIVED_COLUMNS["span"])}
_ALL_COLUMNS = ("run_id", *_TYPES)
# Text that repeats: each is kept once.
REPEATED = (
    "run_id",
    "task",
    "device",
    "processor",
    "call",
    "name",
    "clock",
    "status",
    "stopped_by",
    "provenance",
    "energy_scope",
)


@dataclass(frozen=True, slots=True)
class SpanSelection:
    """Which columns of spans, and spans of which names, loading keeps. None means all.

    Of more than `max_calls` fits a part is kept, see `analysis.thinning`; a warning of the results says so.
    """

    columns: tuple[str, ...] | None = None
    names: frozenset[str] | None = None
    max_calls: int | None = None

    @property
    def kept(self) -> tuple[str, ...]:
        return _ALL_COLUMNS if self.columns is None else self.columns

    @property
    def recorded(self) -> tuple[str, ...]:
        """The columns of records that are needed: the kept ones, and what chooses spans and derives columns."""
        inputs = _NET_INPUTS if set(_NET) & set(self.kept) else ()
        wanted = {*_KEYS, *inputs, *self.kept}
        return tuple(column.name for column in KINDS["span"] if column.name in wanted)


ALL_SPANS = SpanSelection()
NO_SPANS = SpanSelection((), frozenset())
FIT_WORK = SpanSelection(("run_id", "task", "round", "name", "steps_done", "steps_planned"), frozenset({"fit"}))
"""What the sums of runs need."""
FIT_CALLS = SpanSelection(
    (
        *FIT_WORK.kept,
        *("device", "processor", "call", "status", "duration_s", "stopped_by", "steps_s"),
        *("energy_j", "provenance", "accuracy", "examples"),
    ),
    frozenset({"fit", "download", "receive", "send", "upload", "wait", "evaluate"}),
    max_calls=50_000,
)
"""What fit windows need, beside the above."""
PAGE_SPANS = SpanSelection(
    (
        *("run_id", "task", "round", "device", "processor", "call", "name", "clock", "start_ns", "duration_s"),
        *("energy_j", "provenance", "energy_scope"),
    )
)
"""What figures and the report need of all spans, beside the fits of `FIT_CALLS`; read a batch at a time."""


class SpanSource(Protocol):
    """The selected spans of a run, wherever they are."""

    def tables(self, columns: Sequence[str], names: frozenset[str] | None = None) -> Iterator[pa.Table]:
        """All, or those of some names, a batch at a time, with some of the selected columns; as often as wanted."""


@dataclass(frozen=True, slots=True)
class SpansInMemory:
    """Selected spans that have been read."""

    read: Sequence[pa.Table] = ()

    def tables(self, columns: Sequence[str], names: frozenset[str] | None = None) -> Iterator[pa.Table]:
        return (of_names(table, names).select(columns) for table in self.read)


def of_names(table: pa.Table, names: frozenset[str] | None) -> pa.Table:
    """The spans of these names alone; None means all."""
    return table if names is None else table.filter(pc.is_in(table["name"], pa.array(sorted(names))))


Counting = Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
"""Task -> its rounds on record, ascending, and for each the attempt that counts; int64[n_rounds] both."""


def counting_by_task(counting: Mapping[tuple[str, int], int]) -> Counting:
    by_task: dict[str, list[tuple[int, int]]] = {}
    for (task, round_), attempt in sorted(counting.items()):
        by_task.setdefault(task, []).append((round_, attempt))
    columns = {task: np.array(pairs, dtype=np.int64) for task, pairs in by_task.items()}
    return {task: (pairs[:, 0], pairs[:, 1]) for task, pairs in columns.items()}


def that_count(batch: pa.RecordBatch, counting: Counting) -> pa.RecordBatch:
    """The spans of the attempt that counts in their round, and those outside rounds."""
    tasks = batch.column("task")
    codes = tasks.indices.to_numpy()
    outside = batch.column("round").is_null().to_numpy(zero_copy_only=False)
    rounds = batch.column("round").fill_null(0).to_numpy()
    attempts = batch.column("attempt").to_numpy()
    counts = outside.copy()
    for code, task in enumerate(tasks.dictionary.to_pylist()):
        if task in counting:
            known, wanted = counting[task]
            mine = np.flatnonzero((codes == code) & ~outside)
            at = np.minimum(np.searchsorted(known, rounds[mine]), known.size - 1)
            counts[mine] = (known[at] == rounds[mine]) & (wanted[at] == attempts[mine])
    return batch if counts.all() else batch.filter(pa.array(counts))


Net = Callable[[pa.RecordBatch], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]


def finished(batch: pa.RecordBatch, run_id: str, selection: SpanSelection, net: Net) -> pa.Table:
    """A batch with exactly the columns of the selection: those that loading adds, too."""
    columns = {name: batch.column(name) for name in batch.schema.names}
    columns["run_id"] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(batch), np.int32)), [run_id])
    if set(_NET) & set(selection.kept):
        columns |= zip(_NET, (pa.array(values, from_pandas=True) for values in net(batch)), strict=True)
    return pa.table({name: columns[name] for name in selection.kept})


def _parsed(text: str | None) -> object:
    return None if text is None else json.loads(text)


def frame(tables: Iterable[pa.Table], selection: SpanSelection) -> pd.DataFrame:
    """Finished spans as a table for pandas, typed as every table of `Results` is.

    Of selected columns repeated text is kept as categories.
    """
    whole = _concatenated(list(tables), selection)
    compact = selection.columns is not None
    made: pd.DataFrame = pd.DataFrame({name: _series(name, whole.column(name), compact) for name in selection.kept})
    return made


def _concatenated(tables: Sequence[pa.Table], selection: SpanSelection) -> pa.Table:
    if tables:
        return pa.concat_tables(tables).unify_dictionaries()
    types = {name: table_schema("span").field(name).type for name in selection.kept}
    return pa.table({name: pa.array([], type_) for name, type_ in types.items()})


def _series(name: str, column: pa.ChunkedArray, compact: bool) -> pd.Series[Any]:
    kind = _TYPES.get(name, "str")
    if kind in ("int", "bool", "float") or (compact and kind == "str"):
        types = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        made: pd.Series[Any] = column.to_pandas(types_mapper=types.get)
        return made
    values = column.to_pylist()
    return pd.Series([_parsed(text) for text in values] if kind == "json" else values, dtype="object")

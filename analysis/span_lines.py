"""Lines of span records as columns, checked as `profiler.records` checks them but in a tenth of its time.

What a span may be is compiled from the table of its columns, so that msgspec takes no line which `decode_line` refuses.
What msgspec refuses goes to `decode_line`: it knows the other kinds of records, and says what is wrong with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, Union

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from analysis.parquet import table_schema
from analysis.spans import REPEATED, UNIQUE, SpanSelection
from profiler.records import KINDS, MAX_LINE_BYTES, Column, decode_line

_N_AT_ONCE = 500  # spans that are objects at a time: as many as stay in the processor's cache
_N_PENDING = 50_000
_INT: Any = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_NUMBER: Any = Union[_INT, float]  # noqa: UP007
_TYPES: dict[str, Any] = {
    "str": str,
    "int": _INT,
    "float": _NUMBER,
    "bool": bool,
    "floats": list[_NUMBER],
    "json": Union[dict[str, Any], list[Any], str, _NUMBER, bool],  # noqa: UP007
}


def _field(column: Column) -> tuple[Any, ...]:
    type_ = _TYPES[column.type]
    return (column.name, type_) if column.required else (column.name, Union[type_, None], None)  # noqa: UP007


Span: Any = msgspec.defstruct(
    "Span",
    [_field(column) for column in KINDS["span"]],
    tag_field="kind",
    tag="span",
    forbid_unknown_fields=True,
    kw_only=True,
    gc=False,
)
"""A span record, with an attribute for each of its columns."""
_decode_span = msgspec.json.Decoder(Span).decode


def decode(line: bytes) -> Any:
    """A line as a `Span`, or a record of another kind as a `Row`. Raises ValueError as `decode_line`."""
    try:
        if len(line) <= MAX_LINE_BYTES:
            return _decode_span(line.decode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    row = decode_line(line)
    return Span(**{name: value for name, value in row.items() if name != "kind"}) if row["kind"] == "span" else row


class SpanColumns:
    """Collects spans as batches of columns, and a digest of each; `tasks` are those that any span is of."""

    def __init__(self, selection: SpanSelection) -> None:
        self._names = selection.names
        self.tasks: set[str] = set()
        self._fresh: list[Any] = []
        self._selected = _Pending(selection.recorded)
        self._keys = _Pending(UNIQUE)
        self._batches: list[pa.RecordBatch] = []
        self._digests = [np.empty(0, np.int64)]

    def add(self, span: Any) -> None:
        self._fresh.append(span)
        if len(self._fresh) >= _N_AT_ONCE:
            self._take()
            if len(self._keys) >= _N_PENDING:
                self._flush()

    def finish(self) -> tuple[list[pa.RecordBatch], npt.NDArray[np.int64]]:
        """The selected spans, and a digest of every one, in the order in which they were added."""
        self._take()
        self._flush()
        return self._batches, np.concatenate(self._digests)

    def _take(self) -> None:
        self._keys.add(self._fresh)
        wanted = [span for span in self._fresh if self._names is None or span.name in self._names]
        self._selected.add(wanted)
        self._fresh.clear()

    def _flush(self) -> None:
        if len(self._selected):
            self._batches.append(self._selected.batch())
        if len(self._keys):
            keys = self._keys.batch()
            self.tasks |= set(keys["task"].dictionary.to_pylist())
            self._digests.append(digests(keys))


class _Pending:
    """Values of some columns that are not an array yet."""

    def __init__(self, names: Iterable[str]) -> None:
        self._getters: dict[str, Callable[[Any], Any]] = {name: attrgetter(name) for name in names}
        self._values: dict[str, list[Any]] = {name: [] for name in self._getters}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, spans: list[Any]) -> None:
        for name, values in self._values.items():
            values.extend(map(self._getters[name], spans))
        self._n += len(spans)

    def batch(self) -> pa.RecordBatch:
        """All that was added, and forget it."""
        arrays = {name: _array(name, values) for name, values in self._values.items()}
        self._values = {name: [] for name in self._values}
        self._n = 0
        return pa.RecordBatch.from_pydict(arrays)


def digests(keys: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """64 bits of what tells each span from all others of its run, the same in every process."""
    columns = {}
    for name in UNIQUE:
        column = keys[name]
        if isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()
        columns[name] = column.fill_null("" if column.type == pa.string() else -1).to_pandas()
    return pd.util.hash_pandas_object(pd.DataFrame(columns), index=False).to_numpy().view(np.int64)


def _array(name: str, values: list[Any]) -> pa.Array:
    absent = values.count(None) == len(values)  # as most columns are in most spans
    made: pa.Array = pa.nulls(len(values), _FIELDS[name].type) if absent else _ARRAYS[_COLUMN_TYPES[name]](values)
    return made.dictionary_encode() if name in REPEATED else made


def _floats(values: list[Any]) -> pa.Array:
    return pa.array(np.array(values, np.float64), from_pandas=True)  # of None numpy makes NaN, of NaN pyarrow a null


def _lists(values: list[Any]) -> pa.Array:
    known = [value for value in values if value is not None]
    sizes = [0, *(0 if value is None else len(value) for value in values)]
    missing = [*(value is None for value in values), False]
    flat = np.fromiter(chain.from_iterable(known), np.float64)
    return pa.ListArray.from_arrays(pa.array(np.cumsum(sizes).astype(np.int32), mask=np.array(missing)), flat)


def _json(values: list[Any]) -> pa.Array:
    return pa.array([None if value is None else msgspec.json.encode(value).decode() for value in values], pa.string())


_ARRAYS: dict[str, Callable[[list[Any]], pa.Array]] = {
    "str": partial(pa.array, type=pa.string()),
    "int": partial(pa.array, type=pa.int64()),
    "bool": partial(pa.array, type=pa.bool_()),
    "float": _floats,
    "floats": _lists,
    "json": _json,
}
_FIELDS = {field.name: field for field in table_schema("span")}
_COLUMN_TYPES = {column.name: column.type for column in KINDS["span"]}

"""Tables of records as Parquet, with units and descriptions as field metadata, and the columns that loading adds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from profiler.records import KINDS, Column, Row, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

_NET = (
    Column("energy_net_j", "float", "J", "energy_j less idle power, the mean of before and after, times idle_s"),
    Column("energy_net_err_j", "float", "J", "expanded uncertainty of energy_net_j, k = 2"),
)
DERIVED_COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "task": (
        Column("finished", "bool", "", "completed, with every round on record"),
        Column("n_recorded_rounds", "int", "1", "rounds on record, whatever the attempt"),
        Column("clock", "str", "", "of the run: system, whose times are measured, or simulated, be it in part"),
        Column("experiment", "str", "", "of the run: the name in its experiment file; null where it says none"),
    ),
    "span": _NET,
    "round": _NET,
    "failure": (),
}
"""What loading adds to the columns of a kind."""


def as_table(kind: str, records: Sequence[Row]) -> pa.Table:
    """Records with the full, explicit schema of their kind; JSON values become text."""
    import pyarrow as pa

    names = _json_columns(kind)
    flat = [
        {name: json.dumps(value) if name in names and value is not None else value for name, value in row.items()}
        for row in records
    ]
    return pa.Table.from_pylist(flat, schema=table_schema(kind))


def as_rows(kind: str, table: pa.Table) -> list[Row]:
    """The inverse of `as_table`; what is missing is None."""
    names = _json_columns(kind)
    records: list[Row] = table.to_pylist()
    for row in records:
        row |= {name: json.loads(row[name]) for name in names if row[name] is not None}
    return records


def _json_columns(kind: str) -> frozenset[str]:
    return frozenset(column.name for column in KINDS[kind] if column.type == "json")


def table_schema(kind: str) -> pa.Schema:
    """The schema of a derived table: run id, the columns of the kind, and those that loading adds."""
    import pyarrow as pa

    schema = arrow_schema(kind)
    types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string()}
    derived = [
        pa.field(column.name, types[column.type], metadata={"unit": column.unit, "description": column.description})
        for column in DERIVED_COLUMNS[kind]
    ]
    run_id = pa.field("run_id", pa.string(), metadata={"unit": "", "description": "id of the run"})
    return pa.schema([run_id, *schema, *derived], metadata=schema.metadata)

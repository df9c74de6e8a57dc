"""The table of all clients of all rounds of a task that is simulated without training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fl.messages import Array

ClientColumns = Mapping[str, Array]
"""One round's columns, by the names of `ClientTable.COLUMNS`."""


class ClientTable:
    """Written column by column, a row a client and round, under its name only once it is whole."""

    COLUMNS = (
        ("round", "int64", "1", "federated round, from 1"),
        ("device", "int64", "1", "the device's place among those of the task, in the order of the fleet, from 0"),
        ("steps_done", "int64", "1", "training steps done"),
        ("steps_planned", "int64", "1", "training steps that the epochs call for"),
        ("download_s", "float64", "s", "server to client"),
        ("fit_s", "float64", "s", "local training"),
        ("upload_s", "float64", "s", "client to server"),
        ("wait_s", "float64", "s", "from the end of the fit call to the end of the round"),
        ("energy_j", "float64", "J", "gross, simulated"),
        ("energy_fit_j", "float64", "J", "of local training alone, gross, simulated"),
        ("is_late", "bool", "", "its update came after the deadline and was not taken"),
    )
    ROWS = 200_000  # kept in memory before they are written

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._schema = pa.schema(
            [
                pa.field(name, pa.bool_() if kind == "bool" else kind, metadata={"unit": unit, "description": said})
                for name, kind, unit, said in self.COLUMNS
            ]
        )
        self._writer = pq.ParquetWriter(self._partial, self._schema)
        self._waiting: list[ClientColumns] = []
        self._n_waiting = 0

    def add(self, columns: ClientColumns) -> None:
        self._waiting.append(columns)
        self._n_waiting += len(columns["round"])
        if self._n_waiting >= self.ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            joined = {name: np.concatenate([part[name] for part in self._waiting]) for name, *_ in self.COLUMNS}
            self._writer.write_table(pa.table(joined, schema=self._schema))
        self._waiting, self._n_waiting = [], 0

    def __enter__(self) -> ClientTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            with self._partial.open("rb") as written:
                os.fsync(written.fileno())
            self._partial.replace(self._path)
        else:
            self._partial.unlink()

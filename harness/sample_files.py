"""The Parquet files below samples/: made row group by row group, under their names only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fl.messages import Array

ClientColumns = Mapping[str, Array]
"""One round's columns, by the names of `ClientTable.COLUMNS`."""


class TableFile:
    """One file, written to a temporary name until it is kept. `COLUMNS`: name, Arrow type, unit, description."""

    COLUMNS: ClassVar[Sequence[tuple[str, str, str, str]]]

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._schema = pa.schema(
            [
                pa.field(name, pa.type_for_alias(kind), metadata={"unit": unit, "description": said})
                for name, kind, unit, said in self.COLUMNS
            ]
        )
        self._writer = pq.ParquetWriter(self._partial, self._schema)

    def write(self, columns: Mapping[str, Any]) -> None:
        """Columns of equal length, one for each of `COLUMNS`, as a row group."""
        import pyarrow as pa

        self._writer.write_table(pa.table(dict(columns), schema=self._schema))

    def keep(self) -> None:
        """It is whole: give it its name."""
        self._writer.close()
        with self._partial.open("rb") as written:
            os.fsync(written.fileno())
        self._partial.replace(self._path)

    def discard(self) -> None:
        self._writer.close()
        self._partial.unlink()


class SampleFile(TableFile):
    """Raw samples of one device in one task."""

    COLUMNS = (
        ("t_ns", "int64", "ns", "the device's monotonic clock"),
        ("rail", "string", "", "rail, as in the span records"),
        ("value", "float64", "J or W", "J of a counter as the device gives it, else W"),
        ("span_id", "string", "", "the span that they are of; null where the whole task was sampled"),
        ("every", "int64", "1", "1: all that were taken; 4: every fourth of them"),
    )


class ClientTable(TableFile):
    """A row a client and round of a task that is simulated without training; kept where nothing was raised."""

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
        super().__init__(path)
        self._waiting: list[ClientColumns] = []
        self._n_waiting = 0

    def add(self, columns: ClientColumns) -> None:
        self._waiting.append(columns)
        self._n_waiting += len(columns["round"])
        if self._n_waiting >= self.ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self.write({name: np.concatenate([part[name] for part in self._waiting]) for name, *_ in self.COLUMNS})
        self._waiting, self._n_waiting = [], 0

    def __enter__(self) -> ClientTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            self.keep()
        else:
            self.discard()

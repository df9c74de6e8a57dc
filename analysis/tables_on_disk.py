"""tables/*.parquet of a run folder: derived from its records, and read in their place while they are up to date.

Each file carries the names, sizes and modification times of what it was made of. Where one of them differs, as after
a resumed run or a copy that does not keep times, the tables are not used. They can be deleted at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.files import appearing
from analysis.idle import IdlePower
from analysis.parquet import as_rows, as_table, table_schema
from analysis.run_records import Run, RunRecords, stream_spans
from analysis.spans import ALL_SPANS, REPEATED, SpanSelection, of_names
from profiler.errors import ResultsError
from profiler.records import SCHEMA_VERSION

KINDS = ("span", "round", "failure", "task")
_FORMAT = 1
_BATCH_ROWS = 1 << 17
_SOURCE, _WARNINGS, _IDLE = b"fedmeter.source", b"fedmeter.warnings", b"fedmeter.idle"


def source(folder: Path) -> bytes:
    """What the tables of a run folder are made of."""
    files = [folder / name for name in ("run.json", "plan.jsonl", "end.json")]
    files += sorted((folder / "records").glob("*.jsonl"))
    told = [[str(path.relative_to(folder)), *_size_and_time(path)] for path in files]
    return json.dumps([_FORMAT, SCHEMA_VERSION, told]).encode()


def _size_and_time(path: Path) -> tuple[int, int]:
    if not path.is_file():
        return -1, 0
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _path(folder: Path, kind: str) -> Path:
    return folder / "tables" / f"{kind}s.parquet"


def write(run: Run, made_of: bytes, read: RunRecords) -> list[Path]:
    """Write all tables of a run, the tasks last; spans go through memory a batch at a time. Raises OSError."""
    _write(run.path, "span", stream_spans(run, read.tasks, read.rounds, read.idle, ALL_SPANS), {_SOURCE: made_of})
    for kind, records in (("round", read.rounds), ("failure", read.failures)):
        _write(run.path, kind, iter([as_table(kind, records)]), {_SOURCE: made_of})
    idle = {meter: asdict(power) for meter, power in read.idle.items()}
    told = {_SOURCE: made_of, _WARNINGS: json.dumps(read.warnings).encode(), _IDLE: json.dumps(idle).encode()}
    _write(run.path, "task", iter([as_table("task", read.tasks)]), told)
    return [_path(run.path, kind) for kind in KINDS]


def _write(folder: Path, kind: str, tables: Iterator[pa.Table], told: Mapping[bytes, bytes]) -> None:
    schema = table_schema(kind)
    schema = schema.with_metadata({**schema.metadata, **told})
    with appearing(_path(folder, kind)) as file, pq.ParquetWriter(file, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))


def read(folder: Path, selection: SpanSelection) -> RunRecords | None:
    """What `read_run` would give, from up-to-date tables; None where there are none, or others than we write."""
    told = _told(folder)
    try:
        return _read(folder, told, selection) if told is not None else None
    except (pa.ArrowInvalid, OSError):  # a torn file
        return None


def spans(folder: Path, selection: SpanSelection) -> SpansOnDisk | None:
    """The selected spans of up-to-date tables, as `read` gives them."""
    return None if _told(folder) is None else SpansOnDisk(_path(folder, "span"), selection)


def _told(folder: Path) -> Mapping[bytes, bytes] | None:
    """The metadata of tables that are all there, up to date and as we write them."""
    if not all(_path(folder, kind).is_file() for kind in KINDS):
        return None
    made_of = source(folder)
    try:
        schemas = {kind: pq.read_schema(_path(folder, kind)) for kind in KINDS}
    except (pa.ArrowInvalid, OSError):  # a torn file, or none of Parquet's
        return None
    usable = all(
        schema.equals(table_schema(kind)) and (schema.metadata or {}).get(_SOURCE) == made_of
        for kind, schema in schemas.items()
    )
    told: Mapping[bytes, bytes] = schemas["task"].metadata
    return told if usable else None


def _read(folder: Path, told: Mapping[bytes, bytes], selection: SpanSelection) -> RunRecords:
    plain = {kind: as_rows(kind, pq.read_table(_path(folder, kind))) for kind in ("task", "round", "failure")}
    return RunRecords(
        tasks=plain["task"],
        rounds=plain["round"],
        failures=plain["failure"],
        spans=SpansOnDisk(_path(folder, "span"), selection),
        idle={meter: IdlePower(**power) for meter, power in json.loads(told[_IDLE]).items()},
        warnings=json.loads(told[_WARNINGS]),
    )


@dataclass(frozen=True, slots=True)
class SpansOnDisk:
    """The selected spans of a table, read a batch at a time, so that what is not wanted never fills the memory."""

    path: Path
    selection: SpanSelection

    def tables(self, columns: Sequence[str], names: frozenset[str] | None = None) -> Iterator[pa.Table]:
        """Raises ResultsError where the file is damaged."""
        if not columns:
            return
        names = self.selection.names if names is None else names
        read = [*columns, *({"name"} - set(columns) if names is not None else ())]
        try:
            with pq.ParquetFile(self.path, read_dictionary=[name for name in REPEATED if name in read]) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=read):
                    if len(table := of_names(pa.table(batch), names)):
                        yield table.select(list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ResultsError(
                f"{self.path}: {error}.", remedy="Remove that folder of tables: they are made of the records beside it."
            ) from None

"""The only reader of results folders: run folders in, checked tables out.

    python -m analysis.load results/        # writes tables/{spans,rounds,tasks}.parquet into each run folder

Of one (task, round) the records of the highest attempt that has a `round` record count; spans and failures belong to
(task, attempt, round). A task is finished where a `task_finished` record says completed and its rounds are all there.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import cli
from analysis import tables_on_disk as tables
from analysis.idle import IdlePower
from analysis.parquet import DERIVED_COLUMNS
from analysis.run_records import Run as Run
from analysis.run_records import RunRecords, read_run, stream_spans
from analysis.spans import ALL_SPANS, NO_SPANS, SpanSelection, SpansInMemory, frame
from analysis.thinning import thinned
from profiler.errors import ResultsError
from profiler.records import KINDS, SCHEMA_VERSION, Row

MAX_JSON_BYTES = 16 * 1024 * 1024
SYSTEM, SIMULATED = "system", "simulated"
"""The clocks of run.json: the machine's own, by which times are measured, or a model's."""
_DTYPES = {"int": "Int64", "float": "float64", "bool": "boolean", "str": "object", "floats": "object", "json": "object"}


@dataclass(frozen=True, slots=True)
class Results:
    """Everything usable of some run folders, as tables with the columns of `records.KINDS` and `run_id`.

    `rounds`, `spans` and `failures` hold what counts: one attempt a round. `tasks` has all tasks of the plans, with
    `finished`. `devices` maps run id to device id to what devices/<id>.json says, `idle` run id to meter to its idle
    power. `warnings` are sentences.
    """

    runs: list[Run]
    tasks: pd.DataFrame
    rounds: pd.DataFrame
    spans: pd.DataFrame
    failures: pd.DataFrame
    devices: dict[str, dict[str, Mapping[str, Any]]]
    idle: dict[str, Mapping[str, IdlePower]]
    warnings: list[str]


def load(paths: Sequence[Path], spans: SpanSelection = ALL_SPANS) -> Results:
    """Read run folders, or roots of many. Raises ResultsError on what is missing, foreign, newer or damaged.

    Of the spans only the selected ones and their selected columns are kept, so that ten million of them fit into
    memory. A run's derived tables are read instead of its records where they were made of just these records.
    """
    return load_each(paths, [spans])[0]


def load_each(paths: Sequence[Path], selections: Sequence[SpanSelection]) -> list[Results]:
    """`load` for several selections in one reading. The first must have all spans and columns of the others."""
    runs, widest = _open_runs(paths), selections[0]
    read = [tables.read(run.path, widest) or read_run(run, widest) for run in runs]
    made = [_results(runs, read, selection) for selection in selections]
    for one in read:
        one.spans = SpansInMemory()  # what is not kept must not stay in memory
    return made


def _results(runs: list[Run], read: Sequence[RunRecords], spans: SpanSelection) -> Results:
    warnings = [f"{run.path}{warning}" for run, one in zip(runs, read, strict=True) for warning in one.warnings]
    if not any(row["finished"] for one in read for row in one.tasks):
        due = sum(len(one.tasks) for one in read)
        raise ResultsError(
            f"no finished task in {_listed(run.path for run in runs)}: {due} planned, none completed."
            + "".join(f" {warning}" for warning in warnings),
            remedy="Let a run finish, or finish it with `python -m harness.run --resume DIR`.",
        )
    span_tables, thinning = thinned([one.spans for one in read], spans)
    warnings += thinning
    return Results(
        runs=runs,
        tasks=_frame("task", [row for one in read for row in one.tasks]),
        rounds=_frame("round", [row for one in read for row in one.rounds]),
        spans=frame(span_tables, spans),
        failures=_frame("failure", [row for one in read for row in one.failures]),
        devices={run.run_id: _devices(run.path) for run in runs},
        idle={run.run_id: one.idle for run, one in zip(runs, read, strict=True)},
        warnings=warnings,
    )


def each_batch(results: Results, selection: SpanSelection) -> Iterator[pd.DataFrame]:
    """The selected spans of loaded results, read anew a batch at a time: more of them than fit into memory."""
    tasks, rounds = (_by_run(table) for table in (results.tasks, results.rounds))
    for run in results.runs:
        made = tables.spans(run.path, selection)
        told = (tasks[run.run_id], rounds[run.run_id], results.idle[run.run_id])
        batches = made.tables(selection.kept) if made is not None else stream_spans(run, *told, selection)
        yield from (frame([batch], selection) for batch in batches)


def _by_run(table: pd.DataFrame) -> defaultdict[str, list[Row]]:
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows(table[[name for name in ("run_id", "task", "round", "attempt") if name in table]]):
        grouped[row["run_id"]].append(row)
    return grouped


def rows(frame: pd.DataFrame) -> list[Row]:
    """The rows of a table as plain dicts, with None for what is missing."""
    return list(each_row(frame))


def each_row(frame: pd.DataFrame) -> Iterator[Row]:
    """The same one by one, of tables so long that all dicts at once would fill the memory."""
    names = list(frame.columns)
    columns = [_plain(frame[name]) for name in names]
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _plain(column: pd.Series[Any]) -> list[object]:
    values = column.astype(object).to_numpy(copy=True)  # as objects first: to iterate over categories of text is slow
    values[column.isna().to_numpy()] = None
    plain: list[object] = values.tolist()
    return plain


def _open_runs(paths: Sequence[Path]) -> list[Run]:
    runs = sorted((_open_run(folder) for folder in _run_folders(paths)), key=lambda run: run.run_id)
    _refuse_copies(runs)
    return runs


def _run_folders(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in paths:
        for folder in _folders_at(path):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _folders_at(path: Path) -> list[Path]:
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise ResultsError(f"{path} {problem}.", remedy="Name a run's folder, or the root that holds them.")
    if (path / "run.json").is_file():
        return [path]
    children = sorted(child for child in path.iterdir() if child.is_dir())
    runs = [child for child in children if (child / "run.json").is_file()]
    if not runs:
        there = _listed(sorted(child.name for child in path.iterdir())) or "nothing"
        raise ResultsError(
            f"{path} holds no results: looked for run.json in it and in its {len(children)} folders, found {there}.",
            remedy="Make results with `python -m harness.run`.",
        )
    return runs


def _listed(names: Iterable[object], limit: int = 8) -> str:
    texts = [cli.printable(str(name)) for name in names]
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")


def _open_run(folder: Path) -> Run:
    info = read_json(folder / "run.json")
    schema, run_id = info.get("schema"), info.get("run_id")
    if not isinstance(schema, int) or isinstance(schema, bool) or not _is_name(run_id):
        raise ResultsError(
            f"{folder / 'run.json'} is not of a fedmeter run: no integer 'schema' and text 'run_id' in it.",
            remedy="Move that folder out of the results.",
        )
    if schema > SCHEMA_VERSION:
        raise ResultsError(
            f"{folder / 'run.json'} has schema {schema}; this version reads up to {SCHEMA_VERSION}.",
            remedy=f"Use the fedmeter that wrote it ({info.get('fedmeter', 'a newer one')}) or later.",
        )
    return Run(str(run_id), folder, info, _clock(folder, info), interrupted=not (folder / "end.json").is_file())


def _clock(folder: Path, info: Row) -> str:
    clock = info.get("clock", SYSTEM)
    if clock not in (SYSTEM, SIMULATED):
        raise ResultsError(
            f"{folder / 'run.json'}: clock {clock!r:.40} is unknown, so nobody can tell if its times are measured.",
            remedy=f"It must be {SYSTEM} or {SIMULATED}; use the fedmeter that wrote it, or a later one.",
        )
    return str(clock)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _refuse_copies(runs: Sequence[Run]) -> None:
    seen: dict[str, Path] = {}
    for run in runs:
        if run.run_id in seen:
            raise ResultsError(
                f"{seen[run.run_id]} and {run.path} are the same run {run.run_id}: it would count twice.",
                remedy="Move one of them out of the results.",
            )
        seen[run.run_id] = run.path


def read_json(path: Path) -> Row:
    """One JSON object of at most 16 MiB. Raises ResultsError naming the file."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        if not isinstance(value, dict):
            raise ValueError(f"not a JSON object but {type(value).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: {error}.", remedy="Restore it, or move this run out of the results.") from None
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _devices(folder: Path) -> dict[str, Mapping[str, Any]]:
    return {path.stem: read_json(path) for path in sorted((folder / "devices").glob("*.json"))}


def _frame(kind: str, records: Sequence[Row]) -> pd.DataFrame:
    """A table with every column of the kind, typed, in their order, after `run_id`."""
    series = {"run_id": pd.Series([row["run_id"] for row in records], dtype="object")}
    for column in (*KINDS[kind], *DERIVED_COLUMNS[kind]):
        values = [row.get(column.name) for row in records]
        series[column.name] = pd.Series(values, dtype=_DTYPES[column.type])
    frame: pd.DataFrame = pd.DataFrame(series)
    return frame


def write_tables(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Write tables/*.parquet into each run folder, anew from its records; paths of them and warnings.

    Raises OSError, and ResultsError as `load`.
    """
    runs = _open_runs(paths)
    made_of = [tables.source(run.path) for run in runs]  # before it is read: what is appended meanwhile outdates them
    read = [read_run(run, NO_SPANS) for run in runs]
    warnings = _results(runs, read, NO_SPANS).warnings
    written = [path for one in zip(runs, made_of, read, strict=True) for path in tables.write(*one)]
    return written, warnings


def main(argv: Sequence[str] | None = None) -> int:
    made = cli.parser("analysis.load", "Write the tables of each run as Parquet files.")
    return cli.run(made, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    paths, warnings = write_tables(arguments.results)
    cli.say(*(f"note: {warning}" for warning in warnings))
    written = [str(path) for path in paths]
    print(json.dumps({"tables": written}) if arguments.json else "\n".join(written))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The only reader of results folders: run folders in, checked tables out.

    python -m analysis.load results/        # writes tables/{spans,rounds,tasks}.parquet into each run folder

Of one (task, round) the records of the highest attempt that has a `round` record count; spans and failures belong to
(task, attempt, round). A task is finished where a `task_finished` record says completed and its rounds are all there.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import cli
from analysis.files import write_atomically
from analysis.idle import IdlePower, idle_powers, net_energy
from analysis.parquet import DERIVED_COLUMNS, parquet
from profiler.errors import ResultsError
from profiler.records import KINDS, SCHEMA_VERSION, Row, TornLine, read_lines

MAX_JSON_BYTES = 16 * 1024 * 1024
SYSTEM, SIMULATED = "system", "simulated"
"""The clocks of run.json: the machine's own, by which times are measured, or a model's."""
_DTYPES = {"int": "Int64", "float": "float64", "bool": "boolean", "str": "object", "floats": "object", "json": "object"}


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder: `info` is its run.json, `clock` is in it; `interrupted` where end.json is absent."""

    run_id: str
    path: Path
    info: Mapping[str, Any]
    clock: str
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Results:
    """Everything usable of some run folders, as tables with the columns of `records.KINDS` and `run_id`.

    `rounds`, `spans` and `failures` hold what counts: one attempt a round. `tasks` has all tasks of the plans, with
    `finished`. `devices` maps run id to device id to what devices/<id>.json says. `warnings` are sentences.
    """

    runs: list[Run]
    tasks: pd.DataFrame
    rounds: pd.DataFrame
    spans: pd.DataFrame
    failures: pd.DataFrame
    devices: dict[str, dict[str, Mapping[str, Any]]]
    warnings: list[str]


def load(paths: Sequence[Path]) -> Results:
    """Read run folders, or roots of many. Raises ResultsError on what is missing, foreign, newer or damaged."""
    runs = [_open_run(folder) for folder in _run_folders(paths)]
    _refuse_copies(runs)
    read = [_read_run(run) for run in runs]
    warnings = [warning for one in read for warning in one.warnings]
    if not any(row["finished"] for one in read for row in one.tasks):
        due = sum(len(one.tasks) for one in read)
        raise ResultsError(
            f"no finished task in {_listed(run.path for run in runs)}: {due} planned, none completed."
            + "".join(f" {warning}" for warning in warnings),
            remedy="Let a run finish, or finish it with `python -m harness.run --resume DIR`.",
        )
    return Results(
        runs=runs,
        tasks=_frame("task", [row for one in read for row in one.tasks]),
        rounds=_frame("round", [row for one in read for row in one.rounds]),
        spans=_frame("span", [row for one in read for row in one.spans]),
        failures=_frame("failure", [row for one in read for row in one.failures]),
        devices={run.run_id: _devices(run.path) for run in runs},
        warnings=warnings,
    )


def rows(frame: pd.DataFrame) -> list[Row]:
    """The rows of a table as plain dicts, with None for what is missing."""
    columns = {name: [_plain(value) for value in frame[name].tolist()] for name in frame.columns}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(value: object) -> object:
    if value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return value


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


@dataclass(slots=True)
class _Read:
    """What one run folder gave. Filled while its files are read."""

    tasks: list[Row] = field(default_factory=list)
    rounds: list[Row] = field(default_factory=list)
    spans: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def _read_run(run: Run) -> _Read:
    read = _Read()
    plan = {}
    if (run.path / "plan.jsonl").is_file():
        for row in _lines(run.path / "plan.jsonl", read.warnings):
            plan[row["task"]] = _checked_task(run.path / "plan.jsonl", row)
    else:
        read.warnings.append(f"{run.path} has no plan.jsonl: it was stopped before it began.")
    records = _records(run, plan, read.warnings)
    powers = idle_powers(records["idle"])
    counting = _counting_attempts(run, records["round"])
    for kind, kept in (("round", read.rounds), ("span", read.spans), ("failure", read.failures)):
        for row in records[kind]:
            if row.get("round") is None or counting.get((row["task"], row["round"])) == row["attempt"]:
                kept.append({**row, "run_id": run.run_id, **_net_columns(run, row, powers)})
    read.rounds.sort(key=lambda row: (row["task"], row["round"]))
    read.tasks = _judge_tasks(run, plan, records["task_finished"], counting, read.warnings)
    _note_unfinished(run, read)
    return read


def _net_columns(run: Run, row: Row, powers: Mapping[str, IdlePower]) -> Row:
    try:
        net_j, net_err_j = net_energy(row, powers)
    except ValueError as error:
        raise ResultsError(
            f"{run.path}: a {row['kind']} record of round {row.get('round')}: {error}.",
            remedy="Restore the file from a copy, or move this run's folder out of the results.",
        ) from None
    return {"energy_net_j": net_j, "energy_net_err_j": net_err_j}


def _lines(path: Path, warnings: list[str]) -> list[Row]:
    torn = TornLine()
    lines = list(read_lines(path, torn))
    if torn.path is not None:
        warnings.append(f"{path}: its last line is torn ({torn.n_bytes} bytes without an end) and was left out.")
    return lines


def _checked_task(path: Path, row: Row) -> Row:
    """A line of plan.jsonl whose JSON columns have the right inner shape too, with what is left out written out."""
    if row["kind"] != "task":
        raise ResultsError(f"{path}: a {row['kind']} record among the tasks.", remedy="Restore the file from a copy.")
    cutoffs = row.get("cutoffs") or {}
    good = isinstance(cutoffs, dict) and all(
        isinstance(cutoff, dict)
        and isinstance(cutoff.get("kind"), str)
        and isinstance(tau_s := cutoff.get("tau_s"), (int, float))
        and not isinstance(tau_s, bool)
        and 0 <= tau_s < float("inf")
        for cutoff in cutoffs.values()
    )
    if not good or not isinstance(row["processors"], dict):
        raise ResultsError(
            f"{path}: task {cli.printable(row['task'])}: processors must map labels to counts, cutoffs labels to "
            "{tau_s, kind}.",
            remedy="Restore the file from a copy, or move this run's folder out of the results.",
        )
    return {**row, "cutoffs": cutoffs, "training": row.get("training") is not False}


def _records(run: Run, plan: Mapping[str, Row], warnings: list[str]) -> dict[str, list[Row]]:
    by_kind: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for path in sorted((run.path / "records").glob("*.jsonl")):
        for row in _lines(path, warnings):
            if row["kind"] != "idle" and (row["kind"] == "task" or row["task"] not in plan):
                raise ResultsError(
                    f"{path}: a {row['kind']} record of task {cli.printable(row['task'])}, which is not due here.",
                    remedy=f"It must be a task of {run.path / 'plan.jsonl'}; remove the foreign file.",
                )
            by_kind[row["kind"]].append(row)
    _refuse_duplicate_spans(run, by_kind["span"])
    return by_kind


def _refuse_duplicate_spans(run: Run, spans: Iterable[Row]) -> None:
    keys = ("task", "attempt", "round", "device", "call", "name", "span_id")
    counts = Counter(tuple(row.get(key) for key in keys) for row in spans)
    for key, count in counts.items():
        if count > 1:
            raise ResultsError(
                f"{run.path}: span {key[-1]} ({key[-2]} of {key[3]}, round {key[2]}) is recorded {count} times.",
                remedy="Remove the copied file from its records folder.",
            )


def _counting_attempts(run: Run, rounds: Iterable[Row]) -> dict[tuple[str, int], int]:
    """(task, round) -> the highest attempt that has a round record."""
    seen: set[tuple[str, int, int]] = set()
    counting: dict[tuple[str, int], int] = {}
    for row in rounds:
        key = (row["task"], row["round"])
        if (*key, row["attempt"]) in seen:
            raise ResultsError(
                f"{run.path}: round {row['round']} of task {row['task']}, attempt {row['attempt']}, is recorded twice.",
                remedy="Remove the copied file from its records folder.",
            )
        seen.add((*key, row["attempt"]))
        counting[key] = max(counting.get(key, 0), row["attempt"])
    return counting


def _judge_tasks(
    run: Run,
    plan: Mapping[str, Row],
    finished: Iterable[Row],
    counting: Mapping[tuple[str, int], int],
    warnings: list[str],
) -> list[Row]:
    due = {row["task"]: row["rounds_done"] for row in finished if row["status"] == "completed"}
    recorded = Counter(task for task, _ in counting)
    tasks = []
    for task, row in plan.items():
        n_rounds = recorded[task]
        whole = task in due and n_rounds == due[task] and n_rounds > 0
        if task in due and not whole:
            warnings.append(
                f"{run.path}: task {task} says {due[task]} rounds done but {n_rounds} are on record: it is left out, "
                "for its sums would be too small."
            )
        experiment = run.info.get("experiment")
        derived = {
            "finished": whole,
            "n_recorded_rounds": n_rounds,
            "clock": run.clock,
            "experiment": experiment if isinstance(experiment, str) else None,
        }
        tasks.append({**row, "run_id": run.run_id, **derived})
    return tasks


def _note_unfinished(run: Run, read: _Read) -> None:
    unfinished = [row for row in read.tasks if not row["finished"]]
    due = run.info.get("n_tasks")
    if isinstance(due, int) and due != len(read.tasks):
        read.warnings.append(f"{run.path}: run.json says {due} tasks are due, plan.jsonl has {len(read.tasks)}.")
    if unfinished or run.interrupted:
        n_rounds = sum(row["n_recorded_rounds"] for row in unfinished)
        state = "interrupted (no end.json)" if run.interrupted else "ended"
        read.warnings.append(
            f"{run.path}: {state}; {len(read.tasks) - len(unfinished)} of {len(read.tasks)} tasks are finished and "
            f"used, {n_rounds} rounds of unfinished tasks are left out."
        )


def _frame(kind: str, records: Sequence[Row]) -> pd.DataFrame:
    """A table with every column of the kind, typed, in their order, after `run_id`."""
    series = {"run_id": pd.Series([row["run_id"] for row in records], dtype="object")}
    for column in (*KINDS[kind], *DERIVED_COLUMNS[kind]):
        values = [row.get(column.name) for row in records]
        series[column.name] = pd.Series(values, dtype=_DTYPES[column.type])
    frame: pd.DataFrame = pd.DataFrame(series)
    return frame


def write_tables(results: Results) -> list[Path]:
    """Write tables/{spans,rounds,tasks}.parquet into each run folder. Raises OSError."""
    written = []
    for run in results.runs:
        for kind, frame in (("span", results.spans), ("round", results.rounds), ("task", results.tasks)):
            path = run.path / "tables" / f"{kind}s.parquet"
            own = rows(frame[frame["run_id"] == run.run_id])
            write_atomically(path, parquet(kind, own))
            written.append(path)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    made = cli.parser("analysis.load", "Write the tables of each run as Parquet files.")
    return cli.run(made, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    results = load(arguments.results)
    cli.say(*(f"note: {warning}" for warning in results.warnings))
    written = [str(path) for path in write_tables(results)]
    print(json.dumps({"tables": written}) if arguments.json else "\n".join(written))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The records of one run folder: plan, rounds, failures, spans, of the attempts that count.

Of one (task, round) the records of the highest attempt that has a `round` record count; spans and failures belong to
(task, attempt, round). A task is finished where a `task_finished` record says completed and its rounds are all there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.cli import printable
from analysis.idle import IdlePower, idle_powers, net_energies, net_energy
from analysis.record_files import Part, read_parts
from analysis.spans import (
    UNIQUE,
    SpanSelection,
    SpansInMemory,
    SpanSource,
    counting_by_task,
    finished,
    that_count,
)
from profiler.errors import ResultsError
from profiler.records import Row, TornLine, read_lines

_RESTORE = "Restore the file from a copy, or move this run's folder out of the results."
_UNCOPY = "Remove the copied file from its records folder."


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder: `info` is its run.json, `clock` is in it; `interrupted` where end.json is absent."""

    run_id: str
    path: Path
    info: Mapping[str, Any]
    clock: str
    interrupted: bool


@dataclass(slots=True)
class RunRecords:
    """What one run folder gave. Each warning follows the path of the run."""

    tasks: list[Row] = field(default_factory=list)
    rounds: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)
    spans: SpanSource = field(default_factory=SpansInMemory)
    idle: dict[str, IdlePower] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_run(run: Run, selection: SpanSelection) -> RunRecords:
    """Everything that counts, with the selected spans. Raises ResultsError on what is foreign or damaged."""
    read = RunRecords()
    plan = _plan(run, read.warnings)
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    batches: list[pa.RecordBatch] = []
    digests: list[npt.NDArray[np.int64]] = []
    for part in _parts(run, plan, selection, read.warnings):
        for kind, of_kind in part.rows.items():
            rows[kind] += of_kind
        batches += part.spans
        digests.append(part.digests)
    _refuse_duplicate_spans(run, digests)
    read.idle = idle_powers(rows["idle"])
    attempts = _counting_attempts(run, rows["round"])
    for kind, kept in (("round", read.rounds), ("failure", read.failures)):
        for row in rows[kind]:
            if row.get("round") is None or attempts.get((row["task"], row["round"])) == row["attempt"]:
                kept.append({**row, "run_id": run.run_id, **_net_columns(run, row, read.idle)})
    read.rounds.sort(key=lambda row: (row["task"], row["round"]))
    read.spans = SpansInMemory(list(_counting_spans(run, batches, selection, attempts, read.idle)))
    read.tasks = _judge_tasks(run, plan, rows["task_finished"], attempts, read.warnings)
    _note_unfinished(run, read)
    return read


def stream_spans(
    run: Run, tasks: Iterable[Row], rounds: Iterable[Row], idle: Mapping[str, IdlePower], selection: SpanSelection
) -> Iterator[pa.Table]:
    """The selected spans anew from the records, a batch at a time; all else is as `read_run` gave it."""
    due = {row["task"]: row for row in tasks}
    attempts = {(row["task"], row["round"]): row["attempt"] for row in rounds}
    for part in _parts(run, due, selection, []):
        yield from _counting_spans(run, part.spans, selection, attempts, idle)


def _counting_spans(
    run: Run,
    batches: Iterable[pa.RecordBatch],
    selection: SpanSelection,
    attempts: Mapping[tuple[str, int], int],
    powers: Mapping[str, IdlePower],
) -> Iterator[pa.Table]:
    counting = counting_by_task(attempts)

    def net(batch: pa.RecordBatch) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        gross = [batch[name].to_numpy(zero_copy_only=False) for name in ("energy_j", "energy_err_j")]
        with _naming(run, "span"):
            return net_energies(gross[0], gross[1], batch["idle_s"].to_pylist(), powers)

    for batch in batches:
        counted = that_count(batch, counting)
        if len(counted):
            yield finished(counted, run.run_id, selection, net)


def _plan(run: Run, warnings: list[str]) -> dict[str, Row]:
    path = run.path / "plan.jsonl"
    if not path.is_file():
        warnings.append(" has no plan.jsonl: it was stopped before it began.")
        return {}
    torn = TornLine()
    plan = {row["task"]: checked for row in read_lines(path, torn) if (checked := _checked_task(path, row))}
    _warn_of_torn(run, torn, warnings)
    return plan


def _warn_of_torn(run: Run, torn: TornLine, warnings: list[str]) -> None:
    if torn.path is not None:
        where = torn.path.relative_to(run.path)
        warnings.append(f"/{where}: its last line is torn ({torn.n_bytes} bytes without an end) and was left out.")


def _parts(run: Run, plan: Mapping[str, Row], selection: SpanSelection, warnings: list[str]) -> Iterator[Part]:
    """All parts of the records, none of them of a task that is not due."""
    for part in read_parts(run.path, selection):
        _warn_of_torn(run, part.torn, warnings)
        tasks = {(kind, str(row["task"])) for kind, of_kind in part.rows.items() for row in of_kind if kind != "idle"}
        for kind, task in sorted({*tasks, *(("span", task) for task in part.span_tasks)}):
            if kind == "task" or task not in plan:
                raise ResultsError(
                    f"{part.path}: a {kind} record of task {printable(task)}, which is not due here.",
                    remedy=f"It must be a task of {run.path / 'plan.jsonl'}; remove the foreign file.",
                )
        yield part


def _net_columns(run: Run, row: Row, powers: Mapping[str, IdlePower]) -> Row:
    with _naming(run, f"{row['kind']} record of round {row.get('round')}"):
        net_j, net_err_j = net_energy(row, powers)
    return {"energy_net_j": net_j, "energy_net_err_j": net_err_j}


@contextmanager
def _naming(run: Run, what: str) -> Iterator[None]:
    """Say of what a ValueError is, as a ResultsError."""
    try:
        yield
    except ValueError as error:
        raise ResultsError(f"{run.path}: a {what}: {error}.", remedy=_RESTORE) from None


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
            f"{path}: task {printable(row['task'])}: processors must map labels to counts, cutoffs labels to "
            "{tau_s, kind}.",
            remedy=_RESTORE,
        )
    return {**row, "cutoffs": cutoffs, "training": row.get("training") is not False}


def _refuse_duplicate_spans(run: Run, digests: Sequence[npt.NDArray[np.int64]]) -> None:
    """Two spans of one digest are most likely one span twice; which one, the records tell."""
    distinct, counts = np.unique(np.concatenate([np.empty(0, np.int64), *digests]), return_counts=True)
    doubled = distinct[counts > 1]
    if not doubled.size:
        return
    keys: Counter[tuple[object, ...]] = Counter()
    for part in read_parts(run.path, SpanSelection(UNIQUE)):
        alike = pa.array(np.isin(part.digests, doubled))
        spans = pa.Table.from_batches(part.spans).select(UNIQUE).filter(alike) if part.spans else None
        keys.update(tuple(row.values()) for row in (spans.to_pylist() if spans else ()))
    for key, count in keys.items():
        if count > 1:
            raise ResultsError(
                f"{run.path}: span {key[-1]} ({key[-2]} of {key[3]}, round {key[2]}) is recorded {count} times.",
                remedy=_UNCOPY,
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
                remedy=_UNCOPY,
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
                f": task {task} says {due[task]} rounds done but {n_rounds} are on record: it is left out, "
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


def _note_unfinished(run: Run, read: RunRecords) -> None:
    unfinished = [row for row in read.tasks if not row["finished"]]
    due = run.info.get("n_tasks")
    if isinstance(due, int) and due != len(read.tasks):
        read.warnings.append(f": run.json says {due} tasks are due, plan.jsonl has {len(read.tasks)}.")
    if unfinished or run.interrupted:
        n_rounds = sum(row["n_recorded_rounds"] for row in unfinished)
        state = "interrupted (no end.json)" if run.interrupted else "ended"
        read.warnings.append(
            f": {state}; {len(read.tasks) - len(unfinished)} of {len(read.tasks)} tasks are finished and "
            f"used, {n_rounds} rounds of unfinished tasks are left out."
        )

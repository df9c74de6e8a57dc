"""What a run comes to, task by task: for the closing table, for --json and for end.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.plan import Task
from harness.progress import energy_text
from harness.store import Done
from profiler.quantities import BELOW_RESOLUTION, Provenance, weakest
from profiler.records import Row


def summary_json(folder: Path, tasks: Sequence[Task], done: Done) -> dict[str, Any]:
    """One object: the folder, each task's totals, and every failure."""
    return {
        "run_id": folder.name,
        "folder": str(folder),
        "tasks": [_task(task, done) for task in tasks],
        "failures": [
            {key: row[key] for key in ("task", "round", "device", "phase", "reason", "detail") if row.get(key)}
            for row in done.failures
        ],
    }


def summary_rows(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The closing table's rows."""
    return [
        {
            "task": task["label"],
            "seed": str(task["seed"]),
            "rounds": f"{task['rounds_done']}/{task['rounds']}",
            "accuracy": "-" if task["accuracy"] is None else f"{task['accuracy']:.3f}",
            "time_s": f"{task['time_s']:.1f}",
            "energy": energy_text(task),
            "failures": f"{task['failures']}, {task['late']} late" if task["late"] else str(task["failures"]),
        }
        for task in summary["tasks"]
    ]


def _task(task: Task, done: Done) -> dict[str, Any]:
    rounds = [row for _, row in sorted(done.rounds.get(task.id, {}).items())]
    energy_j, missing = _sum(rounds, "energy_j")
    energy_err_j, _ = _sum(rounds, "energy_err_j")
    return {
        "task": task.id,
        "label": task.label,
        "epochs": task.epochs,
        "clients": task.clients,
        "seed": task.seed,
        "cutoffs": task.tau_s,
        "rounds": task.rounds,
        "rounds_done": len(rounds),
        "status": "completed" if task.id in done.finished else "unfinished",
        "accuracy": rounds[-1].get("accuracy") if rounds else None,
        "time_s": math.fsum(row["time_s"] for row in rounds),
        "energy_j": energy_j,
        "energy_err_j": energy_err_j if energy_j is not None else None,
        "provenance": weakest(Provenance(row["provenance"]) for row in rounds).value,
        "energy_reason": missing or _doubts(rounds),
        "failures": sum(row["task"] == task.id for row in done.failures),
        "late": done.late.get(task.id, 0),
    }


def _doubts(rounds: Sequence[Row]) -> str | None:
    n_short = sum(BELOW_RESOLUTION in (row.get("energy_reason") or "") for row in rounds)
    return f"{BELOW_RESOLUTION}: {n_short} of {len(rounds)} rounds" if n_short else None


def _sum(rounds: Sequence[Row], name: str) -> tuple[float | None, str | None]:
    """The sum over rounds, or None and the reason where a round has none: missing is never a smaller total."""
    for row in rounds:
        if row.get(name) is None:
            return None, row.get("energy_reason") or f"round {row['round']} has no {name}"
    return (math.fsum(row[name] for row in rounds), None) if rounds else (None, "no round was finished")

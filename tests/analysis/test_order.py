"""No result depends on the order of records, on which file they are in, or on the names and order of run folders."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from analysis import cutoff, pareto, report
from profiler.records import Row
from tests.fixtures.large_results import Size, write_large


def rewritten(folder: Path, run_id: str, rng: random.Random) -> None:
    """Durations and joules that no two spans share, whose sums depend on their order in the last bits."""
    records = folder / "records" / "server.jsonl"
    rows: list[Row] = [json.loads(line) for line in records.read_bytes().splitlines()]
    for row in rows:
        if row["kind"] == "span":
            row["duration_s"] *= rng.uniform(0.5, 1.5)
            row["energy_j"] = rng.uniform(0.1, 1.0)
            if row["name"] == "fit" and rng.random() < 0.3:
                row["steps_done"] = rng.randint(1, row["steps_planned"])
    evaluated = [
        {**row, "name": "evaluate", "call": "evaluate", "span_id": f"e{row['span_id']}", "accuracy": rng.random()}
        for row in rows
        if row["kind"] == "span" and row["name"] == "fit"
    ]
    records.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *evaluated]))
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, "run_id": run_id}))


def shuffled(folder: Path, rng: random.Random) -> None:
    """The same records in another order, in two files."""
    records = folder / "records" / "server.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    rng.shuffle(lines)
    cut = rng.randrange(len(lines))
    records.write_bytes(b"".join(lines[:cut]))
    records.with_name("another.jsonl").write_bytes(b"".join(lines[cut:]))


def told(root: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> list[Row]:
    said = []
    commands: Sequence[tuple[object, list[str]]] = [
        (pareto.main, ["-o", str(out)]),
        (cutoff.main, []),
        (report.main, ["-o", str(out / "report.html")]),
    ]
    for main, options in commands:
        assert main([str(root), "--json", *options]) == 0  # type: ignore[operator]
        said.append({**json.loads(capsys.readouterr().out), "wall_time": None})
    return said


def test_nothing_depends_on_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(7)
    for run_id in ("first", "second"):
        rewritten(write_large(tmp_path / "made", Size(tasks=3, rounds=3, clients=2)).path, run_id, rng)
        shutil.move(tmp_path / "made" / "large", tmp_path / "results" / run_id)
    expected = told(tmp_path / "results", tmp_path / "out", capsys)
    for number, run_id in enumerate(("second", "first")):
        shutil.copytree(tmp_path / "results" / run_id, copy := tmp_path / "copies" / f"{number}-copy")
        shuffled(copy, rng)
    assert told(tmp_path / "copies", tmp_path / "out", capsys) == expected

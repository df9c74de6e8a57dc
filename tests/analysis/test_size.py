"""Reading much with little: selected columns, stretches of files, several processes, derived tables."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import cutoff, pareto
from analysis import load as load_main
from analysis.load import load, rows, write_tables
from analysis.record_files import read_part, read_parts, stretches_of
from analysis.spans import ALL_SPANS, FIT_CALLS, FIT_WORK, NO_SPANS, SpanSelection
from analysis.windows import fit_windows
from profiler.errors import ResultsError
from tests.fixtures.large_results import Size, write_large
from tests.fixtures.results_folder import Client, RunFolder, Task, fit_rows, round_row

SMALL = Size(tasks=6, rounds=3, clients=4)


def documents(root: Path, capsys: pytest.CaptureFixture[str]) -> list[object]:
    """What both analyses say of some results, but for when they said it."""
    said = []
    for main in (pareto.main, cutoff.main):
        assert main([str(root), "--json"]) == 0
        said.append({**json.loads(capsys.readouterr().out), "wall_time": None})
    return said


def record_lines(folder: RunFolder) -> list[bytes]:
    return folder.records.read_bytes().splitlines(keepends=True)


# Selected columns


def test_a_selection_has_the_same_values_as_the_whole(tmp_path: Path) -> None:
    folder = write_large(tmp_path, SMALL)
    whole = load([folder.path]).spans
    for selection in (FIT_WORK, FIT_CALLS):
        assert selection.names is not None
        some = load([folder.path], selection).spans
        expected = rows(whole[whole["name"].isin(selection.names)][list(selection.kept)])
        assert rows(some) == expected


def test_a_selection_keeps_repeated_text_once(tmp_path: Path) -> None:
    spans = load([write_large(tmp_path, SMALL).path], FIT_CALLS).spans
    assert {str(spans[name].dtype) for name in ("run_id", "task", "device", "processor", "name")} == {"category"}


def test_no_spans_are_still_checked(tmp_path: Path) -> None:
    folder = write_large(tmp_path, SMALL)
    assert len(load([folder.path], NO_SPANS).spans) == 0
    lines = record_lines(folder)
    folder.records.write_bytes(b"".join([*lines, lines[5]]))
    with pytest.raises(ResultsError, match="is recorded 2 times"):
        load([folder.path], NO_SPANS)
    folder.records.write_bytes(b"".join(lines).replace(b'"task":"t0"', b'"task":"stranger"', 1))
    with pytest.raises(ResultsError, match="a span record of task stranger"):
        load([folder.path], NO_SPANS)


def test_only_the_attempt_that_counts_is_kept_of_a_selection(tmp_path: Path) -> None:
    """Attempt 1 broke off in round 2 before its record; attempt 2 did the rounds 2 and 3."""
    folder = RunFolder(tmp_path)
    fit = Client("d", "cpu", 1.0, steps_done=1, steps_planned=2)
    task, again = Task("t", rounds=3, fits=[fit], finished=False), Task("t", rounds=3, attempt=2)
    folder.write([task])
    lines = record_lines(folder)
    kept = [line for line in lines if json.loads(line).get("round") in (None, 1)]
    broken = [line for line in lines if json.loads(line).get("round") == 2 and b'"kind":"span"' in line]
    folder.records.write_bytes(b"".join(kept + broken))
    whole = Client("d", "cpu", 1.0, steps_done=2, steps_planned=2)
    for round_ in (2, 3):
        folder.append(*fit_rows(again, round_, whole), round_row(again, round_))
    folder.append({"kind": "task_finished", "task": "t", "attempt": 2, "status": "completed", "rounds_done": 3})
    spans = load([tmp_path], FIT_WORK).spans
    assert [(row["round"], row["steps_done"]) for row in rows(spans)] == [(1, 1), (2, 2), (3, 2)]


# A part of very many calls


def at_most(max_calls: int) -> SpanSelection:
    return replace(FIT_CALLS, max_calls=max_calls)


def test_of_very_many_calls_every_kth_round_is_used_and_that_is_said(tmp_path: Path) -> None:
    folder = write_large(tmp_path, Size(tasks=3, rounds=6, clients=4))
    whole, part = load([folder.path], FIT_CALLS), load([folder.path], at_most(36))
    assert part.warnings == ["of 72 fit calls 36 are used, those of one round in 2."]
    assert sorted(set(part.spans["round"])) == [2, 4, 6]
    assert len(part.spans) * 2 == len(whole.spans)
    assert len(part.rounds) == len(whole.rounds)
    groups, _ = fit_windows(part)
    assert {len(one.windows) for by_processor in groups.values() for one in by_processor.values()} == {6}


def test_no_task_is_left_without_a_round(tmp_path: Path) -> None:
    RunFolder(tmp_path, "short").write([Task("x", rounds=2, fits=[Client("d", "cpu", 1.0)])])
    part = load([write_large(tmp_path, SMALL).path, tmp_path / "short"], at_most(5))
    assert set(part.spans["task"]) == {"x", *(f"t{n}" for n in range(6))}


def test_of_fewer_calls_all_are_used(tmp_path: Path) -> None:
    whole, part = load([write_large(tmp_path, SMALL).path]), load([tmp_path], FIT_CALLS)
    assert part.warnings == []
    for group, by_processor in fit_windows(whole)[0].items():
        for name, windows in by_processor.items():
            found = fit_windows(part)[0][group][name]
            assert found.windows_s.tolist() == windows.windows_s.tolist()
            assert found.comms_s.tolist() == windows.comms_s.tolist()
            assert found.n_without_steps == windows.n_without_steps == 0


# Stretches and processes


@given(st.lists(st.binary(max_size=30).map(lambda text: text.replace(b"\n", b"")), max_size=20), st.integers(1, 64))
def test_stretches_are_whole_lines_and_cover_the_file_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], part_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("stretches") / "records.jsonl"
    path.write_bytes(b"\n".join(lines))
    content, at = path.read_bytes(), 0
    for stretch in stretches_of(path, part_bytes):
        assert stretch.start == at < stretch.stop
        assert at == 0 or content[at - 1 : at] == b"\n"
        at = stretch.stop
    assert at == len(content)


def test_a_file_in_stretches_is_the_file(tmp_path: Path) -> None:
    folder = write_large(tmp_path, SMALL)
    [whole] = [read_part(stretch, ALL_SPANS) for stretch in stretches_of(folder.records)]
    parts = [read_part(stretch, ALL_SPANS) for stretch in stretches_of(folder.records, 10_000)]
    assert len(parts) > 10
    assert np.concatenate([part.digests for part in parts]).tolist() == whole.digests.tolist()
    assert [row for part in parts for row in part.rows.get("round", [])] == whole.rows["round"]
    batches = [row for part in parts for batch in part.spans for row in batch.to_pylist()]
    assert batches == [row for batch in whole.spans for row in batch.to_pylist()]


def test_an_error_in_a_later_stretch_names_its_line_in_the_file(tmp_path: Path) -> None:
    folder = write_large(tmp_path, SMALL)
    lines = record_lines(folder)
    lines[299] = b'{"kind":"span","task":"t1"}\n'
    folder.records.write_bytes(b"".join(lines))
    parts = (read_part(stretch, NO_SPANS) for stretch in stretches_of(folder.records, 10_000))
    with pytest.raises(ResultsError, match=r"server\.jsonl, line 300: a span record needs"):
        list(parts)


@pytest.mark.serial
def test_several_processes_read_the_same_and_say_what_is_wrong(tmp_path: Path) -> None:
    folder = write_large(tmp_path, SMALL)
    alone = [part.digests.tolist() for part in read_parts(folder.path, FIT_WORK)]
    together = list(read_parts(folder.path, FIT_WORK, n_workers=2, parallel_from_bytes=0))
    assert [part.digests.tolist() for part in together] == alone
    with folder.records.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(ResultsError, match=r"line \d+: unknown record kind None") as caught:
        list(read_parts(folder.path, FIT_WORK, n_workers=2, parallel_from_bytes=0))
    assert caught.value.remedy


# Derived tables


def test_the_analyses_say_the_same_of_tables_as_of_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_large(tmp_path, SMALL)
    of_records = documents(tmp_path, capsys)
    write_tables([tmp_path])
    times = folder.records.stat()
    folder.records.write_bytes(b"#" * times.st_size)  # so that nobody can have read them
    os.utime(folder.records, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert documents(tmp_path, capsys) == of_records


@pytest.mark.parametrize("change", ["appended", "touched", "end", "torn", "foreign", "older"])
def test_tables_that_do_not_fit_their_records_are_not_read(tmp_path: Path, change: str) -> None:
    folder = write_large(tmp_path, SMALL)
    write_tables([tmp_path])
    table = folder.path / "tables" / "rounds.parquet"
    wrong = pq.read_table(table)
    wrong = wrong.set_column(wrong.schema.get_field_index("time_s"), wrong.schema.field("time_s"), pa.array([9e9] * 18))
    pq.write_table(wrong, table)
    assert load([tmp_path]).rounds["time_s"].min() == 9e9, "up to now they are read"
    if change == "appended":
        folder.append({"kind": "failure", "task": "t0", "attempt": 1, "phase": "fit", "reason": "gone"})
    elif change == "touched":
        os.utime(folder.records, ns=(1, 1))
    elif change == "end":
        (folder.path / "end.json").unlink()
    elif change == "torn":
        table.write_bytes(table.read_bytes()[:-9])
    elif change == "foreign":
        table.write_text("no Parquet")
    else:
        pq.write_table(wrong.drop_columns(["loss"]), table)
    results = load([tmp_path])
    assert results.rounds["time_s"].max() < 100
    assert len(results.failures) == (1 if change == "appended" else 0)


def test_warnings_failures_and_idle_power_are_in_the_tables(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t1"), Task("t2", finished=False)], ended=False)
    folder.append({"kind": "failure", "task": "t1", "attempt": 1, "round": 1, "phase": "fit", "reason": "gone"})
    with folder.records.open("ab") as file:
        file.write(b'{"torn')
    before = load([tmp_path])
    write_tables([tmp_path])
    moved = folder.path.rename(tmp_path / "moved")
    after = load([moved])
    assert after.warnings == [warning.replace(str(folder.path), str(moved)) for warning in before.warnings]
    assert len(after.warnings) == 2
    assert rows(after.failures) == rows(before.failures)
    assert after.idle == before.idle
    assert rows(after.tasks) == rows(before.tasks)
    assert rows(after.rounds) == rows(before.rounds)


def test_one_run_with_tables_and_one_without(tmp_path: Path) -> None:
    write_tables([write_large(tmp_path, SMALL).path])
    RunFolder(tmp_path, "other").write([Task("x", fits=[Client("new", "cpu", 1.0, steps_s=[1.0])])])
    spans = load([tmp_path], FIT_CALLS).spans
    assert set(spans["run_id"]) == {"large", "other"}
    assert "new" in set(spans["device"])
    assert load_main.main([str(tmp_path)]) == 0
    assert rows(load([tmp_path], FIT_WORK).spans) == rows(spans[spans["name"] == "fit"][list(FIT_WORK.kept)])

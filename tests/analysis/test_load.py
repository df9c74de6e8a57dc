"""Every way a results folder can be wrong, and the resume semantics of a right one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from analysis.load import load, main, rows, write_tables
from analysis.runs import runs_table
from profiler.errors import ResultsError
from profiler.records import KINDS, arrow_schema, encode_line
from tests.fixtures.results_folder import Client, RunFolder, Task, round_row, task_rows

FIT = (Client("fast-1", "fast", 1.0, 0.1, [0.5, 0.5]), Client("slow-1", "slow", 2.0, 0.1, [1.0, 1.0]))


def a_run(root: Path, run_id: str = "run-a", **task: object) -> RunFolder:
    folder = RunFolder(root, run_id)
    folder.write([Task("t1", fits=FIT, **task)])
    return folder


def test_tables_have_the_explicit_columns(tmp_path: Path) -> None:
    results = load([a_run(tmp_path).path])
    net = ["energy_net_j", "energy_net_err_j"]
    assert list(results.rounds.columns) == ["run_id", *(column.name for column in KINDS["round"]), *net]
    assert list(results.spans.columns) == ["run_id", *(column.name for column in KINDS["span"]), *net]
    assert list(results.failures.columns) == ["run_id", *(column.name for column in KINDS["failure"])]
    assert len(results.rounds) == 2
    assert len(results.spans) == 2 * 2 * 5
    assert set(results.devices["run-a"]) == {"fast-1", "slow-1"}
    assert results.warnings == []


def test_records_without_the_newer_columns_load_as_not_known(tmp_path: Path) -> None:
    """The fixture's spans are as they were before a span told of GPUs and throttling."""
    newer = ["gpu_use", "gpu_temperature_c", "gpu_frequency_hz", "throttling"]
    spans = load([a_run(tmp_path).path]).spans
    assert spans[newer].isna().all(axis=None)
    [path] = [path for path in write_tables([tmp_path])[0] if path.name == "spans.parquet"]
    assert {pq.read_table(path).column(name).null_count for name in newer} == {len(spans)}


def test_a_root_of_many_ignores_other_folders_and_counts_a_path_once(tmp_path: Path) -> None:
    first = a_run(tmp_path, "run-a").path
    a_run(tmp_path, "run-b")
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "pareto.json").write_text("{}")
    results = load([tmp_path, first])
    assert sorted(run.run_id for run in results.runs) == ["run-a", "run-b"]
    assert len(results.tasks) == 2


@pytest.mark.parametrize("make", ["absent", "file", "empty", "foreign"])
def test_nothing_there(tmp_path: Path, make: str) -> None:
    path = tmp_path / "results"
    if make == "file":
        path.write_text("x")
    elif make != "absent":
        path.mkdir()
    if make == "foreign":
        (path / "holiday.jpg").write_text("x")
    with pytest.raises(ResultsError) as caught:
        load([path])
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)
    wanted = {"absent": "does not exist", "file": "not a folder", "empty": "found nothing", "foreign": "holiday.jpg"}
    assert wanted[make] in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"something": "else"}', "not of a fedmeter run"),
        ("[1]", "not a JSON object"),
        ("{", "run.json"),
        ("[" * 100_000, "run.json"),
        ('{"schema": NaN}', "NaN"),
        ('{"schema": 1, "run_id": "\\u001b[2J"}', "not of a fedmeter run"),
        ('{"schema": true, "run_id": "x"}', "not of a fedmeter run"),
        ('{"schema": 2, "run_id": "x", "fedmeter": "9.9"}', "9.9"),
    ],
)
def test_a_run_json_that_is_not_ours(tmp_path: Path, content: str, says: str) -> None:
    folder = a_run(tmp_path)
    (folder.path / "run.json").write_text(content)
    with pytest.raises(ResultsError, match=r"run\.json") as caught:
        load([tmp_path])
    assert says in str(caught.value)


@pytest.mark.parametrize(("clock", "loaded"), [(None, "system"), ("system", "system"), ("simulated", "simulated")])
def test_each_task_says_by_what_clock_it_ran(tmp_path: Path, clock: str | None, loaded: str) -> None:
    RunFolder(tmp_path, clock=clock).write([Task("t1")])
    assert load([tmp_path]).tasks["clock"].tolist() == [loaded]
    [path] = [path for path in write_tables([tmp_path])[0] if path.name == "tasks.parquet"]
    assert pq.read_table(path).column("clock").to_pylist() == [loaded]


@pytest.mark.parametrize("clock", ["sundial", None, ["simulated"]])
def test_an_unknown_clock_is_refused(tmp_path: Path, clock: object) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t1")])
    folder.write_json("run.json", folder.run_json(1) | {"clock": clock})
    with pytest.raises(ResultsError, match=r"run\.json: clock .* is unknown"):
        load([tmp_path])


@pytest.mark.parametrize(("training", "loaded"), [(None, True), (True, True), (False, False)])
def test_a_task_trains_unless_it_says_otherwise(tmp_path: Path, training: bool | None, loaded: bool) -> None:
    RunFolder(tmp_path).write([Task("t1", training=training)])
    assert load([tmp_path]).tasks["training"].tolist() == [loaded]


def test_a_torn_last_line_is_a_warning(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    with folder.records.open("ab") as file:
        file.write(b'{"kind":"round","ta')
    results = load([folder.path])
    assert len(results.rounds) == 2
    assert [warning for warning in results.warnings if "server.jsonl" in warning and "torn" in warning]


def test_a_bad_interior_line_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    lines = folder.records.read_bytes().splitlines(keepends=True)
    lines[3] = b'{"kind":"span","task":"t1"\n'
    folder.records.write_bytes(b"".join(lines))
    with pytest.raises(ResultsError, match=r"server\.jsonl, line 4"):
        load([folder.path])


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    shutil.copytree(a_run(tmp_path).path, tmp_path / "copy")
    with pytest.raises(ResultsError, match="same run run-a"):
        load([tmp_path])


def test_a_copied_records_file_is_refused(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    shutil.copy(folder.records, folder.records.with_name("server-copy.jsonl"))
    with pytest.raises(ResultsError, match="recorded 2 times"):
        load([tmp_path])


def test_a_copied_round_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t1")])
    folder.append(round_row(Task("t1"), 1))
    with pytest.raises(ResultsError, match="round 1 of task t1, attempt 1, is recorded twice"):
        load([tmp_path])


def test_records_of_a_task_that_is_not_due_are_refused(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    folder.append(*task_rows(Task("stranger")))
    with pytest.raises(ResultsError, match="stranger"):
        load([tmp_path])


@pytest.mark.parametrize(
    "cutoffs", [{"slow": 3}, {"slow": {"tau_s": -1, "kind": "fixed"}}, {"slow": {"tau_s": 1}}, [1]]
)
def test_a_plan_with_wrong_cutoffs_is_refused(tmp_path: Path, cutoffs: object) -> None:
    a_run(tmp_path, extra={"cutoffs": cutoffs})
    with pytest.raises(ResultsError, match=r"plan\.jsonl"):
        load([tmp_path])


def test_no_finished_task(tmp_path: Path) -> None:
    a_run(tmp_path, finished=False)
    with pytest.raises(ResultsError, match="no finished task") as caught:
        load([tmp_path])
    assert "1 planned" in str(caught.value)


def test_an_interrupted_run_counts_as_far_as_its_tasks_finished(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t1"), Task("t2", epochs=5, finished=False)], ended=False)
    results = load([tmp_path])
    assert rows(runs_table(results))[0]["task"] == "t1"
    assert len(runs_table(results)) == 1
    [note] = results.warnings
    assert "interrupted" in note
    assert "1 of 2 tasks" in note
    assert "2 rounds of unfinished tasks" in note


def test_a_task_with_lost_rounds_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t1"), Task("t2")])
    lines = folder.records.read_bytes().splitlines(keepends=True)
    folder.records.write_bytes(b"".join(lines[:-2] + lines[-1:]))  # t2's second round
    results = load([tmp_path])
    assert [run["task"] for run in rows(runs_table(results))] == ["t1"]
    assert "2 rounds done but 1 are on record" in results.warnings[0]


def test_the_highest_attempt_with_a_round_counts(tmp_path: Path) -> None:
    """Attempt 1 ended in round 2; attempt 2 did 2 and 3 and was cut off in 3 before its record; attempt 3 did 3."""
    folder = RunFolder(tmp_path)
    folder.write([Task("t1", rounds=3, fits=FIT, finished=False)], ended=True)
    lines = [json.loads(line) for line in folder.records.read_bytes().splitlines()]
    first = [row for row in lines if row.get("round") in (1, 2)]
    second = [{**row, "attempt": 2} for row in lines if row.get("round") in (2, 3)]
    second = [row for row in second if not (row["kind"] == "round" and row["round"] == 3)]
    third = [{**row, "attempt": 3} for row in lines if row.get("round") == 3]
    for row in second + third:
        if row["kind"] == "round":
            row["time_s"] = 1.0 * row["attempt"]
    failure = {"kind": "failure", "task": "t1", "phase": "fit", "reason": "gone", "device": "slow-1"}
    failures = [{**failure, "attempt": attempt, "round": 2} for attempt in (1, 2)]
    end = {"kind": "task_finished", "task": "t1", "attempt": 3, "status": "completed", "rounds_done": 3}
    folder.records.write_bytes(b"".join(encode_line(row) for row in [*first, *second, *third, *failures, end]))

    results = load([tmp_path])
    assert results.rounds["attempt"].tolist() == [1, 2, 3]
    assert {(row["round"], row["attempt"]) for row in rows(results.spans)} == {(1, 1), (2, 2), (3, 3)}
    [run] = rows(runs_table(results))
    assert run["time_s"] == pytest.approx(10 + 2 + 3)
    assert run["n_failures"] == 1


def test_tables_are_written_with_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_run(tmp_path)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for kind in ("span", "round", "task"):
        path = folder.path / "tables" / f"{kind}s.parquet"
        assert str(path) in out
        schema = pq.read_schema(path)
        assert [name for name in schema.names if name in arrow_schema(kind).names] == arrow_schema(kind).names
        assert schema.names[0] == "run_id"
    assert pq.read_schema(folder.path / "tables" / "rounds.parquet").field("time_s").metadata[b"unit"] == b"s"
    spans = pq.read_table(folder.path / "tables" / "spans.parquet").to_pylist()
    assert {tuple(span["steps_s"]) for span in spans if span["name"] == "fit"} == {(0.5, 0.5), (1.0, 1.0)}
    tasks = pq.read_table(folder.path / "tables" / "tasks.parquet").to_pylist()
    assert json.loads(tasks[0]["processors"]) == {"fast": 2}
    assert not list((folder.path / "tables").glob(".*"))


def test_derived_tables_do_not_change_what_is_loaded(tmp_path: Path) -> None:
    a_run(tmp_path)
    before = load([tmp_path])
    write_tables([tmp_path])
    assert rows(load([tmp_path]).spans) == rows(before.spans)


def test_main_shows_an_error_without_traceback_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 3
    quiet = capsys.readouterr().err
    assert quiet.startswith("error: ")
    assert "Traceback" not in quiet
    assert main([str(tmp_path / "none"), "-v"]) == 3
    assert "Traceback" in capsys.readouterr().err

"""The results folder: lines that cannot be torn twice, atomic files, and what resuming finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fl.checkpoint import Checkpoint
from harness.store import MAX_LATEST_SPANS, Done, Store, cut_torn_line, new_run_id, open_for_resume
from profiler.errors import PreconditionError, ResultsError, SpecError
from profiler.records import Row, encode_line, read_lines


def task_row(task: str = "t1") -> Row:
    return {
        "kind": "task",
        "task": task,
        "workload": "digits",
        "partition": {"kind": "iid"},
        "rounds": 2,
        "epochs": 1,
        "clients": 2,
        "batch_size": 16,
        "lr": 0.1,
        "seed": 1,
        "strategy": "fedavg",
        "processors": {"cpu": 2},
    }


def round_row(round_: int, attempt: int = 1) -> Row:
    counts = {"n_selected": 2, "n_results": 2, "n_failures": 0}
    return {"kind": "round", "task": "t1", "attempt": attempt, "round": round_, "time_s": float(attempt), **counts}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "results", {"argv": []}, 'name = "x"\n', [task_row()])
    yield store
    store.close()


def records(store: Store) -> Path:
    return store.folder / "records" / "harness.jsonl"


def test_every_run_has_its_own_folder(tmp_path: Path) -> None:
    stores = [Store.create(tmp_path, {}, "", [task_row()]) for _ in range(5)]
    assert len({store.folder for store in stores}) == 5
    for store in stores:
        store.close()


def test_run_ids_sort_by_time() -> None:
    assert new_run_id(0).startswith("19700101T000000Z-")
    assert new_run_id(0) != new_run_id(0)


def test_a_torn_line_is_cut_before_the_next_is_written(store: Store) -> None:
    store.append([round_row(1)])
    with records(store).open("ab") as out:
        out.write(b'{"kind":"round","task":"t1"')
    again = Store(store.folder)
    again.append([round_row(2)])
    again.close()
    assert [row["round"] for row in read_lines(records(store))] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"\n", b"abc", b"a\n" + b"x" * 200_000, b"a\nb\n"])
def test_cutting_back_to_the_last_newline(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    cut_torn_line(path)
    assert path.read_bytes() == content[: content.rfind(b"\n") + 1]


def test_a_row_that_is_no_record_is_refused_before_anything_is_written(store: Store) -> None:
    with pytest.raises(ValueError, match="no column 'joules'"):
        store.append([round_row(1), {**round_row(2), "joules": 3.0}])
    assert records(store).read_bytes() == b""


def test_resuming_finds_what_is_done(store: Store) -> None:
    store.append(
        [
            round_row(1),
            round_row(2),
            round_row(2, attempt=2),
            {"kind": "failure", "task": "t1", "attempt": 2, "phase": "fit", "reason": "died", "device": "a"},
            {"kind": "task_finished", "task": "t1", "attempt": 2, "status": "completed", "rounds_done": 2},
        ]
    )
    run, fleet_text, plan, done = open_for_resume(store.folder)
    assert run["run_id"] == store.folder.name
    assert fleet_text == 'name = "x"\n'
    assert plan == [task_row()]
    assert done.attempts == {"t1": 2}
    assert {number: row["time_s"] for number, row in done.rounds["t1"].items()} == {1: 1.0, 2: 2.0}
    assert done.finished == {"t1"}
    assert len(done.failures) == 1


def test_a_bad_line_within_is_damage_and_named(store: Store) -> None:
    records(store).write_bytes(encode_line(round_row(1)) + b"garbage\n" + encode_line(round_row(2)))
    with pytest.raises(ResultsError, match=r"harness.jsonl, line 2"):
        open_for_resume(store.folder)


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="not a run that can be resumed"):
        open_for_resume(tmp_path)


def test_checkpoints_come_back_exactly(store: Store) -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, dtype=np.int64)]
    assert store.read_checkpoint("t1", arrays) is None
    state = [np.ones((2, 3))]
    store.write_checkpoint("t1", Checkpoint(3, arrays, state))
    read = store.read_checkpoint("t1", arrays)
    assert read is not None
    assert read.round == 3
    for before, after in zip([*arrays, *state], [*read.arrays, *read.state], strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype


def test_a_checkpoint_of_another_model_or_a_broken_one_is_refused(store: Store) -> None:
    store.write_checkpoint("t1", Checkpoint(1, [np.zeros(3)]))
    with pytest.raises(PreconditionError, match="another model"):
        store.read_checkpoint("t1", [np.zeros(4)])
    (store.folder / "checkpoints" / "t1.npz").write_bytes(b"PK not a zip")
    with pytest.raises(PreconditionError, match="Delete the file"):
        store.read_checkpoint("t1", [np.zeros(3)])


def test_a_checkpoint_with_pickles_is_refused(store: Store) -> None:
    np.savez(store.folder / "checkpoints" / "t1.npz", np.array([print], dtype=object), round=np.int64(1))
    with pytest.raises(PreconditionError, match="cannot be read"):
        store.read_checkpoint("t1", [np.zeros(1)])


def columns(*times_ns: int, span_id: str | None = None) -> dict[str, list[object]]:
    n = len(times_ns)
    return {
        "t_ns": list(times_ns),
        "rail": ["p"] * n,
        "value": [0.5] * n,
        "span_id": [span_id] * n,
        "every": [1] * n,
    }


def test_samples_are_parquet_with_units(store: Store) -> None:
    store.append_samples("t1", 1, "pi", columns(1, 2, span_id="a"))
    store.append_samples("t1", 1, "pi", columns(3, span_id="b"))
    store.append_samples("t1", 2, "host", columns())
    folder = store.folder / "samples" / "t1"
    assert not (folder / "pi.parquet").exists(), "a file that is there is whole"
    store.close_samples()
    table = pq.read_table(folder / "pi.parquet")
    assert table.column("t_ns").to_pylist() == [1, 2, 3]
    assert table.column("span_id").to_pylist() == ["a", "a", "b"]
    assert table.schema.field("t_ns").metadata[b"unit"] == b"ns"
    assert sorted(path.name for path in folder.iterdir()) == ["host.2.parquet", "pi.parquet"]


def test_samples_are_kept_where_a_run_ends_in_mid_task(store: Store) -> None:
    store.append_samples("t1", 1, "pi", columns(1))
    store.close_samples()
    store.append_samples("t1", 2, "pi", columns(2))
    store.close_samples()
    assert pq.read_table(store.folder / "samples" / "t1" / "pi.2.parquet").num_rows == 1


def test_results_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PreconditionError, match="Choose another folder with -o"):
        Store.create(tmp_path / "file", {}, "", [task_row()])


def test_late_replies_are_counted_by_task() -> None:
    done = Done()
    for name, clock in (("late", "server"), ("fit", "device"), ("late", "server")):
        span = {"kind": "span", "task": "t", "attempt": 1, "name": name, "span_id": name, "clock": clock}
        done.note({**span, "duration_s": 1.0, "status": "ok"})
    assert done.late == {"t": 2}


def test_the_latest_spans_of_each_device_are_known_and_bounded() -> None:
    done = Done()
    for n in range(MAX_LATEST_SPANS + 5):
        for device, clock in (("pi", "device"), ("pi", "server"), ("tx2", "device")):
            span = {"kind": "span", "task": "t", "attempt": 1, "name": "fit", "device": device, "clock": clock}
            done.note({**span, "span_id": f"{device}/{clock}", "start_ns": n, "duration_s": 1.0, "status": "ok"})
    assert done.latest_spans.keys() == {"pi", "tx2"}
    assert list(done.latest_spans["pi"]) == [("pi/device", n) for n in range(5, MAX_LATEST_SPANS + 5)]

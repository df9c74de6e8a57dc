"""Rounds of `fl.start_server` on disk as they end: what a killed server leaves, and how the next one goes on."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import fl
import harness
from analysis.load import load
from fl.loop import CallRecord, RoundResult
from fl.messages import FitRes, Parameters
from fl.proxy import Answer, CallTiming, ClientInfo
from fl.receipts import Stray
from fl.strategies.fedavg import FedAvg
from profiler.errors import PreconditionError, SpecError, UsageError
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.records import Row, SpanRecord, TornLine, read_lines
from tests.fl.clients import Unruly
from tests.fl.test_server import free_address
from tests.harness.running import environment

STRATEGY = {"epochs": 3, "batch_size": 4, "lr": 0.1, "seed": 5}


def rows(folder: Path) -> list[Row]:
    return list(read_lines(folder / "records" / "harness.jsonl", TornLine()))


def rounds(folder: Path) -> list[tuple[int, int]]:
    """Attempt and number of each."""
    return [(row["attempt"], row["round"]) for row in rows(folder) if row["kind"] == "round"]


@contextmanager
def clients(address: str) -> Iterator[None]:
    """Two, which come back where a server is gone, and must end by themselves."""
    options = [{"device": name, "max_wait_s": 30.0} for name in ("a", "b")]
    threads = [threading.Thread(target=fl.start_client, args=(address, Unruly()), kwargs=one) for one in options]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(30.0)
            assert not thread.is_alive()


def test_each_round_is_on_disk_when_the_next_one_ends(tmp_path: Path) -> None:
    address, recording, seen = free_address(), harness.Recording(tmp_path, workload="mine"), list[int]()

    def evaluate(parameters: Parameters) -> tuple[float, float]:
        seen.append(0 if recording.folder is None else len(rounds(recording.folder)))
        return 0.5, 0.25

    with clients(address):
        history = fl.start_server(
            address,
            config=fl.ServerConfig(num_rounds=3, round_timeout=20.0),
            strategy=FedAvg(**STRATEGY),
            evaluate_fn=evaluate,
            wait_s=20.0,
            recorder=recording,
        )
    assert seen == [0, 1, 2]
    assert recording.folder is not None
    results = load([tmp_path])
    [task] = results.tasks.to_dict("records")
    assert (task["epochs"], task["batch_size"], task["lr"], task["seed"], task["rounds"]) == (3, 4, 0.1, 5, 3)
    assert task["finished"]
    assert (recording.folder / "end.json").exists()
    assert_same_records(recording.folder, harness.save_history(history, tmp_path / "after", workload="mine"))


def assert_same_records(one: Path, other: Path) -> None:
    """But for wall times, and the waits of the last round, which come with the farewell."""

    def told(folder: Path) -> list[Row]:
        return [{**row, "wall_time": ""} for row in rows(folder) if row.get("name") != "wait"]

    assert told(one) == told(other)


SERVER = """import os, signal, sys
import fl, harness
from fl.strategies.fedavg import FedAvg

address, root, last, *resume = sys.argv[1:]

class Killed(harness.Recording):
    def record(self, result):
        super().record(result)
        if result.round == int(last):
            os.kill(os.getpid(), signal.SIGKILL)  # before the checkpoint, and before any client is told to go on

fl.start_server(
    address,
    config=fl.ServerConfig(num_rounds=4, round_timeout=20.0),
    strategy=FedAvg(epochs=3, batch_size=4, lr=0.1, seed=5),
    wait_s=30.0,
    checkpoint=os.path.join(root, "model.npz"),
    recorder=Killed(root, workload="mine", resume=resume[0] if resume else None),
)
"""


@pytest.mark.timeout(90)
def test_after_a_killed_server_the_next_one_goes_on_in_its_folder_and_counts_nothing_twice(tmp_path: Path) -> None:
    address = free_address()

    def serve(last: int, *resume: Path) -> int:
        command = [sys.executable, "-c", SERVER, address, str(tmp_path), str(last), *map(str, resume)]
        return subprocess.run(command, env=environment(), timeout=60, check=False).returncode

    with clients(address):
        assert serve(2) == -9
        [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
        assert rounds(folder) == [(1, 1), (1, 2)]
        assert not (folder / "end.json").exists()
        assert serve(99, folder) == 0
    assert rounds(folder) == [(1, 1), (1, 2), (2, 2), (2, 3), (2, 4)]
    assert [row["from_round"] for row in rows(folder) if row["kind"] == "task_started"] == [1, 2]
    spans = Counter(row["span_id"] for row in rows(folder) if row["kind"] == "span" and row["clock"] == "device")
    assert set(spans.values()) == {1}, "what the clients sent again is known"
    [task] = load([tmp_path]).tasks.to_dict("records")
    assert task["finished"]


# --- what it makes of rounds, without a server -----------------------------------------------------------------------


def fit(device: str, joules: float | None = None, **config: object) -> CallRecord:
    total = None
    if joules is not None:
        total = EnergyReading("VDD_IN", joules, 0.1, Provenance.INTEGRATED, Scope.MODULE, coverage=1.0)
    span = SpanRecord(f"{device}/fit", "fit", 0, 1.0, total=total)
    answer = Answer(FitRes(Parameters(()), 10), CallTiming(0, 1_000, 10, 10), (span,))
    return CallRecord(device, "", "fit", {**STRATEGY, **config}, answer)


def result(round_: int, *calls: CallRecord) -> RoundResult:
    return RoundResult(
        round=round_,
        parameters=Parameters((np.zeros(2),)),
        calls=calls,
        time_s=1.0,
        fit_time_s=1.0,
        server_s=0.0,
        fit_window_ns=(0, 1_000),
        evaluate_window_ns=None,
        loss=None,
        accuracy=None,
        n_selected=len(calls),
        n_results=len(calls),
    )


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[harness.Recording]:
    made = harness.Recording(tmp_path, workload="mine", processors={"a": "fast"})
    yield made
    made.close()


def test_a_device_that_comes_later_is_in_the_rounds_energy(recording: harness.Recording) -> None:
    recording.begin("fedavg", range(1, 3), [ClientInfo("a")])
    recording.record(result(1, fit("a", 2.0)))
    recording.record(result(2, fit("a", 2.0), fit("b", 3.0)))
    recording.finish([Stray("a", "", (SpanRecord("a/wait", "wait", 5, 1.0, attributes={"round": 2, "call": "fit"}),))])
    assert recording.folder is not None
    written = rows(recording.folder)
    assert [row["energy_j"] for row in written if row["kind"] == "round"] == [2.0, 5.0]
    [wait] = [row for row in written if row.get("name") == "wait"]
    assert (wait["round"], wait["processor"]) == (2, "fast")
    plan = json.loads((recording.folder / "plan.jsonl").read_text())
    assert (plan["clients"], plan["processors"]) == (1, {"fast": 1}), "the plan is who was there at the start"
    assert json.loads((recording.folder / "devices" / "b.json").read_text())["processor"] == "unlabelled"


def test_who_is_there_counts_also_where_the_first_round_did_not_choose_it(recording: harness.Recording) -> None:
    recording.begin("fedavg", range(1, 3), [ClientInfo("a"), ClientInfo("b", "slow")])
    recording.record(result(1, fit("a")))
    assert recording.folder is not None
    assert json.loads((recording.folder / "plan.jsonl").read_text())["processors"] == {"fast": 1, "slow": 1}


def test_another_configuration_than_the_task_is_named_after_is_told_once(
    recording: harness.Recording, caplog: pytest.LogCaptureFixture
) -> None:
    recording.begin("fedavg", range(1, 5), [])
    with caplog.at_level(logging.WARNING, "harness"):
        for round_, epochs in ((1, 3), (2, 3), (3, 6), (4, 6)):
            recording.record(result(round_, fit("a", epochs=epochs)))
    assert [record.getMessage() for record in caplog.records] == [
        "round 3 trains with another epochs than the task is named after; pass epochs= to say what is meant"
    ]


def test_what_nobody_says_is_told_after_the_first_round(recording: harness.Recording) -> None:
    recording.begin("fedavg", range(1, 3), [])
    with pytest.raises(UsageError, match=r"lr differs.*Pass lr="):
        recording.record(result(1, fit("a"), fit("b", lr=0.2)))
    assert recording.folder is None


def test_only_the_same_training_goes_on(recording: harness.Recording, tmp_path: Path) -> None:
    recording.begin("fedavg", range(1, 3), [])
    recording.record(result(1, fit("a")))
    folder = recording.folder
    assert folder is not None
    with pytest.raises(UsageError, match="has rounds = 2, and 5 is asked for"):
        harness.Recording(tmp_path, workload="mine", resume=folder).begin("fedavg", range(2, 6), [])
    with pytest.raises(UsageError, match="has workload = mine, and other is asked for"):
        harness.Recording(tmp_path, workload="other", resume=folder).begin("fedavg", range(2, 3), [])
    with pytest.raises(SpecError, match="not a run that can be resumed"):
        harness.Recording(tmp_path, workload="mine", resume=tmp_path)
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "experiment": "demo"}))
    with pytest.raises(SpecError, match=r"no recording of start_server.*harness.run --resume"):
        harness.Recording(tmp_path, workload="mine", resume=folder)


def test_a_root_that_is_a_file_is_told_before_anybody_trains(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PreconditionError, match="cannot be written below"):
        harness.Recording(tmp_path / "file", workload="mine")

"""A History on disk: what `fl.start_server` returned is a results folder that the analysis reads."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

import fl
import harness
from analysis.load import load
from analysis.load import main as load_main
from analysis.pareto import main as pareto_main
from fl.strategies.fedavg import FedAvg
from profiler.errors import UsageError
from tests.fl.clients import Unruly
from tests.fl.test_server import free_address


@pytest.fixture(scope="module")
def history() -> fl.History:
    address = free_address()
    threads = [
        threading.Thread(target=fl.start_client, args=(address, Unruly()), kwargs={"device": name, "max_wait_s": 20.0})
        for name in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    found = fl.start_server(
        address,
        config=fl.ServerConfig(num_rounds=2, round_timeout=20.0),
        strategy=FedAvg(epochs=3, batch_size=4, lr=0.1, seed=5),
        evaluate_fn=lambda parameters: (0.5, 0.25),
        wait_s=20.0,
    )
    for thread in threads:
        thread.join(20.0)
    return found


def test_a_history_is_saved_as_a_results_folder(history: fl.History, tmp_path: Path) -> None:
    folder = harness.save_history(history, tmp_path, workload="mine", processors={"a": "fast"})
    results = load([tmp_path])
    [task] = results.tasks.to_dict("records")
    assert (task["epochs"], task["batch_size"], task["lr"], task["seed"]) == (3, 4, 0.1, 5)
    assert task["processors"] == {"fast": 1, "unlabelled": 1}
    assert task["finished"]
    assert results.rounds["accuracy"].tolist() == [0.25, 0.25]
    assert results.rounds["energy_j"].isna().all(), "no device has a meter"
    fits = results.spans[results.spans["name"] == "fit"]
    assert sorted(set(zip(fits["device"], fits["processor"], strict=True))) == [("a", "fast"), ("b", "unlabelled")]
    assert set(fits["stopped_by"]) == {"unknown"}, "this client does not count its steps"
    assert (results.rounds["telemetry_bytes"] > 100).all()
    assert (results.rounds["telemetry_bytes"] < results.rounds["upload_bytes"]).all()
    assert json.loads((folder / "run.json").read_text())["n_tasks"] == 1
    assert (folder / "end.json").exists()


def test_the_analysis_reads_it(history: fl.History, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harness.save_history(history, tmp_path, workload="mine")
    assert load_main([str(tmp_path)]) == 0
    capsys.readouterr()
    assert pareto_main([str(tmp_path), "--json"]) == 0
    [point] = json.loads(capsys.readouterr().out)["points"]
    assert point["label"] == "E=3, C=2, tau=none"
    assert (point["accuracy"], point["energy_j"]) == (0.25, None), "no meter: missing, not 0"


def test_what_nobody_says_is_asked_for(history: fl.History, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no round with a result"):
        harness.save_history(fl.History(), tmp_path, workload="mine")
    harness.save_history(history, tmp_path, workload="mine", epochs=7, seed=1)
    assert load([tmp_path]).tasks["epochs"].tolist() == [7]

"""One workload in one fleet of the real command: clients in Java, in numpy without torch, and on torch, with τ."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl.datasets import ROOT_VARIABLE
from fl.workload import Partition, load_workload
from fl.workloads.export import export, export_whole
from fl.workloads.training import TorchWorkload
from tests.android.fleet_runs import NAME, Data, Fleet, experiment, not_measured, run
from tests.android.java_client import Built
from tests.fixtures.data import write_images, write_mobilenetv2
from tests.harness.running import Bench

FLEET = Fleet(java=3, numpy=1, torch=2)
ROUNDS = 3


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Made images of three classes, features as they are shipped, and a shard for each client."""
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "datasets"))
    write_images(tmp_path / "datasets" / "office31", per_class=80)
    write_mobilenetv2(tmp_path / "datasets" / "made.pth")
    options: dict[str, str | int] = {"image_size": 32, "weights": "made.pth", "device": "cpu"}
    workload = load_workload(NAME, **options)
    assert isinstance(workload, TorchWorkload)
    export(workload, Partition("iid", FLEET.size), tmp_path / "shards")
    export_whole(workload, tmp_path / "datasets" / "office31-features")
    return Data(tmp_path / "shards", 3, options)


@pytest.mark.serial
def test_all_kinds_train_one_model_and_every_measurement_is_in_the_results(
    data: Data, java: Built, tmp_path: Path
) -> None:
    bench = Bench(tmp_path)
    taus_s = {"java": 60.0, "numpy": 1e-6, "torch": 60.0}
    text = experiment(data, rounds=ROUNDS, epochs=5, clients=[FLEET.size], taus_s=taus_s)
    (tmp_path / "experiment.toml").write_text(text)
    run(bench, FLEET, data, java)
    assert not_measured(bench, FLEET) == []
    rounds = bench.records("round")
    assert [row["n_results"] for row in rounds] == [FLEET.size] * ROUNDS
    assert rounds[-1]["loss"] < rounds[0]["loss"]
    fits = [row for row in bench.records("span") if row["name"] == "fit"]
    assert {(row["processor"], row["stopped_by"], row["cutoff_s"]) for row in fits} == {
        ("java", "completed", 60.0),
        ("numpy", "cutoff", 1e-6),
        ("torch", "completed", 60.0),
    }
    assert {row["examples"] for row in fits} == {32}
    assert [bench.device_file(f"{kind}-0")["machine"].get("training") for kind in ("numpy", "torch")] == [
        "numpy, float32",
        "cpu, float32",
    ]

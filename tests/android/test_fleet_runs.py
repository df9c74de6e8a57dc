"""One workload in one fleet of the real command: clients in Java, in numpy without torch, and on torch, with τ."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl.datasets import ROOT_VARIABLE
from fl.workload import Partition, load_workload
from fl.workloads.export import export, export_whole
from fl.workloads.training import TorchWorkload
from harness.store import Store
from profiler.records import Row
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


def span(name: str, device: str, **more: object) -> Row:
    place = {"task": "t", "attempt": 1, "round": 1, "device": device, "call": "fit", "span_id": f"{device}/{name}"}
    return {
        "kind": "span",
        **place,
        "name": name,
        "clock": "device",
        "status": "ok",
        "start_ns": 0,
        "duration_s": 1.0,
    } | more


def test_what_is_missing_or_makes_no_sense_is_told(tmp_path: Path) -> None:
    """Of the check itself: a fit without its steps, without joules or a reason, and a span that is not there."""
    fit = {"steps_done": 2, "steps_planned": 2, "steps_s": [0.4, 0.5], "energy_reason": "no sensor"}
    whole = [span(name, "java-0", **(fit if name == "fit" else {})) for name in ("receive", "fit", "send", "call")]
    broken = {"steps_done": 3, "steps_planned": 3, "steps_s": [0.9, 0.9]}
    counts = {"n_selected": 2, "n_results": 2, "n_failures": 0, "time_s": 1.0, "fit_time_s": 1.0, "server_s": 0.0}
    round_ = {"kind": "round", "task": "t", "attempt": 1, "round": 1, **counts, "provenance": "missing"}
    store = Store.create(tmp_path / "results", {}, "", [])
    store.append([*whole, span("fit", "java-1", **broken), span("send", "java-1"), span("call", "java-1"), round_])
    store.close()
    assert not_measured(Bench(tmp_path), Fleet(java=2)) == [
        "java-1, round 1: receive is missing or there twice",
        "java-1, round 1: 3 steps of 3, 2 of them timed",
        "java-1, round 1: steps that took longer than the fit",
        "java-1, round 1: no joules and no reason",
    ]

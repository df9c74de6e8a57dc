"""Fleets without training: the sums, the speed of columns, and the same figures as with training."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.cost_only import Calls, simulate_round
from harness.device_model import Group, Population, costs_of
from harness.run import main
from profiler.devices import load_device
from profiler.records import Row, read_lines

POPULATION = ("raspberry-pi-4", "jetson-orin-nano", "jetson-tx2-cpu")
FLEET = "".join(
    f"""
[[device]]
id = "{name}-{{n}}"
count = COUNT
launcher = "simulated"
profile = "{name}"
processor = "{name}"
"""
    for name in POPULATION
)
EXPERIMENT = """name = "costs"
workload = "cifar10-resnet18"
rounds = 3
batch_size = 32
lr = 0.01
idle_s = 60
[sweep]
seeds = [1, 2]
[strategy]
name = "fedavg"
evaluate = false
[simulation]
steps_per_epoch = 16
model_bytes = 44700000
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.toml").write_text('name = "many"' + FLEET.replace("COUNT", "1000"))
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    return tmp_path


def run(*arguments: object) -> int:
    fixed = ["fleet.toml", "--experiment", "experiment.toml", "--no-training", "--quiet"]
    return main([*fixed, *(str(argument) for argument in arguments)])


def run_folder(folder: Path) -> Path:
    (found,) = (path for path in (folder / "results").iterdir() if (path / "run.json").exists())
    return found


def records(folder: Path, kind: str) -> list[Row]:
    return [row for row in read_lines(run_folder(folder) / "records" / "harness.jsonl") if row["kind"] == kind]


def change(folder: Path, old: str, new: str, file: str = "experiment.toml") -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


def test_a_round_is_the_sum_of_its_clients(folder: Path) -> None:
    assert run() == 0
    rounds = records(folder, "round")
    assert len(rounds) == 6
    for row in rounds:
        table = pq.read_table(run_folder(folder) / "samples" / row["task"] / "clients.parquet")
        clients = table.filter(np.asarray(table["round"]) == row["round"]).to_pydict()
        assert len(clients["device"]) == row["n_selected"] == 3000
        assert math.fsum(clients["energy_j"]) == pytest.approx(row["energy_j"], rel=1e-9)
        assert math.fsum(clients["energy_fit_j"]) == pytest.approx(row["energy_fit_j"], rel=1e-9)
        ends_s = [
            sum(part) for part in zip(*(clients[name] for name in ("download_s", "fit_s", "upload_s")), strict=True)
        ]
        assert max(ends_s) == pytest.approx(row["time_s"], rel=1e-12)
        assert min(clients["wait_s"]) == 0
        assert row["provenance"] == "simulated"
        assert row.get("accuracy") is None
        assert row["idle_s"] == pytest.approx({f"{name}-each": 1000 * row["time_s"] for name in POPULATION})


def population(idle_factor: float = 1.0, count: int = 1000) -> tuple[Population, Calls]:
    """All joules of each device times a factor."""
    groups = []
    for name in POPULATION:
        costs = costs_of(load_device(name), "cifar10-resnet18", 16)
        training = costs.training
        doubled = replace(
            training,
            step_j=training.step_j * idle_factor,
            transfer_j=None if training.transfer_j is None else training.transfer_j * idle_factor,
        )
        costs = replace(costs, idle_w=costs.idle_w * idle_factor, byte_j=costs.byte_j * idle_factor, training=doubled)
        groups.append(Group(name, name, costs, count))
    return Population(groups, 2), Calls.of([group.costs for group in groups], 1_000_000, evaluates=True)


def test_twice_the_power_is_twice_the_joules_in_the_same_time() -> None:
    once, twice = (
        simulate_round(*population(factor), np.arange(3000), np.random.default_rng(7), 1e9) for factor in (1.0, 2.0)
    )
    assert once.time_s == twice.time_s
    assert (once.fit_s == twice.fit_s).all()
    assert twice.energy_j == pytest.approx(2 * once.energy_j, rel=1e-12)
    assert twice.fit_j == pytest.approx(2 * once.fit_j, rel=1e-12)


def test_devices_are_drawn_as_the_strategy_says(folder: Path) -> None:
    change(folder, 'name = "fedavg"', 'name = "fedavg"\nclients = 100')
    assert run() == 0
    table = pq.read_table(run_folder(folder) / "samples" / records(folder, "round")[0]["task"] / "clients.parquet")
    drawn = [set(part["device"]) for part in by_round(table.to_pylist())]
    assert [len(devices) for devices in drawn] == [100, 100, 100]
    assert drawn[0] != drawn[1]
    assert max(max(devices) for devices in drawn) > 2000


def by_round(rows: list[Row]) -> list[dict[str, list[int]]]:
    return [
        {"device": [row["device"] for row in group]}
        for _, group in itertools.groupby(rows, key=lambda row: row["round"])
    ]


def test_fractions_and_processors_choose_too(folder: Path) -> None:
    change(folder, 'name = "fedavg"', 'name = "fedavg"\nfraction = 0.5\nprocessors = ["raspberry-pi-4"]')
    assert run() == 0
    assert {row["n_selected"] for row in records(folder, "round")} == {500}
    assert set(records(folder, "round")[0]["idle_s"]) == {"raspberry-pi-4-each"}


def test_a_million_devices_are_a_fleet(folder: Path) -> None:
    (folder / "fleet.toml").write_text('name = "many"' + FLEET.replace("COUNT", "400000"))
    change(folder, 'name = "fedavg"', 'name = "fedavg"\nclients = 50')
    assert run("--seeds", 1) == 0
    assert [row["n_selected"] for row in records(folder, "round")] == [50, 50, 50]
    assert sorted(path.stem for path in (run_folder(folder) / "devices").iterdir()) == [
        f"{name}-each" for name in sorted(POPULATION)
    ]


def test_late_fits_are_failures_of_the_round(folder: Path) -> None:
    change(folder, "idle_s = 60", "idle_s = 60\nfit_timeout_s = 100")
    assert run("--seeds", 1) == 1
    (failure, *_) = records(folder, "failure")
    assert failure["reason"] == "1000 of 3000 simulated fits took longer than 100 s"
    row = records(folder, "round")[0]
    assert (row["n_results"], row["n_failures"]) == (2000, 1000)
    assert row["time_s"] < 100
    assert row["energy_j"] > 1000 * 16 * 25.5, "late work was drawn all the same"
    assert row["idle_s"]["raspberry-pi-4-each"] > 1000 * 100 > 1000 * row["time_s"], "and a late one idles for longer"
    idle_j = sum(
        row["idle_s"][f"{name}-each"] * costs_of(load_device(name), "cifar10-resnet18").idle_w for name in POPULATION
    )
    clients = pq.read_table(run_folder(folder) / "samples" / row["task"] / "clients.parquet").to_pydict()
    steps_j = {0: 25.5, 1: 2.5, 2: 0.4}
    work_j = sum(
        steps * steps_j[device // 1000]
        for steps, device, round_ in zip(clients["steps_done"], clients["device"], clients["round"], strict=True)
        if round_ == 1
    )
    transfers_j = 2000 * 2 * 44_700_000 * 4e-9 + 1000 * 0.319179
    assert row["energy_j"] - idle_j == pytest.approx(work_j + transfers_j, rel=1e-9), "net energy is that of the work"


def test_the_same_seed_gives_the_same_records(folder: Path, tmp_path: Path) -> None:
    assert run("-o", "one") == 0
    assert run("-o", "two") == 0
    texts = []
    for name in ("one", "two"):
        (path,) = (tmp_path / name).iterdir()
        rows = read_lines(path / "records" / "harness.jsonl")
        texts.append(json.dumps([{k: v for k, v in row.items() if k != "wall_time"} for row in rows]))
    assert texts[0] == texts[1]


def test_an_interrupted_task_begins_anew(folder: Path) -> None:
    assert run("--seeds", 1) == 0
    path = run_folder(folder) / "records" / "harness.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))  # the last round and the end of the task
    (run_folder(folder) / "end.json").unlink()
    before = [row for row in read_lines(path) if row["kind"] == "round"]
    assert main(["--resume", str(run_folder(folder)), "--quiet"]) == 0
    rounds = records(folder, "round")
    assert [(row["attempt"], row["round"]) for row in rounds] == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]
    assert rounds[2]["time_s"] == before[0]["time_s"]
    assert len(records(folder, "idle")) == len(POPULATION)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps_per_epoch = 16", "", "needs the number of steps an epoch"),
        ("model_bytes = 44700000", "", "needs the size of the model"),
        ('name = "fedavg"', 'name = "adaptive"', "cannot simulate strategy 'adaptive'"),
        ('name = "fedavg"', 'name = "fedavg"\nround_deadline_s = 5', "with round_deadline_s"),
        ('workload = "cifar10-resnet18"', 'workload = "digit"', "what training 'digit' takes is not known"),
    ],
)
def test_what_cannot_be_simulated_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    change(folder, old, new)
    assert run() == 2
    assert said in capsys.readouterr().err


def test_real_devices_train(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--experiment", "demo", "--no-training"]) == 2
    assert "--no-training is for simulated fleets" in capsys.readouterr().err


def test_many_devices_with_training_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "fleet.toml").write_text('name = "many"' + FLEET.replace("COUNT", "400000"))
    change(folder, "cifar10-resnet18", "digits")
    change(folder, "[simulation]", '[simulation]\ncosts_of = "cifar10-resnet18"')
    assert main(["fleet.toml", "--experiment", "experiment.toml"]) == 2
    assert "1200000 devices; at most 10000 take part one by one" in capsys.readouterr().err


def test_with_and_without_training_cost_the_same(folder: Path) -> None:
    """Without jitter to the last digit: the same arithmetic, once step by step and once in columns."""
    profile = """name = "Calm"
[power]
idle_w = 1.5
busy_w = 9
scope = "device"
kind = "guess"
source = "made for this test"
[[training]]
workload = "digits"
batch_size = 16
step_s = 0.2
step_j = 1.1
start_s = 3.0
slow_after_s = 9.0
slow_factor = 1.7
download_s = 0.4
upload_s = 0.3
transfer_j = 2.0
gain_err = 0.1
kind = "guess"
source = "made for this test"
"""
    (folder / "calm.toml").write_text(profile)
    entry = (
        '[[device]]\nid = "{0}-{{n}}"\ncount = 2\nlauncher = "simulated"\nprofile = "calm.toml"\nprocessor = "{0}"\n'
    )
    (folder / "fleet.toml").write_text('name = "calm"\n' + entry.format("cut") + entry.format("free"))
    (folder / "experiment.toml").write_text(
        'name = "x"\nworkload = "digits"\nrounds = 2\nbatch_size = 16\nlr = 0.01\nidle_s = 60\n'
        '[workload_options]\nhidden = 8\n[sweep]\nepochs = [2]\n[strategy]\nname = "fedavg"\nevaluate = false\n'
        'cutoffs = { "cut" = 12.05, "free" = 0 }\n[simulation]\nsteps_per_epoch = 40\n'
    )
    assert run("-o", "without") == 0
    assert main(["fleet.toml", "--experiment", "experiment.toml", "--quiet", "--workers", "1", "-o", "with"]) == 0
    found = {}
    for name in ("without", "with"):
        (path,) = (folder / name).iterdir()
        found[name] = [row for row in read_lines(path / "records" / "harness.jsonl") if row["kind"] == "round"]
    for columns, stepped in zip(found["without"], found["with"], strict=True):
        assert stepped["time_s"] == pytest.approx(columns["time_s"], abs=1e-6)
        assert stepped["accuracy"] is not None
    gross_j = {name: sum(row["energy_j"] for row in rows) for name, rows in found.items()}
    # A device's first download comes before its first measurement. And where one ends by its cutoff, the guard is a
    # whole step without jitter, while the columns hold on average half a step more.
    assert gross_j["with"] == pytest.approx(gross_j["without"] - 4 * 0.4 * 1.5, abs=2 * 2 * 1.1)

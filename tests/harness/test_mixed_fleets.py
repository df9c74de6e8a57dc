"""One fleet of every kind at once: a process, a container, a machine over ssh, and a device that is not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.fleet import load_fleet
from harness.job import new_job
from harness.launchers.simulated import RealTime
from harness.run import parser
from harness.run_spec import access
from profiler.clock import FakeClock
from tests.fixtures.containers import usable_image
from tests.fixtures.sshd import Sshd, running_sshd
from tests.harness.running import Bench, device_entry

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

ROUNDS = 2
STEP_S, START_S, TRANSFER_S = 0.02, 0.1, 0.2
TAU_S = 0.25
PROFILE = f"""name = "Toy"
[power]
idle_w = 2.0
busy_w = 50
scope = "device"
kind = "guess"
gain_err = 0.2
source = "made for this test"
[[training]]
workload = "linear"
batch_size = 16
step_s = {STEP_S}
step_j = 3.0
start_s = {START_S}
step_cv = 0.0
fit_cv = 0.0
download_s = {TRANSFER_S}
upload_s = {TRANSFER_S}
transfer_j = 4.0
gain_err = 0.1
kind = "guess"
source = "made for this test"
"""
EXPERIMENT = f"""name = "short"
workload = "linear"
rounds = {ROUNDS}
idle_s = 0.5
[sweep]
epochs = [1]
"""


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd | None]:
    """None where there can be none: the rest of the fleet takes part without it."""
    try:
        with running_sshd() as server:
            yield server
    except pytest.skip.Exception:
        yield None


def image() -> dict[str, object] | None:
    try:
        return usable_image()
    except pytest.skip.Exception:
        return None


def entry(id_: str, processor: str, **options: object) -> str:
    return device_entry(id=id_, processor=processor, **options)


def write(folder: Path, sshd: Sshd | None) -> dict[str, str]:
    """The files of a run in a folder; the processor of each device."""
    entries = {"here": entry("here", "cpu")}
    processors = {"here": "cpu", "toy": "toy"}
    if (usable := image()) is not None:
        entries["box"] = entry("box", "cpu@0.5", launcher="container", cpu_limit=0.5, **usable)
        processors["box"] = "cpu@0.5"
    if sshd is not None:
        entries["there"] = entry("there", "there", launcher="ssh", **sshd.options)
        processors["there"] = "there"
    (folder / "toy.toml").write_text(PROFILE)
    entries["toy"] = entry("toy", "toy", launcher="simulated", profile="toy.toml")
    (folder / "fleet.toml").write_text('name = "mixed"\n' + "".join(entries.values()))
    (folder / "experiment.toml").write_text(EXPERIMENT)
    taus = {processor: TAU_S if processor == "toy" else 60.0 for processor in processors.values()}
    cutoffs = [
        {"workload": "linear", "processor": name, "epochs": 1, "batch_size": 16, "tau_s": tau_s, "kind": "knee"}
        for name, tau_s in taus.items()
    ]
    (folder / "cutoffs.json").write_text(json.dumps({"schema": 1, "cutoffs": cutoffs}))
    return processors


def test_every_client_of_every_round_is_accounted_for(sshd: Sshd | None, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    processors = write(tmp_path, sshd)
    done = bench.run("--cutoffs", "cutoffs.json")
    assert done.returncode == 0, done.stderr
    assert "marked simulated, the weakest of its parts" in done.stderr
    calls = {(row["round"], row["device"], row["call"]): row for row in bench.records("span") if row["name"] == "call"}
    for device in processors:
        for round_ in range(1, ROUNDS + 1):
            assert (round_, device, "fit") in calls, f"{device} is missing in round {round_}"
    assert not bench.records("failure")

    fits = [row for row in bench.records("span") if row["name"] == "fit" and row["device"] == "toy"]
    assert [row["provenance"] for row in fits] == ["simulated"] * ROUNDS
    for row in fits:
        assert row["stopped_by"] == "cutoff"
        assert START_S < row["duration_s"] < TAU_S + START_S + 1e-6
        call = calls[row["round"], "toy", "fit"]
        assert call["duration_s"] >= row["duration_s"] + 2 * TRANSFER_S - 1e-6, "what the model says was waited"
    rounds = bench.records("round")
    assert all(row["time_s"] > TRANSFER_S * 2 + TAU_S / 2 for row in rounds)
    assert all(row["energy_j"] > 0 and row["provenance"] == "simulated" for row in rounds)
    facts = bench.device_file("toy")
    assert (facts["launcher"], facts["time"]) == ("simulated", "real")
    assert facts["overruns"] >= 0
    assert json.loads((bench.run_folders()[-1] / "run.json").read_text())["clock"] == "simulated", (
        "as weak as its weakest part"
    )
    if sshd is not None:
        assert sshd.left_behind() == []


def test_what_takes_longer_here_than_there_arrives_late_and_is_counted() -> None:
    clock = FakeClock(5_000_000_000)
    real = RealTime(clock)
    assert asyncio.run(real.wait_until(5_001_000_000, is_work=True)) == 5_001_000_000
    assert (real.overruns, real.overrun_s) == (0, 0.0)
    assert asyncio.run(real.wait_until(4_750_000_000, is_work=True)) == 5_000_000_000
    assert asyncio.run(real.wait_until(4_500_000_000, is_work=False)) == 5_000_000_000
    assert (real.overruns, real.overrun_s) == (1, 0.25)


def test_simulated_devices_alone_live_in_simulated_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text(PROFILE)
    toy, here = entry("toy", "toy", launcher="simulated", profile="toy.toml"), entry("here", "cpu")
    for entries, expected in (([toy], (True, True)), ([toy, here], (False, True)), ([here], (False, False))):
        (tmp_path / "fleet.toml").write_text('name = "x"\n' + "".join(entries))
        fleet = load_fleet("fleet.toml", cores=2)
        assert (fleet.is_simulated, fleet.has_simulated) == expected


def test_a_mixed_fleet_has_to_train(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    write(tmp_path, None)
    done = bench.run("--no-training")
    assert done.returncode == 2
    assert "--no-training is for simulated fleets" in done.stderr


def test_nobody_joins_over_the_network_by_the_name_of_a_device_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, None)
    job = new_job(parser().parse_args(["fleet.toml", "--experiment", "experiment.toml"]))
    assert access(job.spec).devices == {device.id for device in job.spec.devices} - {"toy"}

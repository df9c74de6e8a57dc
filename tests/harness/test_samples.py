"""Raw samples of devices with a meter of their own, from the experiment's option to a file that pandas reads."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import fl
import harness
from fl.messages import FitRes, Parameters
from fl.proxy import Answer, CallTiming
from fl.strategies.fedavg import FedAvg
from harness.recorder import sampled
from profiler.clock import SystemClock
from profiler.records import Row, read_lines
from profiler.sampler import Sampler
from profiler.sensors.fake import FakeSensor
from profiler.span import Profiler
from tests.fixtures.powercap import Driver, build_tree
from tests.fl.clients import Unruly
from tests.fl.test_server import free_address
from tests.harness.running import Bench, environment, module
from tests.harness.test_private_fleet import FOREIGN, _free_port, needs_entry_point
from tests.harness.test_recording import fit, result
from tests.profiler.rails import power_rail

SECOND = 1_000_000_000


def samples_of(folder: Path, device: str) -> list[Row]:
    [path] = (folder / "samples").glob(f"*/{device}.parquet")
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def named(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row["kind"] == "span" and row["name"] == name]


@pytest.mark.serial
@pytest.mark.timeout(120)
@needs_entry_point
def test_a_run_that_asks_for_samples_has_a_file_of_each_device_with_a_meter(tmp_path: Path) -> None:
    bench, port = Bench(tmp_path), _free_port()
    bench.write(rounds=1, epochs=(10,), idle_s=0.0)
    fleet = f'name = "one"\n[server]\naddress = "127.0.0.1:{port}"\n{FOREIGN}'
    (tmp_path / "fleet.toml").write_text(fleet)
    text = (tmp_path / "experiment.toml").read_text().replace("clients = [2]", "clients = [1]")
    (tmp_path / "experiment.toml").write_text(text + '[strategy]\ntelemetry = "samples"\n')
    options = ("--workload", "digits", "--shards", 6, "--max-wait", 60, "--sysfs-root", tmp_path / "root")
    with Driver(build_tree(tmp_path / "root"), 20.0, dram_w=3.0) as driver:
        client = subprocess.Popen(
            module("fl.client", "--server", f"127.0.0.1:{port}", *options), env=environment(), stderr=subprocess.DEVNULL
        )
        try:
            bench.run_ok("--quiet", "--sysfs-root", tmp_path / "root")
            assert client.wait(20) == 0
        finally:
            client.kill()
            client.wait()
    [folder] = bench.run_folders()
    rows, spans = samples_of(folder, "phone"), {row["span_id"]: row for row in bench.records("span")}
    assert {spans[row["span_id"]]["name"] for row in rows} == {"fit", "evaluate"}
    assert {row["rail"] for row in rows} >= {"package-0", "dram-0"}
    for span in named(list(spans.values()), "fit"):
        mine = [row for row in rows if row["span_id"] == span["span_id"] and row["rail"] == "package-0"]
        assert len(mine) >= 3
        assert mine[-1]["t_ns"] >= span["start_ns"] + span["duration_s"] * SECOND
        rose_j = mine[-1]["value"] - mine[0]["value"]
        assert rose_j == pytest.approx(driver.joules_between(mine[0]["t_ns"], mine[-1]["t_ns"]) * 20 / 23, rel=0.05)
    assert [path.name for path in (folder / "samples").glob("*/*")] == ["phone.parquet"], (
        "none shares this host's meter"
    )
    [only] = bench.records("round")
    assert only["telemetry_bytes"] > 13 * len(rows)


@pytest.mark.serial
def test_start_server_records_them_and_keeps_none_in_memory(tmp_path: Path) -> None:
    address, recording = free_address(), harness.Recording(tmp_path, workload="mine")
    sampler = Sampler(FakeSensor([power_rail("VDD_IN")], lambda t_s: [2.5], SystemClock()), rate_hz=100.0)
    options: list[dict[str, Any]] = [{"device": "a", "profiler": Profiler((sampler,))}, {"device": "b"}]
    threads = [threading.Thread(target=fl.start_client, args=(address, Unruly()), kwargs=one) for one in options]
    for thread in threads:
        thread.start()
    strategy = FedAvg(epochs=3, batch_size=4, lr=0.1, telemetry="samples")
    config = fl.ServerConfig(num_rounds=2, round_timeout=20.0)
    history = fl.start_server(address, config=config, strategy=strategy, wait_s=20.0, recorder=recording)
    for thread in threads:
        thread.join(20.0)
    assert recording.folder is not None
    rows = samples_of(recording.folder, "a")
    fits = named(list(read_lines(recording.folder / "records" / "harness.jsonl")), "fit")
    assert {row["span_id"] for row in rows} >= {span["span_id"] for span in fits if span["device"] == "a"}
    assert {(row["rail"], row["value"], row["every"]) for row in rows} == {("VDD_IN", 2.5, 1)}
    assert [path.name for path in (recording.folder / "samples").glob("*/*")] == ["a.parquet"], "b has no meter"
    answers = [call.answer for one in history.rounds for call in one.calls]
    assert [answer.samples for answer in answers if answer is not None] == [b""] * 8


def test_damaged_samples_cost_only_themselves(caplog: pytest.LogCaptureFixture) -> None:
    bad = Answer(FitRes(Parameters(()), 1), CallTiming(0, 1, 1, 1), (), b"\xff\xff")
    [good, other] = (fit(device) for device in ("a", "b"))
    calls = (good, type(other)("b", "", "fit", {}, bad))
    assert list(sampled(result(1, *calls))) == []
    assert "b: its samples are dropped" in caplog.text

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.devices import known_devices, read_device, recognised
from profiler.errors import SpecError
from profiler.quantities import Provenance, Scope
from profiler.sensor import Available
from profiler.sensors.cpu_model import CpuModelSensor
from tests.fixtures.data import device_data
from tests.profiler.sensors.test_cpu_model import write_stat

WHOLE = """
name = "Board"
[match]
cpu = ["Chip *"]
[power]
idle_w = 1
busy_w = 3.5
scope = "device"
kind = "datasheet"
source = "its datasheet, table 3"
"""


def board(root: Path, model: str) -> None:
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/model").write_bytes(model.encode() + b"\0")


def test_what_ships_is_whole_and_has_sources() -> None:
    devices = known_devices()
    assert {"Raspberry Pi 4 Model B", "Khadas VIM4"} <= {device.name for device in devices}
    for device in devices:
        assert device.cpu or device.device_tree or device.training
        assert device.power is None or len(device.power.source) > 40


@pytest.mark.parametrize(
    ("name", "system"),
    [("Raspberry Pi 4 Model B", "rpi4-tflite-v2.7.1-ruy"), ("Khadas VIM4", "vim4-tflite-v2.7.1-ruy")],
)
def test_figures_of_mlperf_are_those_of_the_logs(name: str, system: str) -> None:
    table = device_data() / "mlperf_edge_power_latency.csv"
    with table.open(newline="", encoding="utf-8") as file:
        (row,) = (
            row
            for row in csv.DictReader(file)
            if (row["system"], row["model"], row["scenario"]) == (system, "resnet50", "singlestream")
        )
    (power,) = (device.power for device in known_devices() if device.name == name)
    assert power is not None
    assert (power.idle_w, power.busy_w) == (float(row["min_power_before_w"]), float(row["avg_power_w"]))
    assert f"{row['division']} division, {row['submitter']}, {row['system']}" in " ".join(power.source.split())


def test_a_board_is_known_by_its_device_tree(tmp_path: Path) -> None:
    board(tmp_path, "Raspberry Pi 4 Model B Rev 1.4")
    write_stat(tmp_path, user=0, idle=0)
    outcome = CpuModelSensor(tmp_path, FakeClock(), environment={}).probe()
    assert isinstance(outcome, Available)
    assert (outcome.scope, outcome.provenance) == (Scope.WALL, Provenance.ESTIMATED)
    assert outcome.rails[0].gain_err == 0.3
    assert "measured on another Raspberry Pi 4 Model B: MLPerf Inference v2.1" in outcome.notes
    assert "2.8 W of it are drawn when idle" in outcome.notes


@pytest.mark.parametrize("model", ["Raspberry Pi 5 Model B Rev 1.0", "Not a Raspberry Pi 4 Model B", ""])
def test_another_board_is_not(tmp_path: Path, model: str) -> None:
    board(tmp_path, model)
    assert recognised(tmp_path, known_devices()) is None


def test_a_processor_is_known_by_its_name(tmp_path: Path) -> None:
    device = read_device(WHOLE, "a file")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Chip 9000 @ 3 GHz\n")
    assert recognised(tmp_path, [device]) is device
    assert device.power is not None
    assert (device.power.idle_w, device.power.busy_w, device.power.scope) == (1.0, 3.5, Scope.DEVICE)


def test_power_may_be_unknown() -> None:
    assert read_device('name = "Board"\n[match]\ncpu = ["Chip"]\n', "a file").power is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "Board"', "", "'name'"),
        ('name = "Board"', 'name = " "', "'name'"),
        ('name = "Board"', 'name = "Board"\nsize = 3', "'size'"),
        ('"Chip *"', "5", "'cpu'"),
        ('"Chip *"', '"*"', "'cpu'"),
        ("cpu =", "cqu =", "'cqu'"),
        ("idle_w = 1", "", "'idle_w'"),
        ("idle_w = 1", "idle_w = -1", "'idle_w'"),
        ("idle_w = 1", "idle_w = nan", "'idle_w'"),
        ("idle_w = 1", "idle_w = true", "'idle_w'"),
        ("busy_w = 3.5", "busy_w = 0.5", "'busy_w'"),
        ("busy_w = 3.5", "busy_w = inf", "'busy_w'"),
        ('"device"', '"planet"', "'scope'"),
        ('"datasheet"', '"hearsay"', "'kind'"),
        ('source = "its datasheet, table 3"', "", "'source'"),
        ('"its datasheet, table 3"', '""', "'source'"),
        ("[power]", "[power", "not valid TOML"),
    ],
)
def test_every_mistake_is_told_by_file_and_key(old: str, new: str, said: str) -> None:
    assert old in WHOLE
    with pytest.raises(SpecError, match=said) as raised:
        read_device(WHOLE.replace(old, new), "boards/board.toml")
    assert "boards/board.toml" in str(raised.value)

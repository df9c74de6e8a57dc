from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from profiler.__main__ import main
from profiler.clock import SystemClock
from profiler.commands.doctor import tried
from profiler.errors import SensorError
from profiler.sensor import Unavailable
from profiler.sensors.fake import FakeSensor
from tests.fixtures.machine import build_orin_nano
from tests.fixtures.power_events import build_power_events
from tests.fixtures.powercap import Driver, build_tree
from tests.profiler.commands.running import environment, finish
from tests.profiler.rails import counter_rail, power_rail

pytestmark = pytest.mark.serial


def test_says_what_there_is_what_it_costs_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = build_tree(tmp_path)
    with Driver(tree, 20.0, dram_w=3.0):
        assert main(["doctor", "--sysfs-root", str(tmp_path)]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    rapl = next(block for block in blocks if block.startswith("rapl: available, the one that is used"))
    assert "scope host, total = package-0+dram-0" in rapl
    dram = next(line for line in rapl.splitlines() if line.startswith("  dram-0"))
    assert "± 20.0%" in dram
    assert "1000 Hz" in dram
    assert "1 ms" in dram
    assert "6.1e-05 J" in dram
    assert "% of a core at 10 Hz" in rapl
    model = next(block for block in blocks if block.startswith("cpu_model: not available"))
    assert "why: " in model
    assert "remedy: " in model


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = build_tree(tmp_path)
    with Driver(tree, 20.0, dram_w=3.0):
        assert main(["doctor", "--sysfs-root", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["agreements"] == []  # nothing reads the same hardware a second time here
    rows = {row["sensor"]: row for row in answer["sensors"]}
    rapl = rows["rapl"]
    assert rapl["chosen"] is True
    assert [rail["name"] for rail in rapl["rails"]] == ["package-0", "core-0", "dram-0"]
    assert rapl["rails"][0]["gain_err"] == 0.05
    assert rapl["trial"]["power_w"] == pytest.approx(23, rel=0.1)
    assert 0 < rapl["trial"]["power_err_w"] < 5
    assert 0 < rapl["trial"]["sampler_cpu_share"] < 0.2
    assert 1e-7 < rapl["trial"]["read_s"] < 1e-2
    assert rows["cpu_model"]["available"] is False
    assert rows["cpu_model"]["remedy"]


def test_a_terminal_without_our_signs_gets_others(tmp_path: Path) -> None:
    build_tree(tmp_path)
    done = finish("doctor", "--sysfs-root", tmp_path, env=environment(PYTHONIOENCODING="ascii"))
    assert done.returncode == 0
    assert "? 20.0%" in done.stdout


def test_where_nothing_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "root").mkdir()
    assert main(["doctor", "--sysfs-root", str(tmp_path / "root")]) == 3
    assert "virtual machine" in capsys.readouterr().out
    assert main(["doctor", "--sysfs-root", str(tmp_path / "none")]) == 2


def test_a_sensor_that_fails_is_in_trouble_and_no_trouble() -> None:
    def dead(t_s: float) -> list[float | None]:
        raise OSError(5, "Input/output error")

    trial = tried(FakeSensor([power_rail()], dead, SystemClock()), SystemClock())
    assert trial.power_w is None
    assert trial.read_s is None
    assert "Input/output error" in str(trial.reason)


def test_a_sensor_that_cannot_be_opened_is_said_to_be_so() -> None:
    sensor = FakeSensor([counter_rail()], lambda t_s: [t_s], SystemClock(), unavailable=Unavailable("a", "do b"))
    with pytest.raises(SensorError, match="do b"):
        tried(sensor, SystemClock())


def test_the_power_mode_comes_first_and_brings_a_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_orin_nano(tmp_path, mode="pmode:0009")
    main(["doctor", "--sysfs-root", str(tmp_path)])
    first = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert first == [
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super:",
        "  power mode: of no name that /etc/nvpmodel.conf tells (id 9), clocks free to change",
    ]
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0001\n")
    main(["doctor", "--sysfs-root", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["machine"]["power_mode"] == "25W"


def test_two_readers_of_the_same_counters_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = build_tree(tmp_path, core=False, dram=False)
    # A real event of the kernel, the processor's clock in ns, taken for an energy of 20 W.
    build_power_events(tmp_path, events=("pkg",), event_type=1, config=0, scale="2e-8")
    with Driver(tree, 20.0):
        assert main(["doctor", "--sysfs-root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    if "perf: available" not in shown:
        pytest.skip("this kernel forbids perf events, or the entry point is not installed")
    assert "rapl: available, the one that is used" in shown
    assert "package-0  counter  package  1000 Hz   6.1e-05 J" in shown.split("perf: available")[1]
    assert re.search(r"^rapl and perf (agree within [\d.]+%|differ: package-0 drew)", shown, re.MULTILINE)

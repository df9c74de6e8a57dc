from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Scope
from profiler.sensor import Available, Unavailable
from profiler.sensors.cpu_model import CpuModelSensor


def write_stat(root: Path, user: int, idle: int, *, steal: int = 0, guest: int = 0) -> None:
    (root / "proc").mkdir(exist_ok=True)
    lines = [f"cpu  {user} 0 0 {idle} 0 0 0 {steal} {guest} 0", "cpu0 1 0 0 1 0 0 0 0 0 0", "cpu1 1 0 0 1 0 0 0 0 0 0"]
    (root / "proc/stat").write_text("\n".join([*lines, "ctxt 5"]) + "\n")


def test_host_energy_by_hand(tmp_path: Path) -> None:
    """2 CPUs, 10 s, 5 s of CPU time: 2 x 0.74 x 10 + (3.5 - 0.74) x 5 = 28.6 J. Guest is in user."""
    clock = FakeClock()
    write_stat(tmp_path, user=100, idle=100)
    sensor = CpuModelSensor(tmp_path, clock)
    sensor.open()
    assert sensor.read() == [0.0]
    clock.advance(10)
    write_stat(tmp_path, user=600, idle=1500, steal=300, guest=200)
    assert sensor.read() == [pytest.approx(28.6)]
    sensor.close()


def test_is_always_an_estimate_and_says_its_idle_share(tmp_path: Path) -> None:
    write_stat(tmp_path, user=1, idle=1)
    outcome = CpuModelSensor(tmp_path, FakeClock(), idle_w_per_cpu=1.0, max_w_per_cpu=4.0).probe()
    assert isinstance(outcome, Available)
    assert outcome.provenance is Provenance.ESTIMATED
    assert outcome.scope is Scope.HOST
    assert "model" in outcome.notes
    assert "2 W of it are drawn when idle" in outcome.notes
    assert outcome.rails[0].gain_err == 0.5


def test_process_energy_is_its_cpu_time_at_full_power(tmp_path: Path) -> None:
    sensor = CpuModelSensor(tmp_path, FakeClock(), target="process", idle_w_per_cpu=0.0, max_w_per_cpu=10.0)
    outcome = sensor.probe()
    assert isinstance(outcome, Available)
    assert outcome.scope is Scope.PROCESS
    sensor.open()
    before_s = time.process_time()
    while time.process_time() - before_s < 0.05:
        pass
    (energy_j,) = sensor.read()
    assert energy_j is not None
    assert 0.5 <= energy_j < 1.5


@pytest.mark.parametrize(
    "content", ["", "cpu 1 2\n", "intr 5\n", "cpu a b c d e f g h\ncpu0 1\n", "cpu 1 2 3 4 5 6 7 8\n"]
)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil is asked")
def test_a_bad_stat_is_a_reason(tmp_path: Path, content: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(content)
    sensor = CpuModelSensor(tmp_path, FakeClock())
    assert isinstance(sensor.probe(), Unavailable)
    write_stat(tmp_path, user=1, idle=1)
    sensor.open()
    (tmp_path / "proc/stat").write_text(content)
    with pytest.raises(SensorError):
        sensor.read()


@pytest.mark.parametrize(("idle_w", "max_w"), [(-1.0, 3.0), (5.0, 3.0), (0.0, float("inf"))])
def test_senseless_watts_are_refused(tmp_path: Path, idle_w: float, max_w: float) -> None:
    with pytest.raises(ValueError, match="idle_w_per_cpu"):
        CpuModelSensor(tmp_path, FakeClock(), idle_w_per_cpu=idle_w, max_w_per_cpu=max_w)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="reads the machine's own /proc/stat")
def test_a_busy_second_of_this_machine(tmp_path: Path) -> None:
    clock = FakeClock()  # stands still: only busy time counts
    sensor = CpuModelSensor(Path("/"), clock, idle_w_per_cpu=0.74, max_w_per_cpu=3.5)
    sensor.open()
    before_s = time.process_time()
    while time.process_time() - before_s < 0.3:
        pass
    (energy_j,) = sensor.read()
    assert energy_j is not None
    assert energy_j >= (3.5 - 0.74) * 0.25

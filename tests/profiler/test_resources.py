from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.records import Resources
from profiler.resources import ResourceReader, peak_rss_bytes


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def reader(root: Path) -> ResourceReader:
    return ResourceReader(FakeClock(), root)


def test_the_hottest_processor_sensor(tmp_path: Path) -> None:
    for i, (kind, milli) in enumerate([("cpu-thermal", "48281"), ("PMIC-Die", "100000"), ("battery", "51000")]):
        write(tmp_path / f"sys/class/thermal/thermal_zone{i}/type", kind + "\n")
        write(tmp_path / f"sys/class/thermal/thermal_zone{i}/temp", milli + "\n")
    write(tmp_path / "sys/class/hwmon/hwmon0/name", "nvme\n")
    write(tmp_path / "sys/class/hwmon/hwmon0/temp1_input", "90000\n")
    write(tmp_path / "sys/class/hwmon/hwmon1/name", "coretemp\n")
    write(tmp_path / "sys/class/hwmon/hwmon1/temp1_input", "49500\n")
    write(tmp_path / "sys/class/hwmon/hwmon1/temp2_input", "-274000\n")
    assert reader(tmp_path).temperature_c() == 49.5


def test_the_mean_clock_weighs_policies_by_their_cpus(tmp_path: Path) -> None:
    policies = tmp_path / "sys/devices/system/cpu/cpufreq"
    for name, cpus, khz in (("policy0", "0 1 2 3", "1000000"), ("policy4", "4", "2000000"), ("policy5", "5", "x")):
        write(policies / name / "affected_cpus", cpus + "\n")
        write(policies / name / "scaling_cur_freq", khz + "\n")
    assert reader(tmp_path).frequency_hz() == pytest.approx(1.2e9)


def test_what_the_device_does_not_tell_is_none(tmp_path: Path) -> None:
    write(tmp_path / "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", "")
    resources = reader(tmp_path)
    used = resources.since(resources.mark(), cpu_s=1.5)
    assert used == Resources(cpu_s=1.5, peak_rss_bytes=used.peak_rss_bytes)
    assert used.peak_rss_bytes is not None


def test_cpu_seconds_count_work_and_not_sleep(tmp_path: Path) -> None:
    resources = reader(tmp_path)
    before_s = resources.cpu_s()
    time.sleep(0.05)
    slept_s = resources.cpu_s() - before_s
    while time.process_time() - before_s < 0.1:
        pass
    assert slept_s < 0.05
    assert resources.cpu_s() - before_s >= 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss survives exec on Linux")
def test_peak_memory_is_not_that_of_the_parent() -> None:
    """A process started by one that holds 200 MB reports its own peak."""
    ballast = bytearray(200_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert (peak_rss_bytes() or 0) > 200_000_000
    code = "from profiler.resources import peak_rss_bytes; print(peak_rss_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert 5_000_000 < int(child.stdout) < 100_000_000

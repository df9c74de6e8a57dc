"""The fixture is what joules are compared with, so it is checked by hand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fixtures.powercap import Driver, build_tree, modulus_uj


def test_the_driver_counts_what_it_writes(tmp_path: Path) -> None:
    tree = build_tree(tmp_path, psys=True, start_uj=262_143_328_000)
    with Driver(tree, lambda t_s: 10 + 20 * t_s, dram_w=2.0) as driver:
        time.sleep(0.5)
    duration_s = (driver.log[-1][0] - driver.log[0][0]) / 1e9
    package_j = 10 * duration_s + 10 * duration_s**2
    assert driver.energy_j["package-0"] == pytest.approx(package_j)
    assert driver.energy_j["core-0"] == pytest.approx(0.6 * package_j)
    assert driver.total_j == pytest.approx(package_j + 2 * duration_s)
    assert driver.energy_j["psys"] == pytest.approx(1.1 * driver.total_j)
    for label, zone in tree.zones.items():
        counter_uj = int(zone.energy_path.read_bytes())
        assert 0 <= counter_uj < 262_143_328_000  # it has wrapped
        drawn_uj = (counter_uj - zone.start_uj) % modulus_uj(zone.range_uj)
        assert drawn_uj == pytest.approx(driver.energy_j[label] * 1e6, abs=1)


def test_the_script_runs_until_it_is_told_to_stop(tmp_path: Path) -> None:
    root, log = tmp_path / "tree", tmp_path / "log"
    argv = [sys.executable, "-m", "tests.fixtures.powercap", str(root), "--watts", "20", "--dram-watts", "3"]
    with subprocess.Popen([*argv, "--log", str(log)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ready"] == str(root)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        result = json.loads(process.stdout.readline())
    assert process.returncode == 0
    assert result["total_j"] == pytest.approx(23.0 * result["seconds"])
    last_uj = int(log.read_text().splitlines()[-1].split()[1])
    assert last_uj / 1e6 == pytest.approx(result["total_j"], abs=1e-5)

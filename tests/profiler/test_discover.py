from __future__ import annotations

import json
from pathlib import Path

import pytest

from profiler.__main__ import main
from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.sensor import Sensor, Unavailable, discover
from tests.fixtures.powercap import build_tree


@pytest.fixture
def broken_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package whose sensors have gone: one without its module, one without its class."""
    metadata = tmp_path / "site" / "lost-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lost\nVersion: 1.0\n")
    entries = "[fedmeter.sensors]\nlost = no_such_module_anywhere:Sensor\nlost_too = profiler.clock:NoSuchSensor\n"
    (metadata / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("broken_packages")
def test_a_sensor_that_cannot_be_imported_is_unavailable(tmp_path: Path) -> None:
    sensors = {sensor.name: sensor for sensor in discover(tmp_path, FakeClock())}
    assert {"rapl", "cpu_model", "lost", "lost_too"} <= set(sensors)
    for name, said in (("lost", "no_such_module_anywhere"), ("lost_too", "NoSuchSensor")):
        assert isinstance(sensors[name], Sensor)
        outcome = sensors[name].probe()
        assert isinstance(outcome, Unavailable)
        assert said in outcome.reason
        assert outcome.remedy
        with pytest.raises(SensorError, match="cannot be imported"):
            sensors[name].open()
        with pytest.raises(SensorError):
            sensors[name].read()
        sensors[name].close()


@pytest.mark.usefixtures("broken_packages")
def test_the_others_are_listed_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_tree(tmp_path / "root")
    assert main(["list", "--sysfs-root", str(tmp_path / "root"), "--json"]) == 0
    rows = {row["sensor"]: row for row in json.loads(capsys.readouterr().out)["sensors"]}
    assert rows["rapl"]["chosen"] is True
    assert rows["lost"]["available"] is False

"""Finding sensors and choosing among them."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Broken, Probe, Unavailable, best, discover
from profiler.sensors.fake import FakeSensor
from tests.fixtures.power_supply import phone_charging


def test_the_built_in_sensors_are_found_by_name(tmp_path: Path) -> None:
    names = [sensor.name for sensor in discover(tmp_path, FakeClock())]
    assert names == sorted(names)
    assert {"rapl", "cpu_model"} <= set(names)


def test_a_sensor_that_cannot_be_loaded_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = EntryPoint("cpu_model", "profiler.sensors.cpu_model:CpuModelSensor", "fedmeter.sensors")
    gone = EntryPoint("aaa", "no.such.module:Sensor", "fedmeter.sensors")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [there, gone])
    broken, model = discover(tmp_path, FakeClock())
    outcome = broken.probe()
    assert isinstance(broken, Broken)
    assert isinstance(outcome, Unavailable)
    assert "no.such.module" in outcome.reason
    with pytest.raises(SensorError, match="cannot be loaded"):
        broken.open()
    assert model.name == "cpu_model"


def test_options_reach_those_sensors_that_know_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phone_charging(tmp_path)
    entries = [
        EntryPoint("battery", "profiler.sensors.battery:BatterySensor", "fedmeter.sensors"),
        EntryPoint("rapl", "profiler.sensors.rapl:RaplSensor", "fedmeter.sensors"),
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)
    refused, _ = discover(tmp_path, FakeClock())
    assert isinstance(refused.probe(), Unavailable)
    allowed, other = discover(tmp_path, FakeClock(), allow_charging=True)
    outcome = allowed.probe()
    assert not isinstance(outcome, Unavailable)
    assert outcome.scope is Scope.RAIL
    assert other.name == "rapl"


def test_sensors_of_other_machines_are_found_only_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("adb", "profiler.sensors.adb:AdbSensor", "fedmeter.sensors")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    assert list(discover(tmp_path, FakeClock())) == []
    assert [sensor.name for sensor in discover(tmp_path, FakeClock(), elsewhere=True)] == ["adb"]


def probe(name: str, provenance: Provenance, scope: Scope) -> Probe:
    rail = Rail("r", scope, RailKind.POWER_W, provenance)
    sensor = FakeSensor([rail], lambda t_s: [1.0], FakeClock(), name=name, scope=scope)
    return Probe(sensor, sensor.probe())


def test_measured_before_modelled_then_the_widest_scope_then_a_counter() -> None:
    model = probe("model", Provenance.ESTIMATED, Scope.WALL)
    package = probe("package", Provenance.COUNTER, Scope.HOST)
    module = probe("module", Provenance.INTEGRATED, Scope.MODULE)
    counted = probe("counted", Provenance.COUNTER, Scope.MODULE)
    refused = Probe(model.sensor, Unavailable("no"))
    assert best([refused]) is None
    for probes, name in (
        ([refused, model], "model"),
        ([model, package], "package"),
        ([model, package, module], "module"),
        ([module, counted, package], "counted"),
    ):
        chosen = best(probes)
        assert chosen is not None
        assert isinstance(chosen.outcome, Available)
        assert chosen.sensor.name == name

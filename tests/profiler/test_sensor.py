"""Finding sensors and choosing among them."""

from __future__ import annotations

from dataclasses import replace
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
    assert best([refused]) == []
    for probes, name in (
        ([refused, model], "model"),
        ([model, package], "package"),
        ([model, package, module], "module"),
        ([module, counted, package], "counted"),
    ):
        assert [chosen.sensor.name for chosen in best(probes)] == [name]
    assert best([package, module], preferred=["package"]) == [package]


def test_cards_are_added_to_packages_and_to_nothing_that_contains_them() -> None:
    package = probe("package", Provenance.COUNTER, Scope.HOST)
    card = probe("card", Provenance.INTEGRATED, Scope.GPU)
    wall = probe("wall", Provenance.INTEGRATED, Scope.WALL)
    model = probe("model", Provenance.ESTIMATED, Scope.HOST)
    assert best([card, package]) == [package, card]
    assert best([card, package, wall]) == [wall]
    assert best([card, model]) == [card], "a modelled part would make the sum a model"
    assert best([card, model], preferred=["model"]) == [model]


def test_a_fallback_comes_after_the_better_way_and_is_never_added_to_it() -> None:
    rapl = probe("rapl", Provenance.COUNTER, Scope.HOST)
    aside = probe("a_side", Provenance.COUNTER, Scope.HOST)
    assert isinstance(aside.outcome, Available)
    perf = Probe(aside.sensor, replace(aside.outcome, same_as="rapl"))
    assert best([perf, rapl]) == [rapl]
    assert best([perf]) == [perf]
    card = probe("nvml", Provenance.COUNTER, Scope.GPU)
    other = probe("another", Provenance.COUNTER, Scope.GPU)
    assert isinstance(other.outcome, Available)
    twin = Probe(other.sensor, replace(other.outcome, same_as="nvml"))
    assert best([twin, perf, card]) == [perf, card]

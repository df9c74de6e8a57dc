"""Finding sensors and choosing among them."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from profiler.clock import Clock, FakeClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Broken, Probe, Sensor, Unavailable, best, discover, probe_all
from profiler.sensors.fake import FakeSensor
from tests.fixtures.powercap import build_tree


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


class Hasty(FakeSensor):
    """Breaks the contract: its probe raises."""

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__([], lambda t_s: [], clock, name="hasty")

    def probe(self) -> Available | Unavailable:
        raise KeyError("rails")


def unmakable(root: Path, clock: Clock) -> Sensor:
    raise PermissionError(13, "Permission denied", "/dev/meter")


def test_a_sensor_that_fails_when_made_or_asked_takes_no_other_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = "fedmeter.sensors"
    entries = [
        EntryPoint(name, f"{__name__}:{attribute}", group) for name, attribute in (("a", "unmakable"), ("b", "Hasty"))
    ]
    entries.append(EntryPoint("rapl", "profiler.sensors.rapl:RaplSensor", group))
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)
    build_tree(tmp_path)
    unmade, hasty, rapl = probe_all(tmp_path, FakeClock())
    assert isinstance(unmade.outcome, Unavailable)
    assert "/dev/meter" in unmade.outcome.reason
    assert isinstance(hasty.outcome, Unavailable)
    assert "KeyError" in hasty.outcome.reason
    assert hasty.outcome.remedy
    assert best([unmade, hasty, rapl]) is rapl


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

"""Finding sensors and choosing among them."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from profiler.clock import Clock, FakeClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Broken, Probe, Sensor, Unavailable, ask, best, discover, distinct
from profiler.sensors.fake import FakeSensor
from tests.fixtures.power_supply import phone_charging
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
    unmade, hasty, rapl = ask(discover(tmp_path, FakeClock()))
    assert isinstance(unmade.outcome, Unavailable)
    assert "/dev/meter" in unmade.outcome.reason
    assert isinstance(hasty.outcome, Unavailable)
    assert "KeyError" in hasty.outcome.reason
    assert hasty.outcome.remedy
    assert best([unmade, hasty, rapl]) == [rapl]


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


def fallback(name: str, preferred: str, provenance: Provenance, scope: Scope) -> Probe:
    there = probe(name, provenance, scope)
    assert isinstance(there.outcome, Available)
    return Probe(there.sensor, replace(there.outcome, same_as=preferred))


def test_a_fallback_stands_back_and_is_never_one_part_more() -> None:
    own = probe("rapl", Provenance.COUNTER, Scope.HOST)
    other = fallback("pyrapl", "rapl", Provenance.COUNTER, Scope.HOST)  # comes first by name
    wider = fallback("wide", "rapl", Provenance.COUNTER, Scope.WALL)
    gpu = probe("gpu", Provenance.COUNTER, Scope.GPU)
    for probes in ([own, other, gpu, wider], [wider, gpu, other, own]):
        assert best(probes) == [own, gpu]
        assert {probe.sensor.name for probe in distinct(probes)} == {"rapl", "gpu"}
        assert best(probes, ["pyrapl"]) == [other, gpu]  # asked for by name, and in the place of the other


def test_two_ways_to_a_card_are_not_two_cards() -> None:
    host = probe("rapl", Provenance.COUNTER, Scope.HOST)
    card = probe("nvml", Provenance.COUNTER, Scope.GPU)
    again = fallback("smi", "nvml", Provenance.INTEGRATED, Scope.GPU)
    assert best([host, again, card]) == [host, card]


def test_the_best_fallback_serves_where_the_preferred_one_cannot() -> None:
    refused = Probe(probe("jetson", Provenance.INTEGRATED, Scope.MODULE).sensor, Unavailable("no"))
    slow = fallback("tegrastats", "jetson", Provenance.INTEGRATED, Scope.MODULE)
    fast = fallback("jtop", "jetson", Provenance.INTEGRATED, Scope.MODULE)
    assert best([refused, slow, fast]) == [fast]
    assert distinct([refused, slow, fast]) == [fast]  # two ways to the same chips, not two boards


class Counted(FakeSensor):
    """Counts how often it was asked."""

    n_probes = 0

    def probe(self) -> Available | Unavailable:
        self.n_probes += 1
        return super().probe()


class CountedCostly(Counted):
    same_as = "own"

    def probe(self) -> Available | Unavailable:
        outcome = super().probe()
        return replace(outcome, same_as=self.same_as) if isinstance(outcome, Available) else outcome


def counted(kind: type[Counted], name: str, unavailable: Unavailable | None = None) -> Counted:
    rail = Rail("r", Scope.HOST, RailKind.POWER_W, Provenance.COUNTER)
    return kind([rail], lambda t_s: [1.0], FakeClock(), name=name, scope=Scope.HOST, unavailable=unavailable)


def test_a_costly_fallback_is_asked_only_where_it_is_needed_or_wanted() -> None:
    own, other = counted(Counted, "own"), counted(CountedCostly, "aaa")
    probes = ask([other, own])
    assert [probe.sensor.name for probe in probes] == ["aaa", "own"]
    assert (own.n_probes, other.n_probes) == (1, 0)
    outcome = probes[0].outcome
    assert isinstance(outcome, Unavailable)
    assert outcome.is_absent
    assert "'own' reads the same hardware" in outcome.reason
    assert best(ask([other, own], ["aaa"]), ["aaa"])[0].sensor is other
    assert other.n_probes == 1
    refused = counted(Counted, "own", Unavailable("no"))
    assert best(ask([other, refused]))[0].sensor is other
    assert best(ask([other]))[0].sensor is other
    assert (refused.n_probes, other.n_probes) == (1, 3)

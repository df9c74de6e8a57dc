"""Several sensors as one: names, totals, what happens when one of them fails."""

from __future__ import annotations

import pytest

from profiler.clock import FakeClock
from profiler.combined import CombinedSensor, combined
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sampler import Sampler
from profiler.sensor import Available, Probe, Unavailable
from profiler.sensors.fake import FakeSensor


def rail(name: str, scope: Scope, parent: str | None = None) -> Rail:
    return Rail(name, scope, RailKind.POWER_W, Provenance.INTEGRATED, parent=parent)


class Parts:
    """A processor of 20 W and a card of 100 W; each fails while its name is in `broken`."""

    def __init__(self, card_rail: str = "gpu0") -> None:
        self.clock = FakeClock()
        self.broken: set[str] = set()
        packages = [rail("package-0", Scope.PACKAGE), rail("core", Scope.RAIL, "package-0")]
        self.host = self._sensor("rapl", packages, [20.0, 15.0], Scope.HOST)
        self.card = self._sensor("nvml", [rail(card_rail, Scope.GPU)], [100.0], Scope.GPU)
        self.sensor = CombinedSensor([self.host, self.card])

    def _sensor(self, name: str, rails: list[Rail], powers_w: list[float], scope: Scope) -> FakeSensor:
        def read(_: float) -> list[float]:
            if name in self.broken:
                raise OSError("gone")
            return powers_w

        return FakeSensor(rails, read, self.clock, name=name, scope=scope)

    def joules_of_a_second(self, broken_halfway: str = "") -> dict[str, float | None]:
        with Sampler(self.sensor, self.clock, rate_hz=0.01) as sampler:  # samples are taken here, in fake time
            window = sampler.open_window()
            for _ in range(2):
                self.clock.advance(0.5)
                sampler.sample_now()
                self.broken = {broken_halfway}
            readings = window.close()
            return {reading.rail: reading.energy_j for reading in (*readings, sampler.total(readings))}


def test_a_total_is_the_sum_of_the_parts_totals() -> None:
    assert Parts().joules_of_a_second() == {"package-0": 20.0, "core": 15.0, "gpu0": 100.0, "total": 120.0}


def test_rails_of_one_name_are_told_apart_with_their_parents() -> None:
    outcome = Parts("package-0").sensor.probe()
    assert isinstance(outcome, Available)
    assert [rail.name for rail in outcome.rails] == ["rapl:package-0", "core", "nvml:package-0"]
    assert [rail.parent for rail in outcome.rails] == [None, "rapl:package-0", None]
    assert outcome.total == ("rapl:package-0", "nvml:package-0")
    assert (outcome.scope, outcome.provenance) == (Scope.HOST, Provenance.INTEGRATED)


def test_a_part_that_fails_leaves_the_others_their_joules_and_widens_the_total() -> None:
    parts = Parts()
    sampler = Sampler(parts.sensor, parts.clock, rate_hz=0.01)
    with sampler:
        window = sampler.open_window()
        parts.clock.advance(0.8)
        sampler.sample_now()
        parts.broken = {"nvml"}
        parts.clock.advance(0.2)
        host, _, card = window.close()
        total = sampler.total([host, card])
    assert (host.energy_j, host.coverage) == (20.0, 1.0)
    assert card.coverage == pytest.approx(0.8)
    assert total.coverage == pytest.approx(0.8)
    assert total.energy_err_j is not None
    assert total.energy_err_j > 16, "what the card drew since is not known: 2 * 0.2 s * 100 W * sqrt(1/6)"


def test_a_part_that_is_gone_for_long_makes_the_total_missing() -> None:
    parts = Parts()
    parts.broken = {"nvml"}
    energies = parts.joules_of_a_second("nvml")
    assert (energies["package-0"], energies["gpu0"], energies["total"]) == (20.0, None, None)


def test_where_all_parts_fail_the_reason_names_them() -> None:
    parts = Parts()
    parts.sensor.open()
    parts.broken = {"rapl", "nvml"}
    with pytest.raises(SensorError, match=r"rapl: gone; nvml: gone"):
        parts.sensor.read()
    parts.sensor.close()


def test_a_part_that_cannot_be_opened_closes_the_others() -> None:
    parts = Parts()
    absent = FakeSensor([], lambda t_s: [], parts.clock, name="nvml", unavailable=Unavailable("no driver", "Install."))
    with pytest.raises(SensorError, match="nvml: no driver"):
        CombinedSensor([parts.host, absent]).open()
    with pytest.raises(SensorError, match="not open"):
        parts.host.read()


def test_one_probe_stays_what_it_is() -> None:
    host = Parts().host
    probe = Probe(host, host.probe())
    assert combined([probe]) is probe
    with pytest.raises(ValueError, match="no sensor"):
        combined([])

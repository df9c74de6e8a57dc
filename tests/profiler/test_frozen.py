"""Counters and gauges that lie: they jump back, stand still, or were never wired up."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.sampler import Sampler
from profiler.sensors.battery import BatterySensor
from profiler.sensors.fake import FakeSensor
from profiler.sensors.rapl import RaplSensor
from profiler.span import Profiler
from tests.fixtures.power_supply import laptop, phone, write
from tests.fixtures.powercap import build_tree
from tests.profiler.rails import counter_rail

_TICKS = 20


@pytest.mark.parametrize("wrap_j", [None, 262_143.32885])
def test_a_counter_that_jumps_back_is_bridged_and_told(wrap_j: float | None) -> None:
    """20 W; at 10 s the counter starts again from 0: a second is not known, presumed at 20 W, and in doubt."""
    clock = FakeClock()
    rail = counter_rail(wrap_j=wrap_j, max_power_w=100.0)
    sensor = FakeSensor([rail], lambda t_s: [5_000 + 20 * t_s if t_s < 10 else 20 * (t_s - 10)], clock)
    sampler = Sampler(sensor, clock, rate_hz=1.0)
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        for _ in range(_TICKS):
            clock.advance(1)
            sampler.sample_now()
    assert span.record is not None
    (reading,) = span.record.energies
    assert reading.energy_j == pytest.approx(400.0)
    assert reading.coverage == pytest.approx(19 / 20)
    assert (reading.energy_err_j or 0) >= 2 / math.sqrt(3) * 20
    assert "counter_reset" in (reading.reason or "")


def test_a_package_whose_counter_stands_still_is_frozen_and_idle_memory_is_not(tmp_path: Path) -> None:
    """The package's counter stops at 6 s of 20; memory stands still from the beginning, as it may."""
    clock = FakeClock()
    tree = build_tree(tmp_path, core=False, start_uj=1_000_000)
    sampler = Sampler(RaplSensor(tmp_path, clock), clock, rate_hz=0)
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        for second in range(1, _TICKS + 1):
            clock.advance(1)
            tree.set_uj("package-0", 1_000_000 + 20_000_000 * min(second, 6))
            sampler.sample_now()
    assert span.record is not None
    package, memory = span.record.energies
    assert package.energy_j == pytest.approx(120.0, abs=1)  # 11 s counted, then 9 s at the power it had: none
    assert package.coverage == pytest.approx(11 / 20)
    assert "frozen" in (package.reason or "")
    assert (memory.energy_j, memory.coverage) == (0.0, 1.0)
    assert (memory.reason or "").startswith("below_resolution")


def test_a_counter_that_never_moves_is_missing(tmp_path: Path) -> None:
    """No joule at all of a package that executes this is no figure, however short the span."""
    clock = FakeClock()
    build_tree(tmp_path, core=False)
    sampler = Sampler(RaplSensor(tmp_path, clock), clock, rate_hz=0)
    for duration_s in (0.5, 60.0):
        with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
            clock.advance(duration_s)
        assert span.record is not None
        assert span.record.total is not None
        assert span.record.total.energy_j is None
        assert "frozen" in (span.record.total.reason or "")


def test_a_psys_that_nobody_wired_up_is_missing_and_the_packages_are_there(tmp_path: Path) -> None:
    clock = FakeClock()
    tree = build_tree(tmp_path, psys=True, core=False, dram=False, start_uj={"package-0": 5})
    sampler = Sampler(RaplSensor(tmp_path, clock), clock, rate_hz=0)
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        for second in range(1, 31):
            clock.advance(1)
            tree.set_uj("package-0", 5 + 20_000_000 * second)
            sampler.sample_now()
    assert span.record is not None
    readings = {reading.rail: reading for reading in span.record.energies}
    assert readings["psys"].energy_j is None
    assert "frozen" in (readings["psys"].reason or "")
    assert span.record.total is not None
    assert span.record.total.energy_j == pytest.approx(600.0)


@pytest.mark.parametrize("build", [laptop, phone])
def test_a_battery_gauge_that_is_frozen_is_not_believed_for_ever(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    """10 minutes of one and the same power, voltage and energy: after 2 minutes it is no reading any more."""
    clock = FakeClock()
    build(tmp_path)
    sampler = Sampler(BatterySensor(tmp_path, clock), clock, rate_hz=0.1)
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        for _ in range(60):
            clock.advance(10)
            sampler.sample_now()
    assert span.record is not None
    for reading in span.record.energies:
        assert reading.energy_j is None
        assert reading.coverage == pytest.approx(120 / 600)
        assert "frozen" in (reading.reason or "")


def test_a_steady_battery_whose_voltage_falls_is_not_frozen(tmp_path: Path) -> None:
    clock = FakeClock()
    folder = phone(tmp_path)
    sampler = Sampler(BatterySensor(tmp_path, clock), clock, rate_hz=0.1)
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        for tick in range(60):
            clock.advance(10)
            write(folder, "voltage_now", 4_000_000 - tick // 10 * 1250)
            sampler.sample_now()
    assert span.record is not None
    (reading,) = span.record.energies
    assert reading.energy_j == pytest.approx(1.38 * 600, rel=0.01)
    assert (reading.coverage, reading.reason) == (pytest.approx(1.0), None)


def test_a_frozen_gauge_that_thaws_is_metered_again(tmp_path: Path) -> None:
    clock = FakeClock()
    folder = phone(tmp_path)
    sensor = BatterySensor(tmp_path, clock)
    with Sampler(sensor, clock, rate_hz=0.1) as sampler:
        for _ in range(13):
            clock.advance(10)
            sample = sampler.sample_now()
        assert sample.values == (None,)
        write(folder, "current_now", -300_000)
        assert sampler.sample_now().values == (pytest.approx(1.2),)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from profiler.agreement import Counted, disagreements, largest_difference
from profiler.clock import FakeClock, SystemClock
from profiler.commands.agreement import Agreement, agreements
from profiler.sensor import Probe, Sensor
from profiler.sensors.fake import FakeSensor
from profiler.sensors.perf import PerfSensor
from profiler.sensors.rapl import RaplSensor
from tests.fixtures.power_events import CONFIGS, Events, build_power_events
from tests.fixtures.powercap import PACKAGE_RANGE_UJ, Driver, Tree, build_tree
from tests.profiler.rails import power_rail

STEP_J = 61e-6


def counted(sensor: str, **energy_j: float) -> Counted:
    return Counted(sensor, energy_j, dict.fromkeys(energy_j, STEP_J))


def test_the_limit_is_the_steps_and_the_power_at_both_edges() -> None:
    """10 W for 1 s, read 1 ms apart at each edge: 2 x 10 x 10 W x 1 ms = 0.2 J, and two steps."""
    limit_j = 0.2 + 2 * STEP_J

    def said(other_j: float) -> list[str]:
        return disagreements(counted("a", x=10.0), counted("b", x=other_j), duration_s=1.0, apart_s=0.001)

    assert said(10.0) == said(10.0 - limit_j + 1e-6) == []
    assert said(10.0 - limit_j - 1e-6) == ["x drew 10 J by a and 9.8 J by b, where they may be 0.2 J apart"]
    assert said(20.0)  # a mirrored die, a doubled domain


def test_two_that_stand_still_agree_and_one_that_does_not_is_told() -> None:
    still, moving = counted("a", x=0.0), counted("b", x=1.0)
    assert disagreements(still, replace(still, sensor="b"), duration_s=1.0, apart_s=0.001) == []
    assert disagreements(still, moving, duration_s=1.0, apart_s=0.001)
    assert largest_difference(still, still) is None
    assert largest_difference(still, moving) == 1.0


def test_domains_of_one_list_only_are_named() -> None:
    one, other = counted("rapl", p=1.0, core=0.5), counted("perf", p=1.0, dram=0.5)
    assert disagreements(one, other, duration_s=1.0, apart_s=0.001) == ["only rapl has core", "only perf has dram"]
    assert largest_difference(one, other) == 0.0


@pytest.mark.parametrize("duration_s", [0.0, -1.0])
def test_no_time_is_no_comparison(duration_s: float) -> None:
    with pytest.raises(ValueError, match="duration"):
        disagreements(counted("a"), counted("b"), duration_s=duration_s, apart_s=0.0)


def probes(*sensors: Sensor) -> list[Probe]:
    return [Probe(sensor, sensor.probe()) for sensor in sensors]


class TreeClock(FakeClock):
    """Advances the counters of a tree by constant power while it sleeps."""

    def __init__(self, tree: Tree, power_w: float) -> None:
        super().__init__()
        self.tree = tree
        self.power_w = power_w

    def sleep(self, duration_s: float) -> None:
        super().sleep(duration_s)
        for label, zone in self.tree.zones.items():
            modulus_uj = zone.range_uj + 61
            self.tree.set_uj(label, (zone.start_uj + round(self.power_w * duration_s * 1e6)) % modulus_uj)


def compared(root: Path, joules: Callable[[int, int, int], float], *, dram: bool = True) -> Agreement:
    """powercap at 20 W across a wrap of its counter, beside events that count what they are told."""
    tree = build_tree(root, core=False, dram=dram, start_uj=PACKAGE_RANGE_UJ - 5_000_000)
    clock = TreeClock(tree, 20.0)
    build_power_events(root, events=("pkg", "ram"))
    perf = PerfSensor(root, clock, open_event=Events(joules))
    (agreement,) = agreements(probes(perf, RaplSensor(root, clock)), clock)
    return agreement


def test_both_ways_to_one_register_agree(tmp_path: Path) -> None:
    agreement = compared(tmp_path, lambda config, cpu, n: 1.0 if n < 2 else 21.01)  # the third reading is the end's
    assert str(agreement) == "rapl and perf agree within 0.05%, over 1 s"


def test_twice_the_joules_are_not_to_be_trusted(tmp_path: Path) -> None:
    def doubled(config: int, cpu: int, n: int) -> float:
        return 1.0 if n < 2 else 1.0 + (40.0 if config == CONFIGS["pkg"] else 20.0)

    said = str(compared(tmp_path, doubled))
    assert said.startswith("rapl and perf differ: package-0 drew 20 J by rapl and 40 J by perf")
    assert "do not trust" in said
    assert "dram-0" not in said


def test_domain_lists_that_disagree_are_told(tmp_path: Path) -> None:
    said = str(compared(tmp_path, lambda config, cpu, n: 1.0 if n < 2 else 21.0, dram=False))
    assert said.startswith("rapl and perf differ: only perf has dram-0")


def test_counters_that_stand_still_compare_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    build_tree(tmp_path)
    build_power_events(tmp_path)
    perf = PerfSensor(tmp_path, clock, open_event=Events(lambda config, cpu, n: 1.0))
    (agreement,) = agreements(probes(perf, RaplSensor(tmp_path, clock)), clock)
    assert "nothing to compare" in str(agreement)


def test_events_that_end_are_trouble_told(tmp_path: Path) -> None:
    clock = FakeClock()
    build_tree(tmp_path)
    build_power_events(tmp_path)
    perf = PerfSensor(tmp_path, clock, open_event=Events(n_readings=1))
    (agreement,) = agreements(probes(perf, RaplSensor(tmp_path, clock)), clock)
    assert "could not be compared: perf: no event" in str(agreement)


def test_one_alone_and_rails_of_power_are_not_compared(tmp_path: Path) -> None:
    clock = FakeClock()
    build_power_events(tmp_path)
    perf = PerfSensor(tmp_path, clock, open_event=Events())
    assert agreements(probes(perf), clock) == []
    meter = FakeSensor([power_rail()], lambda t_s: [5.0], clock)
    meter.name = "rapl"
    assert agreements(probes(perf, meter), clock) == []


@pytest.mark.serial
def test_a_driven_tree_agrees_with_events_that_follow_it(tmp_path: Path) -> None:
    """In real time, both read from the same driver: the kernel's way, but for its 1 ms ticks."""
    clock = SystemClock()
    build_power_events(tmp_path, events=("pkg",), event_type=1, config=0, scale="2e-8")  # the processor's clock: 20 W
    tree = build_tree(tmp_path, core=False, dram=False)
    perf, rapl = PerfSensor(tmp_path, clock), RaplSensor(tmp_path, clock)
    with Driver(tree, 20.0):
        found = agreements(probes(rapl, perf), clock, span_s=0.5)
    if not found:
        pytest.skip("this kernel forbids perf events")
    assert found[0].trouble is None
    assert found[0].largest_difference is not None
    assert found[0].largest_difference < 0.2  # a driver that waits for a processor is late by more than a real tick

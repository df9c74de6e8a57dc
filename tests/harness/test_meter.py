"""The host's meter: whose joules are whose, with errors, idle power, and sensors that are required or missing."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.host import process_cpu_s
from harness.meter import HostMeter, HostView, choose
from harness.sample_files import SampleFile
from profiler.clock import FakeClock, SystemClock
from profiler.errors import PreconditionError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sampler import Sample
from profiler.sensor import Available, Probe, Unavailable
from profiler.sensors.fake import FakeSensor
from profiler.shares import Tick

pytestmark = pytest.mark.serial

SECOND = 1_000_000_000
RAIL = Rail("p", Scope.PACKAGE, RailKind.COUNTER_J, Provenance.COUNTER, resolution=1e-6, gain_err=0.01)
AVAILABLE = Available((RAIL,), ("p",), Scope.HOST, Provenance.COUNTER)


def view(watts: float = 10.0) -> HostView:
    """Ten seconds at a constant power; a has three quarters of the CPU time, b the rest."""
    samples, ticks = [], []
    for n in range(101):
        joules, t_ns = watts * n / 10, n * SECOND // 10
        samples.append(Sample(t_ns, (joules,), (joules,)))
        ticks.append(Tick(t_ns, joules, {"a": 0.075 * n, "b": 0.025 * n}, 0.1 * n))
    return HostView(samples, ticks, AVAILABLE)


def test_shares_follow_cpu_time_and_add_up() -> None:
    host = view().host(SECOND, 9 * SECOND).reading
    a, b = (view().of(owner, SECOND, 9 * SECOND).reading for owner in "ab")
    assert host.energy_j == pytest.approx(80.0)
    assert a.energy_j == pytest.approx(60.0)
    assert b.energy_j == pytest.approx(20.0)
    assert (a.scope, host.scope) == (Scope.PROCESS, Scope.HOST)
    assert a.provenance is Provenance.COUNTER
    assert host.energy_err_j is not None
    assert a.energy_err_j == pytest.approx(0.75 * host.energy_err_j)
    assert host.energy_err_j == pytest.approx(2 * 0.01 * 80 / math.sqrt(3), rel=0.01)


def test_idle_time_is_charged_like_the_energy() -> None:
    host, a = view().host(0, 10 * SECOND), view().of("a", 0, 10 * SECOND)
    assert (host.meter, host.idle_s) == ("host", 10.0)
    assert (a.meter, a.idle_s) == ("host", pytest.approx(7.5))


def test_outside_the_samples_energy_is_missing() -> None:
    reading = view().of("a", 20 * SECOND, 30 * SECOND).reading
    assert reading.energy_j is None
    assert reading.reason
    assert view().of("c", 0, SECOND).reading.provenance is Provenance.MISSING


def test_without_a_sensor_energy_is_missing() -> None:
    meter = HostMeter([], None, SystemClock(), rate_hz=10)
    meter.start()
    idle, idle_s = asyncio.run(meter.measure_idle(0.01))
    assert meter.view(0).host(0, SECOND).reading.reason == "no sensor is available"
    assert (idle.energy_j, idle.reason, idle_s) == (None, "no sensor is available", 0.01)
    assert meter.samples() == {name: [] for name, *_ in SampleFile.COLUMNS}
    meter.stop()


def busy_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])


def idle_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])


def test_a_busy_process_pays_and_a_waiting_one_does_not() -> None:
    clock = SystemClock()
    rail = Rail("w", Scope.PACKAGE, RailKind.POWER_W, Provenance.INTEGRATED)
    sensor = FakeSensor([rail], lambda t_s: [10.0], clock)
    probe = Probe(sensor, sensor.probe())
    meter = HostMeter([probe], probe, clock, rate_hz=50)
    busy, idle = busy_process(), idle_process()
    try:
        meter.track("busy", busy.pid)
        meter.track("idle", idle.pid)
        meter.start()
        time.sleep(0.2)
        start_ns = clock.monotonic_ns()
        time.sleep(1.0)
        end_ns = clock.monotonic_ns()
        seen = meter.view(start_ns)
    finally:
        for process in (busy, idle):
            process.kill()
            process.wait()
        meter.stop()
    host_j = seen.host(start_ns, end_ns).reading.energy_j
    assert host_j == pytest.approx(10.0 * (end_ns - start_ns) / SECOND, rel=1e-3)
    parts = {
        owner: seen.of(owner, start_ns, end_ns).reading.energy_j or 0 for owner in ("busy", "idle", "server", "other")
    }
    assert math.fsum(parts.values()) == pytest.approx(host_j)
    assert parts["busy"] > 2.0
    assert parts["idle"] < 0.2


def test_a_restarted_client_keeps_its_account() -> None:
    """The second process's own CPU clock begins at 0: its work is charged on top of the first one's."""
    clock = FakeClock()
    sensor = FakeSensor([RAIL], lambda t_s: [5.0 * t_s], clock)
    probe = Probe(sensor, sensor.probe())
    meter = HostMeter([probe], probe, clock, rate_hz=0)
    meter.start()
    for end_s, length_s in ((1, 0.4), (2, 0.2)):
        process = busy_process()
        meter.track("a", process.pid)
        if end_s == 1:  # the first sight of an owner is its baseline; a second process has none of its own
            clock.advance(0.001)
            meter.view(0)
        try:
            time.sleep(length_s)
            clock.advance(end_s - clock.monotonic_ns() / SECOND)
            seen = meter.view(0)
        finally:
            process.kill()
            process.wait()
        share = seen.of("a", (end_s - 1) * SECOND, end_s * SECOND).reading
        assert share.energy_j is not None
        assert share.energy_j > 0.5
    meter.stop()


def test_cpu_time_of_another_process_is_fine_grained() -> None:
    process = busy_process()
    try:
        time.sleep(0.1)
        first = process_cpu_s(process.pid)
        second = process_cpu_s(process.pid)
        assert first is not None
        assert second is not None
        assert 0 <= second - first < 0.05
        assert round(first * 1e9) % 10_000_000 != 0
    finally:
        process.kill()
        process.wait()
    assert process_cpu_s(process.pid) is None


def test_the_best_sensor_is_chosen_and_only_a_required_one_is_fatal(tmp_path: Path) -> None:
    clock = FakeClock()
    counter = FakeSensor([RAIL], lambda t_s: [t_s], clock, name="counter")
    model = FakeSensor(
        [Rail("m", Scope.HOST, RailKind.COUNTER_J, Provenance.ESTIMATED)], lambda t_s: [t_s], clock, name="model"
    )
    locked = FakeSensor([RAIL], lambda t_s: [t_s], clock, name="locked", unavailable=Unavailable("no", "chmod it."))
    probes = [Probe(sensor, sensor.probe()) for sensor in (model, counter, locked)]
    chosen = choose(probes, [])
    assert chosen is not None
    assert chosen.sensor.name == "counter"
    assert choose([probes[2]], []) is None
    with pytest.raises(PreconditionError, match="required sensor locked is not available: no chmod it") as caught:
        choose(probes, ["counter", "locked"])
    assert caught.value.exit_code == 3
    with pytest.raises(PreconditionError, match="no such sensor"):
        choose(probes, ["rapll"])

"""A device's meter that is read from here: joules, what slow answers cost, refusals in words, bounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.sensor_meter import SensorMeter
from profiler.clock import FakeClock, SystemClock
from profiler.errors import SensorError
from profiler.quantities import BELOW_RESOLUTION, Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable
from profiler.sensors.adb import AdbSensor
from tests.fixtures.adb_server import USB_SERIAL, Phone, running_adb
from tests.harness.running import wait_until

SECOND = 10**9
RATE_HZ = 0.01  # its thread sleeps through a test: samples are taken by hand


class Gauge:
    """A gauge of `watts` that takes `latency_s` to answer, and whatever `trouble` says."""

    name = "gauge"

    def __init__(self, clock: FakeClock, *, watts: float = 2.0, latency_s: float = 0.0) -> None:
        self.clock = clock
        self.watts = watts
        self.latency_s = latency_s
        self.trouble = ""
        self.refusal = ""

    def probe(self) -> Available | Unavailable:
        if self.refusal:
            return Unavailable(self.refusal)
        rail = Rail("battery", Scope.DEVICE, RailKind.POWER_W, Provenance.INTEGRATED, min_period_s=1.0)
        return Available((rail,), ("battery",), Scope.DEVICE, Provenance.INTEGRATED, notes="phone SERIAL")

    def open(self) -> None:
        pass

    def read(self) -> list[float | None]:
        self.clock.advance(self.latency_s)
        if self.trouble:
            raise SensorError(f"gauge: {self.trouble}.")
        return [self.watts]

    def close(self) -> None:
        pass


@contextmanager
def metering(gauge: Gauge, **options: int) -> Iterator[SensorMeter]:
    meter = SensorMeter(
        "phone", gauge, gauge.clock, rate_hz=RATE_HZ, hide=lambda text: text.replace("SERIAL", "..."), **options
    )
    meter.look()
    try:
        yield meter
    finally:
        meter.stop()


def sampled(meter: SensorMeter, clock: FakeClock, seconds: int) -> None:
    for _ in range(seconds):
        clock.advance(1.0)
        meter.catch_up()


def test_a_steady_draw_is_watts_times_seconds() -> None:
    clock = FakeClock()
    with metering(Gauge(clock)) as meter:
        sampled(meter, clock, 60)
        reading = meter.energy(10 * SECOND + 1, 50 * SECOND + 1)
    assert reading.energy_j == pytest.approx(80.0)
    assert (reading.provenance, reading.scope, reading.coverage) == (Provenance.INTEGRATED, Scope.DEVICE, 1.0)
    assert meter.facts["notes"] == "phone ..."


def test_what_was_sampled_is_known_after_the_end() -> None:
    clock = FakeClock()
    with metering(Gauge(clock)) as meter:
        sampled(meter, clock, 10)
    meter.catch_up()
    assert meter.energy(0, 10 * SECOND).energy_j == pytest.approx(20.0)


def test_slow_answers_make_the_error_larger_and_short_windows_below_resolution() -> None:
    found = {}
    for latency_s in (0.0, 0.4):
        clock = FakeClock()
        gauge = Gauge(clock, latency_s=latency_s)
        with metering(gauge) as meter:
            for n in range(30):
                gauge.watts = 2.0 + n % 2
                sampled(meter, clock, 1)
            found[latency_s] = meter.energy(10 * SECOND, 11 * SECOND)
    fast, slow = found[0.0], found[0.4]
    assert (slow.energy_err_j or 0) > (fast.energy_err_j or 0)
    assert BELOW_RESOLUTION in (slow.reason or "")
    assert "up to 0.2 s old" in (slow.reason or ""), "half of what an answer takes"


def test_a_device_that_stops_telling_is_missing_with_what_it_said() -> None:
    clock = FakeClock()
    gauge = Gauge(clock)
    with metering(gauge) as meter:
        sampled(meter, clock, 10)
        gauge.trouble = "SERIAL cannot be reached"
        for _ in range(1000):
            clock.advance(1.0)
            meter.catch_up()
        known, unknown = meter.energy(0, 10 * SECOND), meter.energy(400 * SECOND, 800 * SECOND)
    assert known.energy_j == pytest.approx(20.0)
    assert unknown.energy_j is None
    assert (unknown.reason or "").startswith("gauge: ... cannot be reached; ")


def test_a_refusal_stands_until_the_device_can_be_metered() -> None:
    clock = FakeClock()
    gauge = Gauge(clock)
    gauge.refusal = "charging: USB may feed SERIAL"
    with metering(gauge) as meter:
        reading = meter.energy(0, SECOND)
        assert (reading.energy_j, reading.reason) == (None, "charging: USB may feed ...")
        assert meter.facts == {"metered_from_here": False, "energy_missing": "charging: USB may feed ..."}
        gauge.refusal = ""
        clock.advance(10)
        meter.look()
        assert meter.refusal, "it is not asked all the time"
        clock.advance(30)
        meter.look()
        assert not meter.refusal
        sampled(meter, clock, 10)
        assert meter.energy(41 * SECOND, 49 * SECOND).energy_j == pytest.approx(16.0)
        early = meter.energy(0, 40 * SECOND)
        assert early.energy_j is None, "nobody has metered that"


def test_it_keeps_the_newest_samples_alone() -> None:
    clock = FakeClock()
    with metering(Gauge(clock), max_samples=50) as meter:
        sampled(meter, clock, 500)
        assert meter.energy(470 * SECOND, 500 * SECOND).energy_j == pytest.approx(60.0)
        assert meter.energy(100 * SECOND, 200 * SECOND).energy_j is None


# --- a phone over the real adb client --------------------------------------------------------------------------------


@contextmanager
def phone_meter(phone: Phone) -> Iterator[SensorMeter]:
    clock = SystemClock()
    meter = SensorMeter("phone", AdbSensor(Path("/"), clock, serial=phone.serial, period_s=0.05), clock, rate_hz=10.0)
    try:
        yield meter
    finally:
        meter.stop()


@pytest.mark.serial
@pytest.mark.parametrize("current", [-345_000, -345], ids=["uA", "mA"])
def test_a_gauge_that_discharges_gives_joules_in_whatever_unit(
    current: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_adb(tmp_path, monkeypatch) as server:
        phone = server.phones[USB_SERIAL]
        phone.show_gauge(current)
        with phone_meter(phone) as meter:
            meter.look()
            assert not meter.refusal
            start_ns = SystemClock().monotonic_ns()
            wait_until(lambda: SystemClock().monotonic_ns() > start_ns + SECOND)
            meter.catch_up()
            reading = meter.energy(start_ns, start_ns + SECOND)
    assert reading.energy_j == pytest.approx(1.38)
    assert (reading.energy_err_j or 0) >= 0.05 * 1.38, "a gauge's gain alone"


@pytest.mark.serial
@pytest.mark.parametrize("how", ["unplugged", "gauge gone", "charging"])
def test_a_phone_that_can_be_metered_no_longer_says_why(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_adb(tmp_path, monkeypatch) as server:
        phone = server.phones[USB_SERIAL]
        phone.show_gauge(-345_000)
        with phone_meter(phone) as meter:
            meter.look()
            if how == "unplugged":
                server.unplug(USB_SERIAL)
            elif how == "gauge gone":
                phone.hide_gauge()
            else:
                phone.set_gauge(status="Charging")
            words = {"unplugged": "cannot be reached", "gauge gone": "not discharging", "charging": "charging: "}[how]

            def is_said_of_the_last_second() -> bool:
                now_ns = SystemClock().monotonic_ns()
                reading = meter.energy(now_ns - SECOND, now_ns)
                return reading.energy_j is None and words in (reading.reason or "")

            wait_until(is_said_of_the_last_second)

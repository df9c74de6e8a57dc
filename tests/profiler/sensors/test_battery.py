from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.sampler import Sampler
from profiler.sensor import Available, Unavailable
from profiler.sensors.battery import BatterySensor
from tests.fixtures import power_supply
from tests.fixtures.power_supply import CLASS, laptop, phone, supply, write


def probe(root: Path, **options: bool) -> Available:
    outcome = BatterySensor(root, FakeClock(), **options).probe()  # type: ignore[arg-type]
    assert isinstance(outcome, Available), outcome
    return outcome


def refusal(root: Path) -> Unavailable:
    outcome = BatterySensor(root, FakeClock()).probe()
    assert isinstance(outcome, Unavailable), outcome
    return outcome


@contextlib.contextmanager
def opened(root: Path, sensor: BatterySensor | None = None) -> Iterator[BatterySensor]:
    sensor = sensor or BatterySensor(root, FakeClock())
    sensor.open()
    try:
        yield sensor
    finally:
        sensor.close()


def read(root: Path, sensor: BatterySensor | None = None) -> list[float | None]:
    with opened(root, sensor) as battery:
        return battery.read()


def test_a_laptop_has_power_in_the_total_and_energy_beside_it(tmp_path: Path) -> None:
    laptop(tmp_path)
    outcome = probe(tmp_path)
    assert [rail.name for rail in outcome.rails] == ["BAT0", "BAT0-energy"]
    assert outcome.total == ("BAT0",)  # the same joules a second time are not added
    assert outcome.rails[1].parent == "BAT0"
    assert (outcome.scope, outcome.provenance) == (Scope.DEVICE, Provenance.INTEGRATED)
    assert outcome.rails[1].provenance is Provenance.COUNTER
    assert read(tmp_path) == [12.5, pytest.approx((50 - 36) * 3600)]


def test_the_battery_of_a_mouse_is_not_the_machine_s(tmp_path: Path) -> None:
    laptop(tmp_path)
    assert (tmp_path / CLASS / "hidpp_battery_0").is_dir()
    assert not any(rail.name.startswith("hidpp") for rail in probe(tmp_path).rails)


def test_current_times_voltage_where_there_is_no_power(tmp_path: Path) -> None:
    power_supply.laptop_by_current(tmp_path)
    assert read(tmp_path) == [pytest.approx(13.2)]


def test_energy_alone_is_a_counter(tmp_path: Path) -> None:
    folder = laptop(tmp_path)
    for name in ("power_now", "voltage_now"):
        (folder / name).unlink()
    outcome = probe(tmp_path)
    assert outcome.total == ("BAT0-energy",)
    assert outcome.provenance is Provenance.COUNTER
    assert outcome.rails[0].parent is None


@pytest.mark.parametrize(
    ("build", "unit"),
    [
        (phone, "uA"),
        (power_supply.phone_positive, "uA"),  # seen on devices that discharge, against the convention
        (power_supply.phone_milliampere, "mA"),
    ],
)
def test_phones_of_every_convention_draw_the_same(tmp_path: Path, build: Callable[[Path], Path], unit: str) -> None:
    build(tmp_path)
    assert f"current_now assumed to be in {unit}" in probe(tmp_path).notes
    assert read(tmp_path) == [pytest.approx(1.38)]


@pytest.mark.parametrize("raw", [4_000_000, 4_000, 4])
def test_voltage_in_any_of_three_units(tmp_path: Path, raw: int) -> None:
    phone(tmp_path, voltage=raw)
    assert read(tmp_path) == [pytest.approx(1.38)]


def test_a_unit_that_is_told_is_not_guessed(tmp_path: Path) -> None:
    phone(tmp_path, -3450)  # a device in deep sleep: 3.45 mA
    sensor = BatterySensor(tmp_path, FakeClock(), current_unit="uA")
    outcome = sensor.probe()
    assert isinstance(outcome, Available)
    assert "told to be in uA" in outcome.notes
    assert read(tmp_path, sensor) == [pytest.approx(0.0138)]


def test_a_gauge_wrongly_taken_for_milliampere_is_missing_rather_than_a_thousandfold(tmp_path: Path) -> None:
    folder = phone(tmp_path, -3450)
    with opened(tmp_path) as sensor:
        for raw in (-345_000, -12_000):
            write(folder, "current_now", raw)
            with pytest.raises(SensorError):
                sensor.read()
        write(folder, "current_now", -9_000)
        assert sensor.read() == [36.0]


def test_a_laptop_that_idles_is_not_taken_for_milliampere(tmp_path: Path) -> None:
    folder = power_supply.laptop_by_current(tmp_path)
    write(folder, "current_now", 4_000)
    assert "in uA" in probe(tmp_path).notes


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (power_supply.phone_charging, "charging: usb"),
        (power_supply.phone_full, "charging: usb"),
        (lambda root: laptop(root, status="Not charging", online=1), "charging: AC"),
        (lambda root: laptop(root, status="Discharging", online=1), "charging: AC"),  # a charger that is too weak
        (lambda root: laptop(root, online=2), "charging: AC"),  # 2: a programmable supply is online
        (lambda root: laptop(root, status="Charging"), "charging: a charger"),
        (lambda root: laptop(root, status="Unknown"), "not discharging: BAT0 says Unknown"),
        (lambda root: laptop(root, status="Full"), "not discharging: BAT0 says Full"),
    ],
)
def test_unless_it_discharges_a_battery_tells_nothing(tmp_path: Path, build: Callable[[Path], Path], word: str) -> None:
    build(tmp_path)
    outcome = refusal(tmp_path)
    assert word in outcome.reason
    assert "Unplug" in outcome.remedy
    assert "adb" in outcome.remedy


def test_charging_can_be_allowed_and_is_not_called_the_device(tmp_path: Path) -> None:
    power_supply.phone_charging(tmp_path)
    outcome = probe(tmp_path, allow_charging=True)
    assert outcome.scope is Scope.RAIL
    assert {rail.scope for rail in outcome.rails} == {Scope.RAIL}
    assert "not what the device draws" in outcome.notes
    assert read(tmp_path, BatterySensor(tmp_path, FakeClock(), allow_charging=True)) == [pytest.approx(3.28)]


def test_a_counter_that_runs_both_ways_is_left_out(tmp_path: Path) -> None:
    laptop(tmp_path, status="Charging", online=1)
    assert [rail.name for rail in probe(tmp_path, allow_charging=True).rails] == ["BAT0"]
    assert read(tmp_path, BatterySensor(tmp_path, FakeClock(), allow_charging=True)) == [12.5]


def test_a_counter_at_zero_is_none(tmp_path: Path) -> None:
    folder = laptop(tmp_path)
    with opened(tmp_path) as sensor:
        write(folder, "energy_now", 0)
        assert sensor.read() == [12.5, None]
    assert [rail.name for rail in probe(tmp_path).rails] == ["BAT0"]


def test_without_a_status_nothing_is_said_of_charging(tmp_path: Path) -> None:
    (laptop(tmp_path) / "status").unlink()
    assert "BAT0/status" in refusal(tmp_path).reason


def test_the_ups_of_another_machine_is_no_charger(tmp_path: Path) -> None:
    laptop(tmp_path)
    supply(tmp_path, "ups0", type="UPS", online=1)
    assert probe(tmp_path).total == ("BAT0",)


def test_two_batteries_add_up_and_the_idle_one_draws_nothing(tmp_path: Path) -> None:
    first, second = power_supply.two_batteries(tmp_path)
    assert probe(tmp_path).total == ("BAT0", "BAT1")
    assert read(tmp_path)[::2] == [12.5, 0.0]
    write(second, "status", "Discharging")
    write(second, "power_now", 2_500_000)
    assert read(tmp_path)[::2] == [12.5, 2.5]
    write(second, "status", "Unknown")  # 2.5 W, in which direction?
    assert read(tmp_path)[::2] == [12.5, None]
    with opened(tmp_path) as sensor:
        write(first, "power_now", 0)
        write(second, "power_now", 0)
        assert sensor.read()[::2] == [None, None]  # a running machine does not draw 0 W


@pytest.mark.parametrize("current", [0, 2_000_000_000])
def test_a_driver_that_says_nothing_sensible_is_not_preferred_to_other_sensors(tmp_path: Path, current: int) -> None:
    phone(tmp_path, current)
    outcome = refusal(tmp_path)
    assert "0 W" in outcome.reason
    assert "another sensor" in outcome.remedy


def test_an_empty_bay_is_no_battery(tmp_path: Path) -> None:
    _, second = power_supply.two_batteries(tmp_path)
    write(second, "present", 0)
    assert probe(tmp_path).total == ("BAT0",)


def test_a_second_view_of_one_cell_is_not_counted_twice(tmp_path: Path) -> None:
    folder = phone(tmp_path)
    twin = {"type": "Battery", "status": "Discharging", "current_now": -345_000, "voltage_now": 4_000_000}
    supply(tmp_path, "max170xx_battery", **twin)
    outcome = probe(tmp_path)
    assert outcome.total == ("battery",)
    assert "max170xx_battery taken for the same cell" in outcome.notes
    supply(tmp_path, "axp288_fuel_gauge", **twin)  # before it in the alphabet
    assert probe(tmp_path).total == ("battery",)
    (tmp_path / CLASS / "axp288_fuel_gauge").unlink()
    (folder / "current_now").unlink()  # now only the gauge knows
    assert probe(tmp_path).total == ("max170xx_battery",)


def test_a_known_gauge_refreshes_faster_and_a_recording_says_better(tmp_path: Path) -> None:
    phone(tmp_path, name="max170xx_battery")
    assert probe(tmp_path).rails[0].edge_jitter_s == 0.1758
    outcome = BatterySensor(tmp_path, FakeClock(), refresh_s=10.0).probe()
    assert isinstance(outcome, Available)
    assert (outcome.rails[0].min_period_s, outcome.rails[0].edge_jitter_s) == (10.0, 10.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="refresh_s"):
            BatterySensor(tmp_path, FakeClock(), refresh_s=wrong)


def test_the_assumed_accuracy_is_told(tmp_path: Path) -> None:
    laptop(tmp_path)
    outcome = probe(tmp_path)
    assert {rail.gain_err for rail in outcome.rails} == {0.05}
    assert "5 % is assumed" in outcome.notes


def test_without_a_voltage_there_is_no_power(tmp_path: Path) -> None:
    power_supply.phone_without_voltage(tmp_path)
    assert "voltage_now" in refusal(tmp_path).reason


def test_a_machine_without_a_battery(tmp_path: Path) -> None:
    supply(tmp_path, "AC", type="Mains", online=1)
    outcome = refusal(tmp_path)
    assert "no battery" in outcome.reason
    assert "adb shell" in outcome.remedy


@pytest.mark.parametrize("text", ["", "12x\n", "12500000", "1_000\n", "٣\n", "9" * 200 + "\n", "nan\n"])
def test_what_is_no_number_is_no_power(tmp_path: Path, text: str) -> None:
    """Empty, cut off, not decimal, too long: with the rest of the battery still there."""
    folder = laptop(tmp_path)
    with opened(tmp_path) as sensor:
        (folder / "power_now").write_text(text)
        assert sensor.read() == [None, pytest.approx(14 * 3600)]
        (folder / "energy_now").write_text(text)
        with pytest.raises(SensorError, match="can be read"):
            sensor.read()


def test_a_tree_that_was_copied_without_newlines(tmp_path: Path) -> None:
    folder = laptop(tmp_path)
    for path in folder.iterdir():
        path.write_text(path.read_text().strip())
    assert read(tmp_path)[0] == 12.5
    (folder / "status").write_text("")
    assert refusal(tmp_path).reason.endswith("is empty or cut off")


def test_a_wrong_unit_is_not_300_watts_and_more(tmp_path: Path) -> None:
    folder = laptop(tmp_path)
    with opened(tmp_path) as sensor:
        write(folder, "power_now", 12_500_000_000)
        assert sensor.read()[0] is None


def test_something_that_blocks_when_opened_does_not_block(tmp_path: Path) -> None:
    folder = laptop(tmp_path)
    (folder / "power_now").unlink()
    os.mkfifo(folder / "power_now")
    assert probe(tmp_path).total == ("BAT0-energy",)


def test_a_battery_that_goes_and_comes_back(tmp_path: Path) -> None:
    folder = laptop(tmp_path)
    with opened(tmp_path) as sensor:
        assert sensor.read()[0] == 12.5
        gone = folder.with_name("gone")
        folder.rename(gone)
        for path in gone.iterdir():
            path.unlink()
        with pytest.raises(SensorError):
            sensor.read()
        folder.mkdir()
        for name, value in (("status", "Discharging"), ("power_now", 7_000_000), ("energy_now", 30_000_000)):
            write(folder, name, value)
        assert sensor.read() == [7.0, pytest.approx(20 * 3600)]


def test_a_driver_that_was_reloaded_is_opened_again(tmp_path: Path) -> None:
    """Its old descriptor answers ENODEV; that of a folder answers EISDIR and takes the same path."""
    laptop(tmp_path)
    with opened(tmp_path) as sensor:
        sensor.read()
        assert sensor._reader is not None
        power = sensor._reader._open_cells[0]._power._file
        assert power is not None
        folder = os.open(tmp_path, os.O_RDONLY)
        os.dup2(folder, power)
        os.close(folder)
        assert sensor.read()[0] == 12.5


def test_a_charger_that_is_gone_is_not_online_and_one_that_cannot_be_read_may_be(tmp_path: Path) -> None:
    laptop(tmp_path)
    online = tmp_path / CLASS / "AC" / "online"
    with opened(tmp_path) as sensor:
        online.unlink()
        assert sensor.read()[0] == 12.5
        online.write_text("?\n")
        with pytest.raises(SensorError, match="charging: AC"):
            sensor.read()


def test_unreadable_files_are_named() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to nobody
        root = Path(folder)
        root.chmod(0o755)
        current = phone(root) / "current_now"
        current.chmod(0)
        user = os.geteuid()
        if user == 0:  # root may read everything
            os.seteuid(65534)
        try:
            outcome = refusal(root)
        finally:
            os.seteuid(user)
    assert "battery/current_now" in outcome.reason
    assert "adb shell" in outcome.remedy


def metered(root: Path, watch: Callable[[FakeClock, Sampler], None]) -> EnergyReading:
    clock = FakeClock()
    with Sampler(BatterySensor(root, clock), clock, rate_hz=0) as sampler:
        sampler._rails[0]._max_gap_s = 1.0  # the test takes the samples that the thread would
        window = sampler.open_window()
        watch(clock, sampler)
        return window.close()[0]


def test_constant_power_is_exact(tmp_path: Path) -> None:
    phone(tmp_path)

    def watch(clock: FakeClock, sampler: Sampler) -> None:
        for _ in range(100):
            clock.advance(0.25)
            sampler.sample_now()

    reading = metered(tmp_path, watch)
    assert reading.energy_j == pytest.approx(1.38 * 25, rel=1e-12)
    assert reading.coverage == 1.0
    assert reading.energy_err_j is not None
    assert reading.energy_err_j >= 2 * 0.05 * 1.38 * 25 / 3**0.5


def test_plugging_in_ends_what_is_known(tmp_path: Path) -> None:
    folder = phone(tmp_path)

    def watch(clock: FakeClock, sampler: Sampler) -> None:
        for n in range(100):
            if n == 80:
                write(tmp_path / CLASS / "usb", "online", 1)
                write(folder, "status", "Charging")
            clock.advance(0.25)
            sampler.sample_now()

    reading = metered(tmp_path, watch)
    assert reading.coverage == pytest.approx(0.8)
    assert "charging: usb" in (reading.reason or "")


def test_energy_counts_up_while_it_is_drawn(tmp_path: Path) -> None:
    folder = laptop(tmp_path)
    clock = FakeClock()
    with Sampler(BatterySensor(tmp_path, clock), clock, rate_hz=0) as sampler:
        window = sampler.open_window()
        clock.advance(288.0)
        write(folder, "energy_now", 35_000_000)
        energy = window.close()[1]
    assert energy.energy_j == pytest.approx(3600.0)  # 1 Wh: 12.5 W over 288 s
    assert energy.provenance is Provenance.COUNTER

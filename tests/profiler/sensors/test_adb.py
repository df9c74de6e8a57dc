"""A phone behind a fake adb, which is a real program: what is read, what is refused and why, what goes wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from profiler.clock import FakeClock, SystemClock
from profiler.errors import DeviceError, SensorError
from profiler.quantities import Provenance, RailKind, Scope
from profiler.sampler import Sampler
from profiler.sensor import Available, Probe, Unavailable, best, is_elsewhere
from profiler.sensors.adb import AdbSensor
from profiler.sensors.adb_client import AdbClient
from profiler.sensors.odpm import SERVICE
from tests.fixtures.adb import BATTERY, ENERGY_VALUES, POWER_STATS, SAMSUNG, SERIAL, FakePhone, odpm_files
from tests.fixtures.adb import phone_with_files as with_files
from tests.fixtures.power_supply import supply

POWER_STATS_SERVICE = SERVICE.removeprefix("dumpsys ")
HERE = Path("/")


@pytest.fixture(autouse=True)
def _no_serial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def sensor_of(phone: FakePhone, clock: FakeClock | None = None, **options: object) -> AdbSensor:
    return AdbSensor(HERE, clock or FakeClock(), adb=phone.adb, **options)  # type: ignore[arg-type]


def available(sensor: AdbSensor) -> Available:
    outcome = sensor.probe()
    assert isinstance(outcome, Available), outcome
    return outcome


def refusal(sensor: AdbSensor) -> Unavailable:
    outcome = sensor.probe()
    assert isinstance(outcome, Unavailable), outcome
    assert outcome.reason
    assert outcome.remedy
    return outcome


def opened(phone: FakePhone, clock: FakeClock | None = None, **options: object) -> AdbSensor:
    sensor = sensor_of(phone, clock, **options)
    sensor.open()
    return sensor


def test_the_files_of_a_phone_give_watts_whatever_the_sign_and_the_unit(tmp_path: Path) -> None:
    for n, (current, unit) in enumerate(((-345_000, "uA"), (345_000, "uA"), (-345, "mA"), (345, "mA"))):
        sensor = sensor_of(with_files(tmp_path / str(n), current))
        outcome = available(sensor)
        assert (outcome.total, outcome.scope) == (("battery",), Scope.DEVICE)
        assert outcome.provenance is Provenance.INTEGRATED
        assert f"assumed to be in {unit}" in outcome.notes
        sensor.open()
        assert sensor.read() == [pytest.approx(1.38)]


def test_a_told_unit_is_taken(tmp_path: Path) -> None:
    phone = with_files(tmp_path / "adb", -4_500)  # 4.5 mA: a phone that sleeps
    assert opened(phone, current_unit="uA").read() == [pytest.approx(0.018)]


def test_a_sample_is_one_call_of_adb_and_is_held(tmp_path: Path, clock: FakeClock) -> None:
    phone = with_files(tmp_path / "adb")
    odpm_files(phone)
    sensor = opened(phone, clock, period_s=1.0)
    before = phone.n_calls
    first = sensor.read()
    phone.set("battery", "current_now", -500_000)
    clock.advance(0.9)
    assert sensor.read() == first
    assert phone.n_calls == before + 1
    clock.advance(0.2)
    assert sensor.read()[0] == pytest.approx(2.0)
    assert phone.n_calls == before + 2


def test_how_stale_a_reading_can_be_is_in_its_limits(tmp_path: Path) -> None:
    files, service = with_files(tmp_path / "files"), FakePhone(tmp_path / "service")
    for phone, options, stale_s in (
        (files, {}, 2.0),
        (files, {"period_s": 0.5, "refresh_s": 10.0}, 10.5),
        (service, {}, 61.0),  # its battery service looks once a minute
        (service, {"refresh_s": 5.0}, 6.0),
    ):
        (rail,) = available(sensor_of(phone, **options)).rails
        assert rail.edge_jitter_s == pytest.approx(stale_s)
        assert rail.min_period_s == pytest.approx(stale_s)


def test_a_vendor_s_line_of_current_where_the_files_are_closed(tmp_path: Path) -> None:
    phone = FakePhone(tmp_path / "adb")
    phone.dump("battery", SAMSUNG)
    sensor = sensor_of(phone)
    outcome = available(sensor)
    assert [rail.name for rail in outcome.rails] == ["battery", "battery-charge"]
    assert outcome.total == ("battery",)
    sensor.open()
    assert sensor.read() == [pytest.approx(1.284), 0.0]


def test_files_that_say_0_are_not_believed(tmp_path: Path) -> None:
    phone = with_files(tmp_path / "adb", 0)
    phone.dump("battery", SAMSUNG)
    assert opened(phone).read()[0] == pytest.approx(1.284)


def test_what_the_charge_counter_counted_becomes_joules(tmp_path: Path, clock: FakeClock) -> None:
    phone = FakePhone(tmp_path / "adb")
    sensor = sensor_of(phone, clock)
    outcome = available(sensor)
    (rail,) = outcome.rails
    assert (rail.kind, rail.provenance, outcome.total) == (
        RailKind.COUNTER_J,
        Provenance.INTEGRATED,
        ("battery-charge",),
    )
    assert rail.resolution == pytest.approx(0.005 * 3600 * 4.0)  # 5 mAh at 4 V: far from a joule, and told
    sensor.open()
    assert sensor.read() == [0.0]
    phone.dump("battery", BATTERY.replace("3194654", "3184654").replace("4000", "3900"))  # 10 mAh at 3.95 V
    clock.advance(2)
    assert sensor.read() == [pytest.approx(0.010 * 3600 * 3.95)]
    phone.dump("battery", BATTERY.replace("voltage: 4000", "voltage: 0"))
    clock.advance(2)
    with pytest.raises(SensorError):
        sensor.read()


def test_rails_of_a_pixel_lie_beside_its_battery_and_inside_it(tmp_path: Path) -> None:
    phone = with_files(tmp_path / "adb")
    odpm_files(phone)
    sensor = sensor_of(phone)
    outcome = available(sensor)
    assert outcome.total == ("battery",)
    rails = outcome.rails[1:]
    assert {rail.parent for rail in rails} == {"battery"}
    assert {(rail.kind, rail.provenance) for rail in rails} == {(RailKind.COUNTER_J, Provenance.COUNTER)}
    sensor.open()
    assert sensor.read() == pytest.approx([1.38, 5.578756, 30.203502, 1.0, 7.0, 91.0])


def test_rails_alone_are_a_module(tmp_path: Path) -> None:
    phone = FakePhone(tmp_path / "adb")
    phone.dump("battery", BATTERY.replace("3194654", "0"))
    phone.dump(POWER_STATS_SERVICE, POWER_STATS)
    sensor = sensor_of(phone)
    outcome = available(sensor)
    assert (outcome.scope, outcome.provenance) == (Scope.MODULE, Provenance.COUNTER)
    assert outcome.total == ("S10M_VDD_TPU", "VSYS_PWR_DISPLAY")
    sensor.open()
    assert sensor.read() == pytest.approx([5.57876, 1039.10842])


def test_the_service_is_asked_without_the_argument_that_changes_its_state(tmp_path: Path) -> None:
    phone = with_files(tmp_path / "adb")
    phone.dump(POWER_STATS_SERVICE, POWER_STATS)
    opened(phone).read()
    asked = [line for line in phone.dumped if POWER_STATS_SERVICE in line]
    assert asked
    assert not any("delta" in line for line in asked)


def test_one_rail_s_file_that_fails_leaves_the_others(tmp_path: Path, clock: FakeClock) -> None:
    phone = with_files(tmp_path / "adb")
    first, second = odpm_files(phone)
    sensor = opened(phone, clock)
    for content in ("t=1\nCH0(T=1)[S2S_VD", ""):
        second.write_text(content)
        clock.advance(2)
        assert sensor.read() == [pytest.approx(1.38), *map(pytest.approx, (5.578756, 30.203502, 1.0)), None, None]
    first.unlink()
    clock.advance(2)
    assert sensor.read() == [pytest.approx(1.38)] + [None] * 5


def test_charging_is_refused_with_the_way_to_meter_without_a_cable(tmp_path: Path) -> None:
    usb = with_files(tmp_path / "usb", 820_000, status="Charging", usb=1)
    weak = with_files(tmp_path / "weak", usb=1)  # discharges while a weak charger feeds it
    full = with_files(tmp_path / "full", 0, status="Full")
    service = FakePhone(tmp_path / "service")
    service.dump("battery", SAMSUNG.replace("USB powered: false", "USB powered: true"))
    for phone, words in ((usb, "charging: usb"), (weak, "charging: usb"), (full, "Full"), (service, "charging: USB")):
        outcome = refusal(sensor_of(phone))
        assert words in outcome.reason
        assert "adb tcpip 5555" in outcome.remedy
        assert "adb connect ADDRESS" in outcome.remedy
        assert not outcome.is_absent


def test_a_charger_in_mid_run_makes_every_reading_missing_with_its_reason(tmp_path: Path, clock: FakeClock) -> None:
    phone = with_files(tmp_path / "adb")
    odpm_files(phone)
    with Sampler(sensor_of(phone, clock), clock, rate_hz=0) as sampler:
        phone.set("usb", "online", 1)
        clock.advance(2)
        window = sampler.open_window()
        clock.advance(30)
        readings = window.close()
    assert {reading.provenance for reading in readings} == {Provenance.MISSING}
    assert all(reading.energy_j is None and "charging: usb" in (reading.reason or "") for reading in readings)


def test_allow_charging_tells_what_flows_and_does_not_call_it_the_phone_s_draw(tmp_path: Path) -> None:
    phone = with_files(tmp_path / "adb", 820_000, status="Charging", usb=1)
    sensor = sensor_of(phone, allow_charging=True)
    outcome = available(sensor)
    assert (outcome.scope, outcome.total) == (Scope.RAIL, ("battery",))
    assert "not what the phone draws" in outcome.notes
    sensor.open()
    assert sensor.read() == [pytest.approx(3.28)]
    odpm_files(phone)
    outcome = available(sensor_of(phone, allow_charging=True))
    assert outcome.scope is Scope.MODULE
    assert outcome.total == ("S10M_VDD_TPU", "S2M_VDD_CPUCL2", "S2S_VDD_G3D", "VSYS_PWR_DISPLAY")
    assert {rail.parent for rail in outcome.rails} == {None}  # a charging battery contains nothing


def test_a_faked_state_is_refused_and_allow_charging_does_not_help(tmp_path: Path) -> None:
    for n, phone in enumerate((FakePhone(tmp_path / "0"), with_files(tmp_path / "1"))):
        (phone.folder / "dumpsys/stopped").touch()
        outcome = refusal(sensor_of(phone, allow_charging=bool(n)))
        assert "UPDATES STOPPED" in outcome.reason
        assert outcome.remedy == f"Run 'adb -s {SERIAL} shell dumpsys battery reset'."


def test_a_state_that_is_faked_in_mid_run_freezes_no_figure(tmp_path: Path, clock: FakeClock) -> None:
    phone = FakePhone(tmp_path / "adb")
    phone.dump("battery", SAMSUNG)
    for allow_charging in (False, True):
        sensor = opened(phone, clock, allow_charging=allow_charging)
        sensor.read()
        (phone.folder / "dumpsys/stopped").touch()
        clock.advance(2)
        with pytest.raises(SensorError, match="UPDATES STOPPED"):
            sensor.read()
        (phone.folder / "dumpsys/stopped").unlink()


def test_an_emulator_s_figures_are_made_up(tmp_path: Path) -> None:
    by_name = with_files(tmp_path / "0")
    by_name.attach("emulator-5554\tdevice")
    by_property = with_files(tmp_path / "1")
    by_property.prop("ro.boot.qemu", "1")
    for phone in (by_name, by_property):
        assert "emulator" in refusal(sensor_of(phone)).reason


def test_a_phone_that_tells_nothing(tmp_path: Path) -> None:
    phone = FakePhone(tmp_path / "adb")
    phone.dump("battery", BATTERY.replace("3194654", "0"))
    assert "tells neither" in refusal(sensor_of(phone)).reason
    phone.dump("battery", "Can't find service: battery\n")
    assert "dumpsys battery" in refusal(sensor_of(phone)).reason


def test_files_with_odd_names_and_contents_do_no_harm(tmp_path: Path, clock: FakeClock) -> None:
    phone = with_files(tmp_path / "adb")
    odd = phone.root / "sys/class/power_supply/a b;$(touch x)"
    odd.mkdir()
    (odd / "type").write_text("Battery\n")
    supply(phone.root, "pen", type="Battery", scope="Device", status="Charging", current_now=1, voltage_now=4_000_000)
    sensor = opened(phone, clock)
    assert sensor.read() == [pytest.approx(1.38)]
    for content in ("", "-345000", "fedmeter-0 1 0\n", "9" * 300 + "\n", "\n", "-\n", "∞\n"):
        (phone.root / "sys/class/power_supply/battery/current_now").write_text(content)
        clock.advance(2)
        with pytest.raises(SensorError):
            sensor.read()


def test_without_adb_nothing_is_started_and_nobody_is_told_unasked(tmp_path: Path) -> None:
    outcome = refusal(AdbSensor(HERE, FakeClock(), adb=str(tmp_path / "adb")))
    assert outcome.is_absent
    assert "platform tools" in outcome.remedy
    elsewhere = refusal(AdbSensor(tmp_path, FakeClock()))  # a copy of another machine's files has no phone
    assert elsewhere.is_absent


@pytest.mark.parametrize(
    ("listed", "reason", "remedy"),
    [
        ([], "no device is attached", "USB debugging"),
        (["X1\tunauthorized"], "X1 is unauthorized", "accept this computer's key"),
        (["X1\toffline"], "X1 is offline", "adb connect X1"),
        (["X1\trecovery"], "X1 is recovery", "adb reboot"),
        (["X1\tno permissions (user in plugdev group); see [http://x]"], "no permissions", "udev"),
        (["X1\tdevice", f"{SERIAL}\tdevice"], "several devices", "ANDROID_SERIAL=X1"),
        (["X1\toffline", "X2\tunauthorized"], "several devices", "ANDROID_SERIAL"),
    ],
)
def test_devices_that_cannot_be_asked(tmp_path: Path, listed: list[str], reason: str, remedy: str) -> None:
    phone = with_files(tmp_path / "adb")
    phone.attach(*listed)
    outcome = refusal(sensor_of(phone))
    assert reason in outcome.reason
    assert remedy in outcome.remedy
    assert not outcome.is_absent
    with pytest.raises(SensorError, match="adb: "):
        sensor_of(phone).open()


def test_which_of_several_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phone = with_files(tmp_path / "adb")
    phone.attach("X1\tunauthorized", f"{SERIAL}\tdevice")
    assert available(sensor_of(phone))  # the only one that is ready
    assert "X1 is unauthorized" in refusal(sensor_of(phone, serial="X1")).reason
    missing = refusal(sensor_of(phone, serial="10.0.0.9:5555"))
    assert "X1 (unauthorized)" in missing.reason
    assert missing.remedy == "Run 'adb connect 10.0.0.9:5555'."
    phone.attach("X1\tdevice", f"{SERIAL}\tdevice")
    monkeypatch.setenv("ANDROID_SERIAL", SERIAL)
    assert SERIAL in available(sensor_of(phone)).notes
    monkeypatch.setenv("ANDROID_SERIAL", "no such; phone")
    assert "no device" in refusal(sensor_of(phone)).reason
    with pytest.raises(ValueError, match="no serial number"):
        sensor_of(phone, serial="a b")


@pytest.mark.parametrize("wrong", ["garbage", "huge", "broken", "early", "chatty", "error"])
def test_an_adb_that_goes_wrong_is_unavailable_and_then_a_gap(tmp_path: Path, clock: FakeClock, wrong: str) -> None:
    phone = with_files(tmp_path / "adb")
    sensor = opened(phone, clock)
    phone.goes(wrong, "error: closed")
    assert refusal(sensor_of(phone)).remedy
    with pytest.raises(SensorError, match="adb: ") as raised:
        sensor.read()
    assert raised.value.remedy
    phone.recovers(wrong)
    clock.advance(2)
    assert sensor.read() == [pytest.approx(1.38)]


def test_an_adb_that_hangs_is_given_up_and_not_asked_again_at_once(tmp_path: Path) -> None:
    phone = with_files(tmp_path / "adb")
    sensor = AdbSensor(HERE, SystemClock(), adb=phone.adb, timeout_s=1.0, period_s=0.01)
    sensor.open()
    phone.goes("hang")
    for _ in range(3):
        with pytest.raises(SensorError, match="no answer within 1 s"):
            sensor.read()
        time.sleep(0.05)  # longer than values are held
    calls = phone.n_calls
    started_s = time.monotonic()
    with pytest.raises(SensorError):
        sensor.read()
    assert time.monotonic() - started_s < 0.5
    assert phone.n_calls == calls


def test_a_server_that_adb_leaves_behind_does_not_hold_the_answer_up(tmp_path: Path) -> None:
    phone = with_files(tmp_path / "adb")
    phone.goes("orphan")
    started_s = time.monotonic()
    assert available(sensor_of(phone))
    assert time.monotonic() - started_s < 4


def test_a_phone_that_goes_and_comes_back_is_a_gap_in_the_coverage(tmp_path: Path, clock: FakeClock) -> None:
    phone = with_files(tmp_path / "adb")
    with Sampler(sensor_of(phone, clock), clock, rate_hz=1.0, jitter=0.0) as sampler:
        window = sampler.open_window()
        for second in range(30):
            clock.advance(1.01)
            if second == 10:
                phone.attach()
            if second == 20:
                phone.attach(f"{SERIAL}\tdevice")
            sampler.sample_now()
        (reading,) = window.close()
    assert reading.energy_j == pytest.approx(1.38 * 30.3, rel=1e-3)  # bridged, and told
    assert 0.5 < reading.coverage < 0.8
    assert "cannot be reached" in (reading.reason or "")


def test_constant_power_is_exact_to_the_joule(tmp_path: Path, clock: FakeClock) -> None:
    phone = with_files(tmp_path / "adb")
    with Sampler(sensor_of(phone, clock), clock, rate_hz=1.0, jitter=0.0) as sampler:
        window = sampler.open_window()
        for _ in range(12):
            clock.advance(1.0)
            sampler.sample_now()
        (reading,) = window.close()
    assert reading.energy_j == pytest.approx(1.38 * 12, rel=1e-9)
    assert reading.energy_err_j is not None
    assert reading.energy_err_j > 2 * 0.05 * 1.38 * 12 / 3**0.5


def test_it_is_never_taken_for_the_meter_of_this_machine(tmp_path: Path) -> None:
    sensor = sensor_of(with_files(tmp_path / "adb"))
    outcome = available(sensor)
    assert is_elsewhere(sensor)
    assert "--sensor adb" in outcome.notes
    assert not best([Probe(sensor, outcome)])


def test_a_reading_that_was_opened_stays_in_its_rails(tmp_path: Path, clock: FakeClock) -> None:
    phone = with_files(tmp_path / "adb")
    sensor = opened(phone, clock)
    odpm_files(phone, *ENERGY_VALUES)
    assert len(available(sensor).rails) == 6
    assert sensor.read() == [pytest.approx(1.38)]


@pytest.mark.parametrize("option", ["period_s", "refresh_s", "timeout_s"])
def test_times_are_positive(option: str) -> None:
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            AdbSensor(HERE, FakeClock(), **{option: wrong})  # type: ignore[arg-type]


def test_an_answer_is_cut_at_marks_that_no_file_holds(tmp_path: Path) -> None:
    phone = FakePhone(tmp_path / "adb")
    client = AdbClient(adb=phone.adb)
    with pytest.raises(DeviceError, match="Call select"):
        client.ask(["echo"])
    client.select()
    parts = client.ask(
        [
            "printf 'no newline'",
            "printf '\\nfedmeter 0 0\\n\\n'",
            "exit_status() { return 7; }; exit_status",
            "cat",
            ":",
        ]
    )
    assert [(part.status, part.content) for part in parts] == [
        (0, b"no newline"),
        (0, b"\nfedmeter 0 0\n\n"),
        (7, b""),
        (0, b""),  # no input: it does not wait
        (0, b""),
    ]

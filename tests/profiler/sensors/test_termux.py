from __future__ import annotations

import time
from pathlib import Path

import pytest

from profiler import Sampler
from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Scope
from profiler.sensor import Available, Probe, Unavailable, best
from profiler.sensors.battery import BatterySensor
from profiler.sensors.termux import TermuxSensor, parse_battery_status
from tests.fixtures.power_supply import phone
from tests.fixtures.termux import FakeTermux, told


def test_volts_times_amperes() -> None:
    status = parse_battery_status(told())
    assert status.power_w == pytest.approx(3.28)  # not by the average, which is in another unit
    assert status.reason is None
    assert status.temperature_c == 22.3


@pytest.mark.parametrize(
    ("changes", "power_w"),
    [
        ({"current": 361816}, 1.447264),  # positive while discharging, seen on a phone
        ({"current": -4000}, 16.0),  # mA
        ({"voltage": 4}, 3.28),
    ],
)
def test_conventions(changes: dict[str, object], power_w: float) -> None:
    assert parse_battery_status(told(**changes)).power_w == pytest.approx(power_w)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"plugged": "PLUGGED_USB"}, "charging: plugged is PLUGGED_USB"),
        ({"status": "CHARGING"}, "charging"),
        ({"status": "FULL"}, "not discharging: status is FULL"),
        ({"status": "UNKNOWN"}, "not discharging"),
        ({"plugged": None}, "charging: plugged is None"),
        ({"current": -(2**31)}, "no current"),
        ({"current": 0}, "no current"),
        ({"current": None}, "no current"),
        ({"current": [1]}, "no current"),
        ({"current": True}, "no current"),
        ({"current": "1e999"}, "no current"),
        ({"current": 10**400}, "no current"),
        ({"voltage": None}, "no voltage"),
        ({"voltage": 0}, "no voltage of a battery"),
        ({"voltage": "x"}, "no voltage"),
        ({"current": 10**9}, "no draw of a phone"),
    ],
)
def test_what_is_not_known_has_a_reason(changes: dict[str, object], word: str) -> None:
    status = parse_battery_status(told(**changes))
    assert status.power_w is None
    assert word in (status.reason or "")


def test_a_temperature_may_be_a_string_or_lacking() -> None:
    assert parse_battery_status(told(temperature="22.3")).temperature_c == 22.3
    assert parse_battery_status(told(temperature=None)).temperature_c is None
    assert parse_battery_status(told(temperature=-214748364.8)).temperature_c is None


@pytest.mark.parametrize(
    "output",
    [b"", b"[]", b"{}", b"3", b'{"status": ', b"\xff", b"[" * 16_000, b" " * 20_000, b"Termux:API is not installed"],
)
def test_anything_else_is_refused(output: bytes) -> None:
    with pytest.raises(ValueError, match="termux-battery-status"):
        parse_battery_status(output)


def test_a_unit_that_was_settled_stays() -> None:
    idle = parse_battery_status(told(current=-4000), unit="uA")  # 4 mA, not 4 A
    assert idle.power_w == pytest.approx(0.016)
    wrong = parse_battery_status(told(current=-820_000), unit="mA")
    assert wrong.power_w is None
    assert "cannot be in mA" in (wrong.reason or "")
    assert parse_battery_status(told(current=-11_000), unit="mA", is_unit_told=True).power_w == pytest.approx(44.0)


def sensor(termux: FakeTermux, clock: FakeClock | None = None, **options: object) -> TermuxSensor:
    return TermuxSensor(termux.root, clock or FakeClock(), command=termux.command, **options)


def refused(sensor: TermuxSensor) -> Unavailable:
    outcome = sensor.probe()
    assert isinstance(outcome, Unavailable), outcome
    with pytest.raises(SensorError) as raised:
        sensor.open()
    assert outcome.reason in f"{raised.value}"
    return outcome


def test_elsewhere_it_is_absent_and_starts_nothing(tmp_path: Path) -> None:
    nowhere = refused(TermuxSensor(tmp_path, FakeClock(), command=["/bin/false"]))
    assert nowhere.is_absent
    assert "not Termux" in nowhere.reason
    termux = FakeTermux(tmp_path)
    termux.says(told())
    copy = refused(TermuxSensor(tmp_path, FakeClock()))  # a folder that somebody sent is not run
    assert copy.is_absent
    assert termux.n_calls == 0


def settled(sensor: TermuxSensor) -> list[float | None]:
    """What it reads once the call that it may have started has ended."""
    sensor.read()
    end_s = time.monotonic() + 10
    while sensor._call is not None and time.monotonic() < end_s:
        time.sleep(0.005)
        sensor.read()
    return sensor.read()


def test_one_process_a_hold_period(tmp_path: Path) -> None:
    termux, clock = FakeTermux(tmp_path), FakeClock()
    termux.says(told())
    mine = sensor(termux, clock)
    assert isinstance(mine.probe(), Available)
    mine.open()
    for _ in range(40):
        assert mine.read() == [pytest.approx(3.28)]
        clock.advance(0.1)
    assert termux.n_calls == 1
    termux.says(told(current=-410_000))
    clock.advance(1.0)
    assert mine.read() == [pytest.approx(3.28)]  # the new call runs, nobody waits for it
    assert settled(mine) == [pytest.approx(1.64)]
    assert termux.n_calls == 2
    mine.close()


def test_a_read_never_waits_while_reads_are_frequent(tmp_path: Path) -> None:
    termux, clock = FakeTermux(tmp_path), FakeClock()
    termux.says(told())
    mine = sensor(termux, clock)
    mine.probe()
    mine.open()
    termux.write('echo $$ > "$here/helper"; exec sleep 60')
    clock.advance(5.0)
    start_s = time.monotonic()
    for _ in range(50):
        assert mine.read() == [pytest.approx(3.28)]
        clock.advance(0.1)
    assert time.monotonic() - start_s < 4  # one call alone would have been 5 s
    mine.close()
    assert mine._call is None


def test_whoever_reads_seldom_gets_no_stale_value(tmp_path: Path) -> None:
    termux, clock = FakeTermux(tmp_path), FakeClock()
    termux.says(told())
    mine = sensor(termux, clock)
    mine.probe()
    mine.open()
    termux.says(told(current=-410_000))
    clock.advance(60.0)
    assert mine.read() == [pytest.approx(1.64)]


def test_a_constant_draw_is_exact(tmp_path: Path) -> None:
    termux, clock = FakeTermux(tmp_path), FakeClock()
    termux.says(told())
    with Sampler(sensor(termux, clock), clock, rate_hz=1) as sampler:
        window = sampler.open_window()
        for _ in range(20):
            clock.advance(1.0)
            sampler.sample_now()
        total = sampler.total(window.close())
    assert total.energy_j == pytest.approx(3.28 * 20, rel=1e-12)
    assert (total.scope, total.provenance) == (Scope.DEVICE, Provenance.INTEGRATED)
    assert termux.n_calls <= 6


def test_charging_is_missing_with_its_reason_until_unplugged(tmp_path: Path) -> None:
    termux, clock = FakeTermux(tmp_path), FakeClock()
    termux.says(told(plugged="PLUGGED_USB", status="CHARGING", current=1_000_000))
    outcome = refused(sensor(termux))
    assert "charging: plugged is PLUGGED_USB" in outcome.reason
    assert "Unplug" in outcome.remedy
    termux.says(told())
    mine = sensor(termux, clock)
    mine.probe()
    mine.open()
    termux.says(told(plugged="PLUGGED_AC"))
    clock.advance(11.0)
    with pytest.raises(SensorError, match=r"charging: plugged is PLUGGED_AC.*Unplug"):
        mine.read()
    termux.says(told())
    clock.advance(11.0)
    assert mine.read() == [pytest.approx(3.28)]


def test_charging_may_be_allowed_and_is_then_a_rail(tmp_path: Path) -> None:
    termux = FakeTermux(tmp_path)
    termux.says(told(plugged="PLUGGED_USB", status="CHARGING", current=500_000))
    mine = sensor(termux, allow_charging=True)
    outcome = mine.probe()
    assert isinstance(outcome, Available)
    assert outcome.scope is Scope.RAIL
    assert "either direction" in outcome.notes
    mine.open()
    assert mine.read() == [pytest.approx(2.0)]


def test_sysfs_is_preferred_where_it_can_be_read(tmp_path: Path) -> None:
    phone(tmp_path)
    termux = FakeTermux(tmp_path)
    termux.says(told())
    mine, files = sensor(termux), BatterySensor(tmp_path, FakeClock())
    probes = [Probe(mine, mine.probe()), Probe(files, files.probe())]
    assert best(probes) == [probes[1]]
    assert best(probes[:1]) == probes[:1]


def test_the_unit_is_guessed_once(tmp_path: Path) -> None:
    termux, clock = FakeTermux(tmp_path), FakeClock()
    termux.says(told(current=-820))
    mine = sensor(termux, clock)
    outcome = mine.probe()
    assert isinstance(outcome, Available)
    assert "assumed to be in mA" in outcome.notes
    mine.open()
    termux.says(told(current=-820_000))  # it was µA after all
    clock.advance(11.0)
    with pytest.raises(SensorError, match="cannot be in mA"):
        mine.read()
    settled = sensor(termux, current_unit="uA")
    outcome = settled.probe()
    assert isinstance(outcome, Available)
    assert "told to be in uA" in outcome.notes


def test_what_to_install(tmp_path: Path) -> None:
    termux = FakeTermux(tmp_path)
    outcome = refused(sensor(termux))
    assert "no termux-battery-status" in outcome.reason
    assert "pkg install termux-api" in outcome.remedy
    assert not outcome.is_absent
    termux.write("echo 'Termux:API is not yet available on Google Play' >&2; exit 1")
    outcome = refused(sensor(termux))
    assert "not yet available" in outcome.reason
    assert "app Termux:API" in outcome.remedy
    termux.says(b'{"API_ERROR": "unknown"}')
    assert "printed no status" in refused(sensor(termux)).reason
    termux.write("exec head -c 20000 /dev/zero")
    assert "more than 16384 bytes" in refused(sensor(termux)).reason


def test_without_the_app_it_hangs_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    """Its script waits for a helper, which holds the pipe: both have to go."""
    termux, clock = FakeTermux(tmp_path), FakeClock()
    termux.write('sleep 60 & echo $! > "$here/helper"; wait')
    mine = sensor(termux, clock, timeout_s=1.5)
    start_s = time.monotonic()
    outcome = mine.probe()
    assert time.monotonic() - start_s < 10
    assert isinstance(outcome, Unavailable)
    assert "no answer within 1.5 s" in outcome.reason
    assert "exempt" in outcome.remedy
    helper = int((termux.bin / "helper").read_text())
    for _ in range(100):
        if not _is_alive(helper):
            break
        time.sleep(0.05)
    assert not _is_alive(helper)


def _is_alive(pid: int) -> bool:
    """A zombie that nobody has collected yet is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def test_after_a_hang_it_is_left_alone_for_a_while(tmp_path: Path) -> None:
    termux, clock = FakeTermux(tmp_path), FakeClock()
    termux.says(told())
    mine = sensor(termux, clock)
    mine.probe()
    mine.open()
    mine._timeout_s = 0.5  # only now: starting a shell may be slow
    termux.write('echo >> "$here/calls"; exec sleep 60')
    clock.advance(11.0)
    for _ in range(5):
        with pytest.raises(SensorError, match="no answer"):
            mine.read()
        clock.advance(6.0)
    assert termux.n_calls == 2
    termux.says(told())
    mine._timeout_s = 5.0
    clock.advance(60.0)
    with pytest.raises(SensorError, match="no answer"):  # still what is known, while it is asked again
        mine.read()
    assert mine._call is not None
    mine._call.wait()
    assert mine.read() == [pytest.approx(3.28)]


def test_a_hold_period_is_positive(tmp_path: Path) -> None:
    for hold_s in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="hold_s"):
            TermuxSensor(tmp_path, FakeClock(), hold_s=hold_s)

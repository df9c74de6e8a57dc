from __future__ import annotations

import json

import pytest

from profiler.sensors.termux import parse_battery_status

TOLD = {
    "present": True,
    "technology": "Li-ion",
    "health": "GOOD",
    "plugged": "UNPLUGGED",
    "status": "DISCHARGING",
    "temperature": 22.3,
    "voltage": 4000,
    "current": -820000,
    "current_average": -576,
    "percentage": 84,
    "energy": None,
}


def told(**changes: object) -> bytes:
    return json.dumps({**TOLD, **changes}).encode()


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

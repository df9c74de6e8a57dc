from __future__ import annotations

import pytest

from profiler.sensors.dumpsys_battery import parse_battery
from tests.fixtures.adb import BATTERY, SAMSUNG


def test_units_of_aosp() -> None:
    state = parse_battery(BATTERY)
    assert (state.status, state.powered_by, state.is_stopped) == ("Discharging", (), False)
    assert state.voltage_v == pytest.approx(4.0)
    assert state.temperature_c == pytest.approx(32.6)
    assert state.level_percent == pytest.approx(84)
    assert state.charge_uah == 3_194_654
    assert state.current is None
    assert state.power_w("mA", is_unit_told=False) is None
    assert state.refusal is None


def test_of_one_key_the_first_line_counts() -> None:
    state = parse_battery(SAMSUNG)
    assert (state.status, state.voltage_v, state.charge_uah) == ("Discharging", 4.0, 3_194_654)


def test_a_vendor_s_current_in_either_unit_and_with_either_sign() -> None:
    for line, unit in (("-321", "mA"), ("321", "mA"), ("-321000", "uA")):
        state = parse_battery(BATTERY + f"  current now: {line}\n")
        assert state.power_w("mA" if unit == "mA" else "uA", is_unit_told=False) == pytest.approx(1.284)
    wrong = parse_battery(BATTERY + "  current now: 321000\n")
    assert wrong.power_w("mA", is_unit_told=False) is None  # a gauge taken for one of mA gives µA after all
    assert wrong.power_w("mA", is_unit_told=True) is None  # and 1284 W no phone draws


@pytest.mark.parametrize("charger", ["AC", "USB", "Wireless", "Dock"])
def test_any_charger_refuses(charger: str) -> None:
    state = parse_battery(BATTERY.replace(f"{charger} powered: false", f"{charger} powered: true"))
    assert state.powered_by
    assert state.refusal is not None
    assert state.refusal.startswith("charging: ")
    assert charger.lower() in state.refusal.lower()


@pytest.mark.parametrize(
    ("number", "word"), [(1, "Unknown"), (2, "Charging"), (4, "Not charging"), (5, "Full"), (77, "Unknown")]
)
def test_only_a_battery_that_discharges_tells_the_draw(number: int, word: str) -> None:
    state = parse_battery(BATTERY.replace("status: 3", f"status: {number}"))
    assert state.status == word
    assert state.refusal is not None
    assert word in state.refusal


def test_a_faked_state_is_told() -> None:
    header, rest = BATTERY.split("\n", 1)
    state = parse_battery(f"{header}\n  (UPDATES STOPPED -- use 'reset' to restart)\n{rest}")
    assert state.is_stopped
    assert state.refusal is not None
    assert "UPDATES STOPPED" in state.refusal


def test_what_is_not_told_is_none_and_never_0() -> None:
    state = parse_battery("Current Battery Service state:\n  status: 3\n")
    assert (state.voltage_v, state.temperature_c, state.level_percent, state.charge_uah) == (None, None, None, None)
    for unsupported in ("0", "1000", "-2147483648", "9" * 40, "soon"):
        assert parse_battery(BATTERY.replace("3194654", unsupported)).charge_uah is None
    assert parse_battery(BATTERY.replace("voltage: 4000", "voltage: 0")).voltage_v is None


@pytest.mark.parametrize("text", ["", "Can't find service: battery", "error: closed", "\0\xff" * 50])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="something else"):
        parse_battery(text)

"""What `dumpsys battery` prints: the battery of an Android phone as its system service knows it.

Order, keys and units as BatteryService.java of AOSP states them (dumpInternal): voltage in mV, temperature in 0.1 °C,
the charge counter in µAh, status as BatteryManager's constants. AOSP prints no current; some vendors add lines of
their own, and some repeat a key in another case or with another meaning: of one key the first line counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from profiler.sensors.gauge import PHONE_MAX_POWER_W, watts
from profiler.sensors.power_supply import CurrentUnit, volts

_HEADER = "Current Battery Service state:"
_STOPPED = "UPDATES STOPPED"
_LINE = re.compile(r"[ \t]+(?P<key>[A-Za-z][A-Za-z0-9 _.-]{0,63}):[ \t]*(?P<value>[^\r\n]{1,80}?)[ \t]*")
_INTEGER = re.compile(r"-?[0-9]{1,12}")
_MAX_LINES = 1_000
_POWERED = {"ac powered": "AC", "usb powered": "USB", "wireless powered": "wireless", "dock powered": "dock"}
_STATUSES = {1: "Unknown", 2: "Charging", 3: "Discharging", 4: "Not charging", 5: "Full"}
_CURRENT_KEYS = ("current now", "current_now")
_MIN_CHARGE_UAH = 1_001  # a gauge without a counter gives 0 or 1000

RESET = "dumpsys battery reset"


@dataclass(frozen=True, slots=True)
class BatteryState:
    """`status` is Charging, Discharging, Full, Not charging or Unknown, as in sysfs. What is not told is None.

    `powered_by` names the chargers that are connected: AC, USB, wireless, dock. `current` is a vendor's line, in that
    vendor's unit. `is_stopped`: somebody faked a state, and no figure changes until it is reset.
    """

    is_stopped: bool
    status: str
    powered_by: tuple[str, ...]
    level_percent: float | None
    voltage_v: float | None
    temperature_c: float | None
    charge_uah: int | None
    current: int | None

    @property
    def refusal(self) -> str | None:
        """Why this battery does not tell what its phone draws; None where it does."""
        if self.is_stopped:
            return "the battery's state was faked and is frozen (UPDATES STOPPED)"
        if self.powered_by or self.status == "Charging":
            by = " and ".join(self.powered_by) or "a charger"
            return f"charging: {by} may feed the phone, its battery says {self.status}"
        return None if self.status == "Discharging" else f"not discharging: the battery says {self.status}"

    def power_w(self, unit: CurrentUnit, *, is_unit_told: bool) -> float | None:
        """The magnitude, as signs differ between vendors. None where it is not told, or cannot be in that unit."""
        if self.current is None or self.voltage_v is None:
            return None
        try:
            power_w = watts(self.current, unit, self.voltage_v, is_unit_told=is_unit_told)
        except ValueError:
            return None
        return power_w if power_w <= PHONE_MAX_POWER_W else None


def parse_battery(text: str) -> BatteryState:
    """Raises ValueError where this is no such output."""
    _, header, rest = text.partition(_HEADER)
    if not header:
        raise ValueError(f"dumpsys battery printed something else: {text.strip()[:80]!r}")
    told = _first_of_each(rest)
    scale = _integer(told.get("scale")) or 100
    level, tenths_c = _integer(told.get("level")), _integer(told.get("temperature"))
    return BatteryState(
        is_stopped=_STOPPED in rest,
        status=_STATUSES.get(_integer(told.get("status")) or 1, "Unknown"),
        powered_by=tuple(name for key, name in _POWERED.items() if told.get(key) == "true"),
        level_percent=None if level is None or scale <= 0 else 100 * level / scale,
        voltage_v=_volts(_integer(told.get("voltage"))),
        temperature_c=None if tenths_c is None else tenths_c / 10,
        charge_uah=_charge(_integer(told.get("charge counter"))),
        current=next((_integer(told[key]) for key in _CURRENT_KEYS if key in told), None),
    )


def _first_of_each(text: str) -> dict[str, str]:
    told: dict[str, str] = {}
    for line in text.splitlines()[:_MAX_LINES]:
        match = _LINE.fullmatch(line)
        if match is not None:
            told.setdefault(match["key"].lower(), match["value"])
    return told


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and _INTEGER.fullmatch(text) else None


def _volts(raw: int | None) -> float | None:
    try:
        return None if raw is None else volts(raw)
    except ValueError:
        return None


def _charge(raw: int | None) -> int | None:
    return raw if raw is not None and raw >= _MIN_CHARGE_UAH else None

"""What `termux-battery-status` prints: the battery of an Android phone as an app may see it, without a shell user.

Keys and units as its source states them (termux-api, BatteryStatusAPI.java): voltage in mV, current in µA after a
guess of its own, status and plugged as words. Older versions lack voltage. A call takes 0.3 to 1 s.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from profiler.sensors.power_supply import guess_current_unit, volts

_MAX_OUTPUT_BYTES = 16_384
_MAX_POWER_W = 150.0  # more is a wrong unit, not a phone
_MAX_TEMPERATURE_C = 150.0  # a phone that does not know says a tenth of Integer.MIN_VALUE
_UNSUPPORTED = -(2**31)  # Integer.MIN_VALUE, from Android 9 on; 0 before that


@dataclass(frozen=True, slots=True)
class TermuxStatus:
    """What the phone draws, or why that is not known: one of `power_w` and `reason` is None."""

    power_w: float | None
    reason: str | None
    temperature_c: float | None


def parse_battery_status(output: bytes) -> TermuxStatus:
    """Raises ValueError where this is no such JSON object."""
    if len(output) > _MAX_OUTPUT_BYTES:
        raise ValueError(f"termux-battery-status printed more than {_MAX_OUTPUT_BYTES} bytes")
    try:
        told = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"termux-battery-status printed no JSON: {output[:80]!r}") from error
    if not isinstance(told, dict) or "status" not in told:
        raise ValueError(f"termux-battery-status printed no status: {output[:80]!r}")
    temperature_c = _number(told.get("temperature"))  # some versions print it as a string
    if temperature_c is not None and not abs(temperature_c) < _MAX_TEMPERATURE_C:
        temperature_c = None
    reason = _refusal(told)
    if reason is not None:
        return TermuxStatus(None, reason, temperature_c)
    try:
        return TermuxStatus(_power_w(told), None, temperature_c)
    except ValueError as error:
        return TermuxStatus(None, f"{error}", temperature_c)


def _refusal(told: dict[str, object]) -> str | None:
    """Only a battery that discharges, with nothing plugged in, tells what its phone draws."""
    status, plugged = (f"{told.get(key)}"[:40] for key in ("status", "plugged"))
    if status == "CHARGING" or plugged != "UNPLUGGED":
        return f"charging: plugged is {plugged}, status is {status}"
    return None if status == "DISCHARGING" else f"not discharging: status is {status}"


def _power_w(told: dict[str, object]) -> float:
    """The magnitude, as signs differ between phones. Raises ValueError with what is lacking."""
    current, voltage = (_number(told.get(key)) for key in ("current", "voltage"))
    unit = None if current is None or current == _UNSUPPORTED else guess_current_unit([round(current)])
    if current is None or unit is None:
        raise ValueError("this phone tells no current")
    if voltage is None:
        raise ValueError("this version of Termux:API tells no voltage")
    power_w = abs(current) * (1e-6 if unit == "uA" else 1e-3) * volts(round(voltage))
    if power_w > _MAX_POWER_W:
        raise ValueError(f"{current:g} µA at {voltage:g} mV is no draw of a phone")
    return power_w


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None

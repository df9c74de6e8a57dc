"""An Android phone's battery as an app may see it, without a shell user: through `termux-battery-status`.

Keys and units as its source states them (termux-api, BatteryStatusAPI.java): voltage in mV, current in µA after a
guess of its own, status and plugged as words. Older versions lack voltage. A call takes 0.3 to 1 s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable
from profiler.sensors.gauge import CURRENT_STEP_A, GAIN_ERR, PHONE_MAX_POWER_W, watts
from profiler.sensors.power_supply import CurrentUnit, guess_current_unit, volts
from profiler.sensors.unwaited_process import UnwaitedProcess

_MAX_OUTPUT_BYTES = 16_384
_MAX_TEMPERATURE_C = 150.0  # a phone that does not know says a tenth of Integer.MIN_VALUE
_UNSUPPORTED = -(2**31)  # Integer.MIN_VALUE, from Android 9 on; 0 before that

_HOME = "data/data/com.termux"
_COMMAND = "/data/data/com.termux/files/usr/bin/termux-battery-status"
# Each call starts a shell and wakes an app: at one in 5 s that is a tenth of the time and of no use more often, as
# phones' gauges renew their values every 1 to 30 s.
_HOLD_S = 5.0
_RETRY_S = 60.0  # after a call that hung: nobody should wait for another one soon
_TIMEOUT_S = 5.0
_CALL_S = 1.0
_REFRESH_S = 1.0  # of the gauge, assumed as for the sensor 'battery'

_OTHER_SENSOR = (
    "Use the sensor 'battery', which reads /sys/class/power_supply, or meter the phone from a host over adb."
)
_INSTALL = "Run 'pkg install termux-api', and install the app Termux:API from where Termux came from."
_INSTALL_APP = (
    "Install the app Termux:API from where Termux came from, open it once, and exempt both from battery optimisation."
)
_UNPLUG = "Unplug the charger, and reach the phone over Wi-Fi."


class TermuxSensor:
    """The draw of a phone that runs on its battery, W, for processes inside of Termux; below `battery` where the
    files of that can be read.

    One rail, `battery`, scope `device`. As `battery` it believes only a battery that discharges with nothing plugged
    in, takes the magnitude of the current, and with `allow_charging` gives what flows in either direction as scope
    `rail`. The unit of the current is guessed once, when probed; `current_unit` settles it.

    `termux-battery-status` is started by a read at most once in `hold_s`. Its answer, which a later read finds, is held
    until the next one; only whoever reads less than once in two periods waits for it, 5 s at most. `command` is
    started in its place, and needed where `root` is not /.

    Raises ValueError where `hold_s` is not positive.
    """

    name = "termux"
    same_as = "battery"

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        allow_charging: bool = False,
        current_unit: CurrentUnit | None = None,
        hold_s: float = _HOLD_S,
        timeout_s: float = _TIMEOUT_S,
        command: Sequence[str] = (),
    ) -> None:
        if not 0 < hold_s < math.inf:
            raise ValueError(f"hold_s must be positive, got {hold_s}")
        self._root = root
        self._clock = clock
        self._allow_charging = allow_charging
        self._unit = current_unit
        self._is_unit_told = current_unit is not None
        self._hold_s = hold_s
        self._timeout_s = timeout_s
        self._command = tuple(command)
        self._is_open = False
        self._call: UnwaitedProcess | None = None
        self._asked_ns = 0
        self._due_ns = 0
        self._held: TermuxStatus | Unavailable = Unavailable("not asked yet")

    def probe(self) -> Available | Unavailable:
        home = self._root / _HOME
        if not _is_folder(home):
            return Unavailable(f"this is not Termux: there is no {home}", _OTHER_SENSOR, is_absent=True)
        if not self._command and self._root.resolve() != Path("/"):
            return Unavailable(
                f"{_COMMAND} asks this phone, not what is below {self._root}", _OTHER_SENSOR, is_absent=True
            )
        self._ask()
        status = self._held
        if isinstance(status, Unavailable):
            return status
        if status.reason is not None:
            return Unavailable(status.reason, _UNPLUG if status.is_fed else _OTHER_SENSOR)
        self._unit = status.unit
        return self._available(status)

    def _available(self, status: TermuxStatus) -> Available:
        scope = Scope.RAIL if self._allow_charging else Scope.DEVICE
        rail = Rail(
            name="battery",
            scope=scope,
            kind=RailKind.POWER_W,
            provenance=Provenance.INTEGRATED,
            min_period_s=self._hold_s,
            resolution=CURRENT_STEP_A * math.ceil(status.voltage_v or 0.0),
            gain_err=GAIN_ERR,
            edge_jitter_s=self._hold_s + _CALL_S + _REFRESH_S,
            max_power_w=PHONE_MAX_POWER_W,
        )
        notes = [
            "no accuracy of a battery gauge is documented, 5 % is assumed",
            f"current {'is told to be' if self._is_unit_told else 'assumed to be'} in {self._unit}",
            f"starts a process every {self._hold_s:g} s",
        ]
        if self._allow_charging:
            notes.append("what flows at the battery in either direction: with a charger not what the device draws")
        return Available((rail,), (rail.name,), scope, Provenance.INTEGRATED, "; ".join(notes), self.same_as)

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable."""
        self.close()
        outcome = self.probe() if self._unit is None or isinstance(self._held, Unavailable) else None
        if isinstance(outcome, Unavailable):
            raise SensorError(f"termux: {outcome.reason}.", remedy=outcome.remedy)
        self._is_open = True

    def read(self) -> list[float | None]:
        if not self._is_open:
            raise SensorError("termux: not open.", remedy="Call open() first.")
        now_ns = self._clock.monotonic_ns()
        if isinstance(self._held, TermuxStatus) and now_ns - self._asked_ns > 2e9 * self._hold_s:
            self._ask()
        elif self._call is not None or now_ns >= self._due_ns:
            self._advance()
        if isinstance(self._held, Unavailable):
            raise SensorError(f"termux: {self._held.reason}.", remedy=self._held.remedy)
        if self._held.reason is not None:
            raise SensorError(f"termux: {self._held.reason}.", remedy=_UNPLUG if self._held.is_fed else "")
        return [self._held.power_w]

    def _ask(self) -> None:
        """A new answer, waited for."""
        self._drop_call()
        self._advance()
        if self._call is not None:
            self._call.wait()
            self._advance()

    def _advance(self) -> None:
        """Start the command, or take over what it has said by now."""
        if self._call is None:
            self._asked_ns = self._clock.monotonic_ns()
        hold_s = self._hold_s
        try:
            output = self._answer()
            if output is None:
                return
            self._held = parse_battery_status(
                output, allow_charging=self._allow_charging, unit=self._unit, is_unit_told=self._is_unit_told
            )
        except TimeoutError as error:
            self._held = Unavailable(f"{error}", _INSTALL_APP)
            hold_s = max(hold_s, _RETRY_S)
        except FileNotFoundError:
            self._held = Unavailable("there is no termux-battery-status in this Termux", _INSTALL)
        except (OSError, ValueError) as error:
            self._held = Unavailable(f"{error}", _INSTALL_APP)
        self._call = None
        self._due_ns = self._asked_ns + round(hold_s * 1e9)

    def _answer(self) -> bytes | None:
        """What the running call printed, None while it runs. Raises OSError, ValueError."""
        if self._call is None:
            command = self._command or (_COMMAND,)
            self._call = UnwaitedProcess(command, timeout_s=self._timeout_s, max_bytes=_MAX_OUTPUT_BYTES)
            return None
        return self._call.result()

    def _drop_call(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.close()

    def close(self) -> None:
        self._is_open = False
        self._drop_call()


def _is_folder(path: Path) -> bool:
    """Other users of the phone may not even look."""
    try:
        return path.is_dir()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class TermuxStatus:
    """What the phone draws, or why that is not known: one of `power_w` and `reason` is None.

    `unit` is what the current was taken to be in; `is_fed` says that the reason is a charger, or a full battery.
    """

    power_w: float | None
    reason: str | None
    temperature_c: float | None
    voltage_v: float | None = None
    unit: CurrentUnit | None = None
    is_fed: bool = False


def parse_battery_status(
    output: bytes, *, allow_charging: bool = False, unit: CurrentUnit | None = None, is_unit_told: bool = False
) -> TermuxStatus:
    """What `output` says, the unit of its current guessed unless given. Raises ValueError where it is no such JSON."""
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
    reason = None if allow_charging else _refusal(told)
    if reason is not None:
        return TermuxStatus(None, reason, temperature_c, is_fed=True)
    try:
        voltage_v, unit, current = _measured(told, unit)
        power_w = watts(current, unit, voltage_v, is_unit_told=is_unit_told)
        if power_w > PHONE_MAX_POWER_W:
            raise ValueError(f"{current} {unit} at {voltage_v:g} V is no draw of a phone")
    except ValueError as error:
        return TermuxStatus(None, f"{error}", temperature_c)
    return TermuxStatus(power_w, None, temperature_c, voltage_v, unit)


def _refusal(told: dict[str, object]) -> str | None:
    """Only a battery that discharges, with nothing plugged in, tells what its phone draws."""
    status, plugged = (f"{told.get(key)}"[:40] for key in ("status", "plugged"))
    if status == "CHARGING" or plugged != "UNPLUGGED":
        return f"charging: plugged is {plugged}, status is {status}"
    return None if status == "DISCHARGING" else f"not discharging: status is {status}"


def _measured(told: dict[str, object], unit: CurrentUnit | None) -> tuple[float, CurrentUnit, int]:
    """V, and the current with its unit, guessed unless given. Raises ValueError with what is lacking."""
    current, voltage = (_number(told.get(key)) for key in ("current", "voltage"))
    guess = None if current is None or current == _UNSUPPORTED else guess_current_unit([round(current)])
    if current is None or guess is None:
        raise ValueError("this phone tells no current")
    if voltage is None:
        raise ValueError("this version of Termux:API tells no voltage")
    return volts(round(voltage)), unit or guess, round(current)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None

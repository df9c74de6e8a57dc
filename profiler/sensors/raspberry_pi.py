"""Raspberry Pi 5: the supply rails that its power management chip measures, through `vcgencmd pmic_read_adc`.

The firmware prints a current or a voltage a line, `VDD_CORE_A current(7)=10.87674000A`. The numbers in brackets of a
rail's current and voltage do not match, so they are paired by name. Source: the output published at
https://github.com/jfikar/RPi5-power; the command's own documentation gives no accuracy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.files import printable, text
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable
from profiler.sensors.bounded_process import run_bounded

_MODEL = re.compile(r"Raspberry Pi (5|500|Compute Module 5)\b.*")  # the boards with this chip
_READING = re.compile(
    r"(?<!\S)(?P<name>[A-Z0-9_]{1,32})_(?:A\s+current\([0-9]{1,3}\)=(?P<amps>-?[0-9]{1,3}\.[0-9]{1,12})A"
    r"|V\s+volt\([0-9]{1,3}\)=(?P<volts>-?[0-9]{1,3}\.[0-9]{1,12})V)(?!\S)"
)
_MAX_OUTPUT_BYTES = 16_384
_TIMEOUT_S = 0.5  # a call takes some milliseconds; whoever opens or closes a window waits for it

# Every sample starts a process. Ten a second is the most that leaves the work alone: at 50 Hz one author saw his work
# slow down six-fold. In between the last values are held.
_MIN_PERIOD_S = 0.1
# In the published output currents come in multiples of 0.97593 mA or finer. That of the core is 11145 times as much,
# which is 743 times 15: its step may be 15 times larger, and is taken to be.
_STEP_A = 0.00097593
_CORE_STEP_A = 15 * _STEP_A
_GAIN_ERR = 0.10  # no accuracy is documented: our assumption, no specification
_UNSEEN = "supply rails only: USB ports, 5 V peripherals and losses of the converters are not in it"

_OTHER_METER = "Use a meter at the supply, or the sensor 'cpu_model' for an estimate."
_INSTALL = "Run 'sudo apt install raspi-utils'; in a container mount vcgencmd and pass '--device /dev/vcio'."
_GROUP = "Run 'sudo usermod -aG video $USER' and log in again; in a container pass '--device /dev/vcio'."
_BY_HAND = "Look at what 'vcgencmd pmic_read_adc' prints; 'sudo apt full-upgrade' brings newer firmware."


class RaspberryPiSensor:
    """Volts times amperes of every rail that has both; EXT5V and BATT have volts only and are not counted.

    The total is the sum of the rails, scope `module`: less than the board draws. `run` hands out what
    `vcgencmd pmic_read_adc` prints and raises OSError where it cannot.
    """

    name = "raspberry_pi"

    def __init__(self, root: Path, clock: Clock, *, run: Callable[[], bytes] | None = None) -> None:
        self._root = root
        self._clock = clock
        self._run = run or _vcgencmd
        self._is_injected = run is not None
        self._rails: tuple[str, ...] = ()
        self._is_open = False
        self._due_ns: int | None = None
        self._held: list[float | None] | str = ""  # values, or why there are none

    def probe(self) -> Available | Unavailable:
        path = self._root / "proc/device-tree/model"
        said = text(path)
        if said is None:
            return Unavailable(f"this is no Raspberry Pi: there is no {path} to read", _OTHER_METER, is_absent=True)
        model = printable(said.rstrip("\0\n"))  # a device tree's strings end with a zero byte
        if not _MODEL.fullmatch(model):
            return Unavailable(
                f"{model} has no chip that measures its power; a Raspberry Pi 5 has", _OTHER_METER, is_absent=True
            )
        if not self._is_injected and self._root.resolve() != Path("/"):
            return Unavailable(
                f"vcgencmd asks this machine, not the one below {self._root}", _OTHER_METER, is_absent=True
            )
        try:
            pairs = parse_adc(self._run())
        except FileNotFoundError:
            return Unavailable("there is no vcgencmd on this Raspberry Pi", _INSTALL)
        except OSError as error:
            return Unavailable(f"{error}", _GROUP)
        except ValueError as error:
            return Unavailable(f"{error}", _BY_HAND)
        if not self._is_open:
            self._rails = tuple(pairs)
        rails = tuple(_rail(name, volts) for name, (_, volts) in pairs.items())
        notes = f"{model}: {_UNSEEN}; no accuracy is documented, 10 % is assumed; starts a process a sample"
        return Available(rails, tuple(pairs), Scope.MODULE, Provenance.INTEGRATED, notes)

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable."""
        self.close()
        outcome = None if self._rails else self.probe()  # rails stay those that were probed
        if isinstance(outcome, Unavailable):
            raise SensorError(f"raspberry_pi: {outcome.reason}.", remedy=outcome.remedy)
        self._is_open = True

    def read(self) -> list[float | None]:
        if not self._is_open:
            raise SensorError("raspberry_pi: not open.", remedy="Call open() first.")
        now_ns = self._clock.monotonic_ns()
        if self._due_ns is None or now_ns >= self._due_ns:
            self._due_ns = now_ns + round(_MIN_PERIOD_S * 1e9)
            self._held = self._read()
        if isinstance(self._held, str):
            raise SensorError(f"raspberry_pi: {self._held}.")
        return list(self._held)

    def _read(self) -> list[float | None] | str:
        try:
            pairs = parse_adc(self._run())
        except (OSError, ValueError) as error:
            return f"{error}"
        values = [pairs[name][0] * pairs[name][1] if name in pairs else None for name in self._rails]
        return "none of the rails that were there is still there" if values.count(None) == len(values) else values

    def close(self) -> None:
        self._is_open = False
        self._due_ns = None


def parse_adc(output: bytes) -> dict[str, tuple[float, float]]:
    """Amperes and volts of every rail with a current, by name, in the order of the currents.

    Raises ValueError where there is none, where a rail comes twice or without volts, and where something is not
    understood or cut off: a sum without it would be too small.
    """
    amps: dict[str, float] = {}
    volts: dict[str, float] = {}
    text = output[:_MAX_OUTPUT_BYTES].decode("ascii", errors="replace")
    for match in _READING.finditer(text):
        values, value = (volts, match["volts"]) if match["amps"] is None else (amps, match["amps"])
        if match["name"] in values:
            raise ValueError(f"pmic_read_adc gives {match['name']} twice")
        values[match["name"]] = float(value)
    rest = _READING.sub("", text).strip()
    if rest or not amps:
        raise ValueError(f"pmic_read_adc prints something else than currents and volts: {rest!r:.120}")
    alone = [name for name in amps if name not in volts]
    if alone:
        raise ValueError(f"pmic_read_adc gives a current but no volts of {', '.join(alone)}")
    return {name: (current_a, volts[name]) for name, current_a in amps.items()}


def _rail(name: str, volts: float) -> Rail:
    step_a = _CORE_STEP_A if name == "VDD_CORE" else _STEP_A
    return Rail(
        name=name,
        scope=Scope.RAIL,
        kind=RailKind.POWER_W,
        provenance=Provenance.INTEGRATED,
        min_period_s=_MIN_PERIOD_S,
        resolution=step_a * math.ceil(volts),
        gain_err=_GAIN_ERR,
        edge_jitter_s=_MIN_PERIOD_S,
    )


def _vcgencmd() -> bytes:
    """Raises OSError: FileNotFoundError without the command, TimeoutError where it hangs, else with what it says."""
    try:
        done = run_bounded(["vcgencmd", "pmic_read_adc"], timeout_s=_TIMEOUT_S, max_bytes=_MAX_OUTPUT_BYTES)
    except OverflowError as error:
        raise OSError(f"vcgencmd: {error}") from error
    if done.status != 0:
        raise OSError(f"vcgencmd failed: {done.complaint!r}")
    return done.stdout

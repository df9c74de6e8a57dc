"""Batteries and chargers as Linux's power_supply class shows them, in SI units: laptops and Android alike.

Files and units: Documentation/ABI/testing/sysfs-class-power of the Linux kernel (µA, µV, µW, µWh). Drivers of phones
keep to it loosely: what has to be guessed is guessed here, by pure functions.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

CurrentUnit = Literal["uA", "mA"]

_MAX_FILE_BYTES = 64
_MAX_SUPPLIES = 64
_INTEGER = re.compile(r"-?[0-9]{1,19}")
# The ACPI names of laptops' batteries, of which there may be two. Other names are gauges, and a phone shows one cell
# through several of them (`battery`, `bms`, `max170xx_battery`).
_ACPI_NAME = re.compile(r"(BAT|CMB)[0-9A-Z]?")
_MA_BELOW = 5000  # a device whose processor is awake draws more than 5 mA and, if a phone, less than 5 A
_MIN_CHANGES = 4


class Attribute(Protocol):
    """One file of a supply that can be read again and again."""

    path: Path

    def text(self) -> str:
        """Raises OSError, or ValueError where the text is cut off."""
        ...

    def integer(self) -> int:
        """Raises OSError, or ValueError where there is no decimal number."""
        ...

    def close(self) -> None: ...


class KeptFile:
    """One attribute, whose descriptor stays open between reads. Not for two threads at once.

    A kernel's attribute ends with a newline; in a tree where `needs_newline`, text without one was cut off.
    """

    __slots__ = ("_file", "_needs_newline", "path")

    def __init__(self, path: Path, *, needs_newline: bool) -> None:
        self.path = path
        self._needs_newline = needs_newline
        self._file: int | None = None

    def text(self) -> str:
        """Raises OSError, or ValueError where the text is cut off. A supply that went and came back is found again."""
        is_fresh = self._file is None
        try:
            return self._read()
        except OSError:
            self.close()
            if is_fresh:
                raise
            return self._read()

    def integer(self) -> int:
        """Raises OSError, or ValueError where there is no decimal number."""
        return decimal(self.path, self.text())

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _read(self) -> str:
        if self._file is not None and os.fstat(self._file).st_nlink == 0:  # replaced: a driver that was reloaded
            self.close()
        if self._file is None:
            self._file = _open(self.path)
        return whole_text(self.path, os.pread(self._file, _MAX_FILE_BYTES, 0), needs_newline=self._needs_newline)


def whole_text(path: Path, content: bytes, *, needs_newline: bool) -> str:
    """What an attribute says. Raises ValueError where it is empty or cut off."""
    if not content or (needs_newline and not content.endswith(b"\n")):
        raise ValueError(f"{path} is empty or cut off")
    return content.decode("ascii", errors="replace").strip()


def decimal(path: Path, text: str) -> int:
    """Raises ValueError where it is no decimal number."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{path} says {text!r:.40}, which is no number")
    return int(text)


@dataclass(frozen=True, slots=True)
class Supply:
    """One folder of the class. `type` is Battery, Mains, USB, USB_PD, Wireless, UPS, ..."""

    name: str
    path: Path
    type: str
    has_newlines: bool

    @property
    def is_acpi(self) -> bool:
        return _ACPI_NAME.fullmatch(self.name) is not None

    def has(self, attribute: str) -> bool:
        return (self.path / attribute).exists()

    def file(self, attribute: str) -> Attribute:
        return KeptFile(self.path / attribute, needs_newline=self.has_newlines)

    def integer(self, attribute: str) -> int:
        """One look. Raises OSError or ValueError."""
        file = self.file(attribute)
        try:
            return file.integer()
        finally:
            file.close()

    def text(self, attribute: str) -> str:
        """One look. Raises OSError or ValueError."""
        file = self.file(attribute)
        try:
            return file.text()
        finally:
            file.close()


def find_supplies(folder: Path) -> list[Supply]:
    """Every supply of the machine itself, by name. Raises OSError."""
    if not folder.is_dir():
        return []
    paths = itertools.islice(sorted(folder.iterdir()), _MAX_SUPPLIES)
    return [supply for supply in map(_supply, paths) if supply is not None]


def _supply(path: Path) -> Supply | None:
    try:
        text = _look(path / "type")
    except (FileNotFoundError, NotADirectoryError):
        return None
    supply = Supply(path.name, path, text.decode("ascii", errors="replace").strip(), text.endswith(b"\n"))
    return supply if is_own(supply) else None


def is_own(supply: Supply) -> bool:
    """Whether it is there and feeds the machine itself; those of mice and keyboards have `scope` Device."""
    return not (_says(supply, "scope", "Device") or _says(supply, "present", "0"))


def _open(path: Path) -> int:
    """Whatever lies there, a pipe even, opening it does not wait."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _look(path: Path) -> bytes:
    file = _open(path)
    try:
        return os.pread(file, _MAX_FILE_BYTES, 0)
    finally:
        os.close(file)


def _says(supply: Supply, attribute: str, word: str) -> bool:
    try:
        return supply.text(attribute) == word
    except (OSError, ValueError):
        return False


def batteries(supplies: Iterable[Supply]) -> tuple[list[Supply], list[Supply]]:
    """The batteries to count, and those left out as further views of the same cell.

    ACPI batteries are parts of their own and count each. Of other gauges one counts: the first that gives power,
    `battery` before others.
    """
    found = [supply for supply in supplies if supply.type == "Battery"]
    acpi = [supply for supply in found if supply.is_acpi]
    if acpi:
        return acpi, [supply for supply in found if not supply.is_acpi]
    order = sorted(found, key=lambda supply: (not _gives_power(supply), supply.name != "battery", supply.name))
    return order[:1], order[1:]


def _gives_power(supply: Supply) -> bool:
    present = {name for name in ("power_now", "current_now", "voltage_now") if supply.has(name)}
    return "power_now" in present or present >= {"current_now", "voltage_now"}


def chargers(supplies: Iterable[Supply]) -> list[Supply]:
    """What can feed the machine from outside: everything with `online` but batteries and other machines' UPS."""
    return [s for s in supplies if s.type not in ("Battery", "UPS") and s.has("online")]


def volts(raw: int) -> float:
    """`voltage_now` in V. The ABI says µV; drivers that give mV or V are told by magnitude, cells having 1 to 100 V.

    Raises ValueError where no unit makes sense.
    """
    for unit, lowest, end in ((1e6, 1_000_000, 100_000_000), (1e3, 1_000, 100_000), (1.0, 1, 100)):
        if lowest <= raw < end:
            return raw / unit
    raise ValueError(f"voltage_now of {raw} is no voltage of a battery in µV, mV or V")


def guess_current_unit(readings: Iterable[int]) -> CurrentUnit | None:
    """What unit `current_now` of a gauge comes in, judged from readings of a discharging device that is awake.

    The ABI says µA; some drivers give mA. Below 5000 throughout it is mA. None where every reading is 0. The more
    readings under load, the better the guess.
    """
    largest = max((abs(reading) for reading in readings), default=0)
    if largest == 0:
        return None
    return "mA" if largest < _MA_BELOW else "uA"


def estimate_refresh_s(readings: Sequence[tuple[float, float]]) -> float | None:
    """How often a gauge renews its value, from (seconds, value) pairs that were read faster than that.

    A gauge repeats its old value until it has a new one, and the new one may by chance equal the old: times between
    changes are then a multiple of the period. Where readings are too slow to tell (fewer than three a period), the
    mean time between changes is given, which is never too short. None with fewer than four changes.

    Raises ValueError where time does not run forward.
    """
    steps_s = [after[0] - before[0] for before, after in itertools.pairwise(readings)]
    if any(not step_s > 0 for step_s in steps_s):
        raise ValueError("readings must be in the order of time")
    changes_s = [after[0] for before, after in itertools.pairwise(readings) if after[1] != before[1]]
    if len(changes_s) < _MIN_CHANGES:
        return None
    gaps_s = sorted(after - before for before, after in itertools.pairwise(changes_s))
    shortest_s = gaps_s[len(gaps_s) // 4]  # not the very shortest: that one may be a disturbed reading
    n_periods = len(gaps_s)
    if shortest_s >= 3 * sorted(steps_s)[len(steps_s) // 2]:
        n_periods = sum(max(1, round(gap_s / shortest_s)) for gap_s in gaps_s)
    return (changes_s[-1] - changes_s[0]) / n_periods

"""Traces of external meters from the files they write: CSV with a header, and the log of SPEC's PTDaemon.

Strict: a file is foreign until checked, and a figure whose unit, order or decimal mark is in doubt is refused with
file and line rather than guessed. Units are told by the end of a column's name (`Power (mW)`, `Current [A]`,
`energy_wh`) or by the caller.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

from profiler.errors import SensorError, nearest
from profiler.external import Meter, Trace, accumulate
from profiler.quantities import RailKind

MAX_ROWS = 5_000_000
_MAX_LINE_BYTES = 1 << 16
_MAX_PREAMBLE_LINES = 64
_DELIMITERS = ",;\t"
_MAX_MAGNITUDE = 1e12  # W or J: above it a unit is wrong

_J_PER_WH = 3600.0
UNITS: Mapping[str, Mapping[str, float]] = {
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
    "power": {"w": 1.0, "mw": 1e-3, "uw": 1e-6},
    "voltage": {"v": 1.0, "mv": 1e-3, "uv": 1e-6},
    "current": {"a": 1.0, "ma": 1e-3, "ua": 1e-6},
    "energy": {"j": 1.0, "mj": 1e-3, "uj": 1e-6, "wh": _J_PER_WH, "mwh": _J_PER_WH / 1e3, "kwh": _J_PER_WH * 1e3},
}
"""Factors to SI by quantity and unit in lower case, micro written as u. Mega is refused: it would read as milli."""
_EXPONENTS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
ISO = "iso"  # a time unit: ISO 8601; without a zone it is taken as UTC

_NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,18})?|\.\d{1,18})([eE][+-]?\d{1,2})?", re.ASCII)
_SUFFIX = re.compile(r"[(\[]\s*([^()\[\]]{1,4})\s*[)\]]\s*$|_([A-Za-z]{1,3})$")
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9})\d*)?(Z|[+-]\d\d:?\d\d)?", re.ASCII | re.IGNORECASE
)
_PTDAEMON_TIME = re.compile(r"(\d\d)-(\d\d)-(\d{4}) (\d\d):(\d\d):(\d\d)\.(\d{1,9})", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a CSV are what, by name: power, or voltage and current, or cumulative energy.

    Names match whatever their case. A unit that is None is read off the end of its column's name. `means` says that a
    power is the mean since the row before, which is then accumulated (`profiler.external.accumulate`).
    """

    time: str
    power: str | None = None
    voltage: str | None = None
    current: str | None = None
    energy: str | None = None
    time_unit: str | None = None
    power_unit: str | None = None
    voltage_unit: str | None = None
    current_unit: str | None = None
    energy_unit: str | None = None
    means: bool = False

    def __post_init__(self) -> None:
        chosen = [self.power is not None, self.voltage is not None or self.current is not None, self.energy is not None]
        if sum(chosen) != 1 or (self.voltage is None) != (self.current is None):
            raise ValueError(f"a trace is of power, or of voltage and current, or of energy: got {self}")
        if self.means and self.energy is not None:
            raise ValueError("energy that a meter accumulates is no mean")

    @property
    def quantities(self) -> dict[str, str]:
        """Quantity to column name, without the time."""
        named = {"power": self.power, "voltage": self.voltage, "current": self.current, "energy": self.energy}
        return {quantity: name for quantity, name in named.items() if name is not None}

    def unit(self, quantity: str) -> str | None:
        units = {
            "time": self.time_unit,
            "power": self.power_unit,
            "voltage": self.voltage_unit,
            "current": self.current_unit,
            "energy": self.energy_unit,
        }
        return units[quantity]


KNOWN_METERS: Mapping[str, Columns] = {
    # Monsoon PowerTool's export; its powers are means over the sampling interval
    "monsoon": Columns("Time (s)", power="Main Avg Power (mW)", means=True),
}
"""Layouts that are recognised by their column names, where the caller names none."""


def read_csv(path: Path, meter: Meter, columns: Columns | None = None, *, max_rows: int = MAX_ROWS) -> Trace:
    """The trace of a meter's CSV: header found, decimal point or comma, times as seconds, ms, us, ns or ISO 8601.

    Without `columns` the layout must be one of `KNOWN_METERS`. A last line without its newline is left out: it may have
    been cut in mid-number. Raises SensorError that names file and line for whatever is missing, no number, out of
    order, ambiguous or too long.
    """
    layouts = [columns] if columns is not None else list(KNOWN_METERS.values())
    return _read(path, meter, lambda lines: _find_header(lines, layouts), max_rows)


def read_ptdaemon(path: Path, meter: Meter, *, max_rows: int = MAX_ROWS) -> Trace:
    """A log of SPEC's PTDaemon, as MLPerf Power keeps it: `Time,07-26-2022 07:05:20.790,Watts,2.8,Volts,...`.

    Times are the analyser host's wall clock, taken as UTC. Raises SensorError that names file and line.
    """
    return _read(path, meter, lambda lines: (None, _ptdaemon_row), max_rows)


def unit_factor(quantity: str, unit: str) -> float:
    """What one `unit` of a quantity is in SI. Raises ValueError, also for mega, which lower case would make milli."""
    plain = unit.strip().replace("µ", "u").replace("μ", "u")
    if plain[:1] == "M" or plain.lower() not in UNITS[quantity]:
        raise ValueError(f"{unit!r} is no unit of {quantity}. {nearest(unit, UNITS[quantity])}")
    return UNITS[quantity][plain.lower()]


def number(text: str, decimal: str = ".") -> float:
    """A finite decimal number and nothing else: no `nan`, no `inf`, no thousands separator. Raises ValueError."""
    return float(_digits(text, decimal))


def _digits(text: str, decimal: str) -> str:
    plain = text.strip()
    if decimal == ",":
        plain = "" if "." in plain else plain.replace(",", ".", 1)
    if not _NUMBER.fullmatch(plain):
        raise ValueError(f"{text!r:.40} is no number" + (" with a decimal comma" if decimal == "," else ""))
    return plain


def iso_ns(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 date and time, to the digit. Raises ValueError."""
    match = _ISO.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r:.40} is no ISO 8601 time")
    fields = [int(digits) for digits in match.groups()[:6]]
    return _utc_ns(fields, match[7] or "") - _zone_ns(match[8])


def _utc_ns(fields: Sequence[int], fraction: str) -> int:
    year, month, day, hour, minute, second = fields
    whole = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc) - _EPOCH
    return (whole // timedelta(seconds=1)) * 10**9 + int(fraction.ljust(9, "0"))


def _zone_ns(zone: str | None) -> int:
    if zone is None or zone in "Zz":
        return 0
    sign = -1 if zone[0] == "-" else 1
    return sign * (int(zone[1:3]) * 3600 + int(zone[-2:]) * 60) * 10**9


def _ptdaemon_row(line: str) -> tuple[int, float]:
    fields = line.split(",")
    if len(fields) < 4 or fields[0] != "Time" or fields[2] != "Watts":
        raise ValueError("not a line of PTDaemon: 'Time,<mm-dd-yyyy hh:mm:ss.mmm>,Watts,<W>,...'")
    match = _PTDAEMON_TIME.fullmatch(fields[1])
    if match is None:
        raise ValueError(f"{fields[1]!r:.40} is no time of PTDaemon")
    month, day, year, hour, minute, second = (int(digits) for digits in match.groups()[:6])
    return _utc_ns((year, month, day, hour, minute, second), match[7]), number(fields[3])


def _opened(path: Path) -> BinaryIO:
    """Raises SensorError. A FIFO or a device would block for ever: those are for ExternalSensor."""
    try:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not a file")
        return path.open("rb")
    except OSError as error:
        raise SensorError(f"external: {error}.", remedy="Check the path of the meter's file.") from error


class _Lines:
    """The complete lines of a file, counted and bounded. Blank ones and comments (`#`) are passed over."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0
        self.notes = ""

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(_MAX_LINE_BYTES):
            self.number += 1
            if not line.endswith(b"\n"):
                if len(line) == _MAX_LINE_BYTES:
                    raise ValueError(f"longer than {_MAX_LINE_BYTES} bytes")
                self.notes = f"line {self.number} has no newline and was left out"
                return
            text = _decoded(line)
            if text and not text.startswith("#"):
                yield text


def _decoded(line: bytes) -> str:
    if b"\0" in line:
        raise ValueError("holds NUL bytes: not UTF-8 text")
    try:
        return line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:  # a µ from a Windows tool
        return line.decode("latin-1").strip()


def _cells(line: str, delimiter: str) -> list[str]:
    """Raises csv.Error on a quote that does not close."""
    if '"' not in line:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter, strict=True))


Row = Callable[[str], tuple[int, float]]


def _read(path: Path, meter: Meter, find: Callable[[_Lines], tuple[Columns | None, Row]], max_rows: int) -> Trace:
    with _opened(path) as file:
        lines = _Lines(file)
        try:
            columns, row = find(lines)
            times_ns, values = _collect(lines, row, max_rows)
            return _trace(meter, columns, times_ns, values, lines.notes)
        except (OSError, ValueError, csv.Error) as error:
            message = f"external: {path}, line {lines.number}: {error}."
            raise SensorError(message, remedy="Export the trace again, or name its columns and units.") from error


def _find_header(lines: _Lines, layouts: Sequence[Columns]) -> tuple[Columns, Row]:
    """The first line that has all columns of a layout, after at most so many lines of preamble."""
    seen: list[str] = []
    for line in lines:
        for delimiter in _DELIMITERS:
            names = [name.strip() for name in _cells(line, delimiter)]
            seen = max(seen, names, key=len)
            for columns in layouts:
                if _has(names, columns):
                    return (columns, _RowReader(names, delimiter, columns))
        if lines.number >= _MAX_PREAMBLE_LINES:
            break
    wanted = [name for columns in layouts for name in (columns.time, *columns.quantities.values())]
    raise ValueError(f"no line of the first {lines.number} names {wanted}; seen: {', '.join(seen)[:200] or 'nothing'}")


def _has(names: Sequence[str], columns: Columns) -> bool:
    folded = {name.casefold() for name in names}
    return all(name.strip().casefold() in folded for name in (columns.time, *columns.quantities.values()))


class _RowReader:
    """Turns one line into nanoseconds and watts (or joules). Settles the decimal mark at the first number that has one.

    A comma within a number is taken as a decimal mark, never as a separator of thousands. Once a file has used one
    mark the other is an error, and so is a mark that comes twice in a number.
    """

    def __init__(self, names: Sequence[str], delimiter: str, columns: Columns) -> None:
        self._delimiter = delimiter
        self._n_cells = len(names)
        self._time = _index(names, columns.time)
        self._time_unit = _unit(columns, "time", names[self._time])
        self._fields = []
        for quantity, name in columns.quantities.items():
            i = _index(names, name)
            self._fields.append((i, unit_factor(quantity, _unit(columns, quantity, names[i]))))
        self._decimal = ""

    def __call__(self, line: str) -> tuple[int, float]:
        fields = _cells(line, self._delimiter)
        if len(fields) != self._n_cells:
            raise ValueError(f"{len(fields)} fields where the header has {self._n_cells}")
        value = 1.0
        for i, factor in self._fields:
            value *= number(fields[i], self._mark(fields[i])) * factor
        return self._time_ns(fields[self._time]), value

    def _mark(self, text: str) -> str:
        if not self._decimal:
            self._decimal = "," if "," in text else "." if "." in text else ""
        return self._decimal or "."

    def _time_ns(self, text: str) -> int:
        if self._time_unit == ISO:
            return iso_ns(text)
        exact = Decimal(_digits(text, self._mark(text)))
        return int(exact.scaleb(_EXPONENTS[self._time_unit]).to_integral_value())


def _index(names: Sequence[str], wanted: str) -> int:
    found = [i for i, name in enumerate(names) if name.casefold() == wanted.strip().casefold()]
    if len(found) != 1:
        raise ValueError(f"column {wanted!r} is there {len(found)} times")
    return found[0]


def _unit(columns: Columns, quantity: str, name: str) -> str:
    """The unit the caller gave, else the end of the column's name. Raises ValueError where there is neither."""
    given = columns.unit(quantity)
    match = _SUFFIX.search(name)
    unit = given or (match[1] or match[2] if match else None)
    if unit is None:
        raise ValueError(f"column {name!r} does not say its unit; give {quantity}_unit")
    if quantity == "time":
        if unit.casefold() == ISO:
            return ISO
        unit_factor("time", unit)
        return unit.strip().replace("µ", "u").replace("μ", "u").lower()
    return unit


def _collect(lines: _Lines, row: Row, max_rows: int) -> tuple[array[int], array[float]]:
    times_ns, values = array("q"), array("d")
    for line in lines:
        if len(values) >= max_rows:
            raise ValueError(f"more than {max_rows} rows; raise max_rows, or thin the trace out")
        t_ns, value = row(line)
        if times_ns and t_ns <= times_ns[-1]:
            raise ValueError(f"time {t_ns / 1e9:.9g} s does not follow {times_ns[-1] / 1e9:.9g} s")
        if abs(t_ns) >= 2**62 or abs(value) > _MAX_MAGNITUDE:
            raise ValueError(f"{t_ns / 1e9:.6g} s or {value:.6g} is beyond anything a meter says; check the units")
        times_ns.append(t_ns)
        values.append(value)
    return times_ns, values


def _trace(meter: Meter, columns: Columns | None, times_ns: array[int], values: array[float], notes: str) -> Trace:
    kind = RailKind.COUNTER_J if columns is not None and columns.energy is not None else RailKind.POWER_W
    trace = Trace(meter.rail(kind), times_ns, values, notes)
    return accumulate(trace) if columns is not None and columns.means else trace

"""A meter beside the device, read live: whatever writes a line a sample into a file, a FIFO or a serial port.

What its lines mean is said by a description, `StreamSpec`, given by the caller or read from
`/etc/fedmeter/external.json`. Only the last complete line counts; it is taken for what the meter shows now, and for
nothing once it is older than three of the meter's periods. For a recorded file, or a meter on another machine, use
`profiler.meter_files` and `profiler.external`, which align the clocks.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from profiler.clock import Clock
from profiler.errors import SensorError, nearest
from profiler.external import Meter
from profiler.integrate import GAP_PERIODS
from profiler.meter_files import UNITS, number, unit_factor
from profiler.quantities import Rail, RailKind, Scope, weakest
from profiler.sensor import Available, Unavailable

SPEC_PATH = Path("etc/fedmeter/external.json")
_MAX_SPEC_BYTES = 1 << 16
_MAX_RAILS = 64
_CHUNK_BYTES = 1 << 16
_MAX_CHUNKS = 16  # a read takes at most 1 MiB: a meter at 5 kHz writes less in a second
_MAX_LINE_BYTES = 1 << 14

_WRITE_SPEC = (
    "Describe the meter in {where}: "
    '{{"path": "/dev/ttyUSB0", "period_s": 0.1, "rails": [{{"name": "board", "field": 1, "unit": "mW", '
    '"scope": "device", "gain_err": 0.01}}]}}.'
)
_START_METER = (
    "Start what writes the meter's lines ('mkfifo' makes a FIFO, 'stty -F' sets a serial port's speed), and make "
    "{path} readable: for a serial port join its group, 'sudo usermod -aG dialout $USER'."
)


@dataclass(frozen=True, slots=True)
class StreamRail:
    """One rail of a line: a field by its position (from 0), or by its key (`apower`, `aenergy.total`) in a JSON object.

    `unit` is one of power (W, mW, uW) or of energy the meter accumulates (J, Wh, ...). `times`, a field in
    `times_unit`, is multiplied in: volts in `field` (unit V) and amperes in `times`. Raises ValueError on units that
    make neither W nor J.
    """

    meter: Meter
    field: int | str
    unit: str
    times: int | str | None = None
    times_unit: str = "A"

    def __post_init__(self) -> None:
        self.to_si(1.0)

    @property
    def is_counter(self) -> bool:
        return self.times is None and self.unit.strip().lower() in UNITS["energy"]

    def to_si(self, value: float) -> float:
        """From the line's units to W or J."""
        if self.times is not None:
            return value * unit_factor("voltage", self.unit) * unit_factor("current", self.times_unit)
        return value * unit_factor("energy" if self.is_counter else "power", self.unit)


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """Where a meter's lines come from and what they mean. `period_s` is the time between two of its lines.

    `total` names the rails that add up to the device; without it the first alone, since one channel may contain
    another. Raises ValueError where it cannot be meant so.
    """

    path: Path
    period_s: float
    rails: tuple[StreamRail, ...]
    total: tuple[str, ...] = ()
    separator: str = ","

    def __post_init__(self) -> None:
        names = [rail.meter.name for rail in self.rails]
        if not 0 < len(names) <= _MAX_RAILS or len(set(names)) < len(names):
            raise ValueError(f"a meter has 1 to {_MAX_RAILS} rails of different names, got {names}")
        if not 0 < self.period_s < float("inf"):
            raise ValueError(f"period_s must be positive, got {self.period_s}")
        if unknown := [name for name in self.total if name not in names]:
            raise ValueError(f"total names {unknown}, which are no rails. {nearest(unknown[0], names)}")
        if len(self.separator) != 1:
            raise ValueError(f"separator must be one character, got {self.separator!r}")

    def available(self) -> Available:
        rails = tuple(self._rail(rail) for rail in self.rails)
        total = self.total or (rails[0].name,)
        chosen = [rail for rail in rails if rail.name in total]
        scope = min((rail.scope for rail in chosen), key=list(Scope).index)
        provenance = weakest(rail.provenance for rail in chosen)
        return Available(
            rails, total, scope, provenance, f"the last line of {self.path}; limits as described by the user"
        )

    def _rail(self, described: StreamRail) -> Rail:
        kind = RailKind.COUNTER_J if described.is_counter else RailKind.POWER_W
        rail = described.meter.rail(kind, min_period_s=self.period_s)
        # A line is up to one period old when it is read, whatever the meter's own delay.
        return replace(rail, edge_jitter_s=rail.edge_jitter_s + self.period_s)


class ExternalSensor:
    """The last line of a stream. `root` is the file system root below which the description and its path are looked up.

    A rail gives None where the last line lacks it, shows no number for it, or is older than three periods. Lines that
    were in a file before it was opened count only where it was written to within that time.
    """

    name = "external"

    def __init__(self, root: Path, clock: Clock, spec: StreamSpec | None = None) -> None:
        self._root = root
        self._clock = clock
        self._given = spec
        self._spec: StreamSpec | None = None
        self._file: int | None = None
        self._tail = b""
        self._line: tuple[int, bytes] | None = None  # when it came, and what it said
        self._trouble = "no line has come"

    def probe(self) -> Available | Unavailable:
        where = self._root / SPEC_PATH
        try:
            spec = self._given or _read_spec(where)
        except FileNotFoundError:
            return Unavailable(
                f"no meter is described: {where} does not exist", _WRITE_SPEC.format(where=where), is_absent=True
            )
        except (OSError, ValueError, RecursionError) as error:
            return Unavailable(f"{where}: {error}", _WRITE_SPEC.format(where=where))
        path = self._below(spec.path)
        try:
            refusal = _refusal(path)
        except OSError as error:
            refusal = str(error)
        if refusal:
            return Unavailable(refusal, _START_METER.format(path=path))
        self._spec = spec
        return spec.available()

    def open(self) -> None:
        """Raises SensorError where the stream is unavailable. It never waits for a writer."""
        self.close()
        outcome = self.probe()
        if isinstance(outcome, Unavailable) or self._spec is None:
            reason, remedy = (outcome.reason, outcome.remedy) if isinstance(outcome, Unavailable) else ("", "")
            raise SensorError(f"external: {reason}.", remedy=remedy)
        path = self._below(self._spec.path)
        try:
            self._open(path)
        except OSError as error:
            self.close()
            raise SensorError(f"external: {error}.", remedy=_START_METER.format(path=path)) from error

    def read(self) -> list[float | None]:
        if self._file is None or self._spec is None:
            raise SensorError("external: not open.", remedy="Call open() first.")
        self._take()
        values = self._values(self._spec)
        if all(value is None for value in values):
            path = self._below(self._spec.path)
            raise SensorError(f"external: {path}: {self._trouble}.", remedy=_START_METER.format(path=path))
        return values

    def close(self) -> None:
        file, self._file = self._file, None
        self._tail, self._line, self._trouble = b"", None, "no line has come"
        if file is not None:
            os.close(file)

    def _below(self, path: Path) -> Path:
        return self._root / path.relative_to(path.anchor)

    def _open(self, path: Path) -> None:
        # O_NONBLOCK: a FIFO without a writer must not hold us up. O_NOCTTY: a serial port must not become our terminal.
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        about = os.fstat(self._file)
        if not stat.S_ISREG(about.st_mode):
            return
        end = about.st_size
        if self._age_s(about.st_mtime) > self._limit_s:
            os.lseek(self._file, end, os.SEEK_SET)  # what an idle logger wrote last is not what the meter shows now
        elif end > _CHUNK_BYTES:
            os.lseek(self._file, end - _CHUNK_BYTES, os.SEEK_SET)
            os.read(self._file, 1)
            self._tail = b"\xff"  # the first line is cut off: make it no line

    @property
    def _limit_s(self) -> float:
        return GAP_PERIODS * self._spec.period_s if self._spec else 0.0

    def _age_s(self, written_epoch_s: float) -> float:
        wall = datetime.fromisoformat(self._clock.wall_time().replace("Z", "+00:00"))
        return wall.timestamp() - written_epoch_s

    def _take(self) -> None:
        """Take what has come since the last time, keep the last complete line and the beginning of the next."""
        try:
            self._follow()
            for _ in range(_MAX_CHUNKS):
                chunk = os.read(self._file, _CHUNK_BYTES) if self._file is not None else b""
                if not chunk:
                    return
                self._keep(chunk)
        except BlockingIOError:
            return
        except OSError as error:  # an unplugged serial adapter gives EIO; the last line grows old by itself
            self._trouble = str(error)

    def _follow(self) -> None:
        """A rotated log or a port plugged in again is opened anew, a log that was cut short read from its beginning."""
        if self._file is None or self._spec is None:
            return
        path, about = self._below(self._spec.path), os.fstat(self._file)
        if _is_replaced(path, about):
            fresh = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            os.close(self._file)
            self._file, self._tail = fresh, b""
        elif stat.S_ISREG(about.st_mode) and about.st_size < os.lseek(self._file, 0, os.SEEK_CUR):
            os.lseek(self._file, 0, os.SEEK_SET)
            self._tail = b""

    def _keep(self, chunk: bytes) -> None:
        head, newline, rest = (self._tail + chunk).rpartition(b"\n")
        if newline:
            line = head.rstrip().rpartition(b"\n")[2].strip()  # blank lines say nothing
            if line:
                self._line = (self._clock.monotonic_ns(), line)
        # An endless line is no line: its beginning goes, and the mark makes what is left of it no number.
        self._tail = rest if len(rest) <= _MAX_LINE_BYTES else b"\xff"

    def _values(self, spec: StreamSpec) -> list[float | None]:
        if self._line is None:
            return [None] * len(spec.rails)
        age_s = (self._clock.monotonic_ns() - self._line[0]) / 1e9
        if age_s > self._limit_s:
            self._trouble = f"the last line is {age_s:.3g} s old"
            return [None] * len(spec.rails)
        try:
            fields = _fields(self._line[1], spec.separator)
        except (ValueError, RecursionError) as error:
            self._trouble = f"{self._line[1][:80]!r}: {error}"
            return [None] * len(spec.rails)
        return [self._value(rail, fields) for rail in spec.rails]

    def _value(self, rail: StreamRail, fields: Mapping[int | str, object]) -> float | None:
        try:
            value = _number(_look_up(fields, rail.field))
            if rail.times is not None:
                value *= _number(_look_up(fields, rail.times))
        except (KeyError, ValueError) as error:
            self._trouble = f"the last line gives no {rail.meter.name}: {error}"
            return None
        return rail.to_si(value)


def _is_replaced(path: Path, about: os.stat_result) -> bool:
    """Whether something else lies at a path than what is open; where nothing does, whether that was deleted."""
    try:
        there = path.stat()
    except OSError:
        return about.st_nlink == 0
    return (there.st_dev, there.st_ino, there.st_rdev) != (about.st_dev, about.st_ino, about.st_rdev)


def _refusal(path: Path) -> str:
    """Why a stream cannot be read, or nothing. Raises OSError."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return f"{path} is no file, FIFO or character device"
    return "" if os.access(path, os.R_OK) else f"{path} may not be read by this user"


def _fields(line: bytes, separator: str) -> Mapping[int | str, object]:
    """The fields of a line by position, or by key where it is a JSON object. Raises ValueError."""
    text = line.decode("utf-8")
    if text.startswith("{"):
        row = json.loads(text)
        return row if isinstance(row, dict) else {}
    return dict(enumerate(text.split(separator)))


def _look_up(fields: Mapping[int | str, object], field: int | str) -> object:
    """A field, or one inside another: `aenergy.total`. Raises KeyError."""
    if field in fields or not isinstance(field, str):
        return fields[field]
    outer, _, inner = field.partition(".")
    nested = fields[outer]
    return _look_up(nested, inner) if inner and isinstance(nested, dict) else None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r:.40} is no number")
    return number(value if isinstance(value, str) else repr(value))


def _read_spec(path: Path) -> StreamSpec:
    """The description of a meter. Raises OSError, or ValueError that names the key."""
    with path.open("rb") as file:
        text = file.read(_MAX_SPEC_BYTES + 1)
    if len(text) > _MAX_SPEC_BYTES:
        raise ValueError(f"longer than {_MAX_SPEC_BYTES} bytes")
    row = _object(json.loads(text), {"path", "period_s", "rails", "total", "separator"})
    try:
        return StreamSpec(
            path=Path(_text(row, "path")),
            period_s=_number(row["period_s"]),
            rails=tuple(_stream_rail(rail) for rail in _list(row, "rails")),
            total=tuple(str(name) for name in _list(row, "total")),
            separator=_text(row, "separator", ","),
        )
    except KeyError as error:
        raise ValueError(f"{error} is missing") from None


_LIMITS = ("gain_err", "offset_err_w", "resolution", "edge_jitter_s")


def _stream_rail(value: object) -> StreamRail:
    row = _object(value, {"name", "scope", "field", "unit", "times", "times_unit", *_LIMITS})
    limits = {"gain_err": _number(row["gain_err"])} | {name: _number(row[name]) for name in _LIMITS if name in row}
    return StreamRail(
        meter=Meter(_text(row, "name"), Scope(_text(row, "scope")), **limits),
        field=_field(row["field"]),
        unit=_text(row, "unit"),
        times=_field(row["times"]) if "times" in row else None,
        times_unit=_text(row, "times_unit", "A"),
    )


def _object(value: object, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where an object is due")
    if unknown := sorted(set(value) - known):
        raise ValueError(f"{unknown[0]!r} is not known. {nearest(unknown[0], known)}")
    return value


def _text(row: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = row[key] if default is None else row.get(key, default)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{key} must be text, got {value!r:.40}")
    return value


def _list(row: Mapping[str, Any], key: str) -> list[object]:
    value = row.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"{key} must be a list")
    return value


def _field(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"a field is a position or a key, got {value!r:.40}")
    return value

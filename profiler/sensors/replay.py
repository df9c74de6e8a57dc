"""Recorded traces: written by `write_trace`, played back against a clock by `ReplaySensor`.

A trace is JSON lines in UTF-8. The first says what was recorded (`format`, `version`, `rails`, `total`, `scope`,
`provenance`, `notes`, and in `recorded` by what, when and on what kind of machine); every other is
`{"t_ns": 12, "values": [1.5, null]}` on the recording's monotonic clock, one value a rail in J or W, null where the
rail gave none.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from profiler.accumulate import counter_difference
from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable

FORMAT = "fedmeter.trace"
VERSION = 1
_MAX_LINE_BYTES = 1 << 20
_MAX_SAMPLES = 5_000_000
_MAX_RAILS = 256
_MAX_FACTS = 32
_MAX_FACT_CHARS = 200
_REMEDY = "Record the trace again, or restore it from a copy."

Moment = tuple[int, tuple[float | None, ...]]


def header(available: Available, recorded: Mapping[str, str | float] | None = None) -> dict[str, object]:
    """The first line of a trace. The folder of whoever recorded it is not in the notes: traces are handed on."""
    row = {"format": FORMAT, "version": VERSION, **asdict(available)}
    row["notes"] = available.notes.replace(str(Path.home()), "~") if Path.home() != Path("/") else available.notes
    return row | ({"recorded": dict(recorded)} if recorded else {})


def write_trace(
    path: Path,
    available: Available,
    samples: Iterable[tuple[int, Sequence[float | None]]],
    recorded: Mapping[str, str | float] | None = None,
) -> None:
    """Write a trace, refusing to overwrite one. Raises ValueError where a sample is not one value a rail."""
    with path.open("x", encoding="utf-8") as file:
        file.write(json.dumps(header(available, recorded), ensure_ascii=False, allow_nan=False) + "\n")
        for t_ns, values in samples:
            if len(values) != len(available.rails):
                raise ValueError(f"{len(values)} values for {len(available.rails)} rails at {t_ns} ns")
            file.write(json.dumps({"t_ns": t_ns, "values": list(values)}, allow_nan=False) + "\n")


def read_trace(path: Path) -> tuple[Available, list[Moment]]:
    """The whole trace, checked. Raises SensorError that names file and line."""
    moments: list[Moment] = []
    number = 1
    try:
        with path.open("rb") as file:
            available = _header(_object(file.readline(_MAX_LINE_BYTES)))
            while line := file.readline(_MAX_LINE_BYTES):
                number += 1
                if len(moments) >= _MAX_SAMPLES:
                    raise ValueError(f"more than {_MAX_SAMPLES} samples")
                moments.append(_moment(_object(line), len(available.rails), moments[-1][0] if moments else None))
    except OSError as error:
        raise SensorError(f"replay: {error}.", remedy="Check the path of the trace.") from error
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise SensorError(f"replay: {path}, line {number}: {_said(error)}.", remedy=_REMEDY) from error
    if not moments:
        raise SensorError(f"replay: {path} has no samples.", remedy=_REMEDY)
    return available, moments


def read_recorded(path: Path) -> dict[str, str | float]:
    """What a trace says of its recording, which may be nothing. Raises SensorError where its first line is none."""
    try:
        with path.open("rb") as file:
            row = _object(file.readline(_MAX_LINE_BYTES))
    except OSError as error:
        raise SensorError(f"replay: {error}.", remedy="Check the path of the trace.") from error
    except (ValueError, RecursionError) as error:
        raise SensorError(f"replay: {path}, line 1: {error}.", remedy=_REMEDY) from error
    recorded = row.get("recorded")
    if not isinstance(recorded, dict):
        return {}
    return {
        name[:_MAX_FACT_CHARS]: fact
        for name in list(recorded)[:_MAX_FACTS]
        if (fact := _fact(recorded[name])) is not None
    }


def _fact(value: object) -> str | float | None:
    """Text or a finite number; None of anything else, since nothing is computed from it but a rate."""
    if isinstance(value, str):
        return value[:_MAX_FACT_CHARS]
    try:
        return _number(value)
    except (ValueError, OverflowError):
        return None


class ReplaySensor:
    """Plays a trace from its beginning when opened, at the pace of `clock`. `root` is the path of the trace.

    Between two samples values are interpolated, those of a counter across a wrap; next to a sample without a value
    there is none. After the last sample `read` raises SensorError. Provenance and scope are those of the recording.
    """

    name = "replay"

    def __init__(self, root: Path, clock: Clock) -> None:
        self._path = root
        self._clock = clock
        self._available: Available | None = None
        self._moments: list[Moment] = []
        self._offset_ns: int | None = None

    @property
    def duration_s(self) -> float:
        """From the first sample to the last. Raises SensorError where the file is no trace."""
        self._load()
        return (self._moments[-1][0] - self._moments[0][0]) / 1e9

    def probe(self) -> Available | Unavailable:
        try:
            return self._load()
        except SensorError as error:
            return Unavailable(Exception.__str__(error), error.remedy)

    def open(self) -> None:
        self._load()
        self._offset_ns = self._moments[0][0] - self._clock.monotonic_ns()

    def read(self) -> list[float | None]:
        if self._offset_ns is None or self._available is None:
            raise SensorError("replay: not open.", remedy="Call open() first.")
        t_ns = self._clock.monotonic_ns() + self._offset_ns
        after = bisect.bisect_left(self._moments, t_ns, key=lambda moment: moment[0])
        if after == len(self._moments):
            raise SensorError(f"replay: the trace {self._path} has ended.")
        return _interpolated(self._available.rails, self._moments[max(0, after - 1)], self._moments[after], t_ns)

    def close(self) -> None:
        self._offset_ns = None

    def _load(self) -> Available:
        if self._available is None:
            self._available, self._moments = read_trace(self._path)
        return self._available


def _interpolated(rails: Sequence[Rail], before: Moment, after: Moment, t_ns: int) -> list[float | None]:
    if t_ns == after[0] or before[0] == after[0]:
        return list(after[1])
    fraction = (t_ns - before[0]) / (after[0] - before[0])
    return [_between(rail, a, b, fraction) for rail, a, b in zip(rails, before[1], after[1], strict=True)]


def _between(rail: Rail, before: float | None, after: float | None, fraction: float) -> float | None:
    if before is None or after is None:
        return None
    if rail.kind is RailKind.POWER_W:
        return before + (after - before) * fraction
    difference_j = counter_difference(before, after, rail.wrap_j)
    if difference_j is None:  # a reset that was recorded: nothing between is known
        return None
    value_j = before + difference_j * fraction
    return value_j if rail.wrap_j is None or value_j < rail.wrap_j else value_j - rail.wrap_j


def _object(line: bytes) -> Mapping[str, Any]:
    if not line.endswith(b"\n"):
        raise ValueError(f"cut off, or longer than {_MAX_LINE_BYTES} bytes")
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {type(value).__name__}")
    return value


def _header(row: Mapping[str, Any]) -> Available:
    if row.get("format") != FORMAT or row.get("version") != VERSION:
        raise ValueError(f"no {FORMAT} of version {VERSION}")
    if not isinstance(row["rails"], list) or not 0 < len(row["rails"]) <= _MAX_RAILS:
        raise ValueError(f"rails must be a list of 1 to {_MAX_RAILS}")
    rails = tuple(_rail(rail) for rail in row["rails"])
    total = tuple(row["total"])
    names = [rail.name for rail in rails]
    if len(set(names)) < len(names) or not total or not set(total) <= set(names):
        raise ValueError("rails need different names, and total the names of some of them")
    return Available(rails, total, Scope(row["scope"]), Provenance(row["provenance"]), str(row.get("notes", "")))


_NUMBERS = {
    "min_period_s": False,
    "resolution": False,
    "wrap_j": True,
    "gain_err": False,
    "offset_err_w": False,
    "edge_jitter_s": False,
    "max_power_w": True,
}
"""Numeric fields of a rail, and whether they may be null."""


def _rail(row: Mapping[str, Any]) -> Rail:
    if unknown := set(row) - {field.name for field in fields(Rail)}:
        raise ValueError(f"unknown fields of a rail: {sorted(unknown)}")
    if not isinstance(row["name"], str) or not isinstance(row.get("parent"), (str, type(None))):
        raise ValueError("name and parent of a rail are text")
    values = dict(row)
    for name, may_be_null in _NUMBERS.items():
        if name in row and not (row[name] is None and may_be_null):
            values[name] = _number(row[name])
            if values[name] < 0:
                raise ValueError(f"{name} of a rail is negative")
    values["scope"] = Scope(row["scope"])
    values["kind"] = RailKind(row["kind"])
    values["provenance"] = Provenance(row["provenance"])
    return Rail(**values)


def _moment(row: Mapping[str, Any], n_rails: int, previous_ns: int | None) -> Moment:
    t_ns, values = row["t_ns"], row["values"]
    if not isinstance(t_ns, int) or isinstance(t_ns, bool) or abs(t_ns) >= 2**63:
        raise ValueError("t_ns must be a whole number of nanoseconds")
    if previous_ns is not None and t_ns <= previous_ns:
        raise ValueError(f"t_ns {t_ns} does not follow {previous_ns}")
    if not isinstance(values, list) or len(values) != n_rails:
        raise ValueError(f"values must be a list of {n_rails}")
    return t_ns, tuple(None if value is None else _number(value) for value in values)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is no finite number")
    return float(value)


def _said(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)

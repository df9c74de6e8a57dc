"""The text of NVIDIA's `tegrastats`: a fallback where the files it reads itself cannot be reached.

A line has `LABEL now/average` for each rail, in mW, with the suffix mW since JetPack 5 and bare before. The average is
tegrastats's own running one since it was started and is not used. Lines were taken from the
public test fixtures of jetson_stats (Nano, JetPack 4) and from public reports (Orin Nano and AGX Orin, JetPack 6).
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Iterator
from typing import Protocol

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable
from profiler.sensors.jetson_boards import INA3221, SAY_WHICH, UNKNOWN_BOARD, Board, find_board, limits, scope_of

# Anchored on how rails are called: 'RAM 1928/7620MB' and 'SWAP 0/3810MB' have the same shape.
_RAIL = re.compile(
    r"(?<!\S)(?P<label>(?:VDD|VDDQ|VIN|POM)_[A-Z0-9_]{1,60}|VIN|GPU|CPU|SOC|CV|VDDRQ|SYS5V)"
    r" (?P<now_mw>\d{1,7})(?:mW)?/\d{1,7}(?:mW)?(?!\S)"
)
_MAX_LINE_BYTES = 8192
_CHUNK_BYTES = 65536
_MAX_CHUNKS = 64
_STALE_INTERVALS = 3.0
_LINE_STEP_W = 1e-3  # a line has whole milliwatts
_BUS_5V = 5.05

_NO_LINE = "no line of tegrastats with a rail has arrived"
_START_IT = "Start 'tegrastats --interval 100', hand its output over, and probe again once a line is there."


class ByteStream(Protocol):
    """A pipe or a file, as long as it has a descriptor; `subprocess.Popen(...).stdout` is one."""

    def fileno(self) -> int: ...


def parse_line(line: str) -> dict[str, float]:
    """Watts of every rail in one line, in the line's order; empty for a line without any."""
    return {match["label"]: int(match["now_mw"]) / 1e3 for match in _RAIL.finditer(line)}


class TegrastatsSensor:
    """Power of a Jetson's rails out of the lines of a running tegrastats, in W.

    `stream` is what tegrastats writes to: whoever started the process hands it over and closes it. A read takes what
    has arrived, never waits, and gives the newest whole line, held for three times `interval_s`. `model` tells boards
    apart that share their labels. What a line gives was measured up to one interval before.

    Not an entry point, since there is no stream to be found below a file system root.
    """

    name = "tegrastats"

    def __init__(self, stream: ByteStream, clock: Clock, *, interval_s: float = 0.1, model: str = "") -> None:
        if not 0 < interval_s < 3600:
            raise ValueError(f"interval_s must be in 0..3600, got {interval_s}")
        self._stream = stream
        self._clock = clock
        self._interval_s = interval_s
        self._model = model
        self._rest = b""
        self._latest: dict[str, float] = {}
        self._latest_ns = 0
        self._labels: tuple[str, ...] = ()
        self._is_open = False

    def probe(self) -> Available | Unavailable:
        try:
            self._take()
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            return Unavailable(f"the output of tegrastats cannot be read: {error}", _START_IT)
        labels = self._labels or tuple(self._latest)
        if not labels:
            return Unavailable(_NO_LINE, _START_IT)
        board = find_board(labels, self._model)
        if board is None:
            return Unavailable(UNKNOWN_BOARD.format(labels=", ".join(labels)), SAY_WHICH)
        self._labels = labels
        rails = tuple(_rail(label, board, self._interval_s) for label in labels)
        notes = f"{board.name}, out of tegrastats; the carrier board is not in the total"
        return Available(rails, board.total, Scope.MODULE, Provenance.INTEGRATED, notes)

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable."""
        outcome = self.probe()
        if isinstance(outcome, Unavailable):
            raise SensorError(f"tegrastats: {outcome.reason}.", remedy=outcome.remedy)
        self._is_open = True

    def read(self) -> list[float | None]:
        if not self._is_open:
            raise SensorError("tegrastats: not open.", remedy="Call open() first.")
        try:
            self._take()
        except (OSError, ValueError) as error:
            raise SensorError(f"tegrastats: {error}.", remedy=_START_IT) from error
        age_s = (self._clock.monotonic_ns() - self._latest_ns) / 1e9
        if age_s > _STALE_INTERVALS * self._interval_s:
            raise SensorError(f"tegrastats: no line for {age_s:.3g} s; has it ended?", remedy=_START_IT)
        values = [self._latest.get(label) for label in self._labels]
        if all(value is None for value in values):
            raise SensorError(f"tegrastats: the last line has none of {', '.join(self._labels)}.")
        return values

    def close(self) -> None:
        """The stream stays open: it belongs to whoever handed it over."""
        self._is_open = False

    def _take(self) -> None:
        """Take in what has arrived; keep the newest whole line with a rail, and the beginning of the next."""
        *lines, rest = b"".join((self._rest, *self._arrived())).split(b"\n")
        self._rest = rest[: _MAX_LINE_BYTES + 1]  # one byte too long stays too long, and is left out when it ends
        for line in reversed(lines):
            rails = parse_line(line.decode("ascii", errors="replace")) if len(line) <= _MAX_LINE_BYTES else {}
            if rails:
                self._latest, self._latest_ns = rails, self._clock.monotonic_ns()
                return

    def _arrived(self) -> Iterator[bytes]:
        """What can be had without waiting, as far as it is sane to take at once."""
        file = self._stream.fileno()
        poll = select.poll()
        poll.register(file, select.POLLIN)
        for _ in range(_MAX_CHUNKS):
            chunk = os.read(file, _CHUNK_BYTES) if poll.poll(0) else b""
            if not chunk:
                return
            yield chunk


def _rail(label: str, board: Board, interval_s: float) -> Rail:
    """Lines say nothing of shunts and voltages: both are the board's, but that a rail named 5V has 5 V."""
    known = limits(INA3221, board.shunt_ohm, min(board.bus_v, _BUS_5V if "5V" in label else board.bus_v))
    return Rail(
        name=label,
        scope=scope_of(label, board),
        kind=RailKind.POWER_W,
        provenance=Provenance.INTEGRATED,
        min_period_s=interval_s,
        resolution=max(known.resolution_w, _LINE_STEP_W),
        gain_err=known.gain_err,
        offset_err_w=known.offset_err_w,
        edge_jitter_s=interval_s + INA3221.cycle_s,
        parent=board.parent(label),
    )

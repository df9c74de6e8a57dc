"""The text of NVIDIA's `tegrastats`: a fallback where the files it reads itself cannot be reached.

`TegrastatsSensor` starts the program and ends it; `TegrastatsStream` reads what somebody else has started or recorded.

A line has `LABEL now/average` for each rail, in mW, with the suffix mW since JetPack 5 and bare before. The average is
tegrastats's own running one since it was started and is not used. Lines were taken from the
public test fixtures of jetson_stats (Nano, JetPack 4) and from public reports (Orin Nano and AGX Orin, JetPack 6); the
option `--interval` (ms) from the Jetson Linux Developer Guide, "tegrastats Utility".
"""

from __future__ import annotations

import os
import re
import select
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.files import line, printable
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable
from profiler.sensors.jetson_boards import INA3221, SAY_WHICH, UNKNOWN_BOARD, Board, find_board, limits, scope_of

if TYPE_CHECKING:
    import subprocess

# Anchored on how rails are called: 'RAM 1928/7620MB' and 'SWAP 0/3810MB' have the same shape.
_RAIL = re.compile(
    r"(?<!\S)(?P<label>(?:VDD|VDDQ|VIN|POM)_[A-Z0-9_]{1,60}|VIN|GPU|CPU|SOC|CV|VDDRQ|SYS5V)"
    r" (?P<now_mw>\d{1,7})(?:mW)?/\d{1,7}(?:mW)?(?!\S)"
)
_MAX_LINE_BYTES = 8192
_CHUNK_BYTES = 65536
_MAX_CHUNKS = 64
_PIPE_BYTES = 65536  # what a pipe holds before its writer has to wait (pipe(7))
_STALE_INTERVALS = 3.0
_LINE_STEP_W = 1e-3  # a line has whole milliwatts
_BUS_5V = 5.05

_NO_LINE = "no line of tegrastats with a rail has arrived"
_START_IT = "Start 'tegrastats --interval 100', hand its output over, and probe again once a line is there."
_FIRST_LINE_S = 3.0  # beside one interval; nobody says how long it takes to start
_END_S = 0.5
_NO_PROGRAM = "there is no program tegrastats in the PATH"
_GET_IT = "It comes with L4T, for Jetsons only; in a container mount /usr/bin/tegrastats into it."
_TRY_IT = "Look at what 'tegrastats --interval 1000' prints, and whether it wants root."


class ByteStream(Protocol):
    """A pipe or a file, as long as it has a descriptor; `subprocess.Popen(...).stdout` is one."""

    def fileno(self) -> int: ...


def parse_line(line: str) -> dict[str, float]:
    """Watts of every rail in one line, in the line's order; empty for a line without any."""
    return {match["label"]: int(match["now_mw"]) / 1e3 for match in _RAIL.finditer(line)}


class TegrastatsStream:
    """Power of a Jetson's rails out of the lines of a running tegrastats, in W.

    `stream` is what tegrastats writes to: whoever started the process hands it over and closes it. A read takes what
    has arrived, never waits, and gives the newest whole line, held for three times `interval_s`. `model` tells boards
    apart that share their labels, `labels` are the rails where they are known before. What a line gives was measured up
    to one interval before.

    Not an entry point, since there is no stream to be found below a file system root.
    """

    name = "tegrastats"

    def __init__(
        self,
        stream: ByteStream,
        clock: Clock,
        *,
        interval_s: float = 0.1,
        model: str = "",
        labels: tuple[str, ...] = (),
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._interval_s = _checked(interval_s)
        self._model = model
        self._rest = b""
        self._latest: dict[str, float] = {}
        self._latest_ns = 0
        self._labels = labels
        self._is_open = False
        self.is_at_end = False
        self.last_words = ""

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
        rails = tuple(rail_of_line(label, board, self._interval_s) for label in labels)
        notes = f"{board.name}, out of tegrastats; the carrier board is not in the total"
        return Available(rails, board.total, Scope.MODULE, Provenance.INTEGRATED, notes, same_as="jetson")

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable."""
        outcome = self.probe()
        if isinstance(outcome, Unavailable):
            raise SensorError(f"tegrastats: {outcome.reason}.", remedy=outcome.remedy)
        self._is_open = True

    def wait(self, timeout_s: float) -> bool:
        """Until there is a line with a rail; False where none comes in time or the stream ends. Raises as `os.read`."""
        until_s = time.monotonic() + timeout_s
        self._take()
        while not self._latest and not self.is_at_end and (left_s := until_s - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._stream.fileno(), select.POLLIN)
            poll.poll(left_s * 1e3)
            self._take()
        return bool(self._latest)

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
        arrived = b"".join(self._arrived())
        *lines, rest = (self._rest + arrived).split(b"\n")
        self._rest = rest[: _MAX_LINE_BYTES + 1]  # one byte too long stays too long, and is left out when it ends
        if self._was_held_up(len(arrived)):
            return
        for row in reversed(lines):
            rails = parse_line(row.decode("ascii", errors="replace")) if len(row) <= _MAX_LINE_BYTES else {}
            if rails:
                self._latest, self._latest_ns = rails, self._clock.monotonic_ns()
                return
            self.last_words = self.last_words if not row.strip() else printable(row.decode("ascii", errors="replace"))

    def _was_held_up(self, n_bytes: int) -> bool:
        """Whether the pipe was full: tegrastats has then waited for us, and nobody knows how old its last line is."""
        return n_bytes > _PIPE_BYTES - _MAX_LINE_BYTES and stat.S_ISFIFO(os.fstat(self._stream.fileno()).st_mode)

    def _arrived(self) -> Iterator[bytes]:
        """What can be had without waiting, as far as it is sane to take at once."""
        file = self._stream.fileno()
        poll = select.poll()
        poll.register(file, select.POLLIN)
        for _ in range(_MAX_CHUNKS):
            has_more = bool(poll.poll(0))
            chunk = os.read(file, _CHUNK_BYTES) if has_more else b""
            if not chunk:
                self.is_at_end = has_more  # a file may grow again, a pipe has lost its writer
                return
            yield chunk


class TegrastatsSensor:
    """The same from a `tegrastats` that is started by `open` and ended by `close`; `probe` runs it for its first line.

    It writes a line each `interval_s`, which is how often it reads the monitors itself; its own cost is not that of
    this process. Were this process killed, it would end with its next line, which nobody could take. `command` replaces
    the program in the PATH, which tells of this machine alone, whatever `root` is; `first_line_s` is how long its first
    line may take, beside one interval.
    """

    name = "tegrastats"
    same_as = "jetson"

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        interval_s: float = 0.1,
        command: Sequence[str] | None = None,
        first_line_s: float = _FIRST_LINE_S,
    ) -> None:
        self._root = root
        self._clock = clock
        self._interval_s = _checked(interval_s)
        self._command = None if command is None else tuple(command)
        self._first_line_s = self._interval_s + first_line_s
        self._outcome: Available | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: TegrastatsStream | None = None

    def probe(self) -> Available | Unavailable:
        if self._outcome is not None:
            return self._outcome  # rails stay those that were probed
        if self._command is None and self._root.resolve() != Path("/"):
            return Unavailable(f"tegrastats asks this machine, not the one below {self._root}", _GET_IT, is_absent=True)
        try:
            stream = self._start()
            outcome = stream.probe() if stream.wait(self._first_line_s) else self._silence(stream)
        except FileNotFoundError as error:
            return Unavailable(f"{error}", _GET_IT, is_absent=self._command is None)
        except OSError as error:
            return Unavailable(f"it cannot be started: {error}", _TRY_IT)
        finally:
            self.close()
        if isinstance(outcome, Available):
            self._outcome = replace(outcome, notes=f"{outcome.notes}; a child process reads the monitors")
            return self._outcome
        return outcome

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable. Waits for the first line, some seconds at most."""
        self.close()
        outcome = self.probe()
        if isinstance(outcome, Unavailable):
            raise SensorError(f"tegrastats: {outcome.reason}.", remedy=outcome.remedy)
        try:
            stream = self._start(tuple(rail.name for rail in outcome.rails))
            silence = None if stream.wait(self._first_line_s) else self._silence(stream)
        except OSError as error:
            self.close()
            raise SensorError(f"tegrastats: it cannot be started: {error}.", remedy=_TRY_IT) from error
        if silence is not None:
            self.close()
            raise SensorError(f"tegrastats: {silence.reason}.", remedy=silence.remedy)
        stream.open()
        self._stream = stream

    def read(self) -> list[float | None]:
        if self._stream is None:
            raise SensorError("tegrastats: not open.", remedy="Call open() first.")
        try:
            return self._stream.read()
        except SensorError as error:
            if self._stream.is_at_end:
                raise SensorError(f"tegrastats: {self._silence(self._stream).reason}.", remedy=_TRY_IT) from error
            raise

    def close(self) -> None:
        """End the child, politely at first. Harmless where there is none."""
        process, self._process, self._stream = self._process, None, None
        if process is None:
            return
        import signal
        import subprocess

        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is not None:
                break
            os.killpg(process.pid, number)  # its own group, whose number is taken until we have waited for it
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
        if process.stdout is not None:
            process.stdout.close()

    def _start(self, labels: tuple[str, ...] = ()) -> TegrastatsStream:
        """Raises OSError: FileNotFoundError where there is no such program."""
        import subprocess  # 10 ms, and only a Jetson needs it

        # A session of its own: Ctrl-C is for us, and what is metered until we have ended must be metered to the end.
        process = subprocess.Popen(
            [*(self._command or _program()), "--interval", str(max(1, round(self._interval_s * 1e3)))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
        self._process = process
        if process.stdout is None:
            raise OSError("the child has no output")
        model = line(self._root / "proc/device-tree/model") or ""
        return TegrastatsStream(process.stdout, self._clock, interval_s=self._interval_s, model=model, labels=labels)

    def _silence(self, stream: TegrastatsStream) -> Unavailable:
        """Why there is no line: it has ended, with what status and words, or it says nothing of rails."""
        said = f", saying {stream.last_words!r}" if stream.last_words else ""
        if not stream.is_at_end or self._process is None:
            return Unavailable(f"it prints no line with a rail{said}", _TRY_IT)
        return Unavailable(f"it has ended{_status(self._process)}{said}", _TRY_IT)


def _status(process: subprocess.Popen[bytes]) -> str:
    import subprocess

    try:
        code = process.wait(_END_S)  # its output ends a moment before it does
    except subprocess.TimeoutExpired:
        return ""
    return f" with exit status {code}" if code >= 0 else f" by signal {-code}"


def _program() -> tuple[str, ...]:
    """Raises FileNotFoundError."""
    import shutil

    found = shutil.which("tegrastats")
    if found is None:
        raise FileNotFoundError(_NO_PROGRAM)
    return (found,)


def _checked(interval_s: float) -> float:
    if not 0 < interval_s < 3600:
        raise ValueError(f"interval_s must be in 0..3600, got {interval_s}")
    return interval_s


def rail_of_line(label: str, board: Board, interval_s: float) -> Rail:
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

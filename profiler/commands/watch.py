"""`python -m profiler watch`: a live view of every rail; one line a second where stdout is no terminal."""

from __future__ import annotations

import argparse
import os
import select
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from profiler.clock import Clock, SystemClock
from profiler.commands.common import add_seconds, add_sensor, choose, sigterm_interrupts
from profiler.commands.figures import MISSING, aligned, plain, watts, with_error
from profiler.commands.meter import Live, Meter
from profiler.errors import UsageError
from profiler.quantities import EnergyReading
from profiler.sensor import Sensor
from profiler.sensors.replay import ReplaySensor

HELP = "a live view of power and energy; q or Ctrl-C ends it"
COMMAND = ""
_REDRAW_S = 0.5
_LINE_S = 1.0
_BAR_CHARS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sensor(parser)
    add_seconds(parser)
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="show a trace that 'record' has written, at its own pace"
    )


def run(options: argparse.Namespace) -> int:
    """0, however it is ended. Raises SensorError where nothing can be metered."""
    clock = SystemClock()
    sensor, seconds = _sensor(options, clock)
    meter = Meter(sensor, clock, options.rate)
    live = Live(meter.available, options.rate)
    meter.listeners.append(live)
    figures = meter.run(lambda: _watch(live, sensor.name, seconds))
    what = figures.what if options.replay is None else f"trace {options.replay.name}"
    print(f"\n{replace(figures, what=what).as_table()}")
    return 0


def _sensor(options: argparse.Namespace, clock: Clock) -> tuple[Sensor, float | None]:
    """What to show, and for how long at most: a trace ends."""
    if options.replay is None:
        return choose(options, clock)[0], options.seconds
    if options.sensor is not None:
        raise UsageError("watch takes --sensor or --replay, not both.", remedy="A trace is of the sensor it was of.")
    trace = ReplaySensor(options.replay, clock)
    left_s = trace.duration_s
    return trace, left_s if options.seconds is None else min(options.seconds, left_s)


def _watch(live: Live, name: str, duration_s: float | None) -> None:
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    view: Screen | Lines = Screen(name, sys.stdout) if is_terminal else Lines(name, sys.stdout)
    start_s = time.monotonic()
    try:
        with sigterm_interrupts(), _keys() as pressed, view:
            _loop(live, view, pressed, start_s, duration_s)
    except KeyboardInterrupt:
        return


def _loop(
    live: Live, view: Screen | Lines, pressed: Callable[[float], bool], start_s: float, duration_s: float | None
) -> None:
    due_s = start_s
    while True:
        due_s = max(due_s + view.period_s, time.monotonic())
        end_s = due_s if duration_s is None else min(due_s, start_s + duration_s)
        if pressed(end_s):
            return
        view.show(time.monotonic() - start_s, live.powers_w(), live.readings())
        if duration_s is not None and time.monotonic() >= start_s + duration_s:
            return


class Lines:
    """One line a second, for files and pipes."""

    period_s = _LINE_S

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self._stream = stream

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, elapsed_s: float, powers_w: Sequence[float | None], readings: Sequence[EnergyReading]) -> None:
        total = readings[-1]
        said = with_error(total.energy_j, total.energy_err_j)
        energy = f"{said} J" if total.energy_j is not None else said
        order = (len(readings) - 1, *range(len(readings) - 1))
        rails = [f"{plain(readings[i].rail)} {watts(powers_w[i])} W" for i in order]
        parts = (f"{elapsed_s:.1f} s", f"{energy} {total.provenance.value}", *rails)
        print("  ".join(parts), file=self._stream, flush=True)


class Screen:
    """Redraws its own lines in place (ECMA-48 sequences) and leaves what was above them alone."""

    period_s = _REDRAW_S

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self._stream = stream
        self._n_lines = 0
        self._peak_w = 0.0

    def __enter__(self) -> Screen:
        self._stream.write("\x1b[?25l")  # hide the cursor
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.write("\x1b[?25h")
        self._stream.flush()

    def show(self, elapsed_s: float, powers_w: Sequence[float | None], readings: Sequence[EnergyReading]) -> None:
        size = shutil.get_terminal_size()
        self._peak_w = max([self._peak_w, *(power_w for power_w in powers_w if power_w is not None)])
        table: list[tuple[str, ...]] = [("", "power (W)", "", "energy (J)", "provenance", "scope")]
        table += [self._row(reading, power_w) for reading, power_w in zip(readings, powers_w, strict=True)]
        lines = [f"{self._name}  {elapsed_s:.1f} s  (q ends)", *aligned(table)]
        lines += [f"{plain(reading.rail)}: {plain(reading.reason)}" for reading in readings if reading.reason]
        lines = [line[: size.columns - 1] for line in lines[: size.lines - 1]]
        up = f"\x1b[{self._n_lines}F" if self._n_lines else ""
        self._stream.write(up + "\x1b[J" + "".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._n_lines = len(lines)

    def _row(self, reading: EnergyReading, power_w: float | None) -> tuple[str, ...]:
        energy = with_error(reading.energy_j, reading.energy_err_j)
        power = MISSING if power_w is None else watts(power_w)
        return plain(reading.rail), power, self._bar(power_w), energy, reading.provenance.value, reading.scope.value

    def _bar(self, power_w: float | None) -> str:
        share = 0.0 if power_w is None or self._peak_w <= 0 else max(0.0, power_w / self._peak_w)
        return ("#" * round(share * _BAR_CHARS)).ljust(_BAR_CHARS, ".")


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """A function that waits until a moment and says whether q was pressed before it.

    Only where we are in the foreground of the terminal on stdin: one in the background would be stopped for asking.
    """
    if not _reads_keys():
        yield _slept
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _q_pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _reads_keys() -> bool:
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _slept(until_s: float) -> bool:
    threading.Event().wait(max(0.0, until_s - time.monotonic()))
    return False


def _q_pressed(until_s: float) -> bool:
    while (left_s := until_s - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left_s)[0]:
            keys = os.read(sys.stdin.fileno(), 64)
            if not keys or b"q" in keys.lower():  # nothing: the terminal has gone
                return True
    return False

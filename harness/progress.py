"""What a person sees while a run goes on: stderr, a bar where it is a terminal, a line a round where it is not.

Below the bar of a terminal stands what the devices are doing: one line of counts, with the names of those in trouble or
at work, and a letter for each device.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NoReturn, TextIO

from tqdm import tqdm

from fl.clock_watch import SET_KEY
from fl.loop import CallName
from harness.plan import Task
from harness.watching import STATES, DeviceState, Roster, Standing, Watcher
from profiler.clock import SystemClock
from profiler.files import printable
from profiler.quantities import BELOW_RESOLUTION
from profiler.records import Row

LETTERS: Mapping[DeviceState, str] = {
    "gone": "x",
    "failed": "!",
    "fitting": "F",
    "evaluating": "E",
    "starting": "s",
    "waiting": ".",
}
_NAMED = frozenset({"gone", "failed", "fitting", "evaluating", "starting"})
_NAMES = 3
_WHY_CHARS = 60
_MAX_LETTER_ROWS = 4
_FEW = 8  # devices, that names tell enough of
_SHOW_S = 0.1


class Progress(Watcher):
    """Shows tasks, rounds, accuracy, seconds, joules with their provenance, and what each device is doing."""

    def __init__(self, n_tasks: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._is_terminal = self._stream.isatty()
        self._n_tasks = n_tasks
        self._n_started = 0
        self._task = ""
        self._bar: tqdm[NoReturn] | None = None
        self._waiting: set[str] = set()
        self._roster = Roster(SystemClock.monotonic_ns)
        self._status: list[tqdm[NoReturn]] = []
        self._last = ""
        self._shown_s = 0.0

    def say(self, message: str) -> None:
        """One line for people."""
        if self._quiet:
            return
        if self._bar is not None or self._status:
            tqdm.write(message, file=self._stream)
        else:
            print(message, file=self._stream, flush=True)

    def starting(self, device: str) -> None:
        self._roster.starting(device)
        self._refresh()

    def present(self, devices: Collection[str]) -> None:
        self._roster.present(devices)
        self._refresh()

    def gone(self, device: str, why: str) -> None:
        self._roster.gone(device, why)
        self._refresh()

    def task_started(self, task: Task, from_round: int) -> None:
        self._n_started += 1
        self._task = f"[{self._n_started}/{self._n_tasks}] {task.label}"
        self._last = ""
        self._waiting.clear()
        if self._is_terminal and not self._quiet:
            self._bar = tqdm(
                total=task.rounds,
                initial=from_round - 1,
                desc=self._task,
                unit="round",
                file=self._stream,
                bar_format="{desc} {bar:12} {n_fmt}/{total_fmt} rounds{postfix}",
                leave=True,
                position=0,
            )

    def task_finished(self) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal to others; a bar that has come to something stays."""
        for line in self._status:
            line.close()
        self._status.clear()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def round_finished(self, task: Task, row: Row) -> None:
        self._last = round_line(row)
        if self._bar is not None:
            self._bar.update()
            self._refresh(force=True)
        else:
            self.say(f"{self._task} round {row['round']}/{task.rounds}: {self._last}")

    def recorded(self, rows: Sequence[Row]) -> None:
        for row in rows:
            set_by_s = (row.get("attributes") or {}).get(SET_KEY)
            if isinstance(set_by_s, (int, float)):
                self.say(f"{row['device']}: its wall clock was set by {set_by_s:+.0f} s; no time is measured by it")

    def call_started(self, round_: int, call: CallName, device: str) -> None:
        self._waiting.add(device)
        self._roster.call_started(call, device)
        self._refresh()

    def call_finished(self, round_: int, call: CallName, device: str, failure: str | None) -> None:
        self._waiting.discard(device)
        self._roster.call_finished(device, failure)
        if failure is not None:
            self.say(f"{self._task} round {round_}: {device} failed in {call}: {failure}")
        self._refresh()

    def _refresh(self, *, force: bool = False) -> None:
        if self._quiet or not self._is_terminal or not (force or time.monotonic() - self._shown_s > _SHOW_S):
            return
        self._shown_s = time.monotonic()
        if self._bar is not None:
            parts = [self._last, f"waiting for {some_names(self._waiting)}" if self._waiting else ""]
            self._bar.set_postfix_str(" | ".join(part for part in parts if part))
        self._show_status()

    def _show_status(self) -> None:
        width = _columns(self._stream) - 1  # a full line would wrap in some terminals
        lines = status_lines(self._roster.standings(), width)
        while len(self._status) < len(lines):
            position = 1 + len(self._status)
            self._status.append(tqdm(bar_format="{desc}", position=position, leave=False, file=self._stream))
        for line, text in zip(self._status, [*lines, *[""] * (len(self._status) - len(lines))], strict=True):
            line.set_description_str(text)


def status_lines(standings: Mapping[str, Standing], width: int) -> list[str]:
    """What the devices are doing, in lines of `width` characters at most; of many too many, the counts alone."""
    by_state: dict[DeviceState, list[str]] = {state: [] for state in STATES}
    for device, standing in standings.items():
        by_state[standing.state].append(device)
    parts = [_state_text(state, devices, standings) for state, devices in by_state.items() if devices]
    line = " | ".join(parts)
    letters = "".join(LETTERS[standing.state] for standing in standings.values())
    rows = [letters[n : n + width] for n in range(0, len(letters), width)]
    has_letters = len(letters) > _FEW and len(rows) <= _MAX_LETTER_ROWS
    return [line if len(line) <= width else line[: width - 1] + "…", *(rows if has_letters else [])]


def _state_text(state: DeviceState, devices: list[str], standings: Mapping[str, Standing]) -> str:
    names = f": {some_names(devices, _NAMES)}" if state in _NAMED else ""
    why = standings[devices[0]].why if len(devices) == 1 else ""
    return f"{LETTERS[state]} {len(devices)} {state}{names}" + (f" ({printable(why, _WHY_CHARS)})" if why else "")


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:  # a terminal that is none, as in tests; io.UnsupportedOperation is one of these
        return shutil.get_terminal_size().columns


def some_names(names: Iterable[str], most: int = 3) -> str:
    """`a, b, c and 197 more`; empty without any."""
    known = sorted(names)
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def round_line(row: Row) -> str:
    """`accuracy 0.912, 3.1 s, 12.3 J (estimated)`."""
    accuracy = "-" if row.get("accuracy") is None else f"{row['accuracy']:.3f}"
    return f"accuracy {accuracy}, {row['time_s']:.2f} s, {energy_text(row)}"


def energy_text(row: Row) -> str:
    """Joules with their error and provenance, or why there are none."""
    if row.get("energy_j") is None:
        return f"energy missing ({row.get('energy_reason') or 'no sensor'})"
    doubt = f", {BELOW_RESOLUTION}" if BELOW_RESOLUTION in (row.get("energy_reason") or "") else ""
    return f"{row['energy_j']:.1f} ± {row.get('energy_err_j') or 0.0:.1f} J ({row['provenance']}{doubt})"

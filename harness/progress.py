"""What a person sees while a run goes on: stderr, a bar where it is a terminal, a line a round where it is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import NoReturn, TextIO

from tqdm import tqdm

from harness.plan import Task
from profiler.quantities import BELOW_RESOLUTION
from profiler.records import Row


class Progress:
    """Shows tasks, rounds, accuracy, seconds, joules with their provenance, and who is being waited for.

    Is the observer of the FL loop: `call_started` and `call_finished` come while a round runs.
    """

    def __init__(self, n_tasks: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._is_terminal = self._stream.isatty()
        self._n_tasks = n_tasks
        self._n_started = 0
        self._task = ""
        self._bar: tqdm[NoReturn] | None = None
        self._waiting: set[str] = set()
        self._last = ""
        self._shown_s = 0.0

    def say(self, message: str) -> None:
        """One line for people."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(message, file=self._stream)
        else:
            print(message, file=self._stream, flush=True)

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
            )

    def task_finished(self) -> None:
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

    def call_started(self, round_: int, call: str, device: str) -> None:
        self._waiting.add(device)
        self._refresh()

    def call_finished(self, round_: int, call: str, device: str, failure: str | None) -> None:
        self._waiting.discard(device)
        if failure is not None:
            self.say(f"{self._task} round {round_}: {device} failed in {call}: {failure}")
        self._refresh()

    def _refresh(self, *, force: bool = False) -> None:
        if self._bar is None or not (force or time.monotonic() - self._shown_s > 0.1):
            return
        self._shown_s = time.monotonic()
        parts = [self._last, f"waiting for {some_names(self._waiting)}" if self._waiting else ""]
        self._bar.set_postfix_str(" | ".join(part for part in parts if part))


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

"""Failures outside calls become records: a client that did not start, that was lost, or was not there for a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harness.plan import Task
from harness.sessions import Trouble
from profiler.clock import Clock
from profiler.records import Row

ABSENT = "absent"
"""The phase of a failure: a member of a task was not there for a round."""


class Failures:
    """`processors` by device. What fails while a round goes on is recorded after what the round has to say itself."""

    def __init__(
        self,
        processors: Mapping[str, str],
        clock: Clock,
        append: Callable[[Sequence[Row]], None],
        say: Callable[[str], None],
    ) -> None:
        self._processors = processors
        self._clock = clock
        self._append = append
        self._say = say
        self._held: list[Row] = []
        self._is_in_round = False

    def round_begins(self) -> None:
        self._is_in_round = True

    def round_ended(self) -> None:
        """Its records are written."""
        held, self._held, self._is_in_round = self._held, [], False
        self._append(held)

    def of_start(self, task: Task, attempt: int, device: str, trouble: Trouble) -> None:
        self._tell(device, trouble.phase, trouble.reason)
        row = self._row(task, attempt, device, trouble.phase, trouble.reason)
        if self._is_in_round:
            self._held.append(row)
        else:
            self._append([row])

    def of_client(self, task: Task, attempt: int, device: str, reason: str, detail: str) -> None:
        """It was lost beside its calls."""
        self._tell(device, "lost", reason)
        self._append([self._row(task, attempt, device, "lost", reason, detail)])

    def of_absence(self, task: Task, attempt: int, device: str, reason: str, round_: int) -> None:
        """Everybody was told when it came about."""
        self._append([self._row(task, attempt, device, ABSENT, reason, round_=round_)])

    def of_task(self, task: Task, attempt: int, reason: str) -> None:
        self._tell(task.label, "round", reason)
        self._append([self._row(task, attempt, None, "round", reason)])

    def _tell(self, who: str, phase: str, reason: str) -> None:
        self._say(f"{who}: {phase} failed: {reason}")

    def _row(
        self,
        task: Task,
        attempt: int,
        device: str | None,
        phase: str,
        reason: str,
        detail: str = "",
        round_: int | None = None,
    ) -> Row:
        """The lines after the first of a reason are its detail."""
        first, _, rest = reason.partition("\n")
        place = {"task": task.id, "attempt": attempt, "round": round_, "wall_time": self._clock.wall_time()}
        whose = {"device": device, "processor": self._processors.get(device or "")}
        return {"kind": "failure", **place, **whose, "phase": phase, "reason": first, "detail": detail or rest or None}

"""Who is told what happens in a run, and what each device is doing as far as the server can know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fl.loop import CallName
from harness.plan import Task
from profiler.records import Row

DeviceState = Literal["gone", "failed", "fitting", "evaluating", "starting", "waiting"]
STATES: tuple[DeviceState, ...] = get_args(DeviceState)
"""Trouble first, then work, then rest: the order in which a person wants to read them."""
_CALL_STATES: Mapping[CallName, DeviceState] = {"fit": "fitting", "evaluate": "evaluating"}
LOST = "its connection ended"


class Watcher:
    """Told of what happens, in the thread of the run and while it waits: must be quick and must not raise.

    Is an observer of the FL loop. What a watcher has no use for, it inherits from here.
    """

    def run_started(self, run_id: str) -> None:
        """The results have a folder."""

    def say(self, message: str) -> None:
        """One line for people."""

    def starting(self, device: str) -> None:
        """Its launcher is told to start its client."""

    def present(self, devices: Collection[str]) -> None:
        """These, and no others, are connected: looked up while clients are waited for, and after each round."""

    def gone(self, device: str, why: str) -> None:
        """Its client has ended."""

    def task_started(self, task: Task, from_round: int) -> None: ...

    def task_finished(self) -> None: ...

    def round_finished(self, task: Task, row: Row) -> None: ...

    def recorded(self, rows: Sequence[Row]) -> None:
        """These were appended to the results."""

    def call_started(self, round_: int, call: CallName, device: str) -> None: ...

    def call_finished(self, round_: int, call: CallName, device: str, failure: str | None) -> None: ...


class Watchers(Watcher):
    """Tells several of them, in turn."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def run_started(self, run_id: str) -> None:
        for watcher in self._watchers:
            watcher.run_started(run_id)

    def say(self, message: str) -> None:
        for watcher in self._watchers:
            watcher.say(message)

    def starting(self, device: str) -> None:
        for watcher in self._watchers:
            watcher.starting(device)

    def present(self, devices: Collection[str]) -> None:
        for watcher in self._watchers:
            watcher.present(devices)

    def gone(self, device: str, why: str) -> None:
        for watcher in self._watchers:
            watcher.gone(device, why)

    def task_started(self, task: Task, from_round: int) -> None:
        for watcher in self._watchers:
            watcher.task_started(task, from_round)

    def task_finished(self) -> None:
        for watcher in self._watchers:
            watcher.task_finished()

    def round_finished(self, task: Task, row: Row) -> None:
        for watcher in self._watchers:
            watcher.round_finished(task, row)

    def recorded(self, rows: Sequence[Row]) -> None:
        for watcher in self._watchers:
            watcher.recorded(rows)

    def call_started(self, round_: int, call: CallName, device: str) -> None:
        for watcher in self._watchers:
            watcher.call_started(round_, call, device)

    def call_finished(self, round_: int, call: CallName, device: str, failure: str | None) -> None:
        for watcher in self._watchers:
            watcher.call_finished(round_, call, device, failure)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a device does, since when, and why where that is no good news.

    starting: told to, has not joined yet. waiting: connected, owes nothing. fitting, evaluating: from the instruction
    sent to the reply taken, the ways there and back included. failed: its last call did. gone: not connected.
    """

    state: DeviceState
    since_ns: int
    why: str = ""


class Roster:
    """The standing of every device, in the order in which they were first heard of. `now_ns` is the run's clock."""

    def __init__(self, now_ns: Callable[[], int], devices: Collection[str] = ()) -> None:
        self._now_ns = now_ns
        self._standings = {device: Standing("starting", now_ns()) for device in devices}

    def __len__(self) -> int:
        return len(self._standings)

    def standings(self) -> dict[str, Standing]:
        return dict(self._standings)

    def counts(self) -> dict[DeviceState, int]:
        """How many there are of each state; none is left out."""
        counted = Counter(standing.state for standing in self._standings.values())
        return {state: counted[state] for state in STATES}

    def starting(self, device: str) -> None:
        self._set(device, "starting")

    def present(self, devices: Collection[str]) -> None:
        for device, standing in self._standings.items():
            if device in devices and standing.state in ("starting", "gone"):
                self._set(device, "waiting")
            elif device not in devices and standing.state in ("waiting", "failed"):
                self._set(device, "gone", LOST)

    def gone(self, device: str, why: str) -> None:
        known = self._standings.get(device)
        if known is None or (known.state, known.why) != ("gone", why):
            self._set(device, "gone", why)

    def call_started(self, call: CallName, device: str) -> None:
        self._set(device, _CALL_STATES[call])

    def call_finished(self, device: str, failure: str | None) -> None:
        self._set(device, "waiting" if failure is None else "failed", failure or "")

    def _set(self, device: str, state: DeviceState, why: str = "") -> None:
        self._standings[device] = Standing(state, self._now_ns(), why)

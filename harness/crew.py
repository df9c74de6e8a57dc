"""All clients of a run: up at its start, and up again when they are gone, as often as the fleet file allows.

A start costs the machine that it happens on some CPU time. So a client that shares this host, with the meter and the
other clients, is started between two rounds alone, and the next round waits until it has joined; one elsewhere at any
time, beside the rounds, and it takes part from the next round on.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from harness.device import DeviceSpec
from harness.launcher import FindsUnfit
from harness.progress import some_names
from harness.relaunch import RelaunchPolicy
from harness.sessions import Sessions, Trouble, dead_at_start
from harness.watching import Watcher

OTHERS_START = ("external", "foreign", "device-farm")
"""The launchers whose devices are started once: by their owners, or for money."""
_POLL_S = 0.1
_WATCH_S = 1.0
_SAY_S = 10.0
_BETWEEN_TASKS_S = 60.0


@dataclass(slots=True)
class _Member:
    """What is known of one device.

    `is_others`: not ours to start again. `used`: attempts in a row in which it has answered nothing.
    """

    device: DeviceSpec
    shares_host: bool
    is_others: bool
    used: int = 0
    due_s: float = 0.0
    absent_since_s: float = 0.0
    is_here: bool = False
    bringing: asyncio.Task[None] | None = None
    trouble: str = ""


class Crew:
    """`report` is told of every attempt that failed, `watcher` what a person should know.

    `joined` tells who is connected, `shared` are the devices whose clients share this host. A device has `timeout_s` to
    join, and as much to come back by itself while its client runs.
    """

    def __init__(
        self,
        devices: Iterable[DeviceSpec],
        shared: Collection[str],
        sessions: Sessions,
        joined: Callable[[], set[str]],
        policy: RelaunchPolicy,
        timeout_s: float,
        *,
        report: Callable[[DeviceSpec, Trouble], None],
        watcher: Watcher,
    ) -> None:
        self._members = {
            device.id: _Member(device, device.id in shared, device.launcher in OTHERS_START) for device in devices
        }
        self.sessions = sessions
        self._joined = joined
        self._policy = policy
        self._timeout_s = timeout_s
        self._report = report
        self._watcher = watcher
        self._random = random.Random()
        self._lost: dict[str, str] = {}
        self._said_s = -math.inf

    # --- at the start ------------------------------------------------------------------------------------------------

    async def assemble(self, is_enough: Callable[[set[str]], bool]) -> None:
        """Start all. Who fails is tried again, and waited for as long as a device has to join; longer, while attempts
        are left, where who has joined is not enough.

        Raises DeviceError where it is not in the end, and where a device lacks a sensor that the fleet requires.
        """
        members = list(self._members.values())
        for member in members:
            member.bringing = asyncio.create_task(self._bring(member))
        await self._brought(members)
        self._refuse_unfit()
        until_s = _now_s() + self._timeout_s
        while missing := [member for member in members if not self._look(member)]:
            is_ready, may_come = is_enough(self._joined()), any(map(self._may_come, missing))
            if not may_come or (is_ready and _now_s() > until_s):
                break
            await self._wait_for(missing, members)
        if not is_enough(self._joined()):
            raise dead_at_start({one.device.id: one.trouble or self._absence(one) for one in missing})
        if missing:
            self._watcher.say(f"beginning without {some_names([member.device.id for member in missing])}")

    def _refuse_unfit(self) -> None:
        """What the fleet requires is there, or no run begins: it would be measured by something else all night."""
        found = {id_: self.sessions[id_] for id_ in self._members if id_ in self.sessions}
        unfit = {id_: one.unfit for id_, one in found.items() if isinstance(one, FindsUnfit) and one.unfit}
        if unfit:
            raise dead_at_start(unfit)

    # --- later -------------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Until cancelled: start again who is gone elsewhere. Beside the rounds."""
        while True:
            await asyncio.sleep(_WATCH_S)
            self._tend(member for member in self._members.values() if not member.shares_host)

    async def before_task(self, ids: Collection[str], minimum: int) -> set[str]:
        """Every member of a task has all its attempts again. Who is there when it begins."""
        members = [self._members[id_] for id_ in ids]
        for member in members:
            member.used, member.due_s = 0, 0.0
        self._tend(members)
        await self._brought(members, _BETWEEN_TASKS_S)
        return await self.before_round(ids, minimum)

    async def before_round(self, ids: Collection[str], minimum: int) -> set[str]:
        """Start again who is gone of this host, and wait while too few are there and more may come. Who is there."""
        members = [self._members[id_] for id_ in ids]
        here = [member for member in members if member.shares_host]
        self._tend(here)
        await self._brought(here)
        while missing := [member for member in members if not self._look(member)]:
            if len(members) - len(missing) >= minimum or not any(map(self._may_come, missing)):
                break
            await self._wait_for(missing, members)
        return {member.device.id for member in members if member.is_here}

    def served(self, ids: Iterable[str]) -> None:
        """These have answered: what failed before is over."""
        for id_ in ids:
            self._members[id_].used = 0

    def lost(self) -> dict[str, str]:
        """Who was there and is not, since the last time; how its client ended."""
        for member in self._members.values():
            self._look(member)
        lost, self._lost = self._lost, {}
        return lost

    def why_absent(self, id_: str) -> str:
        """In one line."""
        return self._absence(self._members[id_])

    async def close(self) -> None:
        """No more starts."""
        tasks = [member.bringing for member in self._members.values() if member.bringing is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- one member --------------------------------------------------------------------------------------------------

    def _look(self, member: _Member) -> bool:
        """Whether it is there."""
        id_ = member.device.id
        is_here = id_ in self._joined()
        if member.is_here and not is_here:
            member.absent_since_s = _now_s()
            self._lost[id_] = self._absence(member)
        member.is_here = is_here
        return is_here

    def _absence(self, member: _Member) -> str:
        if member.bringing is not None:
            return "is being started again"
        ending = "not connected" if member.is_others else self.sessions.ending(member.device.id)
        return f"its client is {ending}, and not connected" if ending == "still running" else ending

    def _is_gone(self, member: _Member) -> bool:
        """Whether nothing but a new start brings it back, or nothing else has for too long."""
        if member.is_others or member.bringing is not None or self._look(member):
            return False
        return self.sessions.is_dead(member.device.id) or _now_s() > member.absent_since_s + self._timeout_s

    def _may_come(self, member: _Member) -> bool:
        if member.bringing is not None or (not member.is_others and member.used < self._policy.attempts):
            return True
        is_alive = member.is_others or not self.sessions.is_dead(member.device.id)
        return is_alive and _now_s() < member.absent_since_s + self._timeout_s

    def _tend(self, members: Iterable[_Member]) -> None:
        """Begin to start again who is gone, has attempts left, and has paused."""
        for member in members:
            if self._is_gone(member) and member.used < self._policy.attempts and _now_s() >= member.due_s:
                member.used += 1
                self._watcher.say(f"starting {member.device.id} again, {member.used} of {self._policy.attempts} times")
                member.bringing = asyncio.create_task(self._bring(member))

    async def _bring(self, member: _Member) -> None:
        self._watcher.starting(member.device.id)
        try:
            trouble = await self.sessions.bring(member.device, self._timeout_s)
        finally:
            member.bringing = None
        member.absent_since_s = _now_s()
        member.due_s = _now_s() + self._policy.pause(member.used + 1, self._random)
        member.trouble = "" if trouble is None else trouble.reason
        if trouble is not None:
            self._report(member.device, trouble)
        self._look(member)
        self._watcher.present(self._joined())

    # --- several -----------------------------------------------------------------------------------------------------

    async def _brought(self, members: Iterable[_Member], timeout_s: float | None = None) -> None:
        tasks = [member.bringing for member in members if member.bringing is not None]
        if tasks:
            done, _ = await asyncio.wait(tasks, timeout=timeout_s)
            for task in done:
                task.result()

    async def _wait_for(self, missing: Sequence[_Member], members: Iterable[_Member]) -> None:
        """A moment, in which all may be started: nobody measures."""
        self._tell(missing)
        self._tend(members)
        await asyncio.sleep(_POLL_S)

    def _tell(self, missing: Sequence[_Member]) -> None:
        names = some_names([member.device.id for member in missing if self._may_come(member)])
        if names and _now_s() >= self._said_s + _SAY_S:
            self._said_s = _now_s()
            self._watcher.say(f"waiting for {names}")


def _now_s() -> float:
    return asyncio.get_running_loop().time()

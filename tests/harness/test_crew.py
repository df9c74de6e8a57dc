"""Who starts clients again, and when: over a launcher whose clients do what a script says."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.workload import Partition
from harness.crew import Crew
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec
from harness.launchers.external import ExternalLauncher
from harness.relaunch import RelaunchPolicy
from harness.sessions import STARTS_ELSEWHERE, Sessions, Trouble
from harness.spec import Table
from harness.watching import Watcher
from profiler.errors import DeviceError

JOIN = JoinSpec("127.0.0.1:1", "linear", Partition(shards=1))
POLICY = RelaunchPolicy(attempts=3, pause_s=0.02, longest_pause_s=0.05)
JOINS, DIES, REFUSES, HANGS, UNFIT = "joins", "dies", "refuses", "hangs", "unfit"


class ScriptedSession:
    """Joins at once, has ended already, or does neither."""

    def __init__(self, device: DeviceSpec, does: str, world: World) -> None:
        self.device = device
        self.log_path = world.folder / f"{device.id}.log"
        self.pid: int | None = None
        self.facts: Mapping[str, Any] = {}
        self.unfit = "there is no such sensor" if does == UNFIT else ""
        self._status: int | None = 3 if does in (DIES, UNFIT) else None
        self._world = world
        if does == JOINS:
            world.joined.add(device.id)

    def exit_status(self) -> int | None:
        return self._status

    def settle(self) -> None:
        pass

    def end(self, status: int) -> None:
        self._status = status
        self._world.joined.discard(self.device.id)

    def stop(self, grace_s: float) -> None:
        if self._status is None:
            self.end(-15)


@dataclass
class World:
    """What each start of a device does, the last for ever; who has joined, and what was told."""

    folder: Path
    scripts: dict[str, list[str]]
    joined: set[str] = field(default_factory=set)
    starts: list[str] = field(default_factory=list)
    reports: list[tuple[str, str]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def launcher(self, *, here: bool) -> ScriptedLauncher:
        return (HereLauncher if here else ScriptedLauncher)(self)


class ScriptedLauncher:
    shares_host: ClassVar[bool] = False

    def __init__(self, world: World) -> None:
        self._world = world

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        return {}

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        return 0.0

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck:
        return DeviceCheck(True, "scripted")

    def start(self, device: DeviceSpec, join: JoinSpec) -> ScriptedSession:
        world = self._world
        with world.lock:
            world.starts.append(device.id)
            script = world.scripts[device.id]
            does = script.pop(0) if len(script) > 1 else script[0]
        if does == REFUSES:
            raise DeviceError(f"{device.id}: nobody is at home.")
        return ScriptedSession(device, does, world)

    def close(self) -> None:
        pass


class HereLauncher(ScriptedLauncher):
    shares_host: ClassVar[bool] = True


def make_crew(world: World, here: tuple[str, ...] = (), foreign: tuple[str, ...] = (), timeout_s: float = 0.3) -> Crew:
    def launcher_of(id_: str) -> str:
        return "foreign" if id_ in foreign else "here" if id_ in here else "there"

    devices = [
        DeviceSpec(id_, launcher_of(id_), "cpu", n, foreign=id_ in foreign) for n, id_ in enumerate(world.scripts)
    ]
    launchers = {
        "here": world.launcher(here=True),
        "there": world.launcher(here=False),
        "foreign": ExternalLauncher(world.folder),
    }
    sessions = Sessions(dict(launchers), JOIN, lambda: set(world.joined))

    def report(device: DeviceSpec, trouble: Trouble) -> None:
        world.reports.append((device.id, trouble.phase))

    return Crew(
        devices,
        here,
        sessions,
        lambda: set(world.joined),
        POLICY,
        timeout_s,
        report=report,
        watcher=Told(world.said),
    )


class Told(Watcher):
    def __init__(self, said: list[str]) -> None:
        self._said = said

    def say(self, message: str) -> None:
        self._said.append(message)


def run(crew: Crew, main: Coroutine[Any, Any, None]) -> None:
    async def life() -> None:
        try:
            await main
        finally:
            await crew.close()
            crew.sessions.stop()

    asyncio.run(life())


def at_least(n: int) -> Any:
    return lambda joined: len(joined) >= n


def session_of(crew: Crew, id_: str) -> ScriptedSession:
    session = crew.sessions[id_]
    assert isinstance(session, ScriptedSession)
    return session


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    async def met() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(met(), timeout_s)


def test_who_fails_at_the_start_is_tried_again_and_reported_each_time(tmp_path: Path) -> None:
    world = World(tmp_path, {"good": [JOINS], "late": [REFUSES, DIES, JOINS]})
    crew = make_crew(world, here=("good",))

    async def main() -> None:
        await crew.assemble(at_least(2))
        assert world.joined == {"good", "late"}

    run(crew, main())
    assert world.reports == [("late", "start"), ("late", "join")]
    assert sorted(world.starts) == ["good", "late", "late", "late"]
    assert "waiting for late" in world.said


def test_a_run_begins_without_who_has_used_up_its_attempts(tmp_path: Path) -> None:
    world = World(tmp_path, {"good": [JOINS], "bad": [DIES]})
    crew = make_crew(world, timeout_s=30.0)

    async def main() -> None:
        await crew.assemble(at_least(1))
        assert world.said[-1] == "beginning without bad"
        assert crew.why_absent("bad") == "exit status 3"

    run(crew, main())
    assert world.starts.count("bad") == 1 + POLICY.attempts
    assert len(world.reports) == 1 + POLICY.attempts


def test_too_few_end_a_run_with_every_reason(tmp_path: Path) -> None:
    world = World(tmp_path, {"good": [JOINS], "bad": [DIES], "worse": [REFUSES], "slow": [HANGS]})
    crew = make_crew(world, timeout_s=0.1)

    async def main() -> None:
        with pytest.raises(DeviceError, match="3 of the clients did not join: bad, slow, worse") as caught:
            await crew.assemble(at_least(2))
        for reason in ("exit status 3", "did not join within 0.1 s", "nobody is at home"):
            assert reason in str(caught.value)

    run(crew, main())


def test_a_foreign_client_is_waited_for_but_not_for_ever_and_never_started_again(tmp_path: Path) -> None:
    world = World(tmp_path, {"good": [JOINS], "phone": [JOINS]})
    crew = make_crew(world, foreign=("phone",), timeout_s=0.2)

    async def main() -> None:
        await crew.assemble(at_least(1))
        assert world.said[-1] == "beginning without phone"
        world.joined.add("phone")
        assert await crew.before_round(["good", "phone"], 2) == {"good", "phone"}

    run(crew, main())
    assert world.starts == ["good"]


def test_what_the_fleet_requires_is_there_or_no_run_begins(tmp_path: Path) -> None:
    world = World(tmp_path, {"good": [JOINS], "board": [UNFIT]})
    crew = make_crew(world)

    async def main() -> None:
        with pytest.raises(DeviceError, match="board: there is no such sensor"):
            await crew.assemble(at_least(1))

    run(crew, main())
    assert world.starts.count("board") == 1


def test_a_client_of_this_host_is_started_again_between_rounds_alone(tmp_path: Path) -> None:
    world = World(tmp_path, {"here": [JOINS], "there": [JOINS]})
    crew = make_crew(world, here=("here",))

    async def main() -> None:
        await crew.assemble(at_least(2))
        watch = asyncio.create_task(crew.watch())
        for id_ in ("here", "there"):
            session_of(crew, id_).end(-9)
        assert crew.lost() == {"here": "killed by SIGKILL", "there": "killed by SIGKILL"}
        assert crew.lost() == {}, "told once"
        await until(lambda: "there" in world.joined)
        assert world.joined == {"there"}, "a start would be in somebody's measurement"
        assert await crew.before_round(["here", "there"], 1) == {"here", "there"}
        watch.cancel()

    run(crew, main())


def test_attempts_end_and_an_answer_or_a_new_task_sets_them_back(tmp_path: Path) -> None:
    world = World(tmp_path, {"bad": [JOINS, DIES, DIES, DIES, JOINS, DIES, DIES, DIES, DIES], "good": [JOINS]})
    crew = make_crew(world, here=("bad", "good"))

    async def main() -> None:
        await crew.assemble(at_least(2))
        session_of(crew, "bad").end(1)
        assert await crew.before_round(["bad", "good"], 2) == {"good"}, "waited until no attempt was left"
        assert await crew.before_round(["bad", "good"], 1) == {"good"}
        assert world.starts.count("bad") == 4
        assert await crew.before_task(["bad", "good"], 2) == {"bad", "good"}
        crew.served(["bad"])
        session_of(crew, "bad").end(1)
        await crew.before_round(["bad", "good"], 2)
        assert world.starts.count("bad") == 5 + POLICY.attempts

    run(crew, main())


def test_a_client_that_runs_but_is_away_for_too_long_is_started_anew(tmp_path: Path) -> None:
    world = World(tmp_path, {"frozen": [JOINS]})
    crew = make_crew(world, timeout_s=0.3)

    async def main() -> None:
        await crew.assemble(at_least(1))
        first = session_of(crew, "frozen")
        world.joined.clear()
        assert crew.lost() == {"frozen": "its client is still running, and not connected"}
        assert await crew.before_round(["frozen"], 1) == {"frozen"}
        assert first.exit_status() == -15
        assert world.starts == ["frozen", "frozen"]

    run(crew, main())


def test_no_more_are_on_their_way_at_once_than_there_are_places(tmp_path: Path) -> None:
    ids = [f"d{n}" for n in range(STARTS_ELSEWHERE + 8)]
    world = World(tmp_path, {id_: [HANGS] for id_ in ids})
    crew = make_crew(world, timeout_s=60.0)

    async def main() -> None:
        beginning = asyncio.create_task(crew.assemble(at_least(len(ids))))
        await until(lambda: len(world.starts) == STARTS_ELSEWHERE)
        await asyncio.sleep(0.1)
        assert len(world.starts) == STARTS_ELSEWHERE
        world.joined.update(world.starts)
        await until(lambda: len(world.starts) == len(ids))
        world.joined.update(ids)
        await beginning

    run(crew, main())


@given(
    st.integers(1, 200), st.floats(0, 1e6, allow_nan=False), st.floats(0, 1e6, allow_nan=False), st.integers(0, 2**32)
)
def test_pauses_grow_within_their_bounds(n: int, pause_s: float, longest_s: float, seed: int) -> None:
    policy = RelaunchPolicy(5, pause_s, longest_s)
    limit_s = min(longest_s, pause_s * 2.0 ** min(n - 1, 60))
    assert limit_s / 2 <= policy.pause(n, random.Random(seed)) <= limit_s
    assert policy.pause(n + 1, random.Random(seed)) >= policy.pause(n, random.Random(seed))

"""What every launcher keeps to: a client that starts, joins, is limited, is seen to end, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl.server import Server
from fl.workload import Partition
from harness.device import DeviceSpec
from harness.host import process_cpu_s
from harness.launcher import JoinSpec, Launcher, launcher_class, log_tail
from harness.launchers.local import Cores
from harness.sessions import Sessions, dead_at_start
from harness.spec import Table
from profiler.errors import SpecError

pytestmark = pytest.mark.serial

LAUNCHERS = ["local"]


def make_device(name: str, id_: str = "a", **options: object) -> DeviceSpec:
    read = launcher_class(name).read_options(Table(options, "fleet.toml [[device]]"))
    return DeviceSpec(id_, name, "cpu", 0, options=read)


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Launcher]]:
    made = launcher_class(request.param)(tmp_path)
    yield request.param, made
    made.close()


def join(port: int) -> JoinSpec:
    return JoinSpec(f"127.0.0.1:{port}", "digits", Partition(shards=4))


@pytest.mark.timeout(120)
def test_a_client_joins_is_limited_and_ends(launcher: tuple[str, Launcher]) -> None:
    name, made = launcher

    async def life() -> None:
        async with Server("127.0.0.1:0") as server:
            sessions = Sessions({name: made}, join(server.port), lambda: {p.info.device for p in server.proxies()})
            device = make_device(name, cpu_limit=0.5)
            session = sessions.start(device)
            assert not sessions.is_dead("a")
            assert await sessions.wait_joined([device], 60) == {}
            assert session.facts["cpu_limit"] == 0.5
            if session.pid is not None and sys.platform == "linux":
                core = session.facts["pinned_to_core"]
                assert all(os.sched_getaffinity(int(t.name)) == {core} for t in tasks(session.pid))
            sessions.stop()
            assert session.exit_status() is not None
            assert sessions.is_dead("a")
            if session.pid is not None:
                assert process_cpu_s(session.pid) is None
            session.stop(0.1)

    asyncio.run(life())


def tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


@pytest.mark.timeout(60)
def test_a_client_that_is_killed_is_seen_and_told_how(launcher: tuple[str, Launcher]) -> None:
    name, made = launcher
    sessions = Sessions({name: made}, join(1), set)
    device = make_device(name)
    session = sessions.start(device)
    assert session.pid is not None
    os.kill(session.pid, signal.SIGKILL)
    failed = asyncio.run(sessions.wait_joined([device], 10))
    assert "killed by SIGKILL" in failed["a"]
    assert str(session.log_path) in failed["a"]
    error = dead_at_start(failed)
    assert error.exit_code == 3
    assert "a" in str(error)
    sessions.stop()


def test_a_client_that_does_not_join_in_time_is_named(launcher: tuple[str, Launcher]) -> None:
    name, made = launcher
    sessions = Sessions({name: made}, join(1), set)
    device = make_device(name)
    sessions.start(device)
    began_s = time.monotonic()
    failed = asyncio.run(sessions.wait_joined([device], 0.3))
    assert time.monotonic() - began_s < 5
    assert "did not join within 0.3 s" in failed["a"]
    sessions.stop()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_options_are_checked(name: str) -> None:
    with pytest.raises(SpecError, match=r"at least 0\.05"):
        make_device(name, cpu_limit=0.01)
    with pytest.raises(SpecError, match="'threads' must be a whole number"):
        make_device(name, threads="many")
    assert launcher_class(name).cores(make_device(name, cpu_limit=0.4)) == 0.4
    assert launcher_class(name).cores(make_device(name, threads=2)) == 2
    assert launcher_class(name).check(make_device(name, cpu_limit=0.4)).ok


def test_clients_are_placed_on_cores_by_first_fit() -> None:
    cores = Cores([2, 3])
    assert [cores.place(device, demand) for device, demand in (("a", 1.0), ("b", 0.4), ("c", 0.4))] == [2, 3, 3]
    assert cores.place("b", 0.4) == 3, "a client that is started again keeps its core"
    assert cores.place("d", 0.4) is None
    assert cores.place("e", 2.0) is None
    assert Cores([]).place("a", 0.1) is None


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert log_tail(log) == ""
    log.write_bytes(b"\xff" * 10 + b"\n" + b"".join(b"line %d\n" % n for n in range(5000)))
    assert log_tail(log, lines=2) == "line 4998\nline 4999"

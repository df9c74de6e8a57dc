"""What every launcher keeps to: a client that starts, joins, is limited, is seen to end, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fl.in_process import InProcessServer
from fl.messages import GetPropertiesIns
from fl.proxy import ClientProxy
from fl.server import Server
from fl.workload import Partition
from harness.device import DeviceSpec
from harness.host import process_cpu_s
from harness.launcher import JoinSpec, Launcher, launcher_class, log_tail
from harness.launchers.local import Cores
from harness.sessions import Sessions, dead_at_start
from harness.spec import Table
from harness.virtual_time import virtual_loop
from profiler.errors import SpecError
from tests.fixtures.adb_server import phone_options, running_adb
from tests.fixtures.containers import usable_image
from tests.fixtures.sshd import Sshd, running_sshd
from tests.harness.running import wait_until

T = TypeVar("T")

LAUNCHERS = ["local", "simulated", "ssh", "adb", "container"]
OPTIONS: dict[str, dict[str, object]] = {
    "local": {"cpu_limit": 0.5},
    "simulated": {"profile": "raspberry-pi-4"},
    "container": {"cpu_limit": 1.0},
}


def make_device(name: str, id_: str = "a", **options: object) -> DeviceSpec:
    options = options or {**OPTIONS[name], **(usable_image() if name == "container" else {})}
    read = launcher_class(name).read_options(Table(options, "fleet.toml [[device]]"))
    return DeviceSpec(id_, name, "cpu", 0, options=read)


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with running_sshd() as server:
        yield server


@pytest.fixture(params=LAUNCHERS)
def launcher(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Launcher]]:
    if request.param == "ssh":
        monkeypatch.setitem(OPTIONS, "ssh", request.getfixturevalue("sshd").options)
    with ExitStack() as stack:
        if request.param == "adb":
            server = stack.enter_context(running_adb(tmp_path / "adb", monkeypatch))
            [phone] = server.phones.values()
            monkeypatch.setitem(OPTIONS, "adb", phone_options(phone))
        made = launcher_class(request.param)(tmp_path)
        yield request.param, made
        made.close()
        if request.param == "adb":
            assert server.ways == {}
            wait_until(lambda: not phone.processes())


def join(port: int) -> JoinSpec:
    return JoinSpec(f"127.0.0.1:{port}", "digits", Partition(shards=4))


@asynccontextmanager
async def joinable(name: str) -> AsyncIterator[tuple[JoinSpec, Callable[[], list[ClientProxy]]]]:
    """What clients of a launcher join, and who has."""
    if name != "simulated":
        async with Server("127.0.0.1:0") as server:
            yield join(server.port), server.proxies
        return
    held = InProcessServer()
    yield replace(join(0), admit=held.admit), held.proxies
    await held.close()


def run(name: str, main: Coroutine[Any, Any, T]) -> T:
    """In the kind of time that the launcher's clients live in."""
    if name != "simulated":
        return asyncio.run(main)
    with virtual_loop() as loop:
        return loop.run_until_complete(main)


@pytest.mark.timeout(120)
def test_a_client_joins_is_limited_and_ends(launcher: tuple[str, Launcher]) -> None:
    name, made = launcher

    async def life() -> None:
        async with joinable(name) as (spec, proxies):
            sessions = Sessions({name: made}, spec, lambda: {p.info.device for p in proxies()})
            device = make_device(name)
            session = sessions.start(device)
            assert not sessions.is_dead("a")
            assert await sessions.wait_joined([device], 60) == {}
            (proxy,) = proxies()
            answer = await proxy.get_properties(GetPropertiesIns(), 30.0)
            assert answer.result.properties["workload"] == "digits"
            assert session.facts["launcher"] == name
            assert session.facts.get("cpu_limit") == OPTIONS[name].get("cpu_limit")
            if name == "local" and session.pid is not None and sys.platform == "linux":
                [core] = session.facts["pinned_to_cores"]
                assert all(os.sched_getaffinity(int(t.name)) == {core} for t in tasks(session.pid))
            sessions.stop()
            assert session.exit_status() is not None
            assert sessions.is_dead("a")
            if session.pid is not None:
                assert process_cpu_s(session.pid) is None
            session.stop(0.1)

    run(name, life())


def tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


@pytest.mark.timeout(60)
def test_a_client_that_is_killed_is_seen_and_told_how(launcher: tuple[str, Launcher]) -> None:
    name, made = launcher

    async def life() -> tuple[dict[str, str], Path]:
        async with joinable(name) as (spec, _):
            sessions = Sessions({name: made}, spec, set)
            device = make_device(name)
            session = sessions.start(device)
            os.kill(wait_until(lambda: session.pid or session.facts.get("remote_pid")), signal.SIGKILL)
            failed = await sessions.wait_joined([device], 10)
            sessions.stop()
            return failed, session.log_path

    failed, log_path = run(name, life())
    assert "killed by SIGKILL" in failed["a"]
    assert str(log_path) in failed["a"]
    error = dead_at_start(failed)
    assert error.exit_code == 3
    assert "a" in str(error)


def test_a_client_that_does_not_join_in_time_is_named(launcher: tuple[str, Launcher]) -> None:
    name, made = launcher

    async def life() -> dict[str, str]:
        async with joinable(name) as (spec, _):
            sessions = Sessions({name: made}, spec, set)
            device = make_device(name)
            sessions.start(device)
            failed = await sessions.wait_joined([device], 0.3)
            sessions.stop()
            return failed

    assert "did not join within 0.3 s" in run(name, life())["a"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("local", {"cpu_limit": 0.01}, r"at least 0\.05"),
        ("local", {"threads": "many"}, "'threads' must be a whole number"),
        ("simulated", {"profile": "pi"}, "device profile 'pi' does not ship"),
        ("simulated", {"profile": 4}, "'profile' must be a string"),
        ("ssh", {"host": "-oProxyCommand=x"}, "no such thing"),
        ("container", {"cpu_limit": 1.0}, "'image' is missing"),
        ("container", {"image": "--privileged"}, "'image' is '--privileged', which is no name"),
        ("container", {"image": "a", "engine": "lxc"}, "one of docker, podman"),
        ("container", {"image": "a", "mounts": ["data:/data"]}, "'mounts' must hold absolute paths"),
        ("container", {"image": "a", "environment": {"A B": "c"}}, "'environment' must hold"),
        ("adb", {"serial": "R58M; reboot"}, "none that 'adb devices' shows"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make_device(name, **options)


@pytest.mark.timeout(60)
def test_a_device_is_checked(launcher: tuple[str, Launcher]) -> None:
    name, made = launcher
    outcome = made.check(make_device(name))
    assert outcome.ok
    assert outcome.detail


def test_cores_are_those_that_clients_of_this_host_can_use() -> None:
    local, simulated = launcher_class("local"), launcher_class("simulated")
    assert local.cores(make_device("local", cpu_limit=0.4)) == 0.4
    assert local.cores(make_device("local", threads=2)) == 2
    assert simulated.cores(make_device("simulated")) == 0
    assert (local.shares_host, simulated.shares_host) == (True, False)


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

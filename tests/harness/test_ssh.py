"""Clients over ssh, against a real server on loopback: they come back, fail by name, and leave nothing behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fl.admission import Access
from fl.certificates import make
from fl.security import CLIENT_FILES, TOKEN, ServerSecurity, server_security
from fl.server import Server
from fl.workload import Partition
from harness.device import DeviceSpec
from harness.launcher import JoinSpec
from harness.launchers.ssh import SshLauncher, SshSession, private_folder
from harness.sessions import Sessions
from harness.spec import Table
from profiler.errors import DeviceError, PreconditionError
from tests.fixtures.command_lines import command_line
from tests.fixtures.node_program import Script
from tests.fixtures.sshd import Sshd, bare_environment, running_sshd
from tests.harness.running import wait_until

pytestmark = [pytest.mark.timeout(120)]

NOWHERE = JoinSpec("127.0.0.1:9", "digits", Partition(shards=4))

needs_cryptography = pytest.mark.skipif(
    importlib.util.find_spec("cryptography") is None, reason="making certificates needs the package cryptography"
)


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with running_sshd() as server:
        yield server


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[SshLauncher]:
    made = SshLauncher(tmp_path)
    yield made
    made.close()


def device(options: Mapping[str, object], id_: str = "pi", **more: object) -> DeviceSpec:
    read = SshLauncher.read_options(Table({**options, **more}, "fleet.toml [[device]]"))
    return DeviceSpec(id_, "ssh", "cpu", 0, options=read)


def failure(launcher: SshLauncher, spec: DeviceSpec) -> str:
    """The line in the log of a device that could not be started."""
    session = launcher.start(spec, NOWHERE)
    assert wait_until(session.exit_status, 30.0) == DeviceError.exit_code
    session.stop(0.0)
    return session.log_path.read_text().splitlines()[-1]


class Fleet:
    """A server and the sessions that join it."""

    def __init__(self, sessions: Sessions, server: Server) -> None:
        self.sessions = sessions
        self.server = server

    def names(self) -> set[str]:
        return {proxy.info.device for proxy in self.server.proxies()}

    async def join(self, spec: DeviceSpec) -> SshSession:
        session = self.sessions.start(spec)
        assert isinstance(session, SshSession)
        assert await self.sessions.wait_joined([spec], 60) == {}
        return session


@asynccontextmanager
async def fleet(launcher: SshLauncher, tls: Path | None = None) -> AsyncIterator[Fleet]:
    security = ServerSecurity() if tls is None else server_security(tls)
    async with Server("127.0.0.1:0", access=Access(security)) as server:
        join = replace(NOWHERE, address=f"127.0.0.1:{server.port}", tls=tls)
        made = Fleet(Sessions({"ssh": launcher}, join, lambda: made.names()), server)
        try:
            yield made
        finally:
            await asyncio.to_thread(made.sessions.stop)


def test_what_stands_in_the_way_of_a_connection_is_told(sshd: Sshd, launcher: SshLauncher) -> None:
    other = sshd.new_key("other_key")
    words = other.with_suffix(".pub").read_text().split()
    wrong, empty = sshd.folder / "wrong_hosts", sshd.folder / "no_hosts"
    wrong.write_text(f"[127.0.0.1]:{sshd.port} {words[0]} {words[1]}\n")
    empty.write_text("")
    cases: list[tuple[dict[str, object], str, str]] = [
        ({"known_hosts": str(wrong)}, "its host key is not the one that is known", "ssh-keygen -R 127.0.0.1"),
        ({"known_hosts": str(empty)}, "its host key is not known", "accept_new = true"),
        ({"identity": str(other)}, "it refuses the key", "ssh-copy-id 127.0.0.1"),
        ({"port": 9, "connect_timeout_s": 2}, "nothing listens there", "sshd runs there"),
        ({"host": "no-such-host.invalid", "connect_timeout_s": 5}, "its name is not known", "Check 'host'"),
    ]
    for n, (options, reason, remedy) in enumerate(cases):
        spec = device(sshd.options, f"pi-{n}", **options)
        told = failure(launcher, replace(spec, options={**spec.options, "meter": "none"}))
        assert told.startswith(f"fedmeter: error: pi-{n}: connect: ")
        assert reason in told
        assert remedy in told
        outcome = SshLauncher.check(spec)
        assert (outcome.ok, outcome.reachable) == (False, False)
        assert reason in outcome.detail
    assert not sshd.left_behind()


def test_a_host_key_that_is_new_may_be_taken(sshd: Sshd, launcher: SshLauncher) -> None:
    hosts = sshd.folder / "new_hosts"
    assert SshLauncher.check(device(sshd.options, known_hosts=str(hosts), accept_new=True)).ok
    assert hosts.read_text()
    assert SshLauncher.check(device(sshd.options, known_hosts=str(hosts))).ok


def test_what_a_device_lacks_is_told(sshd: Sshd, launcher: SshLauncher) -> None:
    bare = bare_environment(sshd.folder / "bare", sshd.base_python)
    cases = [
        (
            {"python": "/usr/bin/no-such-python"},
            "look: there is no interpreter /usr/bin/no-such-python",
            "Install Python",
        ),
        ({"folder": "/proc/fedmeter"}, "look: No such file or directory /proc/fedmeter", "Check 'folder'"),
        ({"python": str(bare)}, "has no pip to install grpcio>=1.60, protobuf>=5.28", "apt install python3-pip"),
        ({"tunnel": False}, "start: the server listens on 127.0.0.1:9", "tunnel"),
    ]
    for n, (options, reason, remedy) in enumerate(cases):
        told = failure(launcher, device(sshd.options, f"pi-{n}", meter="none", **options))
        assert reason in told
        assert remedy in told


def test_a_server_that_allows_no_tunnel_is_told(sshd: Sshd, launcher: SshLauncher) -> None:
    sshd.stop()
    sshd.start(forwarding=False)
    try:
        told = failure(launcher, device(sshd.options))
    finally:
        sshd.stop()
        sshd.start()
    assert "pi: tunnel: refused" in told
    assert "AllowTcpForwarding yes" in told


def test_a_sensor_that_is_required_and_not_there_is_told(sshd: Sshd, launcher: SshLauncher) -> None:
    told = failure(launcher, replace(device(sshd.options), require=("jetson", "no-such")))
    assert "pi: sensors: required sensor 'jetson': neither an INA3221" in told
    assert "check" not in told
    outcome = SshLauncher.check(replace(device(sshd.options), require=("no-such",)))
    assert (outcome.ok, outcome.reachable, "required sensor 'no-such'" in outcome.detail) == (False, True, True)


def test_two_clients_that_meter_one_machine_are_refused(sshd: Sshd, launcher: SshLauncher) -> None:
    first = launcher.start(device(sshd.options, "one", port=9), NOWHERE)
    with pytest.raises(DeviceError, match=r'two: start: 127\.0\.0\.1 already runs one.*meter = "none"'):
        launcher.start(device(sshd.options, "two", port=9), NOWHERE)
    launcher.start(device(sshd.options, "two", port=9, meter="none"), NOWHERE).stop(0.0)
    first.stop(0.0)


def test_a_client_meters_itself_and_tells_how_it_runs(sshd: Sshd, launcher: SshLauncher) -> None:
    async def life() -> None:
        async with fleet(launcher) as here:
            session = await here.join(device(sshd.options))
            facts = session.facts
            assert (facts["launcher"], facts["host"], facts["reached_by"]) == ("ssh", "127.0.0.1", "tunnel")
            assert facts["clock_offset_low_s"] <= 0 <= facts["clock_offset_high_s"]
            assert facts["clock_offset_high_s"] - facts["clock_offset_low_s"] < 1
            command = psutil.Process(facts["remote_pid"]).cmdline()
            assert command[0] == str(sshd.python)
            assert command[command.index("--meter") + 1] == "auto"
            assert psutil.Process(facts["remote_pid"]).username() == sshd.user
            outcome = await asyncio.to_thread(SshLauncher.check, session.device)
            assert outcome.version == facts["packages"].rpartition("-cp")[0]
            assert ("cpu_model", "estimated") in outcome.sensors
            low_s, high_s = outcome.clock_offset_s
            assert low_s <= 0 <= high_s
            assert outcome.free_bytes > 0
        assert session.exit_status() is not None
        assert sshd.left_behind() == []

    asyncio.run(life())


@needs_cryptography
def test_secrets_go_by_file_and_go_away(sshd: Sshd, launcher: SshLauncher, tmp_path: Path) -> None:
    tls = make(tmp_path / "tls", []).folder
    token = (tls / TOKEN).read_text().strip()

    async def life() -> None:
        async with fleet(launcher, tls) as here:
            session = await here.join(device(sshd.options))
            (folder,) = sshd.home.glob("fedmeter/.run-*")
            assert {path.name for path in folder.iterdir()} == set(CLIENT_FILES)
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, *sorted(folder.iterdir()))]
            assert modes == [0o700, *[0o600] * len(CLIENT_FILES)]
            words = [word for process in psutil.process_iter() for word in command_line(process)]
            assert not any(token in word for word in words)
            assert token not in session.log_path.read_text()
        assert sshd.left_behind() == []

    asyncio.run(life())


def test_a_connection_that_is_cut_is_made_again(sshd: Sshd, launcher: SshLauncher) -> None:
    async def life() -> None:
        async with fleet(launcher) as here:
            session = await here.join(device(sshd.options))
            pid = session.facts["remote_pid"]
            sshd.cut()
            await asyncio.to_thread(wait_until, lambda: session.facts["connections"] == 2, 30.0)
            await asyncio.to_thread(wait_until, lambda: session.facts["remote_pid"] != pid, 30.0)
            assert session.exit_status() is None
            assert [process.pid for process in sshd.processes() if process.pid == pid] == []
        assert sshd.left_behind() == []
        assert "the connection was lost" in session.log_path.read_text()
        assert session.log_path.read_text().count("installing") <= 1

    asyncio.run(life())


def test_a_device_that_stays_away_is_told_and_is_left_clean(sshd: Sshd, launcher: SshLauncher) -> None:
    async def life() -> None:
        async with fleet(launcher) as here:
            session = await here.join(device(sshd.options, reconnect_s=2.5))
            sshd.stop()
            try:
                await asyncio.to_thread(wait_until, lambda: not sshd.left_behind(), 10.0)
                await asyncio.to_thread(wait_until, lambda: session.exit_status() == 3, 30.0)
            finally:
                sshd.start()
            assert here.sessions.is_dead("pi")
            told = here.sessions.post_mortem("pi")
            assert "pi: run: the connection was lost, and not back within 2.5 s. Look at its power and network" in told
            assert "connect: 127.0.0.1: nothing listens there" in told
            again = here.sessions.start(session.device)
            await asyncio.to_thread(wait_until, lambda: again.facts.get("remote_pid"), 30.0)
        assert sshd.left_behind() == []

    asyncio.run(life())


def test_a_supervisor_that_is_killed_is_told_and_its_client_ends(sshd: Sshd, launcher: SshLauncher) -> None:
    session = launcher.start(device(sshd.options), NOWHERE)
    client = psutil.Process(wait_until(lambda: session.facts.get("remote_pid"), 30.0))
    client.parent().kill()
    assert wait_until(session.exit_status, 30.0) == DeviceError.exit_code
    assert "pi: run: the client's supervisor there was ended" in session.log_path.read_text()
    wait_until(lambda: not sshd.processes(), 10.0)
    again = launcher.start(session.device, NOWHERE)
    wait_until(lambda: again.facts.get("remote_pid"), 30.0)
    again.stop(0.0)
    assert sshd.left_behind() == [], "the next start removes what the killed one has left"


# Says where it is and what it reaches, starts a process in a session of its own, and stays.
PROGRAM = """
import os, pathlib, socket, subprocess, sys, time
host, port = sys.argv[2].split(":")
with socket.create_connection((host, int(port)), 10) as reached:
    print("reached", reached.recv(5).decode(), flush=True)
pathlib.Path("kept").write_text(os.getcwd())
print("in", os.getcwd(), sorted(os.listdir()), "FEDMETER_TLS" in os.environ, flush=True)
child = [sys.executable, "-c", "import time; time.sleep(600)", "of-" + sys.argv[1]]
subprocess.Popen(child, start_new_session=True).wait()
"""


@needs_cryptography
def test_another_program_runs_there_as_our_client_does(sshd: Sshd, launcher: SshLauncher, tmp_path: Path) -> None:
    """By a tunnel to where it joins, in an empty folder, without a secret; what it started ends with it."""
    tls = make(tmp_path / "tls", []).folder
    with socket.create_server(("127.0.0.1", 0)) as carrier:
        there = Script(PROGRAM, f"127.0.0.1:{carrier.getsockname()[1]}")
        session = launcher.start(device(sshd.options, "board"), replace(NOWHERE, tls=tls, nodes=there))
        carrier.settimeout(30.0)
        reached, _ = carrier.accept()
        reached.sendall(b"hello")
        reached.close()
        [child] = wait_until(lambda: [one for one in psutil.process_iter() if "of-board" in command_line(one)], 30.0)
        assert session.facts["reached_by"] == "tunnel"
        session.stop(5.0)
    assert not child.is_running()
    said = session.log_path.read_text()
    assert "reached hello" in said
    [folder] = re.findall(r"in (\S+/\.run-\S+) \['kept'\] False", said)
    assert not Path(folder).exists()
    assert sshd.left_behind() == []


def test_it_is_stopped_wherever_it_is(sshd: Sshd, launcher: SshLauncher) -> None:
    for delay_s in (0.0, 0.1, 0.3, 0.6, 1.0):
        session = launcher.start(device(sshd.options), NOWHERE)
        time.sleep(delay_s)
        session.stop(0.5)
        assert session.exit_status() is not None
        wait_until(lambda: not sshd.left_behind(), 10.0)


def test_it_works_through_a_jump_host(sshd: Sshd, launcher: SshLauncher) -> None:
    config = sshd.folder / "ssh_config"
    key, hosts = sshd.options["identity"], sshd.options["known_hosts"]
    config.write_text(f"Host *\n  IdentityFile {key}\n  UserKnownHostsFile {hosts}\n  StrictHostKeyChecking yes\n")
    through = device(sshd.options, jump=f"{sshd.user}@localhost:{sshd.port}", ssh_config=str(config))
    outcome = SshLauncher.check(through)
    assert outcome.ok, outcome.detail
    told = failure(launcher, device(sshd.options, jump="127.0.0.1:9", ssh_config=str(config)))
    assert "pi: connect: 127.0.0.1: " in told
    anywhere = replace(NOWHERE, address="0.0.0.0:9")
    session = launcher.start(through, anywhere)
    assert wait_until(session.exit_status, 30.0) == DeviceError.exit_code
    assert "behind a jump host" in session.log_path.read_text()


@pytest.mark.parametrize(
    ("address", "options", "server", "way"),
    [
        ("0.0.0.0:9", {}, "127.0.0.1:9", "network"),  # where the device sees the connection come from
        ("0.0.0.0:9", {"server": "fl.lab"}, "fl.lab:9", "network"),
        ("[::]:9", {"server": "fd00::1"}, "[fd00::1]:9", "network"),
        ("10.0.0.1:9", {}, "10.0.0.1:9", "network"),
        ("10.0.0.1:9", {"tunnel": True}, r"127\.0\.0\.1:\d{4,5}", "tunnel"),
    ],
)
def test_a_device_finds_the_server(
    sshd: Sshd, launcher: SshLauncher, address: str, options: dict[str, object], server: str, way: str
) -> None:
    session = launcher.start(device(sshd.options, **options), replace(NOWHERE, address=address))
    pid = wait_until(lambda: session.facts.get("remote_pid"), 30.0)
    command = psutil.Process(pid).cmdline()
    told = command[command.index("--server") + 1]
    assert told == server or re.fullmatch(server, told)
    assert session.facts["reached_by"] == way
    session.stop(0.0)


def test_a_killed_harness_leaves_only_what_the_next_one_removes(tmp_path: Path) -> None:
    ended = os.spawnvp(os.P_WAIT, "true", ["true"])
    assert ended == 0
    child = os.fork()
    if child == 0:
        private_folder()
        os._exit(0)
    os.waitpid(child, 0)
    own = private_folder()
    try:
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        assert not list(own.parent.glob(f"fedmeter-ssh-{child}-*"))
    finally:
        own.rmdir()


def test_a_wheel_that_is_none_is_refused(sshd: Sshd, launcher: SshLauncher, tmp_path: Path) -> None:
    bad = tmp_path / "fedmeter-0.1.0-py3-none-any.whl"
    bad.write_bytes(b"PK no")
    for path, said in ((bad, "is damaged"), (tmp_path / "other.whl", "no wheel of fedmeter's")):
        with pytest.raises(PreconditionError, match=said):
            launcher.start(device(sshd.options, wheel=str(path)), NOWHERE)

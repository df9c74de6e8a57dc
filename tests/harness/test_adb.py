"""Phones over the real adb client, before an adb server and phones of ours: what is changed, restored, hidden, said."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fl.server import Server
from fl.workload import Partition
from harness.device import DeviceSpec
from harness.init import init
from harness.launcher import JoinSpec, Session
from harness.launchers.adb import AdbLauncher
from harness.launchers.adb_app import start_line
from harness.launchers.adb_options import AdbOptions
from harness.launchers.phone_claim import left_behind
from harness.run import main
from harness.spec import Table
from profiler.errors import DeviceError, PreconditionError
from tests.fixtures.adb_server import APP, USB_SERIAL, WIFI_SERIAL, AdbServer, Phone, phone_options, running_adb
from tests.harness.running import REPOSITORY, wait_until


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbServer]:
    with running_adb(tmp_path / "adb", monkeypatch) as made:
        yield made


@pytest.fixture
def phone(server: AdbServer) -> Phone:
    return server.phones[USB_SERIAL]


def device(options: dict[str, object], id_: str = "a") -> DeviceSpec:
    return DeviceSpec(id_, "adb", "pixel9", 0, options=AdbLauncher.read_options(Table(dict(options), "fleet.toml")))


def join(port: int, tls: Path | None = None) -> JoinSpec:
    return JoinSpec(f"127.0.0.1:{port}", "digits", Partition(shards=4), tls)


@contextmanager
def started(launcher: AdbLauncher, spec: DeviceSpec, port: int) -> Iterator[Session]:
    session = launcher.start(spec, join(port))
    try:
        yield session
    finally:
        session.stop(1.0)


async def until_joined(server: Server, session: Session) -> None:
    waiting = asyncio.ensure_future(server.wait_for({"a"}, 60.0))
    while not waiting.done():
        if session.exit_status() is not None:
            waiting.cancel()
            raise AssertionError(session.log_path.read_text())
        await asyncio.sleep(0.05)
    await waiting


@pytest.mark.timeout(120)
def test_what_a_run_changes_of_a_phone_is_as_it_was_when_it_ends(
    server: AdbServer, phone: Phone, tmp_path: Path
) -> None:
    async def life() -> Session:
        async with Server("127.0.0.1:0") as joined:
            spec = device(phone_options(phone, screen="on", fake_unplugged=True, allow_charging=True))
            session = AdbLauncher(tmp_path).start(spec, join(joined.port))
            await until_joined(joined, session)
            assert phone.is_awake
            assert phone.is_faked
            assert phone.setting("global", "stay_on_while_plugged_in") == "15"
            assert list(server.ways.values()) == [joined.port]
            assert list(left_behind()) == [USB_SERIAL], "written down on this machine while it is changed"
            await asyncio.to_thread(session.stop, 3.0)
            return session

    session = asyncio.run(life())
    assert (phone.is_awake, phone.is_faked, server.ways) == (False, False, {})
    assert phone.setting("system", "screen_off_timeout") == "30000"
    assert phone.setting("global", "stay_on_while_plugged_in") is None, "there was none before"
    assert list(left_behind()) == []
    facts = session.facts
    assert (facts["reached_by"], facts["connected_by"], facts["screen_before"]) == ("reverse", "usb", "off")
    assert facts["battery_before"]["level_percent"] == facts["battery_after"]["level_percent"] == 84
    assert USB_SERIAL not in json.dumps(dict(facts))
    assert USB_SERIAL not in session.log_path.read_text()


_RUN = """
import sys, time
from pathlib import Path
from harness.launchers.adb import AdbLauncher
from tests.harness.test_adb import device, join
session = AdbLauncher(Path(sys.argv[1])).start(device(eval(sys.argv[2])), join(int(sys.argv[3])))
time.sleep(600)
"""


@pytest.mark.timeout(120)
def test_what_a_killed_harness_has_changed_is_set_right_by_the_next(
    server: AdbServer, phone: Phone, tmp_path: Path
) -> None:
    options = phone_options(phone, screen="on", fake_unplugged=True)
    phone.put("global", "stay_on_while_plugged_in", "2")
    arguments = [sys.executable, "-c", _RUN, str(tmp_path), repr(options), "9"]
    harness = subprocess.Popen(arguments, cwd=REPOSITORY)
    try:
        wait_until(lambda: phone.is_faked and server.ways)
    finally:
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    wait_until(lambda: not phone.processes())  # the client sees that nobody is there any more
    assert phone.is_faked, "a phone does not set itself right"
    AdbLauncher(tmp_path)
    assert (phone.is_awake, phone.is_faked, server.ways) == (False, False, {})
    assert phone.setting("global", "stay_on_while_plugged_in") == "2"
    assert list(left_behind()) == []


@pytest.mark.timeout(120)
def test_a_phone_that_is_away_at_the_end_is_set_right_later(
    server: AdbServer, phone: Phone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with started(AdbLauncher(tmp_path), device(phone_options(phone, fake_unplugged=True)), 9):
        wait_until(lambda: phone.is_faked)
        server.unplug(USB_SERIAL)
    assert phone.is_faked
    assert "cannot be reached to be set right (battery" in (tmp_path / "a.log").read_text()
    AdbLauncher(tmp_path)
    assert "cannot be set right yet" in caplog.text
    assert USB_SERIAL not in caplog.text
    server.plug(USB_SERIAL)
    AdbLauncher(tmp_path)
    assert not phone.is_faked


@pytest.mark.timeout(120)
def test_a_connection_that_breaks_is_made_again_and_the_client_with_it(
    server: AdbServer, phone: Phone, tmp_path: Path
) -> None:
    async def life() -> object:
        async with Server("127.0.0.1:0") as joined:
            with started(AdbLauncher(tmp_path), device(phone_options(phone)), joined.port) as session:
                await until_joined(joined, session)
                first = session.facts["remote_pid"]
                await asyncio.to_thread(server.cut)
                await asyncio.to_thread(wait_until, lambda: session.facts.get("remote_pid") != first, 60.0)
                await until_joined(joined, session)
                return session.facts["connections"]

    assert asyncio.run(life()) == 2


def app(phone: Phone) -> Path:
    """An app of ours in the place of a phone's: its extras are options of the client. Its folder."""
    folder = phone.install(APP)
    script = folder / "run"
    script.write_text(
        "#!/bin/sh\n"
        'while [ $# -ge 3 ]; do eval "$2=\\$3"; shift 3; done\n'
        f'exec {sys.executable} -m fl.client --server "$server" --device "$id" --shard "$shard" --shards 4 '
        f'--workload digits --meter none ${{tls:+--tls "{folder}/data/files/fedmeter-tls"}}\n'
    )
    script.chmod(0o755)
    return folder


APP_OPTIONS: dict[str, object] = {
    "client": "app",
    "package": APP,
    "component": f"{APP}/.TrainService",
    "service": True,
    "extras": {"server": "{server}", "id": "{id}", "shard": "{shard}", "tls": "{tls}", "verbose": True, "level": 3},
}


@pytest.mark.timeout(120)
def test_an_app_is_installed_told_where_to_join_and_ended(server: AdbServer, phone: Phone, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    folder = app(phone)
    (tmp_path / "app.apk").write_bytes(b"PK" + bytes(5000))
    init(tmp_path / "keys", [], None, [])
    secret = (tmp_path / "keys" / "token").read_text().strip()

    async def life() -> Session:
        from fl.admission import Access
        from fl.security import server_security

        async with Server("127.0.0.1:0", access=Access(server_security(tmp_path / "keys"))) as joined:
            spec = device({"serial": USB_SERIAL, "apk": str(tmp_path / "app.apk"), **APP_OPTIONS})
            session = AdbLauncher(tmp_path).start(spec, join(joined.port, tmp_path / "keys"))
            await until_joined(joined, session)
            key = folder / "data" / "files" / "fedmeter-tls" / "client.key"
            assert key.read_bytes() == (tmp_path / "keys" / "client.key").read_bytes()
            assert key.stat().st_mode & 0o077 == 0
            await asyncio.to_thread(wait_until, lambda: "hello from the app" in session.log_path.read_text(), 30.0)
            await asyncio.to_thread(session.stop, 0.1)
            return session

    session = asyncio.run(life())
    assert (folder / "base.apk").stat().st_size == 5002
    assert session.exit_status() is not None
    assert not (folder / "data" / "files" / "fedmeter-tls").exists(), "secrets do not stay"
    wait_until(lambda: not phone.processes())
    assert not any(secret in line for line in [*phone.calls, *server.services]), "no secret is on a command line"
    assert (session.facts["package"], session.facts["reached_by"]) == (APP, "reverse")


@pytest.mark.timeout(60)
def test_an_app_that_dies_is_seen(phone: Phone, tmp_path: Path) -> None:
    app(phone)
    with started(AdbLauncher(tmp_path), device({"serial": USB_SERIAL, **APP_OPTIONS}), 9) as session:
        os.kill(int(wait_until(lambda: session.facts.get("remote_pid"))), signal.SIGKILL)
        wait_until(lambda: session.exit_status() is not None)
    assert "the app's process is gone" in session.log_path.read_text()


@pytest.mark.timeout(60)
def test_what_an_app_cannot_be_started_by_is_said(phone: Phone, tmp_path: Path) -> None:
    phone.install(APP)
    with started(AdbLauncher(tmp_path), device({"serial": USB_SERIAL, **APP_OPTIONS}), 9) as session:
        wait_until(lambda: session.exit_status() is not None)
    assert session.exit_status() == 3
    assert "does not exist" in session.log_path.read_text()


def test_values_reach_the_phones_shell_quoted() -> None:
    extras = {"server": "{server}", "note": "it's; $(reboot) `reboot`", "quick": False}
    spec = device({"serial": "R1", "client": "app", "package": APP, "component": f"{APP}/.Main", "extras": extras})
    line = start_line(AdbOptions.of(spec), spec, join(1), "[fe80::1]:8443", "")
    printed = subprocess.run(["sh", "-c", line.replace("am ", "printf '%s\\n' ", 1)], capture_output=True, text=True)
    assert printed.stdout.splitlines() == [
        *("start", "-n", f"{APP}/.Main"),
        *("--es", "server", "[fe80::1]:8443", "--es", "note", "it's; $(reboot) `reboot`", "--ez", "quick", "false"),
    ]


def test_a_phone_is_in_one_run_at_a_time(phone: Phone, tmp_path: Path) -> None:
    launcher = AdbLauncher(tmp_path)
    session = launcher.start(device(phone_options(phone)), join(9))
    with pytest.raises(DeviceError, match="b: its phone takes part in a run already"):
        launcher.start(device(phone_options(phone), "b"), join(9))
    session.stop(1.0)
    with started(launcher, device(phone_options(phone), "b"), 9):
        pass


@pytest.mark.timeout(60)
def test_a_release_build_of_termux_lets_nobody_in_and_the_remedy_says_what_does(phone: Phone, tmp_path: Path) -> None:
    phone.install("com.termux", debuggable=False)
    spec = device(phone_options(phone))
    outcome = AdbLauncher.check(spec)
    assert not outcome.ok
    assert "reach Termux's sshd with launcher ssh" in outcome.detail
    with started(AdbLauncher(tmp_path), spec, 9) as session:
        wait_until(lambda: session.exit_status() is not None)
    assert "does not let run-as in" in session.log_path.read_text()


def test_the_check_says_model_way_and_energy_and_not_the_serial_number(phone: Phone) -> None:
    spec = device(phone_options(phone))
    outcome = AdbLauncher.check(spec)
    assert outcome.ok
    assert "Pixel 9, Android 15; by usb; com.termux is there; energy: its battery tells it" in outcome.detail
    phone.charge()
    outcome = AdbLauncher.check(spec)
    assert outcome.ok, "energy is missing, and that is no reason not to train"
    assert "energy will be missing: charging: USB may feed the phone" in outcome.detail
    assert USB_SERIAL not in outcome.detail


def test_a_check_of_a_phone_that_is_not_there(server: AdbServer) -> None:
    outcome = AdbLauncher.check(device({"serial": "R0OTHER", "connect_timeout_s": 1}))
    assert not outcome.ok
    assert "R0OTHER" not in outcome.detail
    server.phones[USB_SERIAL].state = "unauthorized"
    outcome = AdbLauncher.check(device({"serial": USB_SERIAL, "connect_timeout_s": 1}))
    assert "unauthorized" in outcome.detail
    assert "accept this computer's key" in outcome.detail


def test_a_serial_number_can_stay_out_of_the_fleet_file(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = device({**phone_options(phone), "serial": "$MY_PHONE"})
    assert "MY_PHONE holds no serial number" in AdbLauncher.check(spec).detail
    with pytest.raises(PreconditionError, match="export MY_PHONE"):
        AdbOptions.of(spec).phone("a")
    monkeypatch.setenv("MY_PHONE", USB_SERIAL)
    assert AdbLauncher.check(spec).ok


@pytest.mark.timeout(150)
def test_a_run_over_phones_gives_complete_results_without_their_serial_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_adb(tmp_path / "adb", monkeypatch, USB_SERIAL, WIFI_SERIAL) as server:
        entries = []
        for n, phone in enumerate(server.phones.values()):
            monkeypatch.setenv(f"PHONE_{n}", phone.serial)
            options = {**phone_options(phone, reverse=True), "serial": f"$PHONE_{n}"}
            lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items())
            entries.append(f'[[device]]\nid = "phone-{n}"\nlauncher = "adb"\nprocessor = "pixel9"\n{lines}')
        server.phones[USB_SERIAL].charge()
        (tmp_path / "fleet.toml").write_text('name = "phones"\n' + "".join(entries))
        (tmp_path / "e.toml").write_text('name = "e"\nworkload = "digits"\nrounds = 2\nidle_s = 0.2\n')
        arguments = ["--experiment", str(tmp_path / "e.toml"), "-o", str(tmp_path / "results"), "--quiet"]
        assert main([str(tmp_path / "fleet.toml"), *arguments]) == 0
        assert not server.ways
    [folder] = (tmp_path / "results").iterdir()
    facts = json.loads((folder / "devices" / "phone-0.json").read_text())
    assert facts["energy_missing"].startswith("charging: USB may feed the phone")
    assert facts["phone"][1] == "Pixel 9"
    assert "energy_missing" not in json.loads((folder / "devices" / "phone-1.json").read_text())
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert USB_SERIAL.encode() not in written
    assert WIFI_SERIAL.encode() not in written

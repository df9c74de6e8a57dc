"""Clients on Android phones that are reached by adb: Python under Termux, or an app. Each meters its own phone.

A session's thread claims its phone, writes down each change before it makes it, starts the client and watches it, and
sets the phone right at the end. docs/fleets.md says what a user sees of this, and what was never seen on hardware.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fl.security import is_loopback
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec
from harness.launchers.adb_connection import AdbConnection, explain, reach
from harness.launchers.adb_options import APP, RUN_AS, AdbOptions
from harness.launchers.client_log import ClientLog
from harness.launchers.local import reachable
from harness.launchers.phone import SECRETS_FOLDER, Phone, connected_by, hidden, sweep
from harness.launchers.phone_claim import PhoneClaim, Undo, digest, left_behind
from harness.launchers.provisioning import Place, Wheel
from harness.launchers.remote import RemoteCommand, RemoteConnection
from harness.launchers.ssh import RemoteOptions, SshSession, client_files, wheel_of
from harness.spec import Table
from profiler.clock import SystemClock
from profiler.errors import DeviceError, PreconditionError
from profiler.files import printable
from profiler.sensor import Available
from profiler.sensors.adb import AdbSensor
from profiler.sensors.adb_client import AdbClient

_WILDCARDS = ("0.0.0.0", "[::]")
_INSTALL_TIMEOUT_S = 300.0
_POLL_S = 2.0
_APP_START_S = 20.0
_PID = re.compile(r"\d{1,10}")
_ENDED_UNSEEN = 1
"""The exit status of an app that has ended: Android does not tell how."""


class PhoneTie:
    """A phone that is this run's alone, with its adb and its log; nothing that is told contains its serial number."""

    def __init__(self, device: DeviceSpec, log: ClientLog) -> None:
        self.options = AdbOptions.of(device)
        serial = self.serial = self.options.phone(device.id)
        self.log = log
        self.client = AdbClient(serial=serial)
        self.claim = PhoneClaim(serial, device.id)
        self.phone = Phone(self.client, self.claim, self.note)

    def note(self, text: str) -> None:
        self.log.note(hidden(text, self.serial))

    def write(self, data: bytes) -> None:
        """What a client, or adb, has printed."""
        self.log.write(data.replace(self.serial.encode(), b"SERIAL"))

    @property
    def facts(self) -> dict[str, Any]:
        options = self.options
        entry = {"launcher": "adb", "client": options.client, "meter": options.meter, "threads": options.threads}
        return {**entry, "phone_digest": digest(self.serial), **self.phone.facts}

    def prepare(self, device: str) -> None:
        """Raises DeviceError."""
        try:
            reach(self.client, self.options.connect_timeout_s)
            self.phone.prepare(self.options)
        except DeviceError as error:
            raise DeviceError(
                f"{device}: {hidden(Exception.__str__(error), self.serial)}.", remedy=error.remedy
            ) from None
        if missing := self.phone.facts.get("energy_missing"):
            self.note(f"energy will be missing: {missing}")

    def restore(self) -> None:
        """The phone as it was, and free for others."""
        try:
            if self.phone.facts:  # nothing was changed of one that was never reached
                self.phone.restore()
        finally:
            self.claim.release()


def server_for(tie: PhoneTie, join: JoinSpec, connection: RemoteConnection, device: str) -> tuple[str, str]:
    """The server's address as the phone reaches it, and by which way. Raises DeviceError where it cannot."""
    options, address = tie.options, join.address
    host, _, port = address.rpartition(":")
    is_by_usb = connected_by(tie.serial) == "usb"
    wants_way = is_loopback(address) or (is_by_usb and host in _WILDCARDS and options.server is None)
    if wants_way if options.reverse is None else options.reverse:
        return f"127.0.0.1:{connection.forward(reachable(address))}", "reverse"
    if is_loopback(address):
        raise DeviceError(
            f"{device}: start: the server listens on {address}, which no phone reaches.",
            remedy="Leave out 'reverse', or let it listen on every address: [server] address = \"0.0.0.0:8443\".",
        )
    name = options.server or (host if host not in _WILDCARDS else _own_address(tie.serial))
    if name is None:
        raise DeviceError(
            f"{device}: start: it cannot be seen how the phone reaches this machine.",
            remedy="Set 'server' to this machine's name or address as the phone knows it, or reverse = true.",
        )
    return (f"[{name}]:{port}" if ":" in name else f"{name}:{port}"), "network"


def _own_address(serial: str) -> str | None:
    """Ours in the network where a phone with an address for its serial number is; nothing is sent to find out."""
    host, _, port = serial.rpartition(":")
    if not host or not port.isdigit():
        return None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host.strip("[]"), int(port)))
        return str(probe.getsockname()[0])
    return None


class AdbSession(SshSession):
    """A Python client: as over ssh, but adb carries the connection, and the phone's state is kept."""

    def __init__(self, device: DeviceSpec, join: JoinSpec, wheel: Wheel, tie: PhoneTie) -> None:
        self._tie = tie
        super().__init__(device, join, wheel, Path(), tie.log)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**self._tie.facts, "via": self._tie.options.via, **self._facts, "connections": self._n_connections}

    def _serve(self) -> int:
        try:
            self._tie.prepare(self.device.id)
            return super()._serve()
        finally:
            self._connection.close()  # and with it the client, before the phone is as it was
            self._tie.restore()

    def _read_options(self) -> RemoteOptions:
        return self._tie.options

    def _place_name(self) -> str:
        return f"its phone, by {connected_by(self._tie.serial)}"

    def _new_connection(self) -> RemoteConnection:
        tie = self._tie
        return AdbConnection(self.device.id, tie.options, tie.client, tie.phone, tie.write)

    def _more_arguments(self) -> list[str]:
        return ["--allow-charging"] if self._tie.options.allow_charging else []

    def _server(self, place: Place) -> tuple[str, str]:
        return server_for(self._tie, self._join, self._connection, self.device.id)


class AppSession:
    """An app: installed where an apk is given, started by an intent, watched by its process, ended by force."""

    def __init__(self, device: DeviceSpec, join: JoinSpec, tie: PhoneTie) -> None:
        self.device = device
        self.log_path = tie.log.path
        self._join = join
        self._tie = tie
        self._facts: dict[str, Any] = {}
        self._status: int | None = None
        self._logcat: RemoteCommand | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"app-{device.id}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        return None

    @property
    def facts(self) -> Mapping[str, Any]:
        options = self._tie.options
        return {**self._tie.facts, "package": options.package, "component": options.component, **self._facts}

    def exit_status(self) -> int | None:
        return self._status

    def settle(self) -> None:
        pass

    def stop(self, grace_s: float) -> None:
        """An app is told to leave by its server; who is still there is ended by force."""
        if self._status is None and self._facts:
            self._thread.join(grace_s)
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        status = _ENDED_UNSEEN
        tie = self._tie
        try:
            tie.prepare(self.device.id)
            self._start()
            self._watch()
        except PreconditionError as error:
            tie.note(f"error: {error}")
            status = error.exit_code
        except (OSError, subprocess.SubprocessError) as error:
            tie.note(f"error: {self.device.id}: start: {error}.")
        finally:
            tie.restore()  # which ends the app, too: that was written down before it was started
            if self._logcat is not None:
                self._logcat.kill()
                self._logcat.end()
            tie.log.close()
            self._status = status

    def _start(self) -> None:
        tie, options = self._tie, self._tie.options
        if options.apk is not None:
            self._install(options.apk)
        connection = AdbConnection(self.device.id, options, tie.client, tie.phone, tie.write)
        server, way = server_for(tie, self._join, connection, self.device.id)
        secrets = self._push_secrets()
        tie.phone.note(Undo("app", (options.package,)))
        self._ask(f"am force-stop {options.package}")
        self._ask(start_line(options, self.device, self._join, server, secrets))
        pid = self._pid_within(_APP_START_S)
        self._facts = {"reached_by": way, "remote_pid": pid}
        # logcat would outlive us until its next line; `cat` sees at once that nobody is there any more.
        line = f"logcat -v time --pid={pid} 1>&2 & cat >/dev/null; kill $!"
        self._logcat = RemoteCommand(["adb", "-s", tie.client.serial, "shell", "-T", line], tie.write)

    def _install(self, apk: str) -> None:
        self._tie.note("installing the app")
        done = self._tie.client.run(["install", "-r", apk], timeout_s=_INSTALL_TIMEOUT_S)
        if done.status != 0:
            reason = hidden(printable(done.complaint, 200), self._tie.serial)
            raise DeviceError(
                f"{self.device.id}: provision: the app cannot be installed: {reason}.",
                remedy="Try it by hand with 'adb install -r', and look at the phone's screen: some ask there.",
            )

    def _push_secrets(self) -> str:
        """The folder with the TLS files, in the app's own one, which no other app can read; empty without TLS."""
        options = self._tie.options
        files = client_files(self._join, self.device)
        if not files:
            return ""
        if options.via != RUN_AS:
            raise DeviceError(
                f"{self.device.id}: start: the TLS files of an app are put into its folder by run-as alone.",
                remedy='Set via = "run-as", with a debuggable build of the app.',
            )
        self._tie.phone.note(Undo("files", (options.package,)))
        for name, content in files.items():
            script = f"umask 077 && mkdir -p {SECRETS_FOLDER} && cat > {shlex.quote(f'{SECRETS_FOLDER}/{name}')}"
            self._feed(shlex.join(["run-as", options.package, "sh", "-c", script]), content)
        return f"/data/data/{options.package}/{SECRETS_FOLDER}"

    def _feed(self, line: str, content: bytes) -> None:
        """Run a line of the phone's shell that is given `content`, which no command line ever shows."""
        command = ["adb", "-s", self._tie.client.serial, "shell", "-T", line]
        done = subprocess.run(command, input=content, capture_output=True, timeout=60, check=False)
        if done.returncode != 0:
            reason, remedy = explain((done.stderr or done.stdout).decode(errors="replace"))
            reason = hidden(printable(reason, 200), self._tie.serial)
            raise DeviceError(f"{self.device.id}: start: its TLS files cannot be put there: {reason}.", remedy=remedy)

    def _ask(self, line: str) -> str:
        """What a command of ours printed on the phone. Raises DeviceError where it failed."""
        (part,) = self._tie.client.ask([line], timeout_s=_APP_START_S)
        said = part.text().strip()
        if part.status != 0 or "Error" in said or "SecurityException" in said:  # am says so, and ends with 0
            reason = hidden(printable(" ".join(said.split()), 300), self._tie.serial)
            raise DeviceError(
                f"{self.device.id}: start: the phone says: {reason}.",
                remedy="Check 'package', 'component' and 'action', and that the component is exported.",
            )
        return said

    def _pid(self) -> str | None:
        (part,) = self._tie.client.ask([f"pidof {self._tie.options.package}"])
        pids = part.text().split()
        return pids[0] if part.status == 0 and pids and _PID.fullmatch(pids[0]) else None

    def _pid_within(self, timeout_s: float) -> str:
        for _ in range(max(1, round(timeout_s / 0.5))):
            if (pid := self._pid()) is not None:
                return pid
            if self._stopping.wait(0.5):
                break
        raise DeviceError(
            f"{self.device.id}: start: the app was started, and has no process.",
            remedy="Look at 'adb logcat' for a crash, and at the phone's screen.",
        )

    def _watch(self) -> None:
        """Returns when the app is gone, or is to end. Raises DeviceError where the phone is, for too long."""
        n_silent, patience = 0, max(1, round(self._tie.options.reconnect_s / _POLL_S))
        while not self._stopping.wait(_POLL_S):
            try:
                if self._pid() is None:
                    self._tie.note("the app's process is gone")
                    return
                n_silent = 0
            except DeviceError as error:
                n_silent += 1
                if n_silent > patience:
                    raise DeviceError(
                        f"{self.device.id}: run: {hidden(Exception.__str__(error), self._tie.serial)}.",
                        remedy=error.remedy,
                    ) from None
                with contextlib.suppress(DeviceError):
                    self._tie.client.connect()


def start_line(options: AdbOptions, device: DeviceSpec, join: JoinSpec, server: str, secrets: str) -> str:
    """The line of the phone's shell that starts an app, each value quoted. It holds no secret: ps shows it there."""
    host, _, port = server.rpartition(":")
    values = {
        "server": server,
        "host": host.strip("[]"),
        "port": port,
        "id": device.id,
        "shard": device.shard,
        "shards": join.partition.shards,
        "workload": join.workload,
        "tls": secrets,
    }
    words = ["am", "start-foreground-service" if options.service else "start", "-n", str(options.component)]
    words += ["-a", options.action] if options.action else []
    for name, value in options.extras.items():
        kind = "--ez" if isinstance(value, bool) else "--ei" if isinstance(value, int) else "--es"
        text = str(value).lower() if isinstance(value, bool) else str(value).format_map(values)
        words += [kind, name, text]
    return shlex.join(words)


class AdbLauncher:
    """Sets right, when it is made, what killed runs have left of phones. Options: `AdbOptions`."""

    shares_host: ClassVar[bool] = False

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._wheels: dict[str | None, Wheel] = {}
        self._lock = threading.Lock()
        sweep()

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        return dict(AdbOptions.read(entry).as_mapping())

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        return 0.0

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck:
        options = AdbOptions.of(device)
        try:
            serial = options.phone(device.id)
            client = AdbClient(serial=serial)
            try:
                return _findings(client, device, options)
            except PreconditionError as error:
                return DeviceCheck(False, hidden(error, serial))
        except PreconditionError as error:
            return DeviceCheck(False, str(error))

    def start(self, device: DeviceSpec, join: JoinSpec) -> AdbSession | AppSession:
        """Returns at once; how it goes shows in the session's status and log."""
        options = AdbOptions.of(device)
        with self._lock:
            if options.client != APP and options.wheel not in self._wheels:
                self._wheels[options.wheel] = wheel_of(options.wheel)
        log = ClientLog(self._log_dir / f"{device.id}.log")
        try:
            tie = PhoneTie(device, log)
        except PreconditionError:
            log.close()
            raise
        if options.client == APP:
            return AppSession(device, join, tie)
        return AdbSession(device, join, self._wheels[options.wheel], tie)

    def close(self) -> None:
        pass


def _findings(client: AdbClient, device: DeviceSpec, options: AdbOptions) -> DeviceCheck:
    """What can be told of a phone without changing it. Raises DeviceError."""
    reach(client, options.connect_timeout_s)
    serial = client.serial
    model, release, installed, inside = client.ask(
        [
            "getprop ro.product.model",
            "getprop ro.build.version.release",
            f"pm path {options.package}",
            shlex.join([*options.entering, "true"]),
        ]
    )
    parts = [f"{printable(model.text().strip(), 40)}, Android {printable(release.text().strip(), 20)}"]
    parts.append(f"by {connected_by(serial)}")
    is_ok = True
    if options.via == RUN_AS:
        is_there = installed.status == 0 and "package:" in installed.text()
        parts.append(f"{options.package} is {'there' if is_there else 'not there'}")
        is_ok = is_there or options.apk is not None
    if options.client != APP and inside.status != 0:
        reason, remedy = explain(inside.text())
        parts.append(f"{hidden(printable(reason, 200), serial)}. {remedy}")
        is_ok = False
    probed = AdbSensor(Path("/"), SystemClock(), serial=serial, allow_charging=options.allow_charging).probe()
    if isinstance(probed, Available):
        parts.append(f"energy: its battery tells it ({probed.provenance.value}, scope {probed.scope.value})")
    else:
        parts.append(f"energy will be missing: {hidden(probed.reason, serial)}. {hidden(probed.remedy, serial)}")
    if serial in left_behind():
        parts.append("an earlier run has left it changed; the next one sets it right")
    return DeviceCheck(is_ok, "; ".join(parts))

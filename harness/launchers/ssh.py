"""Clients on machines that are reached by ssh: Jetsons, Raspberry Pis, any Linux. They meter themselves.

A thread a device connects, brings our packages there where they are not yet, and starts the client under a supervisor
(`device_side`) that ends it when nobody is heard any more. A connection that breaks is made again, and the client with
it. docs/fleets.md says what a user sees of this.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from fl.security import CLIENT_FILES, FOLDER_VARIABLE, client_folder, is_loopback
from fl.spool_file import MAX_SPOOL_BYTES
from harness.checks import power_mode
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec, Spooled
from harness.launchers import provisioning
from harness.launchers.client_log import ClientLog
from harness.launchers.local import client_command, reachable, thread_variables
from harness.launchers.provisioning import Place, Wheel
from harness.launchers.remote import RemoteCommand, RemoteConnection
from harness.launchers.ssh_connection import Connection
from harness.launchers.ssh_options import SshOptions
from harness.spec import Table
from profiler.errors import DeviceError, PreconditionError
from profiler.files import printable

BEAT_S, PATIENCE_S = 15.0, 60.0
"""How often a device hears of us, and how long its client outlives our silence."""
_START_TIMEOUT_S = 30.0
_SENSORS_TIMEOUT_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_ABORT_S = 15.0
_WILDCARDS = ("0.0.0.0", "[::]")
_FOLDER_PREFIX = "fedmeter-ssh-"


class RemoteOptions(Protocol):
    """What a session must know of its device, whatever carries the connection to it."""

    @property
    def folder(self) -> str: ...
    @property
    def wheelhouse(self) -> str | None: ...
    @property
    def meter(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def reconnect_s(self) -> float: ...


class SshSession:
    """One client on one device, over as many connections as it takes. What ssh alone does can be replaced."""

    def __init__(self, device: DeviceSpec, join: JoinSpec, wheel: Wheel, control: Path, log: ClientLog) -> None:
        self.device = device
        self.log_path = log.path
        self._join = join
        self._wheel = wheel
        self._control = control
        self._log = log
        self._options: RemoteOptions = self._read_options()
        self._connection = self._new_connection()
        self._running: RemoteCommand | None = None
        self._facts: dict[str, Any] = {}
        self._n_connections = 0
        self._status: int | None = None
        self._unfit = ""
        self._spool = {"own": b"", "before": b""}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"session-{device.id}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        return None

    @property
    def facts(self) -> Mapping[str, Any]:
        options = SshOptions.of(self.device)
        entry = {"launcher": "ssh", "host": options.host, "threads": options.threads, "meter": options.meter}
        return {**entry, **self._facts, "connections": self._n_connections}

    def exit_status(self) -> int | None:
        return self._status

    @property
    def unfit(self) -> str:
        return self._unfit

    def take_spool(self) -> Spooled:
        spool, self._spool = self._spool, {"own": b"", "before": b""}
        return Spooled(**spool)

    def settle(self) -> None:
        pass

    def stop(self, grace_s: float) -> None:
        self._stopping.set()
        running = self._running
        if running is None:
            self._connection.abort()
        else:
            running.send(f"stop {grace_s:g}\n".encode())
            self._thread.join(grace_s + _ABORT_S)
            if self._thread.is_alive():
                self._log.note(f"no answer to the stop: {self.device.id} ends its client by itself in {PATIENCE_S:g} s")
                self._connection.abort()
        self._thread.join()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        status = 1
        try:
            status = self._serve()
        except PreconditionError as error:
            self._log.note(f"error: {error}")
            status = error.exit_code
        except (OSError, subprocess.SubprocessError) as error:
            self._log.note(f"error: {self.device.id}: start: {error}.")
        finally:
            self._connection.close()
            self._log.close()
            self._status = status

    def _serve(self) -> int:
        """The client's exit status, over all connections. Raises DeviceError where one is lost for good."""
        while True:
            status = self._attempt()
            if status is not None:
                return status
            self._running = None
            if not self._stopping.is_set():
                self._reconnect()
            if self._stopping.is_set():
                return -signal.SIGTERM

    def _attempt(self) -> int | None:
        """Start a client and watch it: its exit status, or None where the connection is lost or is to end."""
        try:
            if self._n_connections == 0:
                self._connect()
            running = self._start()
        except DeviceError:
            if self._stopping.is_set() or (self._has_run and self._connection.is_lost()):
                return None
            raise
        return self._watch(running)

    @property
    def _has_run(self) -> bool:
        return bool(self._facts)

    def _connect(self) -> None:
        self._log.note(f"connecting to {self._place_name()}")
        self._connection.open()
        self._n_connections += 1

    def _reconnect(self) -> None:
        """Returns once the device is back, or nobody waits for it; raises DeviceError where it is not back in time."""
        lost = self._connection.failure(
            "run",
            f"the connection was lost, and not back within {self._options.reconnect_s:g} s",
            "Look at its power and network; what it had done is in the log. 'reconnect_s' says how long to wait.",
        )
        until_s, pause_s = time.monotonic() + self._options.reconnect_s, _FIRST_PAUSE_S
        self._log.note("the connection was lost")
        while time.monotonic() + pause_s < until_s and not self._stopping.wait(pause_s):
            self._connection.close()
            self._connection = self._new_connection()
            if self._stopping.is_set():  # and has aborted the connection before
                return
            try:
                self._connect()
            except DeviceError as error:
                self._log.note(str(error))
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
            else:
                return
        if not self._stopping.is_set():
            raise lost

    def _read_options(self) -> RemoteOptions:
        return SshOptions.of(self.device)

    def _place_name(self) -> str:
        return SshOptions.of(self.device).host

    def _new_connection(self) -> RemoteConnection:
        return Connection(self.device.id, SshOptions.of(self.device), self._control, self._log.write)

    def _start(self) -> RemoteCommand:
        """A client under its supervisor, with our packages in place."""
        connection, options = self._connection, self._options
        place = provisioning.look(connection, options.folder, self._wheel.label, time.time)
        if not place.is_there:
            self._log.note(f"installing {self._wheel.label}")
        wheelhouse = None if options.wheelhouse is None else Path(options.wheelhouse)
        provisioning.install(connection, place, self._wheel, wheelhouse)
        try:
            check_required(connection, place, self.device)
        except MissingSensorError as error:
            self._unfit = str(error)
            raise
        server, way = self._server(place)
        running = connection.command(self._supervision(place, server))
        try:
            told = connection.checked("start", running.receive(_START_TIMEOUT_S), running)
        except TimeoutError:
            reason = f"no client after {_START_TIMEOUT_S:g} s"
            raise connection.failure("start", reason, "Look at what else the device does.") from None
        self._facts = {**place.facts(), "reached_by": way, "remote_pid": told.get("started")}
        return running

    def _watch(self, running: RemoteCommand) -> int | None:
        self._running = running
        if self._stopping.is_set():
            running.send(b"stop 0\n")
        while True:
            try:
                answer = running.receive(BEAT_S)
            except TimeoutError:
                running.send(b"beat\n")
                continue
            if answer is None:
                self._check_lost(running)
                return None
            if isinstance(answer.get("spool"), str) and answer.get("of") in self._spool:
                of = str(answer["of"])
                self._spool[of] = (self._spool[of] + answer["spool"].encode())[:MAX_SPOOL_BYTES]
            if isinstance(answer.get("ended"), int):
                return int(answer["ended"])

    def _check_lost(self, running: RemoteCommand) -> None:
        """Raises DeviceError where it is not the connection that was lost."""
        if self._stopping.is_set() or self._connection.is_lost():
            return
        words = running.complaint.strip().splitlines()
        last = f", after: {words[-1]}" if words else ""
        raise self._connection.failure(
            "run",
            f"the client's supervisor there was ended{last}",
            "Look at what ends processes there: memory that runs out (dmesg), a session limit, somebody's hand.",
        )

    def _supervision(self, place: Place, server: str) -> dict[str, Any]:
        options = self._options
        run = self.log_path.absolute().parent.parent.name
        spool = f"{place.folder}/spools/{run}.{self.device.id}"
        command = client_command(
            self.device, self._join, python=place.executable, server=server, meter=options.meter, spool=spool
        )
        command += self._more_arguments()
        return {
            "do": "supervise",
            "command": command,
            "environment": {**place.environment, **thread_variables(options.threads)},
            "folder": place.folder,
            "files": self._secrets(),
            "files_variable": FOLDER_VARIABLE,
            "patience_s": PATIENCE_S,
            "spool": spool,
        }

    def _more_arguments(self) -> list[str]:
        """Of the client's command line."""
        return []

    def _secrets(self) -> dict[str, str]:
        files = client_files(self._join, self.device)
        return {name: base64.b64encode(content).decode() for name, content in files.items()}

    def _server(self, place: Place) -> tuple[str, str]:
        """The server's address as the device reaches it, and by which way. Raises DeviceError where it cannot."""
        options, address = SshOptions.of(self.device), self._join.address
        host, _, port = address.rpartition(":")
        is_here_only = is_loopback(address)
        if is_here_only if options.tunnel is None else options.tunnel:
            return f"127.0.0.1:{self._connection.forward(reachable(address))}", "tunnel"
        if is_here_only:
            raise self._connection.failure(
                "start",
                f"the server listens on {address}, which no other machine reaches",
                "Let the device have a tunnel.",
            )
        if host not in _WILDCARDS and options.server is None:
            return address, "network"
        if options.server is None and options.jump is not None:
            raise self._connection.failure(
                "start",
                "behind a jump host it cannot be seen how the device reaches this machine",
                "Set 'server' to this machine's name as the device knows it, or tunnel = true.",
            )
        name = options.server or place.came_from
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}", "network"


class SshLauncher:
    """Keeps the sockets of its connections in a private folder. Options: `SshOptions`."""

    shares_host: ClassVar[bool] = False

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._sockets = private_folder()
        self._n_started = 0
        self._wheels: dict[str | None, Wheel] = {}
        self._metered: dict[tuple[str, int | None], str] = {}
        self._lock = threading.Lock()

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        return dict(SshOptions.read(entry).as_mapping())

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        return 0.0

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck:
        folder = private_folder()
        connection = Connection(device.id, SshOptions.of(device), folder / "0", lambda _: None)
        is_reached = False
        try:
            connection.open()
            is_reached = True
            return _checked(connection, device)
        except PreconditionError as error:
            return DeviceCheck(False, str(error), reachable=is_reached)
        finally:
            connection.close()
            shutil.rmtree(folder, ignore_errors=True)

    def start(self, device: DeviceSpec, join: JoinSpec) -> SshSession:
        """Returns at once; how it goes shows in the session's status and log."""
        options = SshOptions.of(device)
        with self._lock:
            if options.meter != "none":
                self._meter_alone(device, options)
            if options.wheel not in self._wheels:
                self._wheels[options.wheel] = wheel_of(options.wheel)
            self._n_started += 1
            socket = self._sockets / str(self._n_started)
        log = ClientLog(self._log_dir / f"{device.id}.log")
        return SshSession(device, join, self._wheels[options.wheel], socket, log)

    def _meter_alone(self, device: DeviceSpec, options: SshOptions) -> None:
        other = self._metered.setdefault(options.place, device.id)
        if other != device.id:
            raise DeviceError(
                f"{device.id}: start: {options.host} already runs {other}, and both would count the whole machine.",
                remedy='Set meter = "none" for all but one.',
            )

    def close(self) -> None:
        shutil.rmtree(self._sockets, ignore_errors=True)


def client_files(join: JoinSpec, device: DeviceSpec) -> dict[str, bytes]:
    """The files of a device's security folder by name; none without TLS."""
    if join.tls is None:
        return {}
    folder = client_folder(join.tls, device.id)
    present = [folder / name for name in CLIENT_FILES if (folder / name).exists()]
    return {path.name: path.read_bytes() for path in present}


def wheel_of(wheel: str | None) -> Wheel:
    """Raises PreconditionError."""
    return provisioning.own_wheel() if wheel is None else provisioning.read_wheel(Path(wheel))


def private_folder() -> Path:
    """A new folder with a short name, as names of sockets have to be; what killed harnesses have left is removed."""
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(f"{_FOLDER_PREFIX}*-*"):
        owner = folder.name.removeprefix(_FOLDER_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-"))


class MissingSensorError(DeviceError):
    """A sensor that the fleet file requires cannot be used on a device."""


def check_required(connection: RemoteConnection, place: Place, device: DeviceSpec) -> None:
    """Raises MissingSensorError, or DeviceError where the device cannot be asked."""
    if not device.require:
        return
    found = {sensor["sensor"]: sensor for sensor in sensors_of(connection, place)}
    for name in device.require:
        sensor = found.get(name, {"reason": "there is no such sensor", "remedy": ""})
        if not sensor.get("available"):
            reason = f"required sensor '{name}': {sensor.get('reason')}"
            failure = connection.failure("sensors", reason, str(sensor.get("remedy", "")))
            raise MissingSensorError(failure.args[0], remedy=failure.remedy)


def sensors_of(connection: RemoteConnection, place: Place) -> list[dict[str, Any]]:
    """What `python -m profiler list --json` says there. Raises DeviceError."""
    command = [place.executable, "-m", "profiler", "list", "--json"]
    request = {"do": "run", "command": command, "environment": place.environment, "timeout_s": _SENSORS_TIMEOUT_S}
    answer = connection.ask("sensors", request, timeout_s=_SENSORS_TIMEOUT_S)
    try:
        found = json.loads(str(answer["output"]))["sensors"]
        return [{**sensor, "sensor": str(sensor["sensor"])} for sensor in found]
    except (KeyError, TypeError, ValueError):
        reason = f"the profiler there says nothing of use (exit status {answer.get('status')})"
        raise connection.failure("sensors", reason, "Run it there by hand: python -m profiler list.") from None


def machine_of(connection: RemoteConnection, place: Place) -> dict[str, Any]:
    """What our profiler says of the machine there; nothing where it says nothing of use. Raises DeviceError."""
    program = "import json; from profiler.machine_facts import machine_facts; print(json.dumps(machine_facts()))"
    command = [place.executable, "-c", program]
    request = {"do": "run", "command": command, "environment": place.environment, "timeout_s": _SENSORS_TIMEOUT_S}
    answer = connection.ask("machine", request, timeout_s=_SENSORS_TIMEOUT_S)
    try:
        return dict(json.loads(str(answer.get("output"))))
    except (TypeError, ValueError):
        return {}


def _checked(connection: RemoteConnection, device: DeviceSpec) -> DeviceCheck:
    """What can be told of a device that is connected, without changing it. Raises PreconditionError."""
    options = SshOptions.of(device)
    wheel = wheel_of(options.wheel)
    place = provisioning.look(connection, options.folder, wheel.label, time.time)
    provisioning.check_place(connection, place)
    found = DeviceCheck(
        True,
        "",
        reachable=True,
        machine=f"{place.machine}, Python {'.'.join(map(str, place.python))}",
        clock_offset_s=place.clock_offset_s,
        free_bytes=place.free_bytes,
    )
    if not place.is_there:
        missing = provisioning.requirements(place)
        added = f" with {', '.join(missing)}" if missing else ""
        return replace(found, detail=f"{wheel.label}{added} will be installed, after which sensors can be listed")
    check_required(connection, place, device)
    usable = [one for one in sensors_of(connection, place) if one.get("available")]
    return replace(
        found,
        detail="ready",
        version=wheel.label,
        sensors=tuple((printable(one["sensor"], 64), printable(str(one.get("provenance")), 64)) for one in usable),
        power_mode=power_mode(machine_of(connection, place)),
    )

"""Clients on machines that are reached by ssh: Jetsons, Raspberry Pis, any Linux. They meter themselves.

docs/fleets.md says what a user sees of this.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from fl.security import is_loopback
from harness.checks import power_mode
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec
from harness.launchers import provisioning
from harness.launchers.client_log import ClientLog
from harness.launchers.local import reachable
from harness.launchers.provisioning import Place, Wheel
from harness.launchers.remote import RemoteConnection
from harness.launchers.remote_checks import check_required, machine_of, sensors_of
from harness.launchers.remote_session import RemoteSession, wheel_of
from harness.launchers.shared_options import WILDCARDS
from harness.launchers.ssh_connection import Connection
from harness.launchers.ssh_options import SshOptions
from harness.spec import Table
from profiler.errors import DeviceError, PreconditionError
from profiler.files import printable

_FOLDER_PREFIX = "fedmeter-ssh-"


class SshSession(RemoteSession):
    """Over ssh: by a tunnel, or by the network."""

    def __init__(self, device: DeviceSpec, join: JoinSpec, wheel: Wheel, control: Path, log: ClientLog) -> None:
        self._ssh = SshOptions.of(device)
        self._control = control
        super().__init__(device, join, wheel, self._ssh, log)

    @property
    def facts(self) -> Mapping[str, Any]:
        options = self._ssh
        entry = {"launcher": "ssh", "host": options.host, "threads": options.threads, "meter": options.meter}
        return {**entry, **self._facts, "connections": self._n_connections}

    def _place_name(self) -> str:
        return self._ssh.host

    def _new_connection(self) -> RemoteConnection:
        return Connection(self.device.id, self._ssh, self._control, self._log.write)

    def _server(self, place: Place) -> tuple[str, str]:
        options, address = self._ssh, self._join.entrance
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
        if host not in WILDCARDS and options.server is None:
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


def private_folder() -> Path:
    """A new folder with a short name, as names of sockets have to be; what killed harnesses have left is removed."""
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(f"{_FOLDER_PREFIX}*-*"):
        owner = folder.name.removeprefix(_FOLDER_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-"))


def _checked(connection: RemoteConnection, device: DeviceSpec) -> DeviceCheck:
    """What can be told of a device that is connected, without changing it. Raises PreconditionError."""
    options = SshOptions.of(device)
    wheel = wheel_of(options.wheel)
    place = provisioning.look(connection, options.folder, wheel, time.time)
    provisioning.check_place(connection, place, wheel)
    found = DeviceCheck(
        True,
        "",
        reachable=True,
        machine=f"{place.machine}, Python {'.'.join(map(str, place.python))}",
        clock_offset_s=place.clock_offset_s,
        free_bytes=place.free_bytes,
    )
    if not place.is_there:
        missing = provisioning.requirements(place, wheel)
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

"""A Python client on a device that is reached by commands there: brought, started, watched, and started again.

A thread a device connects, brings our packages there where they are not yet, and starts the client under a supervisor
(`device_side`) that ends it when nobody is heard any more. A connection that breaks is made again, and the client with
it. ssh and adb carry such connections.
"""

from __future__ import annotations

import base64
import signal
import time
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from fl.security import CLIENT_FILES, FOLDER_VARIABLE, client_folder
from fl.spool_file import MAX_SPOOL_BYTES
from harness.device import DeviceSpec
from harness.launcher import JoinSpec, Spooled
from harness.launchers import provisioning
from harness.launchers.client_log import ClientLog
from harness.launchers.local import client_command, thread_variables
from harness.launchers.provisioning import Place, Wheel
from harness.launchers.remote import RemoteCommand, RemoteConnection
from harness.launchers.remote_checks import MissingSensorError, check_required
from harness.launchers.threaded_session import ThreadedSession
from profiler.errors import DeviceError

BEAT_S, PATIENCE_S = 15.0, 60.0
"""How often a device hears of us, and how long its client outlives our silence."""
_START_TIMEOUT_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_ABORT_S = 15.0


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


class RemoteSession(ThreadedSession):
    """One client on one device, over as many connections as it takes. What carries them is for whoever inherits."""

    def __init__(
        self, device: DeviceSpec, join: JoinSpec, wheel: Wheel, options: RemoteOptions, log: ClientLog
    ) -> None:
        super().__init__(device, join, log)
        self._wheel = wheel if join.nodes is None else replace(wheel, beside=join.nodes.packages)
        self._options = options
        self._connection = self._new_connection()
        self._running: RemoteCommand | None = None
        self._n_connections = 0
        self._unfit = ""
        self._spool = {"own": b"", "before": b""}
        self._thread.start()

    @property
    def unfit(self) -> str:
        return self._unfit

    def take_spool(self) -> Spooled:
        spool, self._spool = self._spool, {"own": b"", "before": b""}
        return Spooled(**spool)

    def stop(self, grace_s: float) -> None:
        self._stopping.set()
        running = self._running
        if running is None:
            self._connection.abort()
        else:
            running.send(f"stop {grace_s:g}\n".encode())
            self._thread.join(grace_s + _ABORT_S)
            if self._thread.is_alive():
                self._note(f"no answer to the stop: {self.device.id} ends its client by itself in {PATIENCE_S:g} s")
                self._connection.abort()
        self._thread.join()

    # --- the thread --------------------------------------------------------------------------------------------------

    @abstractmethod
    def _new_connection(self) -> RemoteConnection:
        """Not opened yet."""

    @abstractmethod
    def _place_name(self) -> str:
        """What is connected to, for the log."""

    @abstractmethod
    def _server(self, place: Place) -> tuple[str, str]:
        """The server's address as the device reaches it, and by which way. Raises DeviceError where it cannot."""

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
        self._note(f"connecting to {self._place_name()}")
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
        self._note("the connection was lost")
        while time.monotonic() + pause_s < until_s and not self._stopping.wait(pause_s):
            self._connection.close()
            self._connection = self._new_connection()
            if self._stopping.is_set():  # and has aborted the connection before
                return
            try:
                self._connect()
            except DeviceError as error:
                self._note(str(error))
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
            else:
                return
        if not self._stopping.is_set():
            raise lost

    def _start(self) -> RemoteCommand:
        """A client under its supervisor, with our packages in place."""
        connection, options = self._connection, self._options
        place = provisioning.look(connection, options.folder, self._wheel, time.time)
        if not place.is_there:
            self._note(f"installing {self._wheel.label}")
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
        nodes = self._join.nodes
        if nodes is None:
            work = self._own_client(place, server)
        else:  # which knows no secret of ours, and keeps nothing
            work = {"command": nodes.there(self.device, place.executable, server), "files": {}}
        return {
            "do": "supervise",
            "environment": {**place.environment, **thread_variables(self._options.threads)},
            "folder": place.folder,
            "patience_s": PATIENCE_S,
            "now_s": time.time(),
            **work,
        }

    def _own_client(self, place: Place, server: str) -> dict[str, Any]:
        meter, run = self._options.meter, self.log_path.absolute().parent.parent.name
        spool = f"{place.folder}/spools/{run}.{self.device.id}"
        command = client_command(
            self.device, self._join, python=place.executable, server=server, meter=meter, spool=spool
        )
        return {
            "command": command + self._more_arguments(),
            "files": self._secrets(),
            "files_variable": FOLDER_VARIABLE,
            "spool": spool,
        }

    def _more_arguments(self) -> list[str]:
        """Of the client's command line."""
        return []

    def _secrets(self) -> dict[str, str]:
        files = client_files(self._join, self.device)
        return {name: base64.b64encode(content).decode() for name, content in files.items()}

    def _tidy_up(self) -> None:
        self._connection.close()


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

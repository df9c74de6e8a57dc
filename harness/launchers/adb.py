"""Clients on Android phones that are reached by adb: Python under Termux, or an app. Each meters its own phone.

A session's thread claims its phone, writes down each change before it makes it, starts the client and watches it, and
sets the phone right at the end. docs/fleets.md says what a user sees of this, and what was never seen on hardware.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec
from harness.launchers.adb_app import AppSession
from harness.launchers.adb_connection import AdbConnection, explain, reach
from harness.launchers.adb_options import APP, RUN_AS, AdbOptions
from harness.launchers.client_log import ClientLog
from harness.launchers.phone import connected_by, hidden, sweep
from harness.launchers.phone_claim import left_behind
from harness.launchers.phone_tie import PhoneTie, server_for
from harness.launchers.provisioning import Place, Wheel
from harness.launchers.remote import RemoteConnection
from harness.launchers.remote_session import RemoteSession, wheel_of
from harness.spec import Table
from profiler.clock import SystemClock
from profiler.errors import PreconditionError
from profiler.files import printable
from profiler.sensor import Available
from profiler.sensors.adb import AdbSensor
from profiler.sensors.adb_client import AdbClient


class AdbSession(RemoteSession):
    """A Python client: as over ssh, but adb carries the connection, and the phone's state is kept."""

    def __init__(self, device: DeviceSpec, join: JoinSpec, wheel: Wheel, tie: PhoneTie) -> None:
        self._tie = tie
        super().__init__(device, join, wheel, tie.options, tie.log)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**self._tie.facts, "via": self._tie.options.via, **self._facts, "connections": self._n_connections}

    def _serve(self) -> int:
        self._tie.prepare(self.device.id)
        return super()._serve()

    def _tidy_up(self) -> None:
        super()._tidy_up()  # which ends the client, before the phone is as it was
        self._tie.restore()

    def _place_name(self) -> str:
        return f"its phone, by {connected_by(self._tie.serial)}"

    def _new_connection(self) -> RemoteConnection:
        tie = self._tie
        return AdbConnection(self.device.id, tie.options, tie.client, tie.phone, tie.write)

    def _more_arguments(self) -> list[str]:
        return ["--allow-charging"] if self._tie.options.allow_charging else []

    def _server(self, place: Place) -> tuple[str, str]:
        return server_for(self._tie, self._join, self._connection, self.device.id)


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

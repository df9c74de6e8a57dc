"""A client that is an app of a phone: installed, started by an intent, watched by its process, ended by force."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.device import DeviceSpec
from harness.launcher import JoinSpec
from harness.launchers.adb_connection import AdbConnection, explain
from harness.launchers.adb_options import RUN_AS, AdbOptions
from harness.launchers.phone import SECRETS_FOLDER, hidden
from harness.launchers.phone_claim import Undo
from harness.launchers.phone_tie import PhoneTie, server_for
from harness.launchers.remote import RemoteCommand
from harness.launchers.remote_session import client_files
from harness.launchers.shared_options import NONE
from harness.launchers.threaded_session import ENDED_UNSEEN, ThreadedSession
from harness.sensor_meter import SensorMeter
from profiler.clock import SystemClock
from profiler.errors import DeviceError
from profiler.files import printable
from profiler.sensors.adb import AdbSensor

_INSTALL_TIMEOUT_S = 300.0
_POLL_S = 2.0
_APP_START_S = 20.0
_HELD_S = 0.5  # less than the times between two samples, so that each of them asks the phone
_PID = re.compile(r"\d{1,10}")


class AppSession(ThreadedSession):
    """An app: installed where an apk is given, started by an intent, watched by its process, ended by force."""

    def __init__(self, device: DeviceSpec, join: JoinSpec, tie: PhoneTie) -> None:
        super().__init__(device, join, tie.log)
        self._tie = tie
        self._meter = None if tie.options.meter == NONE else phone_meter(device.id, tie)
        self._logcat: RemoteCommand | None = None
        self._thread.start()

    @property
    def facts(self) -> Mapping[str, Any]:
        options = self._tie.options
        entry = {"package": options.package, "component": options.component}
        metered = {} if self._meter is None else self._meter.facts
        return {**self._tie.facts, **metered, **entry, **self._facts}

    @property
    def meter(self) -> SensorMeter | None:
        return self._meter

    def stop(self, grace_s: float) -> None:
        """An app is told to leave by its server; who is still there is ended by force."""
        if self._status is None and self._facts:
            self._thread.join(grace_s)
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> int:
        self._tie.prepare(self.device.id)
        if self._meter is not None:
            self._meter.look()
            self._note(f"energy is read from here: {self._meter.refusal or 'its battery tells it'}")
        self._start()
        self._watch()
        return ENDED_UNSEEN  # Android does not tell how

    def _tidy_up(self) -> None:
        if self._meter is not None:
            self._meter.stop()
        self._tie.restore()  # which ends the app, too: that was written down before it was started
        if self._logcat is not None:
            self._logcat.kill()
            self._logcat.end()

    def _note(self, text: str) -> None:
        self._tie.note(text)

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
                if self._meter is not None:
                    self._meter.look()
            except DeviceError as error:
                n_silent += 1
                if n_silent > patience:
                    raise DeviceError(
                        f"{self.device.id}: run: {hidden(Exception.__str__(error), self._tie.serial)}.",
                        remedy=error.remedy,
                    ) from None
                with contextlib.suppress(DeviceError):
                    self._tie.client.connect()


def phone_meter(device: str, tie: PhoneTie) -> SensorMeter:
    """What the phone's battery tells from here; an app need not meter itself."""
    options, clock = tie.options, SystemClock()
    sensor = AdbSensor(
        Path("/"),
        clock,
        serial=tie.serial,
        allow_charging=options.allow_charging,
        current_unit=options.current_unit,
        period_s=_HELD_S,
    )
    return SensorMeter(device, sensor, clock, hide=lambda text: hidden(text, tie.serial))


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

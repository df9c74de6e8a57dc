"""Clients that somebody else starts: a colleague on a board, an app on a phone, Flower's client. The run waits for it.

`external` is for all of them; `foreign`, its older name, for those of `foreign = true`, which show nothing that proves
who they are. Others are clients of ours: `invitations` says what to run, and they join under their own name, with their
own meter, like any that a launcher starts.
"""

from __future__ import annotations

import logging
import shlex
import socket
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from fl.security import CA, CLIENT_FILES, client_folder, is_loopback
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec
from harness.launchers.local import client_command, reachable
from harness.launchers.shared_options import HOST, WILDCARDS, check_names, take_meter, take_threads
from harness.spec import Table

log = logging.getLogger("harness")

EXTERNAL, FOREIGN = "external", "foreign"
REMIND_S = 30.0


class ExternalSession:
    """A client that is not ours to watch or to end; the server sees whether it is there."""

    def __init__(self, device: DeviceSpec, log_path: Path, launcher: ExternalLauncher) -> None:
        self.device = device
        self.log_path = log_path
        self._launcher = launcher

    @property
    def pid(self) -> int | None:
        return None

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"launcher": self.device.launcher}

    def exit_status(self) -> int | None:
        return None

    def settle(self) -> None:
        self._launcher.has_joined(self.device.id)

    def stop(self, grace_s: float) -> None:
        self._launcher.has_joined(self.device.id)


class ExternalLauncher:
    """Starts nothing, and reminds every half minute of who has not come yet.

    Options, of devices that run a client of ours: `threads`; `meter`, `auto` or `none`; `server`, this machine's name
    as they know it. They are for the command line that is printed.
    """

    shares_host: ClassVar[bool] = False

    def __init__(self, log_dir: Path, *, remind_s: float = REMIND_S) -> None:
        self._log_dir = log_dir
        self._remind_s = remind_s
        self._waiting: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._reminder: threading.Thread | None = None

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        options: dict[str, Any] = {
            "threads": take_threads(entry),
            "meter": take_meter(entry),
            "server": entry.take("server", str, None),
        }
        check_names(entry, options, {"server": HOST})
        return options

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        return 0.0

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck:
        return DeviceCheck(True, "started by its owner; the run waits for it")

    def start(self, device: DeviceSpec, join: JoinSpec) -> ExternalSession:
        with self._lock:
            self._waiting.add(device.id)
            if self._reminder is None:
                self._reminder = threading.Thread(target=self._remind, name="reminder", daemon=True)
                self._reminder.start()
        return ExternalSession(device, self._log_dir / f"{device.id}.log", self)

    def has_joined(self, device: str) -> None:
        """Or is not waited for any more."""
        with self._lock:
            self._waiting.discard(device)

    def _remind(self) -> None:
        while not self._closed.wait(self._remind_s):
            with self._lock:
                missing = sorted(self._waiting)
            if missing:
                log.warning("still waiting for clients that others start: %s", ", ".join(missing))

    def close(self) -> None:
        self._closed.set()
        if self._reminder is not None:
            self._reminder.join()


def invitations(
    devices: Iterable[DeviceSpec], join: JoinSpec, foreign_address: str | None, foreign_port: int
) -> list[str]:
    """What to tell those who start the external clients: address and command, a line each. No line holds a secret."""
    external = [device for device in devices if device.launcher in (EXTERNAL, FOREIGN)]
    lines = [line for device in external if not device.foreign for line in _our_command(device, join)]
    strangers = [device for device in external if device.foreign]
    if strangers:
        address = join.address
        if foreign_address is not None and foreign_port:
            address = f"{foreign_address.rpartition(':')[0]}:{foreign_port}"
        lines += _for_strangers(strangers, join, address)
    return lines


def _our_command(device: DeviceSpec, join: JoinSpec) -> list[str]:
    server = from_elsewhere(join.address, device.options["server"])
    command = client_command(device, join, python="python3", server=server, meter=device.options["meter"])
    if join.tls is None:
        return [f"start {device.id} there: {shlex.join(command)}"]
    folder = client_folder(join.tls, device.id)
    return [
        f"start {device.id} there, with a copy of {', '.join(CLIENT_FILES)} of {folder} in fedmeter-tls: "
        f"{shlex.join([*command, '--tls', 'fedmeter-tls'])}"
    ]


def _for_strangers(devices: list[DeviceSpec], join: JoinSpec, address: str) -> list[str]:
    """For Flower's client, and for an app."""
    server = from_elsewhere(address, devices[0].options.get("server"))
    names = ", ".join(device.id for device in devices)
    trust = "plain text" if join.tls is None else f"TLS with a copy of {join.tls / CA}"
    flower = "insecure=True" if join.tls is None else f'root_certificates=Path("{CA}").read_bytes()'
    return [
        f"start {len(devices)} clients of others ({names}): at {server} by {trust}; one that tells one of these names "
        "as property device_id gets it, others get a free one",
        f'  Flower\'s: flwr.client.start_client(server_address="{server}", client=..., {flower})',
    ]


def from_elsewhere(address: str, name: str | None) -> str:
    """The server's address as other machines find it: by `name`, else by this machine's own."""
    host, _, port = address.rpartition(":")
    if name is None and (is_loopback(address) or host not in WILDCARDS):
        return reachable(address)
    name = name or socket.gethostname()
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

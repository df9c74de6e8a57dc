"""A session's hold on its phone: its adb, its claim, its log, and how it reaches the server."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from fl.security import is_loopback
from harness.device import DeviceSpec
from harness.launcher import JoinSpec
from harness.launchers.adb_connection import reach
from harness.launchers.adb_options import AdbOptions
from harness.launchers.client_log import ClientLog
from harness.launchers.local import reachable
from harness.launchers.phone import Phone, connected_by, hidden
from harness.launchers.phone_claim import PhoneClaim, digest
from harness.launchers.remote import RemoteConnection
from harness.launchers.shared_options import WILDCARDS
from profiler.errors import DeviceError
from profiler.sensors.adb_client import AdbClient


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
    wants_way = is_loopback(address) or (is_by_usb and host in WILDCARDS and options.server is None)
    if wants_way if options.reverse is None else options.reverse:
        return f"127.0.0.1:{connection.forward(reachable(address))}", "reverse"
    if is_loopback(address):
        raise DeviceError(
            f"{device}: start: the server listens on {address}, which no phone reaches.",
            remedy="Leave out 'reverse', or let it listen on every address: [server] address = \"0.0.0.0:8443\".",
        )
    name = options.server or (host if host not in WILDCARDS else _own_address(tie.serial))
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

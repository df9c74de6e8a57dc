"""What a fleet file says of a device that is reached by ssh, checked so that no value can be taken for an option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.device import DeviceSpec
from harness.launchers.shared_options import HOST, check_names, take_file, take_meter, take_threads, take_wait_s
from harness.spec import Table
from profiler.errors import SpecError

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@\\-]{0,63}")
_JUMP = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,63}@)?[A-Za-z0-9_\[][A-Za-z0-9._:%\]-]{0,253}")
_REMOTE_PATH = re.compile(r"[A-Za-z0-9_./~+ @,=-]{1,512}")


@dataclass(frozen=True, slots=True)
class SshOptions:
    """Where a device is and what its client runs on. None is what ssh, or the launcher, does by itself.

    `tunnel` None: where the server listens on this machine alone. `server` is this machine's name as the device sees
    it; None: the address that the device sees the connection come from.
    """

    host: str
    user: str | None
    port: int | None
    identity: str | None
    known_hosts: str | None
    config: str | None
    accept_new: bool
    jump: str | None
    tunnel: bool | None
    server: str | None
    python: str
    folder: str
    wheel: str | None
    wheelhouse: str | None
    meter: str
    threads: int
    connect_timeout_s: float
    reconnect_s: float

    @classmethod
    def read(cls, entry: Table) -> SshOptions:
        """Raises SpecError."""
        options = cls(
            host=entry.take("host", str),
            user=entry.take("user", str, None),
            port=entry.take("port", int, None),
            identity=take_file(entry, "identity"),
            known_hosts=take_file(entry, "known_hosts"),
            config=take_file(entry, "ssh_config"),
            accept_new=entry.take("accept_new", bool, False),
            jump=entry.take("jump", str, None),
            tunnel=entry.take("tunnel", bool, None),
            server=entry.take("server", str, None),
            python=entry.take("python", str, "python3"),
            folder=entry.take("folder", str, "~/.cache/fedmeter"),
            wheel=take_file(entry, "wheel", ".whl"),
            wheelhouse=take_file(entry, "wheelhouse"),
            meter=take_meter(entry),
            threads=take_threads(entry),
            connect_timeout_s=take_wait_s(entry, "connect_timeout_s", 20.0, 1),
            reconnect_s=take_wait_s(entry, "reconnect_s", 300.0, 0),
        )
        options._check(entry)
        return options

    @classmethod
    def of(cls, device: DeviceSpec) -> SshOptions:
        """As they were read."""
        return cls(**device.options)

    def as_mapping(self) -> Mapping[str, Any]:
        return asdict(self)

    def _check(self, entry: Table) -> None:
        patterns = {"host": HOST, "user": _USER, "server": HOST, "python": _REMOTE_PATH, "folder": _REMOTE_PATH}
        check_names(entry, asdict(self), patterns)
        hops = [] if self.jump is None else self.jump.split(",")
        if not all(_JUMP.fullmatch(hop.replace("{n}", "0")) for hop in hops):
            raise SpecError(f"{entry.where}: jump = {self.jump!r}; it is USER@HOST:PORT, several with commas between.")
        if self.port is not None and not 0 < self.port < 65536:
            raise SpecError(f"{entry.where}: port = {self.port} is none: 1 to 65535.")
        if self.python.startswith("~"):
            raise SpecError(f"{entry.where}: python = {self.python!r}: give a full path, or a name in the PATH.")

    @property
    def place(self) -> tuple[str, int | None]:
        """What tells one machine from another, as far as their names do."""
        return self.host.lower(), self.port

    def ssh_arguments(self) -> list[str]:
        """What every call of ssh to this device begins with, its name apart: nobody is there to be asked anything."""
        arguments = [] if self.config is None else ["-F", self.config]
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "accept-new" if self.accept_new else "yes",
            "ConnectTimeout": str(max(1, round(self.connect_timeout_s))),
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "3",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no",
            "RequestTTY": "no",
            "LogLevel": "ERROR",
        }
        if self.known_hosts is not None:
            settings["UserKnownHostsFile"] = f'"{self.known_hosts}"'
        if self.identity is not None:
            settings["IdentitiesOnly"] = "yes"
            arguments += ["-i", self.identity]
        for name, value in settings.items():
            arguments += ["-o", f"{name}={value}"]
        optional = {"-l": self.user, "-p": self.port, "-J": self.jump}
        for flag, given in optional.items():
            arguments += [] if given is None else [flag, str(given)]
        return arguments

"""The seam to where clients run: start one, watch it, stop it for certain."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

from fl.calls import Transport
from fl.plugins import load_plugin
from fl.workload import Partition
from harness.device import DeviceSpec
from harness.energy_sources import DeviceMeter
from harness.spec import Table
from profiler.errors import SpecError, UsageError

ENTRY_POINT_GROUP = "fedmeter.launchers"


class NodeProgram(Protocol):
    """A program with processes of its own, which runs on devices instead of our client and joins for them."""

    @property
    def address(self) -> str:
        """HOST:PORT of this machine where it joins."""
        ...

    @property
    def packages(self) -> tuple[tuple[str, str], ...]:
        """Name and version of what it is made of, beside ours."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """On this host, beside this process's."""
        ...

    def here(self, device: DeviceSpec) -> list[str]:
        """Its command on this host."""
        ...

    def there(self, device: DeviceSpec, python: str, address: str) -> list[str]:
        """Its command where our packages and its own are, and where `address` leads to its own; in an empty folder
        that is removed afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class JoinSpec:
    """What a client must be told to join: where, what to train on, and the security folder that its files are from.

    What is secret reaches a client through files, never through its command line, which every user can read. `nodes`
    is what runs instead of our client. A client that is reached without a network joins by `admit`. `workers` processes
    train for such clients, at what `costs_of` (a workload; None: the one that is trained) costs in `steps_per_epoch`
    steps (None: its own).
    """

    address: str
    workload: str
    partition: Partition
    tls: Path | None = None
    workload_options: Mapping[str, Any] = field(default_factory=dict)
    admit: Callable[[str, Transport], None] | None = None
    workers: int = 1
    costs_of: str | None = None
    steps_per_epoch: int | None = None
    nodes: NodeProgram | None = None

    @property
    def entrance(self) -> str:
        """HOST:PORT of this machine where what runs on a device joins: at our server, or at what carries it there."""
        return self.address if self.nodes is None else self.nodes.address


@dataclass(frozen=True, slots=True)
class DeviceCheck:
    """What `--check` says of one device. None is what nobody has asked or nobody has told.

    `version` is that of our packages or of the program there, `machine` its architecture and interpreter, `sensors` are
    name and provenance of those that can be used; `clock_offset_s` bounds its wall clock less this machine's, s.
    """

    ok: bool
    detail: str
    reachable: bool | None = None
    version: str | None = None
    machine: str | None = None
    sensors: tuple[tuple[str, str], ...] | None = None
    clock_offset_s: tuple[float, float] | None = None
    free_bytes: int | None = None
    power_mode: str | None = None


class Session(Protocol):
    """One started client."""

    device: DeviceSpec
    log_path: Path

    @property
    def pid(self) -> int | None:
        """Process id on this host, None where the client runs elsewhere."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """How it was started, for devices/<id>.json: limits and by what they are enforced."""
        ...

    def exit_status(self) -> int | None:
        """None while it runs; a negative number is the signal that ended it."""
        ...

    def settle(self) -> None:
        """The client has joined: put the limits of its device on it. Start-up runs without them; it is not measured."""
        ...

    def stop(self, grace_s: float) -> None:
        """End it, politely for `grace_s`, then for certain. Returns when it has ended; harmless when it has."""
        ...


@runtime_checkable
class FindsUnfit(Protocol):
    """A session that may find out that its device lacks what the fleet requires of it: no run begins without that."""

    @property
    def unfit(self) -> str:
        """What it lacks; empty where it has all, as far as is known."""
        ...


@runtime_checkable
class HasMeter(Protocol):
    """A session that reads a meter of its device from here, for a client that does not meter itself."""

    @property
    def meter(self) -> DeviceMeter | None:
        """None where there is none to be read."""
        ...


@dataclass(frozen=True, slots=True)
class Spooled:
    """What clients of a device have measured and no server has confirmed, as `fl.spool_file` writes it.

    `own` is of the client of the session, `before` of one that an earlier session had left behind.
    """

    own: bytes = b""
    before: bytes = b""


@runtime_checkable
class KeepsSpool(Protocol):
    """A session whose client leaves behind what it could not send."""

    def take_spool(self) -> Spooled:
        """Once it has ended; each byte once. Must be quick: what comes from elsewhere has come by then."""
        ...


class Launcher(Protocol):
    """Chosen by name through the entry points `fedmeter.launchers`; constructed with the folder for logs."""

    shares_host: ClassVar[bool]
    """Whether its clients run on this host and are metered by the host's meter."""

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        """Take and check the launcher's own keys of a device entry. Raises SpecError."""
        ...

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        """How many of this host's cores the device can use."""
        ...

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck: ...

    def __init__(self, log_dir: Path) -> None: ...

    def start(self, device: DeviceSpec, join: JoinSpec) -> Session:
        """May take its time; called from several threads at once, which live until the run ends. Raises DeviceError."""
        ...

    def close(self) -> None:
        """Undo what outlives the sessions: quotas, tunnels."""
        ...


def launcher_class(name: str, where: str = "launcher") -> type[Launcher]:
    """Raises SpecError with the nearest name where there is no such launcher."""
    try:
        return cast("type[Launcher]", load_plugin(ENTRY_POINT_GROUP, name))
    except UsageError as error:
        raise SpecError(f"{where}: {error}") from None


def log_tail(path: Path, lines: int = 12, limit_bytes: int = 8192) -> str:
    """The last lines of a log, for an error message; empty where there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - limit_bytes))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def signal_name(exit_status: int) -> str:
    """`exit status 3` or `killed by SIGKILL`."""
    if exit_status >= 0:
        return f"exit status {exit_status}"
    try:
        return f"killed by {signal.Signals(-exit_status).name}"
    except ValueError:
        return f"killed by signal {-exit_status}"

"""A network of its own for one client: slow, far away, lossy, as a fleet file asks; and gone when the client is.

The client lives in a network namespace (network_namespaces(7)) that one link joins to this host. A link is a veth pair
shaped by the kernel, tc-netem(8) or tc-tbf(8), where the kernel has what is asked for, else a pair of TUN devices
between which a process of ours carries the packets (`harness.launchers.packets`). The server is reached through a relay
at the host's end of the link, so that it need not listen anywhere else than it does.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.launchers import packets, relay
from harness.launchers.tether import tethered
from harness.spec import Table
from profiler.errors import DeviceError, SpecError

log = logging.getLogger("harness")

KEYS = {"bandwidth_mbps": (0.01, 10_000.0), "latency_ms": (0.0, 60_000.0), "loss": (0.0, 0.9)}
"""What a device entry can ask for, and between which bounds: 10^6 bit/s, milliseconds and a probability, each way."""
TC, PACKETS = "tc", "packets"
_NETWORK = ipaddress.ip_network("198.18.0.0/15")  # for tests between networks, never routed (RFC 2544, RFC 6890)
_SLOTS = _NETWORK.num_addresses // 4
_TRIES = 64
_PREFIX = "fedmeter-"
_NAMESPACES = Path("/run/netns")
_COMMAND_S = 10.0
_QUEUE_PACKETS = 1000
_QUEUE_MS = 400
_END_S = 2.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked of a link, each way; None and 0: as it comes."""

    bandwidth_mbps: float | None = None
    latency_ms: float = 0.0
    loss: float = 0.0

    @property
    def wants(self) -> list[str]:
        return [key for key in KEYS if getattr(self, key)]


def read_shape(entry: Table) -> dict[str, float]:
    """Take `bandwidth_mbps`, `latency_ms` and `loss`, as far as they are there. Raises SpecError."""
    options = {}
    for key, (least, most) in KEYS.items():
        value: float | None = entry.take(key, float, None)
        if value is None:
            continue
        entry.at_least(key, value, least)
        if value > most:
            raise SpecError(f"{entry.where}: '{key}' must be at most {most:g}, got {value:g}.")
        options[key] = value
    return options


def shape_of(options: Mapping[str, Any]) -> Shape | None:
    """Of a device's options; None where they ask for nothing."""
    asked = {key: float(options[key]) for key in KEYS if options.get(key)}
    return Shape(**asked) if asked else None


class Link:
    """A namespace and its way to this host. Made by `make_link`."""

    def __init__(self, namespace: str, slot: int, by: Mapping[str, str]) -> None:
        self.namespace = namespace
        self.by = by
        base = _NETWORK.network_address + 4 * slot
        self.here, self.there = str(base + 1), str(base + 2)
        self.device, _ = _names(slot)
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def path(self) -> Path:
        return _NAMESPACES / self.namespace

    @property
    def facts(self) -> dict[str, Any]:
        return {"network_shaped_by": dict(self.by)}

    def inside(self, command: list[str]) -> list[str]:
        """The command that runs `command` in the namespace, in the same process."""
        return [_tool("nsenter"), f"--net={self.path}", "--", *command]

    def keep(self, process: subprocess.Popen[bytes]) -> None:
        """End it with the link."""
        self._processes.append(process)

    def serve(self, target: str) -> str:
        """Where a client in the namespace finds `target`, HOST:PORT as seen from this host. Raises DeviceError."""
        process, said = _helper([relay.__file__, self.device, self.here, target])
        self.keep(process)
        if not said.isdigit():
            raise DeviceError(f"{self.namespace}: no relay to {target}: {said or 'it ended'}.")
        return f"{self.here}:{said}"

    def release(self) -> None:
        """Leave nothing behind. Harmless where nothing is left."""
        for process in self._processes:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        remove_namespace(self.namespace)


def make_link(shape: Shape, name: str, *, ways: tuple[str, ...] = (TC, PACKETS), pid: int | None = None) -> Link:
    """A namespace with a link of this shape, by the first of these ways that this host has.

    `pid` is the process that it belongs to (None: this one). Raises DeviceError, which says what stands in the way.
    """
    if problem := _problem():
        raise DeviceError(f"{name}: {', '.join(shape.wants)} cannot be had: {problem}.", remedy=_REMEDY)
    namespace = f"{_PREFIX}{pid or os.getpid()}-{name}"
    remove_namespace(namespace)
    run("ip", "netns", "add", namespace)
    said = []
    try:
        for way in ways:
            try:
                link = _WAYS[way](shape, namespace)
            except DeviceError as error:
                said.append(str(error))
            else:
                return link
    except BaseException:
        remove_namespace(namespace)
        raise
    remove_namespace(namespace)
    raise DeviceError(f"{name}: {', '.join(shape.wants)} cannot be had: {'; '.join(said)}", remedy=_MODULES)


_REMEDY = "Run as root, with iproute2 and util-linux installed, or leave out bandwidth_mbps, latency_ms and loss."
_MODULES = "Load the kernel's modules: modprobe sch_netem sch_tbf tun."


def _problem() -> str:
    """Why no namespace can be made here, in words; empty where one can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    absent = [tool for tool in ("ip", "nsenter") if _tool(tool, absent="") == ""]
    return f"{' and '.join(absent)} not installed" if absent else ""


def _shaped_by_kernel(shape: Shape, namespace: str) -> Link:
    """A veth pair: the host's end shapes what goes to the client, the client's end what comes from it."""
    kind, words = _qdisc(shape)

    def join(here: str, there: str) -> None:
        run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", namespace)

    slot = _free_slot(namespace, join)
    here, there = _names(slot)
    link = Link(namespace, slot, dict.fromkeys(shape.wants, f"tc {kind}"))
    try:
        _address(link, here, there)
        for at in (["tc"], ["tc", "-n", namespace]):
            run(*at, "qdisc", "add", "dev", here if at == ["tc"] else there, "root", kind, *words)
    except DeviceError as error:
        with contextlib.suppress(DeviceError):
            run("ip", "link", "del", here)
        raise DeviceError(f"the kernel's {kind}: {error}") from None
    return link


def _qdisc(shape: Shape) -> tuple[str, list[str]]:
    """tbf where bandwidth is all that is asked for, since more kernels have it; netem does the rest."""
    rate = [] if shape.bandwidth_mbps is None else ["rate", f"{round(shape.bandwidth_mbps * 1e6)}bit"]
    if shape.bandwidth_mbps is not None and shape.wants == ["bandwidth_mbps"]:
        burst_bytes = max(4000, round(shape.bandwidth_mbps * 1e6 / 8 / 250))  # what passes between two ticks at 250 Hz
        return "tbf", [*rate, "burst", str(burst_bytes), "latency", f"{_QUEUE_MS}ms"]
    words = ["limit", str(_QUEUE_PACKETS), "delay", f"{round(shape.latency_ms * 1000)}us"]
    loss = ["loss", f"{100 * shape.loss:g}%"] if shape.loss else []
    return "netem", [*words, *loss, *rate]


def _carried_by_us(shape: Shape, namespace: str) -> Link:
    """Two TUN devices; a process of ours carries the packets from one to the other and back."""
    made: list[subprocess.Popen[bytes]] = []
    numbers = [str((shape.bandwidth_mbps or 0.0) * 1e6), str(shape.latency_ms / 1e3), str(shape.loss)]

    def join(here: str, there: str) -> None:
        process, said = _helper([packets.__file__, here, there, str(_NAMESPACES / namespace), *numbers])
        if said != packets.READY:
            process.wait()
            raise DeviceError(f"packets between TUN devices: {said or 'it ended'}")
        made.append(process)

    slot = _free_slot(namespace, join)
    link = Link(namespace, slot, dict.fromkeys(shape.wants, "packets carried by fedmeter"))
    link.keep(made[0])
    try:
        _address(link, *_names(slot))
    except DeviceError:
        link.release()
        raise
    return link


_WAYS: Mapping[str, Callable[[Shape, str], Link]] = {TC: _shaped_by_kernel, PACKETS: _carried_by_us}


def _names(slot: int) -> tuple[str, str]:
    """Of the link's ends, here and there: at most 15 characters."""
    return f"fm{slot}h", f"fm{slot}d"


def _free_slot(namespace: str, join: Callable[[str, str], None]) -> int:
    """The first slot whose names nobody has, joined: each stands for four addresses. Raises DeviceError."""
    first = zlib.crc32(namespace.encode()) % _SLOTS
    for slot in ((first + n) % _SLOTS for n in range(_TRIES)):
        here, there = _names(slot)
        if Path("/sys/class/net", here).exists():
            continue
        try:
            join(here, there)
        except DeviceError:
            if not Path("/sys/class/net", here).exists():  # else somebody was faster
                raise
        else:
            return slot
    raise DeviceError(f"{namespace}: no address is free in {_NETWORK}")


def _address(link: Link, here: str, there: str) -> None:
    run("ip", "address", "add", f"{link.here}/30", "dev", here)
    run("ip", "link", "set", here, "up")
    within = ("ip", "-n", link.namespace)
    run(*within, "address", "add", f"{link.there}/30", "dev", there)
    for device in (there, "lo"):
        run(*within, "link", "set", device, "up")


def remove_namespace(namespace: str) -> None:
    """With its end of the link, which takes the host's end along. Harmless where there is none."""
    if (_NAMESPACES / namespace).exists():
        try:
            run("ip", "netns", "del", namespace)
        except DeviceError as error:
            log.warning("network namespace %s is left behind: %s", namespace, error)


def stale_namespaces() -> Iterator[str]:
    """Those whose harness has ended."""
    for path in _NAMESPACES.glob(f"{_PREFIX}*-*") if _NAMESPACES.is_dir() else ():
        owner = path.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            yield path.name


def sweep_stale_links() -> None:
    """Remove what harnesses that were killed left behind."""
    for namespace in stale_namespaces():
        remove_namespace(namespace)


def _tool(name: str, absent: str | None = None) -> str:
    """Where a program is: administrators' programs are not on everybody's path."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or (
        name if absent is None else absent
    )


def run(*command: str) -> None:
    """Raises DeviceError with what it said, where it fails."""
    try:
        done = subprocess.run(
            [_tool(command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMMAND_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{' '.join(command[:4])}: {error}") from None
    if done.returncode != 0:
        raise DeviceError(f"{' '.join(command[:4])}: {done.stderr.strip()[-300:] or done.returncode}")


def _helper(arguments: list[str]) -> tuple[subprocess.Popen[bytes], str]:
    """A program of ours that says one line once it is up, and dies with us. The line, empty where it ended."""
    process = subprocess.Popen(
        tethered([sys.executable, "-I", "-S", *arguments]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    if process.stdout is None:
        raise RuntimeError("no pipe")
    with process.stdout as said:
        return process, said.readline(500).decode(errors="replace").strip()

"""Clients as processes of this machine, slowed down by a CPU quota where the fleet file asks for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fl.security import FOLDER_VARIABLE
from fl.spool_file import MAX_SPOOL_BYTES
from harness.cgroups import sweep_stale_cgroups
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec, Spooled
from harness.launchers.limits import MB, allowed_cores, missing_cores, read_limits, usable_cores
from harness.launchers.tether import tethered
from harness.links import Link, make_link, read_shape, shape_of, sweep_stale_links
from harness.memory_limit import MemoryLimit, limit_memory
from harness.processes import with_descendants
from harness.quota import Quota, limit_cpu
from harness.spec import Table
from profiler.errors import DeviceError

# One thread each: libraries that guess from the number of cores would oversubscribe a machine with many clients.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds one client back, and by what means: CPU, memory, cores (none: any), network."""

    quota: Quota | None = None
    memory: MemoryLimit | None = None
    cores: tuple[int, ...] = ()
    link: Link | None = None

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if self.quota is not None:
            facts["cpu_limited_by"] = self.quota.by
        if self.memory is not None:
            facts["memory_limited_by"] = self.memory.by
        if self.cores:
            facts["pinned_to_cores"] = list(self.cores)
        return facts if self.link is None else {**facts, **self.link.facts}

    def release(self) -> None:
        for limit in (self.quota, self.memory, self.link):
            if limit is not None:
                limit.release()


class LocalSession:
    """One client process."""

    def __init__(
        self,
        device: DeviceSpec,
        process: subprocess.Popen[bytes],
        limits: Limits,
        log_path: Path,
        before: bytes = b"",
        *,
        has_tree: bool = False,
    ) -> None:
        self._has_tree = has_tree
        self.device = device
        self.log_path = log_path
        self._before = before
        self._process = process
        self._limits = limits
        self._has_told = False

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"launcher": "local", "pid": self._process.pid, **self.device.options, **self._limits.facts}

    def exit_status(self) -> int | None:
        status = self._process.poll()
        if status is not None:
            self._tell_memory()
        return status

    def _tell_memory(self) -> None:
        """Into the log, of which the end is shown: a SIGKILL alone does not say by whom."""
        memory, limit_mb = self._limits.memory, self.device.options.get("memory_limit_mb")
        if memory is not None and not self._has_told and memory.was_exceeded():
            self._has_told = True
            tell(self.log_path, f"ended for taking more than memory_limit_mb = {limit_mb} ({memory.by})")

    def settle(self) -> None:
        if self._process.poll() is not None:
            return
        for pid in with_descendants(self._process.pid) if self._has_tree else [self._process.pid]:
            if self._limits.cores:
                pin(pid, self._limits.cores)
            if self._limits.quota is not None:
                self._limits.quota.attach(pid)

    def stop(self, grace_s: float) -> None:
        if self._limits.quota is not None:
            self._limits.quota.lift()  # a stopped process would not see the signal, and a slow one takes long to end
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._tell_memory()
        self._limits.release()

    def take_spool(self) -> Spooled:
        before, self._before = self._before, b""
        return Spooled(take_file(spool_path(self.log_path)), before)


def spool_path(log_path: Path) -> Path:
    """Beside the log of a client: what it has measured and not got confirmed."""
    return log_path.with_suffix(".spool").absolute()


def take_file(path: Path) -> bytes:
    """As much of it as a spool may have; it is gone then. Empty where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SPOOL_BYTES)
        path.unlink()
    except OSError:
        return b""
    return data


class LocalLauncher:
    """Clients that fit onto single cores are pinned to them, so that they do not slow each other down.

    Options of a device entry: those of `harness.launchers.limits` and of `harness.links`."""

    shares_host: ClassVar[bool] = True

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._cores = Cores(usable_cores())
        sweep_stale_cgroups()
        sweep_stale_links()

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        return {**read_limits(entry), **read_shape(entry)}

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        return allowed_cores(device.options)

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck:
        if absent := missing_cores(device.options):
            return DeviceCheck(False, absent)
        try:
            limits = _make_limits(device, f"check-{device.id}")
        except DeviceError as error:
            return DeviceCheck(False, str(error))
        limits.release()
        told = ["process on this host"]
        if limits.quota is not None:
            told.append(f"{device.options['cpu_limit']:g} of a core by {limits.quota.by}")
        if limits.memory is not None:
            told.append(f"{device.options['memory_limit_mb']} MB by {limits.memory.by}")
        if limits.link is not None:
            told += [f"{key} {device.options[key]:g} by {by}" for key, by in limits.link.by.items()]
        return DeviceCheck(True, ", ".join(told))

    def start(self, device: DeviceSpec, join: JoinSpec) -> LocalSession:
        if absent := missing_cores(device.options):
            raise DeviceError(f"{device.id}: {absent}.")
        log_path = self._log_dir / f"{device.id}.log"
        before = take_file(spool_path(log_path))  # of a harness that was killed
        limits = _make_limits(device, device.id, self._place(device))
        if join.nodes is not None:
            _require_cgroups(device, limits)
        try:
            command = _command(device, join, limits.link, spool_path(log_path))
            with log_path.open("ab") as log_file:
                process = subprocess.Popen(
                    tethered(command),
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=subprocess.STDOUT,
                    env=_environment(device, join),
                    start_new_session=True,  # Ctrl-C is for the harness, which then stops its clients in order
                )
        except OSError as error:
            limits.release()
            raise DeviceError(f"{device.id}: cannot start a client: {error}.") from error
        except DeviceError:
            limits.release()
            raise
        if limits.memory is not None:
            limits.memory.attach(process.pid)  # at once: what it has before would not count
        return LocalSession(device, process, limits, log_path, before, has_tree=join.nodes is not None)

    def _place(self, device: DeviceSpec) -> tuple[int, ...]:
        if chosen := device.options.get("cores"):
            self._cores.take(chosen)
            return tuple(chosen)
        core = self._cores.place(device.id, self.cores(device))
        return () if core is None else (core,)

    def close(self) -> None:
        pass


def _make_limits(device: DeviceSpec, name: str, cores: tuple[int, ...] = ()) -> Limits:
    cpu_limit, memory_limit_mb = device.options.get("cpu_limit"), device.options.get("memory_limit_mb")
    shape = shape_of(device.options)
    link = None if shape is None else make_link(shape, name)  # first: it alone can fail
    return Limits(
        quota=None if cpu_limit is None else limit_cpu(float(cpu_limit), name),
        memory=None if memory_limit_mb is None else limit_memory(memory_limit_mb * MB, name),
        cores=cores,
        link=link,
    )


def _require_cgroups(device: DeviceSpec, limits: Limits) -> None:
    """Of all limits, those of a cgroup alone hold for processes that are yet to be started."""
    for key, limit in (("cpu_limit", limits.quota), ("memory_limit_mb", limits.memory)):
        if limit is not None and not limit.by.startswith("cgroup"):
            limits.release()
            raise DeviceError(
                f"{device.id}: {key} of a SuperNode needs a cgroup, and none can be made here.",
                remedy=f"Run as root, or where cgroups are handed on to you; or leave out {key}.",
            )


def _command(device: DeviceSpec, join: JoinSpec, link: Link | None, spool: Path) -> list[str]:
    """Of a client here, or of one that has this machine's server at the end of a link."""
    if join.nodes is not None:
        return join.nodes.here(device)
    if link is None:
        return client_command(device, join, spool=str(spool))
    target = reachable(join.address)
    command = client_command(device, join, server=link.serve(target), server_name=host_of(target), spool=str(spool))
    return link.inside(command)


def tell(log_path: Path, what: str) -> None:
    """Add a line of ours to the log of a client that has ended."""
    with contextlib.suppress(OSError), log_path.open("a", encoding="utf-8") as log_file:
        log_file.write(f"fedmeter: {what}\n")


class Cores:
    """Places clients on cores by first fit; what does not fit is left to the kernel."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._free = dict.fromkeys(cores, 1.0)
        self._placed: dict[str, int | None] = {}
        self._lock = threading.Lock()

    def place(self, device: str, demand: float) -> int | None:
        """The core of a device, the same each time it is asked for; None where no core has so much left."""
        with self._lock:
            if device not in self._placed:
                core = next((core for core, free in self._free.items() if demand <= free + 1e-9), None)
                if core is not None:
                    self._free[core] -= demand
                self._placed[device] = core
            return self._placed[device]

    def take(self, cores: Iterable[int]) -> None:
        """Cores that a device was given by name are not for others that are placed later."""
        with self._lock:
            self._free.update(dict.fromkeys(self._free.keys() & set(cores), 0.0))


def pin(pid: int, cores: Iterable[int]) -> None:
    """Keep a process on these cores, all its threads; those they start later inherit it. Harmless once ended."""
    if sys.platform == "linux":
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)


def thread_variables(threads: int) -> dict[str, str]:
    """The environment that has libraries use so many threads, and not one a core."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def _environment(device: DeviceSpec, join: JoinSpec) -> dict[str, str]:
    nodes = {} if join.nodes is None else join.nodes.environment
    environment = {**os.environ, **nodes, **thread_variables(device.options["threads"])}
    environment.pop(FOLDER_VARIABLE, None)
    return environment if join.tls is None else {**environment, FOLDER_VARIABLE: str(join.tls)}


def client_command(
    device: DeviceSpec,
    join: JoinSpec,
    *,
    python: str = sys.executable,
    server: str | None = None,
    server_name: str | None = None,
    meter: str = "none",
    spool: str | None = None,
) -> list[str]:
    """The command line of a Python client. On this machine its power is metered from outside, by the host's meter.

    `server` is where it finds the server, by default from this machine; `server_name` what its certificate says then.
    """
    partition = join.partition
    values = {
        "--server": server or reachable(join.address),
        "--device": device.id,
        "--workload": join.workload,
        "--shard": device.shard,
        "--shards": partition.shards,
        "--partition": partition.kind,
        "--alpha": partition.alpha,
        "--partition-seed": partition.seed,
        "--threads": device.options["threads"],
        "--meter": meter,
        **({} if spool is None else {"--spool": spool}),
    }
    if server_name is not None:
        values["--server-name"] = server_name
    options = [f"{name}={_option_text(value)}" for name, value in join.workload_options.items()]
    return [
        *(python, "-m", "fl.client"),
        *(str(part) for pair in values.items() for part in pair),
        *(part for option in options for part in ("--workload-option", option)),
    ]


def _option_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def host_of(address: str) -> str:
    """HOST of HOST:PORT, without the brackets of IPv6."""
    return address.rpartition(":")[0].strip("[]")


def reachable(address: str) -> str:
    """Where a server that listens on every address is found from this machine, by a name in its certificate."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host == "0.0.0.0" else f"[::1]:{port}" if host == "[::]" else address

"""Clients as processes of this machine, slowed down by a CPU quota where the fleet file asks for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fl.security import FOLDER_VARIABLE
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec
from harness.launchers import tether
from harness.quota import Quota, limit_cpu, sweep_stale_cgroups
from harness.spec import Table
from profiler.errors import DeviceError

# One thread each: libraries that guess from the number of cores would oversubscribe a machine with many clients.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class LocalSession:
    """One client process."""

    def __init__(
        self,
        device: DeviceSpec,
        process: subprocess.Popen[bytes],
        quota: Quota | None,
        core: int | None,
        log_path: Path,
    ) -> None:
        self.device = device
        self.log_path = log_path
        self._process = process
        self._quota = quota
        self._core = core

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def facts(self) -> Mapping[str, Any]:
        facts: dict[str, Any] = {"launcher": "local", "pid": self._process.pid, **self.device.options}
        if self._quota is not None:
            facts["cpu_limited_by"] = self._quota.by
        if self._core is not None:
            facts["pinned_to_core"] = self._core
        return facts

    def exit_status(self) -> int | None:
        return self._process.poll()

    def settle(self) -> None:
        if self._process.poll() is not None:
            return
        if self._core is not None:
            pin(self._process.pid, self._core)
        if self._quota is not None:
            self._quota.attach(self._process.pid)

    def stop(self, grace_s: float) -> None:
        if self._quota is not None:
            self._quota.lift()  # a stopped process would not see the signal, and a slow one takes long to end
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._quota is not None:
            self._quota.release()


class LocalLauncher:
    """Clients that fit onto single cores are pinned to them, so that they do not slow each other down.

    Options of a device entry: `cpu_limit` (cores, such as 0.5; absent: no limit) and `threads` (default 1)."""

    shares_host: ClassVar[bool] = True

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._cores = Cores(usable_cores())
        sweep_stale_cgroups()

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        options: dict[str, Any] = {"threads": entry.take("threads", int, 1)}
        entry.at_least("threads", options["threads"], 1)
        cpu_limit: float | None = entry.take("cpu_limit", float, None)
        if cpu_limit is not None:
            entry.at_least("cpu_limit", cpu_limit, 0.05)
            options["cpu_limit"] = cpu_limit
        return options

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        threads, limit = float(device.options["threads"]), device.options.get("cpu_limit")
        return threads if limit is None else min(threads, float(limit))

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck:
        cpu_limit = device.options.get("cpu_limit")
        if cpu_limit is None:
            return DeviceCheck(True, "process on this host")
        quota = limit_cpu(float(cpu_limit), f"check-{device.id}")
        quota.release()
        return DeviceCheck(True, f"process on this host, {cpu_limit:g} of a core by {quota.by}")

    def start(self, device: DeviceSpec, join: JoinSpec) -> LocalSession:
        log_path = self._log_dir / f"{device.id}.log"
        cpu_limit = device.options.get("cpu_limit")
        quota = None if cpu_limit is None else limit_cpu(float(cpu_limit), device.id)
        try:
            with log_path.open("ab") as log_file:
                process = subprocess.Popen(
                    tethered(client_command(device, join)),
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=subprocess.STDOUT,
                    env=_environment(device, join),
                    start_new_session=True,  # Ctrl-C is for the harness, which then stops its clients in order
                )
        except OSError as error:
            if quota is not None:
                quota.release()
            raise DeviceError(f"{device.id}: cannot start a client: {error}.") from error
        return LocalSession(device, process, quota, self._cores.place(device.id, self.cores(device)), log_path)

    def close(self) -> None:
        pass


class Cores:
    """Places clients on cores by first fit; what does not fit is left to the kernel."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._free = dict.fromkeys(cores, 1.0)
        self._placed: dict[str, int | None] = {}

    def place(self, device: str, demand: float) -> int | None:
        """The core of a device, the same each time it is asked for; None where no core has so much left."""
        if device not in self._placed:
            core = next((core for core, free in self._free.items() if demand <= free + 1e-9), None)
            if core is not None:
                self._free[core] -= demand
            self._placed[device] = core
        return self._placed[device]


def usable_cores() -> list[int]:
    """The cores this process may run on; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, all its threads; those they start later inherit it. Harmless where it has ended."""
    if sys.platform == "linux":
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), {core})


def thread_variables(threads: int) -> dict[str, str]:
    """The environment that has libraries use so many threads, and not one a core."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


def _environment(device: DeviceSpec, join: JoinSpec) -> dict[str, str]:
    environment = {**os.environ, **thread_variables(device.options["threads"])}
    environment.pop(FOLDER_VARIABLE, None)
    return environment if join.tls is None else {**environment, FOLDER_VARIABLE: str(join.tls)}


def tethered(command: list[str]) -> list[str]:
    """The command that runs `command` so that it dies with this process."""
    return [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *command]


def client_command(
    device: DeviceSpec, join: JoinSpec, *, python: str = sys.executable, server: str | None = None, meter: str = "none"
) -> list[str]:
    """The command line of a Python client. On this machine its power is metered from outside, by the host's meter.

    `server` is where it finds the server, by default from this machine.
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
    }
    options = [f"{name}={_option_text(value)}" for name, value in join.workload_options.items()]
    return [
        *(python, "-m", "fl.client"),
        *(str(part) for pair in values.items() for part in pair),
        *(part for option in options for part in ("--workload-option", option)),
    ]


def _option_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def reachable(address: str) -> str:
    """Where a server that listens on every address is found from this machine, by a name in its certificate."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host == "0.0.0.0" else f"[::1]:{port}" if host == "[::]" else address

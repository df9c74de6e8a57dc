"""Docker or Podman, by their common command line: what is there, what runs, and what an earlier run left behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from profiler.errors import DeviceError

ENGINES = ("docker", "podman")
OWNER_LABEL = "fedmeter.owner"
MAX_FILES, MAX_PROCESSES = 1 << 20, 1 << 14
_ASK_S = 30.0
_STOP_S = 60.0
_INSTALL = "Install docker or podman, start its service, and let this user use it."


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that answers. `runtime` is an OCI runtime other than its own default, such as nvidia."""

    name: str
    version: str
    runtime: str | None = None

    def command(self, *arguments: str) -> list[str]:
        return [self.name, *arguments]

    def run_command(self, *arguments: str) -> list[str]:
        """`run` by the runtime. Podman asks for more open files than every process may give: it gets ours."""
        chosen = [] if self.runtime is None else ["--runtime", self.runtime]
        if self.name == "docker":
            return self.command("run", *chosen, *arguments)
        return self.command(*chosen, "run", *_own_limits(), *arguments)

    def image(self, name: str) -> Mapping[str, Any]:
        """What `image inspect` says. Raises DeviceError where the image is not on this host."""
        try:
            return _first(ask(self.command("image", "inspect", name)))
        except DeviceError as error:
            raise DeviceError(
                f"image {name} cannot be used: {error}",
                remedy=f"Build it (docs/fleets.md) or run: {self.name} pull {name}",
            ) from None

    def container(self, name: str) -> Mapping[str, Any] | None:
        """What `inspect` says; None where there is no such container, or it cannot be told."""
        try:
            return _first(ask(self.command("container", "inspect", name)))
        except DeviceError:
            return None

    def stop(self, name: str, grace_s: float) -> None:
        """Harmless where there is no such container. Raises DeviceError where it still runs."""
        if self.container(name) is not None:
            ask(self.command("stop", "--time", str(round(grace_s)), name), timeout_s=grace_s + _STOP_S)

    def remove(self, name: str) -> None:
        """End it and everything of it, volumes without a name too. Raises DeviceError where it is there still."""
        try:
            ask(self.command("rm", "--force", "--volumes", name), timeout_s=_STOP_S)
        except DeviceError:
            if self.container(name) is not None:
                raise

    def sweep(self) -> list[str]:
        """Remove containers whose harness has ended, and return their names. Raises DeviceError."""
        ids = ask(self.command("ps", "--all", "--quiet", "--filter", f"label={OWNER_LABEL}")).split()
        removed = []
        for found in filter(None, map(self.container, ids)):
            if not _is_owned(found["Config"]["Labels"][OWNER_LABEL], is_running=bool(found["State"]["Running"])):
                self.remove(found["Id"])
                removed.append(str(found["Name"]).lstrip("/"))
        return removed


def find_engine(name: str | None = None, runtime: str | None = None) -> Engine:
    """The engine of that name, else the first that answers. Raises DeviceError, with what each said."""
    said = []
    for candidate in ENGINES if name is None else (name,):
        if shutil.which(candidate) is None:
            said.append(f"{candidate} is not installed")
            continue
        try:
            version = ask([candidate, "version", "--format", "{{.Server.Version}}"]).strip()
        except DeviceError as error:
            said.append(str(error))
        else:
            return Engine(candidate, version, runtime)
    raise DeviceError(f"no container engine can be used: {'; '.join(said)}", remedy=_INSTALL)


def owner_label() -> str:
    """This process, in a way that no later one is taken for it: boot, pid, and when it began."""
    return f"{OWNER_LABEL}={_boot_id()}/{_identity(os.getpid())}"


def ask(command: list[str], timeout_s: float = _ASK_S) -> str:
    """The standard output of an engine's command. Raises DeviceError with what it said, where it fails or hangs."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except OSError as error:
        raise DeviceError(f"{command[0]} cannot be run: {error}") from None
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{' '.join(command[:3])} did not answer within {timeout_s:g} s") from None
    if done.returncode != 0:
        raise DeviceError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-500:] or done.returncode}")
    return done.stdout


def _first(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
        if isinstance(found, list) and isinstance(found[0], dict):
            return found[0]
    except (ValueError, IndexError):
        pass
    raise DeviceError(f"the container engine said something unknown: {text:.200}")


def _own_limits() -> list[str]:
    """Of open files and processes, as this process has them. Podman lowers what it may give of processes."""
    kinds = {"nofile": (resource.RLIMIT_NOFILE, MAX_FILES), "nproc": (resource.RLIMIT_NPROC, MAX_PROCESSES)}
    flags = []
    for name, (kind, most) in kinds.items():
        soft, hard = (
            most if value == resource.RLIM_INFINITY else min(value, most) for value in resource.getrlimit(kind)
        )
        flags += ["--ulimit", f"{name}={soft}:{hard}"]
    return flags


def _is_owned(owner: str, *, is_running: bool) -> bool:
    """Whether the harness that started a container may live. One of another boot or machine is asked by its work."""
    boot, _, identity = owner.partition("/")
    if boot != _boot_id():
        return is_running
    pid = identity.partition("/")[0]
    return pid.isdigit() and _identity(int(pid)) == identity


def _identity(pid: int) -> str | None:
    try:
        return f"{pid}/{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"

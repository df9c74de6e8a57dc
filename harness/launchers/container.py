"""Clients in containers of this host, by Docker or Podman: bounded by the engine, metered by the host's meter.

A container shares the host's network, so that it finds the server as a process does. Its limits hold from its start.
The client is its first process, and CPU time is read of that one, as of local clients: children are not counted.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fl.security import CLIENT_FILES, FOLDER_VARIABLE, client_folder
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec
from harness.launchers.container_engine import ENGINES, Engine, find_engine, owner_label
from harness.launchers.limits import allowed_cores, missing_cores, read_limits
from harness.launchers.local import THREAD_VARIABLES, client_command, host_of, reachable, tell
from harness.launchers.tether import tethered
from harness.links import Link, make_link, read_shape, shape_of, sweep_stale_links
from harness.spec import Table
from profiler.errors import DeviceError, SpecError

log = logging.getLogger("harness")

TLS_FOLDER = "/run/fedmeter/tls"
_OWN_FOLDER = "/run/fedmeter/node"  # where another's program works: empty, and its own
_START_S = 60.0
_POLL_S = 0.05
_END_S = 10.0
_WORD = re.compile(r"[A-Za-z0-9/][\w./:@,=-]{0,255}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SIGNALLED = 128  # a shell's and an engine's exit status of a process that a signal ended begins here


class ContainerSession:
    """One container. `process` is the engine's command line, which ends when the container does."""

    def __init__(
        self,
        device: DeviceSpec,
        engine: Engine,
        name: str,
        process: subprocess.Popen[bytes],
        image: Mapping[str, Any],
        log_path: Path,
        folder: Path,
        link: Link | None = None,
    ) -> None:
        self.device = device
        self.log_path = log_path
        self._engine = engine
        self._name = name
        self._process = process
        self._image = image
        self._folder = folder
        self._link = link
        self._has_told = False
        self._pid = self._wait_running()

    def _wait_running(self) -> int | None:
        """The client's pid on this host; None where it ended at once."""
        until_s = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < until_s:
            state = (self._engine.container(self._name) or {}).get("State", {})
            if state.get("Running") and state.get("Pid"):
                return int(state["Pid"])
            time.sleep(_POLL_S)
        return None

    @property
    def pid(self) -> int | None:
        return self._pid

    @property
    def facts(self) -> Mapping[str, Any]:
        return {
            "launcher": "container",
            "pid": self._pid,
            "container": self._name,
            **self.device.options,
            "engine": self._engine.name,
            "engine_version": self._engine.version,
            "image_id": self._image.get("Id"),
            "image_digests": self._image.get("RepoDigests") or [],
            **({} if self._link is None else self._link.facts),
        }

    def exit_status(self) -> int | None:
        code = self._process.poll()
        if code is None:
            return None
        self._tell_memory(code)
        return _SIGNALLED - code if _SIGNALLED < code < _SIGNALLED + signal.NSIG else code

    def _tell_memory(self, code: int) -> None:
        """Into the log, of which the end is shown: a SIGKILL alone does not say by whom."""
        limit_mb = self.device.options.get("memory_limit_mb")
        if (
            not self._has_told
            and limit_mb is not None
            and code == _SIGNALLED + signal.SIGKILL
            and self._was_too_large()
        ):
            tell(self.log_path, f"ended for taking more than memory_limit_mb = {limit_mb} ({self._engine.name})")
        self._has_told = True

    def _was_too_large(self) -> bool:
        """As Docker and newer Podmans say, or by the file that Podman's monitor makes (conmon's `oom`)."""
        state = (self._engine.container(self._name) or {}).get("State", {})
        return bool(state.get("OOMKilled")) or (self._folder / "oom").exists()

    def settle(self) -> None:
        pass

    def stop(self, grace_s: float) -> None:
        self._has_told |= self._process.poll() is None  # it is we who end it
        try:
            self._engine.stop(self._name, grace_s)
        except DeviceError as error:  # one that is paused, say; removing ends it by force
            log.info("%s: %s", self.device.id, error)
        try:
            self._engine.remove(self._name)
        except DeviceError as error:
            log.warning("%s: container %s is left behind: %s", self.device.id, self._name, error)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._link is not None:
            self._link.release()


class ContainerLauncher:
    """Options of a device entry, beside those of `harness.launchers.limits` and `harness.links`:

    `image` (must be on this host), `engine` (docker or podman; the first that answers), `runtime` (an OCI runtime, such
    as nvidia on a Jetson), `python` (python3, inside), `gpus` (`all`, or numbers separated by commas), `devices` and
    `mounts` (as for the engine's --device and --volume), `environment`.
    """

    shares_host: ClassVar[bool] = True

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._swept: set[str] = set()
        sweep_stale_links()

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        options = {**read_limits(entry), **read_shape(entry), "image": entry.take("image", str)}
        options["python"] = entry.take("python", str, "python3")
        for key in ("engine", "runtime", "gpus"):
            if (value := entry.take(key, str, None)) is not None:
                options[key] = value
        for key in ("devices", "mounts"):
            if values := entry.take(key, list, []):
                options[key] = _absolute(entry.where, key, values)
        if environment := entry.take("environment", dict, {}):
            options["environment"] = _texts(entry.where, environment)
        _check_words(entry.where, options)
        return options

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        return allowed_cores(device.options)

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck:
        try:
            engine = _engine_of(device)
            image = engine.image(device.options["image"])
        except DeviceError as error:
            return DeviceCheck(False, str(error))
        if absent := missing_cores(device.options) or "; ".join(_missing_paths(device.options)):
            return DeviceCheck(False, absent)
        told = [f"container of {str(image.get('Id'))[:19]} by {engine.name} {engine.version}"]
        try:
            link = _make_link(device, engine, f"check-{device.id}")
        except DeviceError as error:
            return DeviceCheck(False, str(error))
        if link is not None:
            told += [f"{key} {device.options[key]:g} by {by}" for key, by in link.by.items()]
            link.release()
        return DeviceCheck(True, ", ".join(told))

    def start(self, device: DeviceSpec, join: JoinSpec) -> ContainerSession:
        """Raises DeviceError; SpecError or PreconditionError where its security files cannot be used."""
        engine = _engine_of(device)
        self._sweep(engine)
        image = engine.image(device.options["image"])
        if absent := missing_cores(device.options) or "; ".join(_missing_paths(device.options)):
            raise DeviceError(f"{device.id}: {absent}.")
        name = f"fedmeter-{os.getpid()}-{device.id}"
        engine.remove(name)
        log_path = self._log_dir / f"{device.id}.log"
        link = _make_link(device, engine, device.id)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        try:
            command = engine.run_command(*_run_arguments(device, join, engine, name, link))
            with log_path.open("ab") as log_file:
                process = subprocess.Popen(
                    # Python as a first process hears SIGINT, and nothing that it has no handler for.
                    tethered(command, signal.SIGINT),
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    start_new_session=True,
                )
        except BaseException as error:
            folder.rmdir()
            if link is not None:
                link.release()
            if isinstance(error, OSError):
                raise DeviceError(f"{device.id}: cannot start {engine.name}: {error}.") from error
            raise
        return ContainerSession(device, engine, name, process, image, log_path, folder, link)

    def _sweep(self, engine: Engine) -> None:
        if engine.name in self._swept:
            return
        self._swept.add(engine.name)
        try:
            removed = engine.sweep()
        except DeviceError as error:
            log.warning("containers of earlier runs were not looked for: %s", error)
            return
        for name in removed:
            log.info("removed container %s, whose harness has ended", name)
            for folder in Path(tempfile.gettempdir()).glob(f"{name}-*"):
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        pass


def _engine_of(device: DeviceSpec) -> Engine:
    return find_engine(device.options.get("engine"), device.options.get("runtime"))


def _make_link(device: DeviceSpec, engine: Engine, name: str) -> Link | None:
    """None where the network is to be this host's. Raises DeviceError where it cannot be shaped."""
    shape = shape_of(device.options)
    if shape is not None and engine.name != "podman":
        raise DeviceError(
            f"{device.id}: {engine.name} puts no container into a network namespace that is there already, which "
            f"{', '.join(shape.wants)} take.",
            remedy='Give it engine = "podman", or leave them out.',
        )
    return None if shape is None else make_link(shape, name)


def _run_arguments(
    device: DeviceSpec, join: JoinSpec, engine: Engine, name: str, link: Link | None = None
) -> list[str]:
    """Of the engine's `run`, with the client's command line. No secret is among them: those travel by mount."""
    options = device.options
    python, *client = _command(device, join, link)
    environment = {**dict.fromkeys(THREAD_VARIABLES, options["threads"]), **options.get("environment", {})}
    mounts = list(options.get("mounts", []))
    if join.tls is not None and join.nodes is None:
        environment[FOLDER_VARIABLE] = TLS_FOLDER
        mounts += _tls_mounts(client_folder(join.tls, device.id))
    flags = {
        "--name": [name],
        "--label": [owner_label()],
        "--network": ["host" if link is None else f"ns:{link.path}"],
        "--pull": ["never"],
        "--log-driver": ["none"],  # what it says goes to our log alone
        "--stop-signal": ["SIGINT"],
        "--env": [f"{key}={value}" for key, value in environment.items()],
        "--volume": mounts,
        "--device": options.get("devices", []),
        **_limit_flags(options),
        **({} if join.nodes is None else {"--tmpfs": [f"{_OWN_FOLDER}:exec,mode=700"], "--workdir": [_OWN_FOLDER]}),
        "--entrypoint": [python],
    }
    words = [part for flag, values in flags.items() for value in values for part in (flag, value)]
    return [*words, *_gpu_flags(engine, options.get("gpus")), options["image"], *client]


def _command(device: DeviceSpec, join: JoinSpec, link: Link | None) -> list[str]:
    """Of our client, or of another's program; inside."""
    python, target = str(device.options["python"]), reachable(join.entrance)
    if join.nodes is not None:
        return join.nodes.there(device, python, target)
    if link is None:
        return client_command(device, join, python=python, server=target)
    return client_command(device, join, python=python, server=link.serve(target), server_name=host_of(target))


def _limit_flags(options: Mapping[str, Any]) -> dict[str, list[str]]:
    flags = {}
    if "cpu_limit" in options:
        flags["--cpus"] = [f"{options['cpu_limit']:g}"]
    if "memory_limit_mb" in options:
        flags["--memory"] = flags["--memory-swap"] = [f"{options['memory_limit_mb']}m"]  # the same: no swap beside it
    if "cores" in options:
        flags["--cpuset-cpus"] = [",".join(map(str, options["cores"]))]
    return flags


def _gpu_flags(engine: Engine, gpus: str | None) -> list[str]:
    """Docker's own flag; Podman knows GPUs by the names of the Container Device Interface."""
    if gpus is None:
        return []
    if engine.name == "docker":
        return ["--gpus", gpus if gpus == "all" else f'"device={gpus}"']
    return [part for gpu in gpus.split(",") for part in ("--device", f"nvidia.com/gpu={gpu}")]


def _tls_mounts(folder: Path) -> Iterator[str]:
    """The client's own files one by one: the keys of server and authority may lie beside them."""
    for file in CLIENT_FILES:
        if (folder / file).exists():
            yield f"{folder / file}:{TLS_FOLDER}/{file}:ro"


def _missing_paths(options: Mapping[str, Any]) -> list[str]:
    """Sources of mounts and devices that are not on this host. An engine would make a folder of a missing one."""
    sources = [(key, value.partition(":")[0]) for key in ("mounts", "devices") for value in options.get(key, [])]
    return [f"{source} of '{key}' is not on this host" for key, source in sources if not Path(source).exists()]


def _absolute(where: str, key: str, values: Sequence[object]) -> list[str]:
    """Raises SpecError where one is no path of the host, maybe with one inside and a mode after colons."""
    for value in values:
        if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
            raise SpecError(
                f"{where}: '{key}' must hold absolute paths, such as /sys/class/powercap:ro, got {value!r}."
            )
    return [_with_target(str(value)) if key == "mounts" else str(value) for value in values]


def _with_target(mount: str) -> str:
    """`/here` and `/here:ro` are found at the same place inside."""
    source, *rest = mount.split(":")
    return mount if rest and rest[0].startswith("/") else ":".join([source, source, *rest])


def _texts(where: str, environment: Mapping[str, object]) -> dict[str, str]:
    for key, value in environment.items():
        if not _VARIABLE.fullmatch(key) or not isinstance(value, str) or not value.isprintable():
            raise SpecError(f"{where}: 'environment' must hold NAME = \"text\", got {key} = {value!r}.")
    return {key: str(value) for key, value in environment.items()}


def _check_words(where: str, options: Mapping[str, Any]) -> None:
    for key in ("image", "python", "runtime", "gpus"):
        if key in options and not _WORD.fullmatch(options[key]):
            raise SpecError(f"{where}: '{key}' is {options[key]!r:.80}, which is no name for a container engine.")
    if options.get("engine", ENGINES[0]) not in ENGINES:
        raise SpecError(f"{where}: engine = '{options['engine']}'; it is one of {', '.join(ENGINES)}.")

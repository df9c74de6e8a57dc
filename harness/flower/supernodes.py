"""How SuperLinks and SuperNodes are started, as each generation of flwr has it, and in which environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fl.flower.supernode import SILENCE, SUPERNODE, free_address, supernode_options
from fl.flower.versions import ONE_PORT_SINCE, has_one_port, installed_flwr, require_flwr, version_numbers
from harness.device import DeviceSpec
from harness.launchers.subtree import tethered_subtree
from profiler.errors import PreconditionError

GRPC_UNTIL = (1, 29)
"""The last whose commands are those of the ports by gRPC, as they were in 1.24."""
CONNECTION = "fedmeter"
_MAX_RAY_FOLDER_CHARS = 40  # a socket's path has 107, of which Ray's own part takes the rest


def require_commands(installed: str | None = None) -> None:
    """Raises PreconditionError, saying which are supported, for a flwr whose commands are not known here.

    `installed`: told so, else what is there.
    """
    require_flwr(installed)
    found = installed_flwr() if installed is None else installed
    if GRPC_UNTIL < version_numbers(found) < ONE_PORT_SINCE:
        raise PreconditionError(
            f"flwr {found}: between 1.30 and 1.40 its commands change from release to release.",
            remedy="As an engine 1.24 to 1.29 and 1.41 to 1.42 are supported: pip install 'fedmeter[flower]'",
        )


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a SuperLink of ours listens, all on this machine: for nodes, for `flwr run`, for the ServerApp."""

    fleet: str
    control: str
    apps: str

    @classmethod
    def free(cls) -> Ports:
        if has_one_port():
            one = free_address()
            return cls(one, one, one)
        return cls(free_address(), free_address(), free_address())


def superlink_command(ports: Ports, *, is_simulated: bool) -> list[str]:
    command = [program("flower-superlink"), "--insecure"]
    if has_one_port():
        host, _, port = ports.fleet.rpartition(":")
        command += ["--host", host, "--port", port, "--disable-runtime-dependency-installation"]
    else:
        command += ["--fleet-api-address", ports.fleet, "--control-api-address", ports.control]
        command += ["--simulationio-api-address" if is_simulated else "--serverappio-api-address", ports.apps]
    return [*command, "--simulation"] if is_simulated else command


@dataclass(frozen=True, slots=True)
class SuperNodes:
    """A `harness.launcher.NodeProgram`: a SuperNode for each device, joined to the SuperLink at `superlink`.

    Those elsewhere reach it at `address`. `home` is the folder in which those of this host keep what is theirs.
    """

    superlink: str
    address: str
    home: Path

    @property
    def packages(self) -> tuple[tuple[str, str], ...]:
        """The very version that runs here: what SuperLink and SuperNode say to each other changes with it."""
        return (("flwr", installed_flwr()),)

    @property
    def environment(self) -> dict[str, str]:
        """What this process has not, or has otherwise."""
        wanted = environment(self.home)
        return {name: value for name, value in wanted.items() if os.environ.get(name) != value}

    def here(self, device: DeviceSpec) -> list[str]:
        return tethered_subtree([program(SUPERNODE), *supernode_options(self.superlink, device.id)])

    def there(self, device: DeviceSpec, python: str, address: str) -> list[str]:
        return [python, "-m", "fl.flower.supernode", address, device.id, installed_flwr()]


def environment(home: Path, ray_cluster: str | None = None) -> dict[str, str]:
    """Telemetry off, and nothing of Flower's or Ray's outside of `home`, but for a Ray cluster that is there."""
    folder = home / "ray"
    ray = {"RAY_TMPDIR": str(folder)} if len(str(folder)) <= _MAX_RAY_FOLDER_CHARS else {}
    if ray_cluster is not None:
        ray = {"RAY_ADDRESS": ray_cluster}
    return {
        **os.environ,
        **ray,
        **SILENCE,
        "FLWR_HOME": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def program(name: str) -> str:
    """Beside this interpreter. Raises PreconditionError where it is not there."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise PreconditionError(f"{path} is missing, which comes with flwr.", remedy="pip install 'fedmeter[flower]'")
    return str(path)


@dataclass(frozen=True, slots=True)
class Simulation:
    """So many devices, each on so many CPUs of Ray's; of how many of this machine where there is no cluster yet."""

    n_devices: int
    cpus_each: int
    cpus: int | None

    def run_options(self) -> list[str]:
        """Of `flwr run`."""
        if not has_one_port():
            return []
        options = f"num-supernodes={self.n_devices} client-resources-num-cpus={self.cpus_each}"
        return ["--federation-config", options + ("" if self.cpus is None else f" init-args-num-cpus={self.cpus}")]

    def table(self) -> str:
        """For the app's own file, of generations that look for it there."""
        lines = [f"num-supernodes = {self.n_devices}", f"backend.client-resources.num-cpus = {self.cpus_each}"]
        lines += [] if self.cpus is None else [f"backend.init-args.num-cpus = {self.cpus}"]
        return "".join(f"options.{line}\n" for line in lines)


def app_files(plan_text: str, control_address: str, simulation: Simulation | None) -> Mapping[str, str]:
    """Our app as `flwr run` packs it, by file name: two modules that import what is installed, and what they are told.

    Of generations with a port for each, where to run it is in the app itself, later in Flower's own configuration.
    """
    project = _PROJECT.format(plan=_toml_text(plan_text))
    if not has_one_port():
        project += _FEDERATION.format(connection=CONNECTION, address=control_address)
        project += "" if simulation is None else simulation.table()
    return {
        "fedmeter_app/__init__.py": '"""fedmeter inside Flower."""\n',
        "fedmeter_app/server_app.py": "from fl.flower.relay import relay_app\n\napp = relay_app()\n",
        "fedmeter_app/client_app.py": "from fl.flower.node import node_app\n\napp = node_app()\n",
        "pyproject.toml": project,
    }


def connection_file(control_address: str) -> str:
    """config.toml of Flower's home folder."""
    return (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "{control_address}"\ninsecure = true\n'
    )


def _toml_text(text: str) -> str:
    """A literal string, which has no escapes: JSON in ASCII has no line ends, and its apostrophes can be escaped."""
    return "'" + text.replace("'", "\\u0027") + "'"


_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedmeter-app"
version = "1.0.0"
description = "A run of fedmeter"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "fedmeter"

[tool.flwr.app.components]
serverapp = "fedmeter_app.server_app:app"
clientapp = "fedmeter_app.client_app:app"

[tool.flwr.app.config]
fedmeter = {plan}
"""

_FEDERATION = """\

[tool.flwr.federations]
default = "{connection}"

[tool.flwr.federations.{connection}]
address = "{address}"
insecure = true
"""

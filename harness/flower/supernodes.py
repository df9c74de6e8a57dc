"""How SuperLinks and SuperNodes are started, as each generation of flwr has it, and in which environment."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fl.flower.keys import DEVICE
from fl.flower.versions import installed_flwr, require_flwr, version_numbers
from harness.device import DeviceSpec
from profiler.errors import PreconditionError

GRPC_UNTIL, ONE_PORT_SINCE = (1, 29), (1, 41)
"""Up to the one nodes, apps and `flwr run` have a port each, by gRPC; from the other on they share one, by HTTP."""
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


def supernode_command(device: DeviceSpec, fleet_address: str) -> list[str]:
    """Of the SuperNode of a device of this host."""
    own = free_address()
    port = ["--port", own.rpartition(":")[2]] if has_one_port() else ["--clientappio-api-address", own]
    return [
        *(program("flower-supernode"), "--insecure", "--superlink", fleet_address, *port),
        *("--node-config", node_config(device)),
    ]


def node_config(device: DeviceSpec) -> str:
    """What a SuperNode must be told to be a device of a run; its label is in the fleet file."""
    return f'{DEVICE}="{device.id}"'


def environment(home: Path, ray_cluster: str | None = None) -> dict[str, str]:
    """Telemetry off, and nothing of Flower's or Ray's outside of `home`, but for a Ray cluster that is there."""
    folder = home / "ray"
    ray = {"RAY_TMPDIR": str(folder)} if len(str(folder)) <= _MAX_RAY_FOLDER_CHARS else {}
    if ray_cluster is not None:
        ray = {"RAY_ADDRESS": ray_cluster}
    return {
        **os.environ,
        **ray,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_UPDATE_CHECK": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def program(name: str) -> str:
    """Beside this interpreter. Raises PreconditionError where it is not there."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise PreconditionError(f"{path} is missing, which comes with flwr.", remedy="pip install 'fedmeter[flower]'")
    return str(path)


def has_one_port() -> bool:
    return version_numbers(installed_flwr()) >= ONE_PORT_SINCE


def free_address() -> str:
    """Of this machine, where nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


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

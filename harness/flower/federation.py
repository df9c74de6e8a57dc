"""One run inside Flower: a SuperLink of ours or another's, our app on it, and nothing left of either afterwards.

The app's server side joins our server for each node (`fl.flower.relay`). Folders of Flower's are temporary; logs are
with the others in the results.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fl.flower.plan import AppPlan, PlannedDevice
from fl.flower.supernode import node_config
from fl.flower.versions import has_one_port
from fl.security import FOLDER_VARIABLE, is_loopback
from harness.device import DeviceSpec
from harness.flower.choice import SIMULATION
from harness.flower.gate import FleetGate
from harness.flower.supernodes import (
    CONNECTION,
    Ports,
    Simulation,
    SuperNodes,
    app_files,
    connection_file,
    environment,
    program,
    superlink_command,
)
from harness.host import available_cores
from harness.launcher import JoinSpec, launcher_class, log_tail
from harness.launchers.external import from_elsewhere
from harness.launchers.local import reachable
from harness.launchers.shared_options import NONE
from harness.launchers.subtree import tethered_subtree
from harness.run_spec import RunSpec
from profiler.errors import DeviceError, PreconditionError

PREFIX = "fedmeter-flwr-"
PULL_S, SIMULATION_PULL_S = 0.5, 0.05
"""How often the app asks for replies: over a network, and in the process that has them."""
_UP_S = 60.0
_SUBMIT_S = 120.0
_END_S = 10.0
_POLL_S = 0.1


class Federation:
    """What carries a run. `start` once our server listens; `close` whatever has happened."""

    def __init__(self, spec: RunSpec, logs: Path) -> None:
        self._choice = spec.engine
        self._devices = spec.devices
        self._fit_timeout_s = spec.experiment.fit_timeout_s
        self._logs = logs
        self._home: Path | None = None
        self._superlink: subprocess.Popen[bytes] | None = None
        self._gate: FleetGate | None = None

    @property
    def pid(self) -> int | None:
        """Of a SuperLink that works for our server alone; what it starts is below it."""
        return self._superlink.pid if self._superlink is not None and self._choice.starts_nodes else None

    @property
    def _log(self) -> Path:
        """Of the SuperLink and of what runs in it: our app, a simulation."""
        return self._logs / "superlink.log"

    @property
    def _has_own_superlink(self) -> bool:
        return self._choice.federation is None or self._choice.name == SIMULATION

    async def start(self, join: JoinSpec, max_message_bytes: int, say: Callable[[str], None]) -> JoinSpec:
        """How clients join now. Raises PreconditionError, with the end of a log, where Flower cannot be started."""
        _sweep()
        home = self._home = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        ports = Ports.free()
        if self._has_own_superlink:
            say(f"Flower's own log: {self._log}")
            await self._start_superlink(home, ports, join)
        else:
            ports = replace(ports, control=str(self._choice.federation))
        plan = self._plan(join, max_message_bytes)
        await asyncio.get_running_loop().run_in_executor(None, self._submit, home, ports, plan)
        for line in self._invitations():
            say(line)
        if not self._choice.starts_nodes:
            return join
        return replace(join, nodes=SuperNodes(ports.fleet, await self._entrance(ports.fleet), home))

    async def _entrance(self, superlink: str) -> str:
        """Where nodes elsewhere find the SuperLink, and nothing of it that is not for nodes."""
        if not has_one_port() or not any(map(is_elsewhere, self._devices)):
            return superlink
        self._gate = FleetGate(superlink)
        return await self._gate.open()

    async def close(self) -> None:
        """End what was started, for certain, and remove its folder."""
        if self._gate is not None:
            await self._gate.close()
        if self._superlink is not None:
            self._superlink.terminate()
            try:
                self._superlink.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._superlink.kill()
                self._superlink.wait()
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    def _plan(self, join: JoinSpec, max_message_bytes: int) -> AppPlan:
        is_simulated = self._choice.name == SIMULATION
        return AppPlan(
            server=reachable(join.address) if self._has_own_superlink else from_elsewhere(join.address, None),
            workload=join.workload,
            partition=join.partition,
            devices=tuple(map(planned, self._devices)),
            workload_options=join.workload_options,
            fit_timeout_s=self._fit_timeout_s,
            pull_s=SIMULATION_PULL_S if is_simulated else PULL_S,
            max_message_bytes=max_message_bytes,
        )

    async def _start_superlink(self, home: Path, ports: Ports, join: JoinSpec) -> None:
        is_simulated = self._choice.name == SIMULATION
        env = environment(home, self._choice.federation)
        if join.tls is not None:
            env[FOLDER_VARIABLE] = str(join.tls)
        with self._log.open("ab") as log:
            self._superlink = subprocess.Popen(
                tethered_subtree(superlink_command(ports, is_simulated=is_simulated)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        until_s = asyncio.get_running_loop().time() + _UP_S
        while not await _is_listening(ports.control):
            if self._superlink.poll() is not None or asyncio.get_running_loop().time() > until_s:
                raise PreconditionError(
                    f"no SuperLink could be started; log {self._log}:\n{log_tail(self._log)}",
                    remedy="Does 'flower-superlink --insecure' start by itself, from the same environment?",
                )
            await asyncio.sleep(_POLL_S)

    def _submit(self, home: Path, ports: Ports, plan: AppPlan) -> None:
        app = home / "fedmeter-app"
        for name, text in app_files(plan.to_text(), ports.control, self._simulation).items():
            path = app / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (home / "config.toml").write_text(connection_file(ports.control), encoding="utf-8")
        options = [] if self._simulation is None else self._simulation.run_options()
        command = [program("flwr"), "run", str(app), CONNECTION, *options]
        log_path = self._logs / "flwr-run.log"
        with log_path.open("ab") as log:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment(home),
                    timeout=_SUBMIT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise DeviceError(f"{ports.control}: no answer to `flwr run` within {_SUBMIT_S:g} s.") from None
        if done.returncode != 0:
            raise PreconditionError(
                f"{ports.control}: `flwr run` failed; log {log_path}:\n{log_tail(log_path)}",
                remedy="Is a SuperLink there, of a supported version, that runs apps without installing packages?",
            )

    @property
    def _simulation(self) -> Simulation | None:
        if self._choice.name != SIMULATION:
            return None
        cpus_each = max(int(device.options["threads"]) for device in self._devices)
        if self._choice.federation is not None:
            return Simulation(len(self._devices), cpus_each, None)
        if cpus_each > available_cores():
            raise PreconditionError(
                f"Ray has no place for a device of {cpus_each} threads: this machine has {available_cores()} cores.",
                remedy="Give the devices of the fleet file fewer threads.",
            )
        return Simulation(len(self._devices), cpus_each, available_cores())

    def _invitations(self) -> list[str]:
        """What to tell those who start the nodes of another's federation."""
        if self._choice.starts_nodes or self._choice.name == SIMULATION:
            return []
        return [
            f"start {device.id} there: flower-supernode --superlink SUPERLINK --node-config '{node_config(device.id)}'"
            for device in self._devices
        ]


def is_elsewhere(device: DeviceSpec) -> bool:
    return not launcher_class(device.launcher).shares_host


def planned(device: DeviceSpec) -> PlannedDevice:
    """As the app is told of it: nodes of this host leave its meter to the harness, others have their own."""
    meters = is_elsewhere(device) and device.options.get("meter") != NONE
    return PlannedDevice(device.id, device.shard, int(device.options["threads"]), meters)


def check_way(spec: RunSpec) -> None:
    """Raises PreconditionError where what is said would go in plain text to other machines, or reach none."""
    address = spec.engine.federation
    if address is None or is_loopback(address):
        return
    if not spec.fleet.insecure:
        raise PreconditionError(
            f"{address}: models and measurements would go there in plain text, for everybody on the way to read.",
            remedy="Reach it through a tunnel, as docs/flower.md says, or say that it must be so: --insecure.",
        )
    if spec.engine.name != SIMULATION and is_loopback(spec.fleet.address):
        raise PreconditionError(
            f"an app at {address} cannot reach the server at {spec.fleet.address}, which is for this machine alone.",
            remedy='Name an address of this machine in the fleet file: [server] address = "HOST:PORT".',
        )


async def _is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


def _sweep() -> None:
    """Remove the folders of harnesses that were killed: each is named after who made it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}[0-9]*-????????"):
        owner = folder.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)

"""Devices that are not there: real training in processes of this machine, time and energy from a profile.

Everything they tell is `simulated`. `harness.virtual_time` makes the seconds, `harness.device_model` says how many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fl.calls import Exchange, TransportError
from harness.device import DeviceSpec
from harness.device_model import assumptions, costs_of
from harness.launcher import DeviceCheck, JoinSpec
from harness.simulated_device import SimulatedSpec
from harness.spec import Table
from harness.virtual_time import VirtualLoop
from harness.workers import Work, Worker
from profiler.devices import Device, load_device
from profiler.errors import DeviceError, UsageError
from profiler.quantities import Provenance, Scope


class SimulatedTransport:
    """Carries instructions to one device in a worker, and lets virtual time pass for what they are worth."""

    def __init__(self, spec: SimulatedSpec, worker: Worker) -> None:
        self._spec = spec
        self._worker = worker
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        return self._lost

    async def exchange(self, data: bytes) -> Exchange:
        loop = virtual_loop_now()
        sent_ns = loop.now_ns
        with loop.held():
            try:
                answer = await self._worker.exchange(self._spec.number, sent_ns, data)
            except TransportError as error:
                self._lost = str(error)
                raise
        received_ns = sent_ns + answer.elapsed_ns
        await loop.sleep_until(received_ns, self._spec.number)
        if answer.has_left:
            self.leave("the client has left")
        return Exchange(answer.data, sent_ns, received_ns)

    def leave(self, reason: str) -> None:
        self._lost = self._lost or reason


def virtual_loop_now() -> VirtualLoop:
    """Raises UsageError outside simulated time."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise UsageError("simulated devices need simulated time, and this is real.")
    return loop


class SimulatedSession:
    """One device; it ends when its worker does."""

    def __init__(
        self,
        device: DeviceSpec,
        transport: SimulatedTransport,
        worker: Worker,
        facts: Mapping[str, Any],
        log_path: Path,
    ) -> None:
        self.device = device
        self.log_path = log_path
        self._transport = transport
        self._worker = worker
        self._facts = facts
        self._is_stopped = False

    @property
    def pid(self) -> int | None:
        return self._worker.pid

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._facts

    def exit_status(self) -> int | None:
        return 0 if self._is_stopped else self._worker.exit_status()

    def settle(self) -> None:
        pass

    def stop(self, grace_s: float) -> None:
        self._transport.leave("the client was stopped")
        self._is_stopped = True


class SimulatedLauncher:
    """Option of a device entry: `profile`, the name of a device in `profiler/devices`, or a file like one of those."""

    shares_host: ClassVar[bool] = False

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._workers: dict[int, Worker] = {}

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        name: str = entry.take("profile", str)
        load_device(name)  # a wrong one must show at once
        return {"profile": name}

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        return 0.0

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck:
        profile = profile_of(device)
        known = ", ".join(f"{training.workload} ({training.kind})" for training in profile.training)
        told = f"simulated as {profile.name}; knows training of {known or 'nothing'}"
        return DeviceCheck(True, told, machine=profile.name, sensors=(("profile", Provenance.SIMULATED.value),))

    def start(self, device: DeviceSpec, join: JoinSpec) -> SimulatedSession:
        """Raises DeviceError, SpecError where its profile does not know the workload."""
        if join.admit is None:
            raise DeviceError(f"{device.id}: a simulated device joins no server of another machine.")
        profile = profile_of(device)
        costs = costs_of(profile, join.costs_of or join.workload, join.steps_per_epoch)
        facts = {"model": profile.name, "system": "simulated"}
        spec = SimulatedSpec(device.id, device.number, device.shard, scope_of(device), costs, facts)
        worker = self._worker(device.number % join.workers, join)
        worker.add(spec)
        transport = SimulatedTransport(spec, worker)
        join.admit(device.id, transport)
        told = {"launcher": "simulated", **assumptions(profile, costs)}
        return SimulatedSession(device, transport, worker, told, self._log_dir / f"{device.id}.log")

    def _worker(self, number: int, join: JoinSpec) -> Worker:
        worker = self._workers.get(number)
        if worker is None or worker.exit_status() is not None:
            worker = self._workers[number] = Worker(number, Work(join.workload, join.partition, join.workload_options))
        return worker

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()


def profile_of(device: DeviceSpec) -> Device:
    """Raises SpecError."""
    return load_device(str(device.options["profile"]))


def scope_of(device: DeviceSpec) -> Scope:
    power = profile_of(device).power
    return Scope.DEVICE if power is None else power.scope

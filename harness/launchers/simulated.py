"""Devices that are not there: real training in processes of this machine, time and energy from a profile.

Everything they tell is `simulated`; `harness.device_model` says how many seconds and joules. In a fleet of their own
`harness.virtual_time` makes the seconds; beside real devices, the wall clock does: a reply that is there early waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fl.calls import Exchange, TransportError
from fl.wire import codec
from harness.device import DeviceSpec
from harness.device_model import assumptions, costs_of
from harness.launcher import DeviceCheck, JoinSpec
from harness.simulated_device import Answer, SimulatedSpec
from harness.spec import Table
from harness.virtual_time import VirtualLoop
from harness.workers import Work, Worker
from profiler.clock import Clock, SystemClock
from profiler.devices import Device, load_device
from profiler.errors import DeviceError
from profiler.quantities import Provenance, Scope

SLACK_S = 0.01


@dataclass
class RealTime:
    """The wall clock of a device that is not there. Work that takes longer here than there arrives late, as it does.

    `overruns` counts work whose reply came later than a timer's slack, `overrun_s` is the longest it was late by.
    """

    clock: Clock
    is_used: bool = False
    overruns: int = 0
    overrun_s: float = 0.0

    async def wait_until(self, t_ns: int, *, is_work: bool) -> int:
        """Until then, or not at all where that is past; when the reply counts as there."""
        self.is_used = True
        early_s = (t_ns - self.clock.monotonic_ns()) / 1e9
        if early_s > 0:
            await asyncio.sleep(early_s)
            return t_ns
        if is_work and early_s < -SLACK_S:
            self.overruns += 1
            self.overrun_s = max(self.overrun_s, -early_s)
        return max(t_ns, self.clock.monotonic_ns())


class SimulatedTransport:
    """Carries instructions to one device in a worker, and lets time pass for what they are worth.

    Virtual time where the loop is a virtual one, else that of `real`.
    """

    def __init__(self, spec: SimulatedSpec, worker: Worker, real: RealTime) -> None:
        self._spec = spec
        self._worker = worker
        self._real = real
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        return self._lost

    async def exchange(self, data: bytes) -> Exchange:
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualLoop):
            sent_ns = loop.now_ns
            with loop.held():
                answer = await self._answer(sent_ns, data)
            received_ns = sent_ns + answer.elapsed_ns
            await loop.sleep_until(received_ns, self._spec.number)
        else:
            sent_ns = self._real.clock.monotonic_ns()
            answer = await self._answer(sent_ns, data)
            received_ns = await self._real.wait_until(sent_ns + answer.elapsed_ns, is_work=codec.carries_work(data))
        if answer.has_left:
            self.leave("the client has left")
        return Exchange(answer.data, sent_ns, received_ns)

    async def _answer(self, sent_ns: int, data: bytes) -> Answer:
        try:
            return await self._worker.exchange(self._spec.number, sent_ns, data)
        except TransportError as error:
            self._lost = str(error)
            raise

    def leave(self, reason: str) -> None:
        self._lost = self._lost or reason


class SimulatedSession:
    """One device; it ends when its worker does."""

    def __init__(
        self,
        device: DeviceSpec,
        transport: SimulatedTransport,
        worker: Worker,
        facts: Mapping[str, Any],
        log_path: Path,
        real: RealTime,
    ) -> None:
        self.device = device
        self.log_path = log_path
        self._real = real
        self._transport = transport
        self._worker = worker
        self._facts = facts
        self._is_stopped = False

    @property
    def pid(self) -> int | None:
        return self._worker.pid

    @property
    def facts(self) -> Mapping[str, Any]:
        if not self._real.is_used:
            return self._facts
        overran = {"overruns": self._real.overruns, "longest_overrun_s": self._real.overrun_s}
        return {**self._facts, "time": "real", **overran}

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
        real = RealTime(SystemClock())
        transport = SimulatedTransport(spec, worker, real)
        join.admit(device.id, transport)
        told = {"launcher": "simulated", **assumptions(profile, costs)}
        return SimulatedSession(device, transport, worker, told, self._log_dir / f"{device.id}.log", real)

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

"""All that a run is: who, what, carried by which engine, and what follows for the server that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fl.admission import Access
from fl.messages import Array
from fl.security import ServerSecurity, server_security
from harness.device import DeviceSpec
from harness.experiment import ExperimentSpec
from harness.fleet import SIMULATED, FleetSpec
from harness.flower.choice import EngineChoice
from harness.launcher import launcher_class
from harness.plan import Task

_MODELS_PER_MESSAGE = 4
_EXTRA_MESSAGE_BYTES = 32 * 1024 * 1024  # twice what is read of one measurement


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Who, what, the tasks that follow from them, and which engine carries them."""

    fleet: FleetSpec
    experiment: ExperimentSpec
    tasks: tuple[Task, ...]
    engine: EngineChoice = field(default_factory=EngineChoice)

    @property
    def trains(self) -> bool:
        """False where time and energy alone are simulated."""
        return all(task.training for task in self.tasks)

    @property
    def devices(self) -> tuple[DeviceSpec, ...]:
        """Those that take part in any task."""
        members = {device.id: device for task in self.tasks for device in self.members(task)}
        return tuple(sorted(members.values(), key=lambda device: device.number))

    @property
    def launchers(self) -> frozenset[str]:
        """Of the fleet, whose devices can be too many to be looked at one by one."""
        return frozenset(group.first.launcher for group in self.fleet.groups)

    @property
    def required_here(self) -> frozenset[str]:
        """The sensors that this host must have: of devices elsewhere, their launchers ask there."""
        return frozenset(
            name for device in self.devices if launcher_class(device.launcher).shares_host for name in device.require
        )

    def members(self, task: Task) -> tuple[DeviceSpec, ...]:
        """Those that take part in a task."""
        return self.fleet.members(task.clients, task.processors)


def message_bound(model: Sequence[Array]) -> int:
    """How large a message may be: several models, for what a strategy sends along, and room for measurements."""
    n_bytes = sum(array.nbytes for array in model)
    return min(_MODELS_PER_MESSAGE * n_bytes + _EXTRA_MESSAGE_BYTES, 2**31 - 1)


def access(spec: RunSpec) -> Access:
    """Who may join: the devices of the run by their names, and as many foreign clients as there are entries for.

    Raises PreconditionError where the certificates cannot be used, or where plain text would leave this machine.
    """
    fleet = spec.fleet
    foreign = tuple(device.id for device in spec.devices if device.foreign)
    allowed = Access(
        ServerSecurity() if fleet.tls is None else server_security(fleet.tls),
        devices=frozenset(device.id for device in spec.devices if not device.foreign and device.launcher != SIMULATED),
        foreign=foreign,
        foreign_address=fleet.foreign_address if foreign else None,
        asks_names=fleet.asks_names,
        insecure=fleet.insecure,
    )
    allowed.check_addresses(fleet.address)
    return allowed

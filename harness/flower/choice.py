"""Which engine carries a run, and what of a fleet it can have: what it cannot is refused, never left out in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fl.addresses import host_and_port
from fl.flower.versions import installed_flwr, require_ray
from harness.device import DeviceGroup, DeviceSpec
from harness.experiment import ExperimentSpec
from harness.fleet import SIMULATED, FleetSpec
from harness.flower.supernodes import require_commands
from harness.launcher import launcher_class
from harness.launchers.external import EXTERNAL
from harness.links import KEYS as LINK_KEYS
from profiler.errors import SpecError, UsageError

OWN, SUPERNODES, SIMULATION = "fedmeter", "flower", "flower-sim"
ENGINES = (OWN, SUPERNODES, SIMULATION)
NODE_LAUNCHERS = ("local", "container", "ssh")
"""Those of our launchers that start SuperNodes."""
_HELD_BACK = ("cpu_limit", "memory_limit_mb", "cores")

UNSEEN: Mapping[str, str] = {
    "download": "it happens between SuperLink, SuperNode and app, where nobody looks",
    "upload": "it happens between SuperLink, SuperNode and app, where nobody looks",
    "wait": "no process of ours is there between two messages",
}
"""What no run on Flower's engines can measure, and why."""
UNMETERED: Mapping[str, str] = {
    "idle power, net energy": "a node meters itself while it works, and nobody else does in between",
}
"""What is missing beside of nodes that are not of this host."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """`federation`: the address of a SuperLink (for `flower`) or of a Ray cluster (`flower-sim`) that is there."""

    name: str = OWN
    federation: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for what is no engine, and for an address that is none or has no use."""
        if self.name not in ENGINES:
            raise UsageError(f"--engine {self.name!r:.40}: it is one of {', '.join(ENGINES)}.")
        if self.federation is not None and self.name == OWN:
            raise UsageError("--federation goes with --engine flower or flower-sim.")
        if self.federation is not None:
            _check_address(self.federation)

    @property
    def is_flower(self) -> bool:
        return self.name != OWN

    @property
    def starts_nodes(self) -> bool:
        """Whether launchers of ours start the SuperNodes."""
        return self.name == SUPERNODES and self.federation is None

    @property
    def task_name(self) -> str | None:
        """For a task, whose time and energy are the engine's, too; None for our own."""
        return self.name if self.is_flower else None

    def unseen(self, launchers: Collection[str]) -> dict[str, str]:
        """What is missing of a run with devices of these launchers, and why."""
        if not self.is_flower:
            return {}
        if not self.starts_nodes:
            return {**UNSEEN, **UNMETERED}
        elsewhere = sorted(name for name in launchers if not launcher_class(name).shares_host)
        return {**UNSEEN, **{f"{what} ({', '.join(elsewhere)})": why for what, why in UNMETERED.items() if elsewhere}}

    def facts(self, launchers: Collection[str]) -> dict[str, Any]:
        """For run.json."""
        facts: dict[str, Any] = {"name": self.name, "federation": self.federation}
        return facts | ({"flwr": installed_flwr(), "missing": self.unseen(launchers)} if self.is_flower else {})

    @classmethod
    def from_facts(cls, facts: object) -> EngineChoice:
        """What run.json says; our own engine where it says nothing. Raises UsageError."""
        if not isinstance(facts, dict):
            return cls()
        federation = facts.get("federation")
        return cls(str(facts.get("name", OWN)), None if federation is None else str(federation))

    def carried(self, fleet: FleetSpec, experiment: ExperimentSpec) -> tuple[FleetSpec, ExperimentSpec]:
        """Fleet and experiment as this engine carries them.

        Raises SpecError, naming device and key, for what it cannot; PreconditionError without a flwr that does.
        """
        if not self.is_flower:
            return fleet, experiment
        for group in fleet.groups:
            self._check(fleet, group.first)
        require_commands()
        if self.name == SIMULATION:
            require_ray()
        if self.starts_nodes:
            return fleet, experiment
        groups = tuple(_awaited(group) for group in fleet.groups)
        return replace(fleet, groups=groups), replace(experiment, idle_s=0.0)

    def _check(self, fleet: FleetSpec, device: DeviceSpec) -> None:
        def refused(what: str, remedy: str) -> SpecError:
            return SpecError(f"{fleet.where}: {device.id}: --engine {self.name} cannot have {what}.", remedy=remedy)

        if device.launcher == SIMULATED or device.foreign:
            kind = "simulated devices" if device.launcher == SIMULATED else "foreign devices"
            raise refused(kind, "Run this fleet on our own engine: leave out --engine.")
        if self.starts_nodes and device.launcher not in NODE_LAUNCHERS:
            raise refused(
                f"launcher '{device.launcher}', since of our launchers {', '.join(NODE_LAUNCHERS)} start SuperNodes",
                "Start a SuperNode there, join it to a SuperLink, and name that: --federation HOST:PORT.",
            )
        if self.starts_nodes and device.options.get("tunnel") is False:
            raise refused(
                "tunnel = false, since its SuperLink, which runs what it is given, listens on this machine alone",
                "Let the device have a tunnel, or leave 'tunnel' out.",
            )
        given = [key for key in LINK_KEYS if key in device.options]
        if not self.starts_nodes:
            given += [key for key in _HELD_BACK if key in device.options]
            given += ["require"] if device.require else []
        if given:
            reason = "" if self.starts_nodes else ", for it starts the processes and not we"
            raise refused(f"{', '.join(given)}{reason}", "Leave it out of the fleet file, or run on our own engine.")


def _check_address(federation: str) -> None:
    try:
        host_and_port(federation)
    except ValueError as error:
        raise UsageError(f"--federation {federation!r:.80}: {error}.") from None


def _awaited(group: DeviceGroup) -> DeviceGroup:
    """The same devices, as those whose processes others start."""
    options = {"threads": group.first.options.get("threads", 1), "meter": "auto", "server": None}
    return replace(group, first=replace(group.first, launcher=EXTERNAL, options=options))

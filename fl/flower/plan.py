"""What our app inside Flower is told with its run: which devices there are, what they train, where our server is.

Travels as one text of JSON in the run config, which every node of a federation reads: nothing in it is secret.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fl.flower import keys
from fl.strategies.fedavg import fit_deadline_s
from fl.workload import Option, Partition
from profiler.errors import UsageError

PLAN_KEY = "fedmeter"
PARTITION_ID = "partition-id"  # of a node config, as Flower's own templates and its simulation have it
MAX_PLAN_CHARS = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """One device of the fleet: which part of the data it trains on, with how many threads.

    With `meters` its node meters itself, else somebody else does, or nobody.
    """

    id: str
    shard: int
    threads: int = 1
    meters: bool = True


@dataclass(frozen=True, slots=True)
class AppPlan:
    """`server` is where our server listens, HOST:PORT as the ServerApp reaches it, `pull_s` how often that asks
    for replies.
    """

    server: str
    workload: str
    partition: Partition
    devices: tuple[PlannedDevice, ...]
    workload_options: Mapping[str, Option] = field(default_factory=dict)
    fit_timeout_s: float = 600.0
    pull_s: float = 0.5
    max_message_bytes: int = 512 * 1024 * 1024

    def device_of(self, node_config: Mapping[str, Any]) -> PlannedDevice | None:
        """The one that a node says it is: by its name, else by its place. None where there is no such device."""
        if (name := node_config.get(keys.DEVICE)) is not None:
            return next((one for one in self.devices if one.id == name), None)
        number = node_config.get(PARTITION_ID)
        is_place = isinstance(number, int) and 0 <= number < len(self.devices)
        return self.devices[number] if is_place and isinstance(number, int) else None

    def ttl_s(self, config: Mapping[str, object]) -> float:
        """How long a message with this config lives: as long as our server waits for its answer."""
        cutoff_s = keys.number_of(config.get(keys.CUTOFF)) or 0.0
        return fit_deadline_s(cutoff_s, self.fit_timeout_s)

    def to_text(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_text(cls, text: object) -> AppPlan:
        """Raises UsageError where it is no plan of this version's."""
        try:
            if not isinstance(text, str) or len(text) > MAX_PLAN_CHARS:
                raise ValueError("no text of that size is one")
            values = json.loads(text)
            devices = tuple(PlannedDevice(**device) for device in values.pop("devices"))
            return cls(devices=devices, partition=Partition(**values.pop("partition")), **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"the run config's '{PLAN_KEY}' is no plan of this version of fedmeter: {error}.",
                remedy="Install the same version of fedmeter on every node of the federation.",
            ) from None

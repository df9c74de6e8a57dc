"""One device of a fleet, and the groups of equal ones that a fleet file describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fl.proxy import TensorEncoding


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device. `processor` is the label that a cutoff is keyed by; `options` belong to the launcher.

    `tensors` says how its client encodes them: `npy`, or Android's raw `float32`.
    `number` is the device's place in the fleet, `shard` the part of the data that it trains on: mostly the same. A
    `foreign` device runs somebody else's client, which nobody here starts and which proves nothing; it may tell its
    name.
    """

    id: str
    launcher: str
    processor: str
    shard: int
    require: tuple[str, ...] = ()
    config_keys: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    tensors: TensorEncoding = "npy"
    foreign: bool = False
    number: int = 0


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """One `[[device]]` entry: `count` devices like `first`, whose id holds `{n}`; number and shard count up.

    Options of the launcher that are texts may hold `{n}`, too: `host = "pi-{n}.lab"`.
    """

    first: DeviceSpec
    count: int

    @property
    def launcher(self) -> str:
        return self.first.launcher

    @property
    def processor(self) -> str:
        return self.first.processor

    @property
    def end_shard(self) -> int:
        """The shard after its last."""
        return self.first.shard + self.count

    def device(self, n: int) -> DeviceSpec:
        """The device number n of the group, from 0."""
        first = self.first
        id_ = first.id.replace("{n}", str(n))
        options = {
            key: value.replace("{n}", str(n)) if isinstance(value, str) else value
            for key, value in first.options.items()
        }
        return replace(first, id=id_, shard=first.shard + n, number=first.number + n, options=options)

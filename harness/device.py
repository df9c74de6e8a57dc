"""One device of a fleet, and the groups of equal ones that a fleet file describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fl.proxy import TensorEncoding


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device. `processor` is the label that a cutoff is keyed by; `options` belong to the launcher.

    `tensors` says how its client encodes them: `npy`, or Android's raw `float32`.
    `number` is the device's place in the fleet, `shard` the part of the data that it trains on: mostly the same. A
    `foreign` device runs somebody else's client, which nobody here starts and which tells neither its name nor a token.
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
    """One `[[device]]` entry: `count` devices that differ by `{n}` in their id, their place and their shard."""

    pattern: str
    count: int
    launcher: str
    processor: str
    first_number: int
    first_shard: int
    require: tuple[str, ...] = ()
    config_keys: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    tensors: TensorEncoding = "npy"
    foreign: bool = False

    def device(self, n: int) -> DeviceSpec:
        """The device number n of the group, from 0."""
        return DeviceSpec(
            id=self.pattern.replace("{n}", str(n)),
            launcher=self.launcher,
            processor=self.processor,
            shard=self.first_shard + n,
            require=self.require,
            config_keys=self.config_keys,
            options=self.options,
            tensors=self.tensors,
            foreign=self.foreign,
            number=self.first_number + n,
        )

"""One device of a fleet, as the fleet file describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fl.proxy import TensorEncoding


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device. `processor` is the label that a cutoff is keyed by; `options` belong to the launcher.

    `tensors` says how its client encodes them: `npy`, or Android's raw `float32`.
    `shard` is the device's place in the fleet: it trains on that shard of the data. A `foreign` device runs somebody
    else's client, which nobody here starts and which proves nothing; it may tell its name.
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

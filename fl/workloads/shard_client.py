"""What the clients of workloads in numpy share: a shard of examples, their order, and the weights of the last fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from fl.messages import Array, Config, Scalar
from fl.workload import Workload
from fl.workloads.options import number
from fl.workloads.order import batches
from fl.workloads.softmax import Floats, Labels

W = TypeVar("W", bound=Workload)


class ShardClient(Generic[W]):
    """A trainer's `fit` goes over `_batches` of each epoch and leaves its weights by `_left`."""

    def __init__(self, workload: W, inputs: Floats, labels: Labels, shard: int) -> None:
        self._workload = workload
        self._inputs = inputs
        self._labels = labels
        self._shard = shard
        self._latest = workload.initial_parameters(0)

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return {"workload": self._workload.name, "shard": self._shard, "examples": len(self._labels)}

    def get_parameters(self, config: Config) -> list[Array]:
        return [array.copy() for array in self._latest]

    def _left(self, weights: Sequence[Array]) -> list[Array]:
        """Copies, which nobody changes."""
        self._latest = [array.copy() for array in weights]
        return self.get_parameters({})

    def _batches(self, config: Config, epoch: int) -> list[npt.NDArray[np.int64]]:
        name, batch_size = self._workload.name, self._workload.defaults.batch_size
        return batches(name, config, self._shard, epoch, n=len(self._labels), batch_size=batch_size)

    def _number(self, config: Config, key: str, default: float) -> float:
        return number(self._workload.name, config, key, default)

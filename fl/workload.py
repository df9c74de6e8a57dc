"""What is trained: a model, its data and how they are split. A user's own is one file and one entry point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from fl.messages import Array, Config, Scalar
from fl.plugins import load_plugin

ENTRY_POINT_GROUP = "fedmeter.workloads"


class NumPyClient(Protocol):
    """The shape of Flower's NumPyClient, so that code moves between the two."""

    def get_properties(self, config: Config) -> dict[str, Scalar]: ...

    def get_parameters(self, config: Config) -> list[Array]: ...

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]: ...

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]: ...


@dataclass(frozen=True, slots=True)
class Partition:
    """How the training data are split into `shards` parts: `iid`, or `dirichlet` with concentration `alpha`."""

    kind: str = "iid"
    shards: int = 1
    alpha: float = 0.5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Defaults:
    """Hyper-parameters that a workload is known to train well with."""

    batch_size: int
    lr: float
    rounds: int


class Workload(Protocol):
    """Chosen by name through the entry points `fedmeter.workloads`; constructed without arguments."""

    name: str
    defaults: Defaults

    def client(self, shard: int, partition: Partition) -> NumPyClient:
        """The trainer of one shard; its `fit` iterates through `fl.steps.steps` and obeys the config keys.

        Config keys: round, epochs, batch_size, lr, cutoff_s, seed.
        """
        ...

    def initial_parameters(self, seed: int) -> list[Array]: ...

    def evaluate(self, parameters: list[Array]) -> tuple[float, float]:
        """Loss and accuracy (0..1) of a model on the held-out test set."""
        ...


def load_workload(name: str) -> Workload:
    """The workload of that name. Raises UsageError for an unknown name, PreconditionError where an import fails."""
    return cast(Callable[[], Workload], load_plugin(ENTRY_POINT_GROUP, name))()

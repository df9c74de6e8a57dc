"""What is trained: a model, its data and how they are split. A user's own is one file and one entry point."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, cast

from fl.messages import Array, Config, Scalar
from fl.plugins import make_plugin
from profiler.errors import UsageError

ENTRY_POINT_GROUP = "fedmeter.workloads"

PARTITIONS = ("iid", "dirichlet", "domain")
Option = str | int | float | bool


class NumPyClient(Protocol):
    """The shape of Flower's NumPyClient, so that code moves between the two."""

    def get_properties(self, config: Config) -> dict[str, Scalar]: ...

    def get_parameters(self, config: Config) -> list[Array]: ...

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]: ...

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]: ...


@dataclass(frozen=True, slots=True)
class Partition:
    """How the training data are split into `shards` parts: one of `PARTITIONS`.

    `dirichlet` has the concentration `alpha`. `domain` needs a workload whose examples belong to domains, such as the
    camera that took them.
    """

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
    """Chosen by name through the entry points `fedmeter.workloads`; its constructor's arguments are its options.

    Each has a default, and is text, a number or true or false, so that files and command lines can give it.
    """

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


def load_workload(name: str, **options: Option) -> Workload:
    """The workload of that name, made with these options.

    Raises UsageError for an unknown name and for options that it does not take, PreconditionError where an import
    fails or something that it needs is missing.
    """
    return cast(Workload, make_plugin(ENTRY_POINT_GROUP, name, options))


def parse_option(text: str) -> tuple[str, Option]:
    """`KEY=VALUE` as on a command line: VALUE is a whole number, a finite number, `true`, `false`, or else text."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise UsageError(f"{text!r:.80} is no option.", remedy="Write KEY=VALUE, as in width=16.")
    return key, _typed(value)


def _typed(value: str) -> Option:
    if value in ("true", "false"):
        return value == "true"
    if "_" in value:  # Python reads 1_000 as a number; a folder may be called so
        return value
    with suppress(ValueError):
        return int(value)
    with suppress(ValueError):
        if math.isfinite(number := float(value)):
            return number
    return value

"""What workloads on PyTorch share. Give `TorchWorkload` a model and labelled data, and it is a workload.

Everything is seeded from the arguments and the config: torch's global generator is neither read nor set.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fl.messages import Array, Config, Scalar
from fl.partition import held_out, shard_of
from fl.steps import steps
from fl.workload import Defaults, NumPyClient, Partition
from fl.workloads.model import build, get_arrays, initial_arrays, loss_and_accuracy, set_arrays
from fl.workloads.options import at_least_one, number
from fl.workloads.order import epoch_generator
from fl.workloads.runtime import Runtime
from profiler.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs [n, ...] and labels int64[n]."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: torch.Tensor) -> Examples:
        return Examples(self.inputs[indices], self.labels[indices])

    def to(self, device: str) -> Examples:
        return Examples(self.inputs.to(device), self.labels.to(device))


class Source(Protocol):
    """Examples that may still lie on disk: `at` fetches some of them."""

    @property
    def labels(self) -> torch.Tensor: ...

    def at(self, indices: torch.Tensor) -> Examples: ...


@dataclass(frozen=True, slots=True)
class Data:
    """What to train on and what is held out: the same for every seed, partition and client.

    `domains` names the domain of each training example, where they have one.
    """

    train: Source
    test: Source
    domains: npt.NDArray[np.str_] | None = None


def hold_out(
    examples: Examples, strata: npt.NDArray[np.int64] | None = None, domains: npt.NDArray[np.str_] | None = None
) -> Data:
    """A fifth of each stratum held out, of each class where no strata are given; the same in every run.

    Raises DataError where that leaves nothing on one side.
    """
    is_test = held_out(examples.labels.numpy() if strata is None else strata)
    train, test = (examples.at(torch.from_numpy(np.flatnonzero(chosen))) for chosen in (~is_test, is_test))
    if not len(train) or not len(test):
        raise DataError(f"{len(examples)} examples are too few to hold a fifth of each class out.")
    return Data(train, test, None if domains is None else domains[~is_test])


class TorchWorkload(ABC):
    """A classifier, trained by SGD with momentum and tested by cross-entropy and accuracy.

    Subclasses say `name`, `defaults`, `model` and `data`; the rest may stay as it is. The model's whole state travels,
    buffers included. What `data` returns is kept; a client holds only its own shard on the device.
    """

    name: str
    defaults: Defaults
    momentum = 0.9
    weight_decay = 0.0
    evaluation_batch = 2048
    runtime = Runtime()

    @abstractmethod
    def model(self) -> nn.Module:
        """The architecture: its values do not count, for it is built without memory first."""

    @abstractmethod
    def data(self) -> Data: ...

    def prepare(self, inputs: torch.Tensor) -> torch.Tensor:
        """A batch as the model takes it, of one as it is kept: normalised, say."""
        return inputs

    def augment(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """A training batch, as it is kept, changed at random. `rng` follows from (seed, round, shard, epoch)."""
        return inputs

    def client(self, shard: int, partition: Partition) -> NumPyClient:
        """Raises UsageError where the partition has no such shard."""
        return Trainer(self, self._shard(shard, partition), shard)

    def initial_parameters(self, seed: int) -> list[Array]:
        return initial_arrays(self.model, seed)

    def evaluate(self, parameters: list[Array]) -> tuple[float, float]:
        model = self.build()
        set_arrays(self.name, model, parameters)
        return self.test(model, self._test)

    def training_facts(self) -> dict[str, Scalar]:
        """Properties of a client that go into its device record, where the workload chooses what to train on."""
        if self.runtime is TorchWorkload.runtime:
            return {}
        return {"device.training": f"{self.runtime.device}, {'bfloat16' if self.runtime.is_bfloat16 else 'float32'}"}

    def build(self) -> nn.Module:
        """A model with memory on the device, and no values yet."""
        return build(self.model, self.runtime.device)

    def test(self, model: nn.Module, examples: Examples) -> tuple[float, float]:
        """Loss and accuracy of a model on examples that are on the device."""
        model.eval()
        with torch.no_grad():
            return loss_and_accuracy(self._outputs(model, examples), len(examples))

    def _outputs(self, model: nn.Module, examples: Examples) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        size = self.evaluation_batch
        batches = zip(torch.split(examples.inputs, size), torch.split(examples.labels, size), strict=True)
        for inputs, labels in batches:
            with self.runtime.autocast():
                logits = model(self.prepare(inputs))
            yield logits.float(), labels

    def _shard(self, shard: int, how: Partition) -> Examples:
        data = self._data
        return data.train.at(torch.from_numpy(shard_of(data.train.labels.numpy(), how, shard, data.domains)))

    @cached_property
    def _data(self) -> Data:
        return self.data()

    @cached_property
    def _test(self) -> Examples:
        test = self._data.test
        return test.at(torch.arange(len(test.labels))).to(self.runtime.device)


class Trainer:
    """The client of one shard; the order of examples follows from (seed, round, shard, epoch)."""

    def __init__(self, workload: TorchWorkload, examples: Examples, shard: int) -> None:
        self._workload = workload
        self._runtime = workload.runtime
        self._examples = examples.to(workload.runtime.device)
        self._shard = shard
        self._model = workload.build()
        first = workload.initial_parameters(0)
        self._take(first)
        self._warm_up()
        self._take(first)  # what a server may ask it for, as Flower's does

    def _warm_up(self) -> None:
        """One step of a whole batch, before the first measured fit.

        Torch imports over a second's worth of modules with its first optimizer step, and libraries of kernels choose
        and compile theirs when they meet a shape: that belongs to starting a client.
        """
        first = torch.arange(min(len(self._examples), self._workload.defaults.batch_size))
        self._model.train()
        self._step(self._optimizer(0.0), first.to(self._runtime.device), np.random.default_rng(0))
        self._runtime.finish()

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        own: dict[str, Scalar] = {
            "workload": self._workload.name,
            "shard": self._shard,
            "examples": len(self._examples),
        }
        return own | self._workload.training_facts()

    def get_parameters(self, config: Config) -> list[Array]:
        return get_arrays(self._model)

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        """Metrics are loss and accuracy on the training batches of the last epoch, as they were met."""
        self._take(parameters)
        self._model.train()
        optimizer = self._optimizer(self._number(config, "lr", self._workload.defaults.lr))
        pull = Proximal(self._model, self._number(config, "proximal_mu", 0.0), self._workload.name)
        progress = _Progress()
        for epoch in range(at_least_one(self._workload.name, config, "epochs", 1)):
            progress = self._train_epoch(optimizer, pull, config, epoch) or progress
        return self.get_parameters({}), len(self._examples), progress.metrics()

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        """Of the client's own shard: how well the global model serves this client's data."""
        self._take(parameters)
        loss, accuracy = self._workload.test(self._model, self._examples)
        return loss, len(self._examples), {"loss": loss, "accuracy": accuracy}

    def _take(self, parameters: Sequence[Array]) -> None:
        set_arrays(self._workload.name, self._model, parameters)

    def _number(self, config: Config, key: str, default: float) -> float:
        return number(self._workload.name, config, key, default)

    def _optimizer(self, lr: float) -> torch.optim.Optimizer:
        """Torch's own choice of implementation: a few fused kernels for all tensors on a GPU, one by one on a CPU."""
        settings = self._workload
        return torch.optim.SGD(
            self._model.parameters(), lr=lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )

    def _train_epoch(
        self, optimizer: torch.optim.Optimizer, pull: Proximal, config: Config, epoch: int
    ) -> _Progress | None:
        """None where the cutoff left no step to this epoch."""
        rng = epoch_generator(self._workload.name, config, self._shard, epoch)
        progress = _Progress()
        for indices in steps(self._batches(config, rng)):
            progress.add(*self._step(optimizer, indices, rng, pull))
            self._runtime.finish()  # else a step would end where its kernels are launched
        return progress if progress.sizes else None

    def _batches(self, config: Config, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        order = torch.from_numpy(rng.permutation(len(self._examples))).to(self._runtime.device)
        batch_size = at_least_one(self._workload.name, config, "batch_size", self._workload.defaults.batch_size)
        return torch.split(order, batch_size)

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        indices: torch.Tensor,
        rng: np.random.Generator,
        pull: Proximal | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """One training step; the batch's own mean loss, without the proximal term, its hits and its size."""
        batch = self._examples.at(indices)
        inputs = self._workload.prepare(self._workload.augment(batch.inputs, rng))
        with self._runtime.autocast():
            logits: torch.Tensor = self._model(inputs)
        loss = nn.functional.cross_entropy(logits.float(), batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if pull is not None:
            pull.add_gradient()
        optimizer.step()
        return loss.detach(), (logits.argmax(1) == batch.labels).sum(), len(indices)


class Proximal:
    """The gradient of mu / 2 · ‖w − w_global‖² (FedProx, Li et al. 2020), towards the round's first model."""

    def __init__(self, model: nn.Module, mu: float, name: str) -> None:
        if not 0 <= mu < math.inf:
            raise UsageError(f"{name}: config key 'proximal_mu' must be a number from 0, got {mu}.")
        self._mu = mu
        self._parameters = list(model.parameters()) if mu else []
        self._starts = [parameter.detach().clone() for parameter in self._parameters]

    def add_gradient(self) -> None:
        with torch.no_grad():
            for parameter, start in zip(self._parameters, self._starts, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - start, alpha=self._mu)


@dataclass(slots=True)
class _Progress:
    """Losses and hits of an epoch's batches, left on the device until somebody asks: each reading would wait for it."""

    losses: list[torch.Tensor] = field(default_factory=list)
    hits: list[torch.Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, loss: torch.Tensor, hits: torch.Tensor, size: int) -> None:
        self.losses.append(loss)
        self.hits.append(hits)
        self.sizes.append(size)

    def metrics(self) -> dict[str, Scalar]:
        n = sum(self.sizes)
        losses: list[float] = torch.stack(self.losses).tolist()
        loss_sum = sum(loss * size for loss, size in zip(losses, self.sizes, strict=True))
        return {"loss": loss_sum / n, "accuracy": int(torch.stack(self.hits).sum()) / n}

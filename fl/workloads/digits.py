"""Handwritten digits: 1,797 real images of 8 x 8 pixels and a small CNN.

The data are the test set of UCI's "Optical Recognition of Handwritten Digits", as scikit-learn ships it.
Small enough for a demonstration on one machine, real enough that more local epochs cost more and learn more. Everything
is seeded from the arguments and the config: torch's global generator is neither read nor set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fl.messages import Array, Config, Scalar
from fl.partition import partition
from fl.steps import steps
from fl.workload import Defaults, NumPyClient, Partition
from profiler.errors import PreconditionError, UsageError

CLASSES = 10
MOMENTUM = 0.9
_TEST_SHARE = 0.2
_INSTALL = "Install it with: pip install 'fedmeter[train]'"
_SPLIT_SEED = 0  # the test set is the same in every run, so that runs compare


@dataclass(frozen=True, slots=True)
class Examples:
    """Images float32[n, 1, 8, 8] in 0..1 and labels int64[n]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: torch.Tensor) -> Examples:
        return Examples(self.images[indices], self.labels[indices])


class Digits:
    """Four fifths of the images to train on, a stratified fifth held out, the same for every seed and partition."""

    name = "digits"
    defaults = Defaults(batch_size=16, lr=0.01, rounds=4)

    def client(self, shard: int, partition: Partition) -> NumPyClient:
        """Raises UsageError where the partition has no such shard."""
        return DigitsClient(self._shard(shard, partition), shard)

    def initial_parameters(self, seed: int) -> list[Array]:
        """Uniform in +-1/sqrt(fan_in) for weights and biases, as torch initialises these layers."""
        return _initial_parameters(seed)

    def evaluate(self, parameters: list[Array]) -> tuple[float, float]:
        model = _model()
        _set_parameters(model, parameters)
        return _evaluate(model, self._data[1])

    def _shard(self, shard: int, how: Partition) -> Examples:
        train, _ = self._data
        shards = partition(train.labels.numpy(), how)
        if not 0 <= shard < len(shards):
            raise UsageError(f"shard {shard}: the partition has shards 0 to {len(shards) - 1}.")
        return train.at(torch.from_numpy(shards[shard]))

    @cached_property
    def _data(self) -> tuple[Examples, Examples]:
        table = _table()
        labels = table[:, 64].astype(np.int64)
        images = (table[:, :64] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        everything = Examples(torch.from_numpy(images), torch.from_numpy(labels))
        is_test = _is_test(labels)
        train, test = (np.flatnonzero(chosen) for chosen in (~is_test, is_test))
        return everything.at(torch.from_numpy(train)), everything.at(torch.from_numpy(test))


def _table() -> Array:
    """float64[1797, 65]: 64 pixels of 0..16 and the label, from the file that scikit-learn installs.

    Read without importing scikit-learn, which would double a client's start-up time. Raises PreconditionError where
    scikit-learn is not installed.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise PreconditionError("digits: scikit-learn, which ships the data, is not installed.", remedy=_INSTALL)
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if not path.exists():
        raise PreconditionError(f"digits: {path} is missing from this version of scikit-learn.", remedy=_INSTALL)
    return np.loadtxt(path, delimiter=",")


def _is_test(labels: Array) -> Array:
    """bool[n]: a fifth of each class, drawn by a fixed seed."""
    rng = np.random.default_rng(_SPLIT_SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(CLASSES):
        members = rng.permutation(np.flatnonzero(labels == label))
        is_test[members[: round(len(members) * _TEST_SHARE)]] = True
    return is_test


def _initial_parameters(seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    arrays: list[Array] = []
    bound = 0.0
    for parameter in _model().parameters():
        if parameter.ndim > 1:  # a layer's bias follows its weight and has the same fan-in
            bound = 1 / math.sqrt(parameter[0].numel())
        arrays.append(rng.uniform(-bound, bound, tuple(parameter.shape)).astype(np.float32))
    return arrays


class DigitsClient:
    """Trains on one shard by SGD with momentum; the order of examples follows from (seed, round, shard, epoch).

    Its own evaluation is of its own shard: how well the global model serves this client's data.
    """

    def __init__(self, examples: Examples, shard: int) -> None:
        self._examples = examples
        self._shard = shard
        self._model = _model()
        self._warm_up()
        _set_parameters(self._model, _initial_parameters(0))  # what a server may ask it for, as Flower's does

    def _warm_up(self) -> None:
        """One step on a model of zeros: torch imports over a second's worth of modules with its first optimizer step.

        That belongs to starting a client, not to the first measured fit.
        """
        zeros = [np.zeros(tuple(parameter.shape), np.float32) for parameter in self._model.parameters()]
        _set_parameters(self._model, zeros)
        self._step(self._optimizer(Digits.defaults.lr), self._examples.at(torch.arange(1)))

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return {"workload": Digits.name, "shard": self._shard, "examples": len(self._examples)}

    def get_parameters(self, config: Config) -> list[Array]:
        return [parameter.detach().numpy().copy() for parameter in self._model.parameters()]

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        """Metrics are loss and accuracy on the training batches of the last epoch, as they were met."""
        _set_parameters(self._model, parameters)
        optimizer = self._optimizer(_number(config, "lr", Digits.defaults.lr))
        pull = _Proximal(self._model, _number(config, "proximal_mu", 0.0))
        progress = _Progress()
        for epoch in range(_at_least_one(config, "epochs", 1)):
            progress = self._train_epoch(optimizer, pull, config, epoch) or progress
        return self.get_parameters({}), len(self._examples), progress.metrics()

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        _set_parameters(self._model, parameters)
        loss, accuracy = _evaluate(self._model, self._examples)
        return loss, len(self._examples), {"loss": loss, "accuracy": accuracy}

    def _optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(self._model.parameters(), lr=lr, momentum=MOMENTUM)

    def _step(
        self, optimizer: torch.optim.Optimizer, batch: Examples, pull: _Proximal | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One training step; the batch's own loss, without the proximal term, and its logits."""
        logits: torch.Tensor = self._model(batch.images)
        loss = nn.functional.cross_entropy(logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if pull is not None:
            pull.add_gradient()
        optimizer.step()
        return loss, logits

    def _train_epoch(
        self, optimizer: torch.optim.Optimizer, pull: _Proximal, config: Config, epoch: int
    ) -> _Progress | None:
        """None where the cutoff left no step to this epoch."""
        progress = _Progress()
        for indices in steps(self._batches(config, epoch)):
            batch = self._examples.at(indices)
            loss, logits = self._step(optimizer, batch, pull)
            progress.add(loss, logits, batch)
        return progress if progress.examples else None

    def _batches(self, config: Config, epoch: int) -> tuple[torch.Tensor, ...]:
        seed, round_ = (int(_number(config, key, 0)) for key in ("seed", "round"))
        order = np.random.default_rng([seed, round_, self._shard, epoch]).permutation(len(self._examples))
        batch_size = _at_least_one(config, "batch_size", Digits.defaults.batch_size)
        return torch.split(torch.from_numpy(order), batch_size)


class _Proximal:
    """The gradient of mu / 2 · ‖w − w_global‖² (FedProx, Li et al. 2020), towards the round's first model."""

    def __init__(self, model: nn.Module, mu: float) -> None:
        if not 0 <= mu < math.inf:
            raise UsageError(f"digits: config key 'proximal_mu' must be a number from 0, got {mu}.")
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
    """Loss and hits over the batches of one epoch."""

    examples: int = 0
    loss_sum: float = 0.0
    hits: int = 0

    def add(self, loss: torch.Tensor, logits: torch.Tensor, batch: Examples) -> None:
        self.examples += len(batch)
        self.loss_sum += loss.item() * len(batch)
        self.hits += int((logits.argmax(1) == batch.labels).sum())

    def metrics(self) -> dict[str, Scalar]:
        return {"loss": self.loss_sum / self.examples, "accuracy": self.hits / self.examples}


def _model() -> nn.Sequential:
    """338,058 parameters, uninitialised: sized so that a step of 16 images takes some 8 ms of one x86 core."""
    with torch.device("meta"):  # no draw from the global generator
        model = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128 * 4 * 4, 128),
            nn.ReLU(),
            nn.Linear(128, CLASSES),
        )
    return model.to_empty(device="cpu")


def _set_parameters(model: nn.Module, arrays: list[Array]) -> None:
    """Raises UsageError where the arrays are not this model's."""
    own = list(model.parameters())
    shapes = [tuple(parameter.shape) for parameter in own]
    if [array.shape for array in arrays] != shapes:
        raise UsageError(f"digits: the model's tensors have shapes {shapes}; got {[array.shape for array in arrays]}.")
    with torch.no_grad():
        for parameter, array in zip(own, arrays, strict=True):
            parameter.copy_(torch.tensor(array))


def _evaluate(model: nn.Module, examples: Examples) -> tuple[float, float]:
    with torch.no_grad():
        logits = model(examples.images)
        loss = nn.functional.cross_entropy(logits, examples.labels).item()
        hits = int((logits.argmax(1) == examples.labels).sum())
    return loss, hits / len(examples)


def _number(config: Config, key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, (bytes, str)):
        raise UsageError(f"digits: config key {key!r} must be a number, got {value!r:.80}.")
    return value


def _at_least_one(config: Config, key: str, default: int) -> int:
    value = int(_number(config, key, default))
    if value < 1:
        raise UsageError(f"digits: config key {key!r} must be at least 1, got {value}.")
    return value

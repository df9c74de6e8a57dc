"""The workload office31-mobilenetv2 in numpy alone, on features of images that were computed on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.datasets import data_root
from fl.datasets.features import TEST, Features, Labels, read_domains, read_features, rows
from fl.datasets.mobilenetv2 import FEATURES
from fl.messages import Array, Config, Scalar
from fl.partition import shard_of
from fl.steps import steps
from fl.workload import Partition
from fl.workloads.head import HIDDEN, Head, first_weights, head_shapes
from fl.workloads.office31 import DEFAULTS, NAME
from fl.workloads.options import at_least_one, text
from fl.workloads.shard_client import ShardClient
from profiler.errors import DataError, UsageError


class Office31Features:
    """The twin of `Office31MobileNetV2`, for devices without torch, such as a phone under Termux.

    `features` is a folder that `python -m fl.workloads.export --whole` wrote. A client holds its own shard in memory.
    """

    name = NAME
    defaults = DEFAULTS

    def __init__(self, features: str = "office31-features") -> None:
        self._folder = data_root() / Path(text(self.name, "features", features)).expanduser()

    def client(self, shard: int, partition: Partition) -> HeadClient:
        """Raises UsageError where the partition has no such shard."""
        features, labels = self._train
        own = shard_of(labels, partition, shard, read_domains(self._folder, len(labels)))
        return HeadClient(self, rows(features, own, self._folder), labels[own], shard)

    def initial_parameters(self, seed: int) -> list[Array]:
        return first_weights(self._shapes, seed)

    def evaluate(self, parameters: list[Array]) -> tuple[float, float]:
        features, labels = read_features(self._folder, FEATURES, TEST)
        if labels.max() >= self._n_classes:
            raise DataError(f"{self._folder}: class {labels.max()} is among the test set's alone.")
        everything: npt.NDArray[np.int64] = np.arange(len(labels))
        loss, hits = self.head(parameters).loss_and_hits(rows(features, everything, self._folder), labels)
        return loss, hits / len(labels)

    def head(self, parameters: Sequence[Array], mu: float = 0.0) -> Head:
        """Raises UsageError where they are not this model's."""
        shapes, expected = [array.shape for array in parameters], list(self._shapes)
        if shapes != expected:
            raise UsageError(f"{self.name}: the model's tensors have shapes {expected}; got {shapes}.")
        return Head(parameters, mu)

    @property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        return head_shapes(FEATURES, HIDDEN, self._n_classes)

    @property
    def _n_classes(self) -> int:
        """Of images in folders each class has some, of which the most are trained on."""
        return int(self._train[1].max()) + 1

    @cached_property
    def _train(self) -> tuple[Features, Labels]:
        if not self._folder.is_dir():
            raise DataError(
                f"{self.name}: without torch it takes features, and {self._folder} is no folder.",
                remedy="Run: python -m fl.workloads.export --whole, where torch and the images are, and copy what it"
                " wrote there, or set the option features.",
            )
        return read_features(self._folder, FEATURES)


class HeadClient(ShardClient[Office31Features]):
    """The trainer of one shard; the order of examples is that of the clients on PyTorch."""

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return super().get_properties(config) | {"device.training": "numpy, float32"}

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        """Metrics are loss and accuracy on the training batches of the last epoch, as they were met."""
        mu = self._number(config, "proximal_mu", 0.0)
        if mu < 0:
            raise UsageError(f"{NAME}: config key 'proximal_mu' must be a number from 0, got {mu}.")
        head = self._workload.head(parameters, mu)
        lr = self._number(config, "lr", DEFAULTS.lr)
        metrics: dict[str, Scalar] = {}
        for epoch in range(at_least_one(NAME, config, "epochs", 1)):
            metrics = self._train_epoch(head, lr, config, epoch) or metrics
        return self._left(head.weights), len(self._labels), metrics

    def _train_epoch(self, head: Head, lr: float, config: Config, epoch: int) -> dict[str, Scalar]:
        """Empty where the cutoff left no step to this epoch."""
        loss_sum, hits, seen = 0.0, 0, 0
        for batch in steps(self._batches(config, epoch)):
            loss, n_hits = head.step(self._inputs[batch], self._labels[batch], lr)
            loss_sum, hits, seen = loss_sum + loss * len(batch), hits + n_hits, seen + len(batch)
        return {"loss": loss_sum / seen, "accuracy": hits / seen} if seen else {}

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        """Of the client's own shard: how well the global model serves this client's data."""
        loss, hits = self._workload.head(parameters).loss_and_hits(self._inputs, self._labels)
        return loss, len(self._labels), {"loss": loss, "accuracy": hits / len(self._labels)}

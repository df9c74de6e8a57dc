"""Softmax regression in numpy alone: the workload of devices that have no torch, and of fleets that test the harness.

Its data are made, the same on every device and with every version of numpy, so that nothing has to be fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fl.messages import Array, Config, Scalar
from fl.partition import held_out, shard_of
from fl.steps import steps
from fl.workload import Defaults, Partition
from fl.workloads.options import at_least_one, whole_number
from fl.workloads.shard_client import ShardClient
from fl.workloads.softmax import Floats, Labels, loss_and_hits, softmax
from profiler.errors import UsageError

CLASSES = 10
_DATA_SEED = 0
_SPREAD = 0.35  # of the classes' centres, where the noise is 1: the best rule gets 86 of 100 held-out examples right
_FIRST_WEIGHTS = 0.01


class Linear:
    """Ten classes, normally distributed around centres, a stratified fifth held out.

    `features` per example (64, the cost of a step grows with it) and `examples` (2,000), of both sets together.
    """

    name = "linear"
    defaults = Defaults(batch_size=16, lr=0.05, rounds=5)

    def __init__(self, features: int = 64, examples: int = 2000) -> None:
        self._features = whole_number(self.name, "features", features, at_least=1, at_most=65536)
        self._examples = whole_number(self.name, "examples", examples, at_least=100, at_most=1_000_000)
        if features * examples > 1 << 28:
            raise UsageError("linear: features x examples is more than 268,435,456.", remedy="Make one smaller.")

    def client(self, shard: int, partition: Partition) -> LinearClient:
        """Raises UsageError where the partition has no such shard."""
        inputs, labels, is_test = self._data
        train = np.flatnonzero(~is_test)
        own = train[shard_of(labels[train], partition, shard)]
        return LinearClient(self, inputs[own], labels[own], shard)

    def initial_parameters(self, seed: int) -> list[Array]:
        """Weights float32[features, 10] and biases float32[10]."""
        weights = np.random.default_rng(seed).standard_normal((self._features, CLASSES))
        return [(_FIRST_WEIGHTS * weights).astype(np.float32), np.zeros(CLASSES, np.float32)]

    def evaluate(self, parameters: list[Array]) -> tuple[float, float]:
        inputs, labels, is_test = self._data
        return _loss_and_accuracy(*self.checked(parameters), inputs[is_test], labels[is_test])

    def checked(self, parameters: Sequence[Array]) -> tuple[Floats, Floats]:
        """Raises UsageError where they are not this model's."""
        shapes, expected = [array.shape for array in parameters], [(self._features, CLASSES), (CLASSES,)]
        if shapes != expected:
            raise UsageError(f"linear: the model's tensors have shapes {expected}; got {shapes}.")
        weights, biases = (np.asarray(array, np.float32) for array in parameters)
        return weights, biases

    @cached_property
    def _data(self) -> tuple[Floats, Labels, npt.NDArray[np.bool_]]:
        """Inputs float32[examples, features], labels int64[examples], and which are held out.

        By numpy's old generator, whose stream is frozen (NEP 19): that of the new one may change with a release.
        """
        rng = np.random.RandomState(_DATA_SEED)
        centres = _SPREAD * rng.standard_normal((CLASSES, self._features)) * min(1.0, (64 / self._features) ** 0.5)
        labels = np.arange(self._examples) % CLASSES
        inputs = centres[labels] + rng.standard_normal((self._examples, self._features))
        return inputs.astype(np.float32), labels, held_out(labels)


class LinearClient(ShardClient[Linear]):
    """The trainer of one shard: plain SGD; the order of examples follows from (seed, round, shard, epoch)."""

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        """Metrics are loss and accuracy of the trained model on the client's own shard."""
        start = self._workload.checked(parameters)
        weights, biases = (array.copy() for array in start)
        lr = self._number(config, "lr", self._workload.defaults.lr)
        pull = lr * self._number(config, "proximal_mu", 0.0)
        for epoch in range(at_least_one(self._workload.name, config, "epochs", 1)):
            for batch in steps(self._batches(config, epoch)):
                inputs = self._inputs[batch]
                error = softmax(inputs @ weights + biases)
                error[np.arange(len(batch)), self._labels[batch]] -= 1
                error *= lr / len(batch)
                # FedProx pulls towards the round's first model.
                weights -= inputs.T @ error + pull * (weights - start[0])
                biases -= error.sum(axis=0) + pull * (biases - start[1])
        return self._left([weights, biases]), len(self._labels), self._scores(weights, biases)[1]

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        """Of the client's own shard: how well the global model serves this client's data."""
        loss, scores = self._scores(*self._workload.checked(parameters))
        return loss, len(self._labels), scores

    def _scores(self, weights: Floats, biases: Floats) -> tuple[float, dict[str, Scalar]]:
        loss, accuracy = _loss_and_accuracy(weights, biases, self._inputs, self._labels)
        return loss, {"loss": loss, "accuracy": accuracy}


def _loss_and_accuracy(weights: Floats, biases: Floats, inputs: Floats, labels: Labels) -> tuple[float, float]:
    """Mean cross-entropy and the share of hits."""
    loss, hits = loss_and_hits(softmax(inputs @ weights + biases), labels)
    return loss, hits / len(labels)

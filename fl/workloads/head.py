"""A head of two layers in numpy: Linear, ReLU, Linear with softmax cross-entropy, and SGD with momentum.

Layout (weights [out, in]) and update (v = 0.9 v + g, w = w - lr v) are PyTorch's, so that it goes on from the weights
of a head there, in `fl/android` or in a file of `tools.make_head`, and comes to the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fl.messages import Array
from fl.workloads.softmax import Floats, Labels, loss_and_hits, softmax, to_gradient

HIDDEN = 256
MOMENTUM = 0.9

Shapes = tuple[tuple[int, ...], ...]


def head_shapes(inputs: int, hidden: int, classes: int) -> Shapes:
    """Of w1, b1, w2 and b2, in the order in which they travel."""
    return (hidden, inputs), (hidden,), (classes, hidden), (classes,)


def first_weights(shapes: Shapes, seed: int) -> list[Array]:
    """Uniform in +-1/sqrt(fan_in), a bias like its weights: the numbers of `fl.workloads.model.initial_arrays`."""
    rng = np.random.default_rng(seed)
    bounds = [shape[1] ** -0.5 for shape in shapes[::2] for _ in range(2)]
    return [rng.uniform(-bound, bound, shape).astype(np.float32) for shape, bound in zip(shapes, bounds, strict=True)]


class Head:
    """Trains copies of the weights that it is made of. `mu` is FedProx's, which pulls towards these."""

    def __init__(self, weights: Sequence[Array], mu: float = 0.0) -> None:
        self.weights: list[Floats] = [np.array(array, np.float32) for array in weights]
        self._velocities = [np.zeros_like(array) for array in self.weights]
        self._starts = [array.copy() for array in self.weights] if mu else []
        self._mu = mu

    def step(self, inputs: Floats, labels: Labels, lr: float) -> tuple[float, int]:
        """One step of SGD on a batch float32[n, inputs]; its mean loss and hits before it, without FedProx's term."""
        w1, b1, w2, b2 = self.weights
        hidden = _hidden(w1, b1, inputs)
        probabilities = softmax(hidden @ w2.T + b2)
        scores = loss_and_hits(probabilities, labels)
        error = to_gradient(probabilities, labels)
        hidden_error = (error @ w2) * (hidden > 0)
        self._descend((hidden_error.T @ inputs, hidden_error.sum(0), error.T @ hidden, error.sum(0)), lr)
        return scores

    def loss_and_hits(self, inputs: Floats, labels: Labels) -> tuple[float, int]:
        w1, b1, w2, b2 = self.weights
        return loss_and_hits(softmax(_hidden(w1, b1, inputs) @ w2.T + b2), labels)

    def _descend(self, gradients: Sequence[Floats], lr: float) -> None:
        for i, gradient in enumerate(gradients):
            if self._starts:
                gradient += self._mu * (self.weights[i] - self._starts[i])
            self._velocities[i] *= MOMENTUM
            self._velocities[i] += gradient
            self.weights[i] -= lr * self._velocities[i]


def _hidden(weights: Floats, biases: Floats, inputs: Floats) -> Floats:
    activations: Floats = inputs @ weights.T + biases
    return np.maximum(activations, 0, out=activations)

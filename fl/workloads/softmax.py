"""Softmax and cross-entropy in numpy, for workloads that do without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def softmax(logits: Floats) -> Floats:
    """Of each row of float32[n, classes], in its place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def loss_and_hits(probabilities: Floats, labels: Labels) -> tuple[float, int]:
    """Mean cross-entropy, and how many labels are the likeliest class."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    loss = -np.log(np.maximum(of_label, np.finfo(np.float32).tiny)).mean()
    return float(loss), int((probabilities.argmax(axis=1) == labels).sum())


def to_gradient(probabilities: Floats, labels: Labels) -> Floats:
    """Of the batch's mean cross-entropy by its logits, in the place of the probabilities."""
    probabilities[np.arange(len(labels)), labels] -= 1
    probabilities /= len(labels)
    return probabilities

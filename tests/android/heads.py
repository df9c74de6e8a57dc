"""What heads are compared on: features, an order of batches, first weights; and what PyTorch makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fl.messages import Array
from tests.fixtures.threads import one_thread

STEPS, BATCH, LR = 100, 32, 0.01
INPUTS, HIDDEN, CLASSES = 1280, 256, 31  # of office31-mobilenetv2
N_EXAMPLES = 400


@dataclass(frozen=True)
class Course:
    """`order` holds the examples of all batches, one batch after the other."""

    features: Array
    labels: Array
    order: Array
    weights: list[Array]

    def batches(self) -> list[Array]:
        return np.split(self.order, STEPS)

    def save(self, folder: Path) -> None:
        named = {"features": self.features, "labels": self.labels, "order": self.order}
        for name, array in (named | {f"w{i}": array for i, array in enumerate(self.weights)}).items():
            np.save(folder / f"{name}.npy", array)


def course() -> Course:
    """Features like MobileNetV2's, which are means of ReLU6: from 0 on, most of them small."""
    rng = np.random.default_rng(11)
    features = np.abs(rng.standard_normal((N_EXAMPLES, INPUTS))).astype(np.float32) * 0.5
    labels = rng.integers(0, CLASSES, N_EXAMPLES)
    order = rng.integers(0, N_EXAMPLES, STEPS * BATCH)
    shapes = ((HIDDEN, INPUTS), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,))
    bounds = (INPUTS**-0.5, INPUTS**-0.5, HIDDEN**-0.5, HIDDEN**-0.5)
    weights = [rng.uniform(-b, b, shape).astype(np.float32) for b, shape in zip(bounds, shapes, strict=True)]
    return Course(features, labels, order, weights)


def torch_head(weights: Sequence[Array]) -> nn.Sequential:
    head = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    with torch.no_grad():
        for parameter, array in zip(head.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(array))
    return head


def by_torch(course: Course, batches: Sequence[Array], mu: float = 0.0) -> tuple[list[Array], list[float]]:
    """The weights after these batches, and each batch's mean loss before its step, without FedProx's term."""
    head = torch_head(course.weights)
    optimizer = torch.optim.SGD(head.parameters(), lr=LR, momentum=0.9)
    starts = [torch.from_numpy(array) for array in course.weights]
    losses = []
    with one_thread():
        for batch in batches:
            logits = head(torch.from_numpy(course.features[batch]))
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(course.labels[batch]))
            losses.append(loss.item())
            for parameter, start in zip(head.parameters(), starts, strict=True):
                loss = loss + mu / 2 * ((parameter - start) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return [parameter.detach().numpy() for parameter in head.parameters()], losses


def assert_near(trained: Sequence[Array], expected: Sequence[Array], weights: Sequence[Array]) -> None:
    """Within 1e-4 of each tensor's largest value, having moved from the first weights by a hundred times as much."""
    for array, wanted, start in zip(trained, expected, weights, strict=True):
        scale = np.abs(wanted).max()
        assert np.abs(array - wanted).max() <= 1e-4 * scale
        assert np.abs(wanted - start).max() > 1e-2 * scale, "and they have moved"

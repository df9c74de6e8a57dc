"""A model as the arrays that travel, and back: first values, taking them in, giving them out, testing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from fl.messages import Array
from profiler.errors import UsageError


def build(model: Callable[[], nn.Module], device: str) -> nn.Module:
    """A model with memory of its own and no values, made without a draw from torch's global generator.

    Raises UsageError where it computes buffers that are not in its state: nobody would ever set them.
    """
    with torch.device("meta"):
        made = model()
    buffers = {name for name, _ in made.named_buffers()}
    hidden = sorted(buffers - set(made.state_dict()))
    if hidden:
        raise UsageError(
            f"the model keeps {', '.join(hidden)} out of its state, so that it cannot travel.",
            remedy="Register it with persistent=True, or compute it in forward.",
        )
    return made.to_empty(device=device)


def initial_arrays(model: Callable[[], nn.Module], seed: int) -> list[Array]:
    """Uniform in +-1/sqrt(fan_in) for weights and their biases, as torch initialises linear layers and convolutions.

    Normalisations begin as the identity; all other vectors and counters are zero. In the order of the model's state.
    """
    with torch.device("meta"):
        made = model()
    rng = np.random.default_rng(seed)
    return [array for module in made.modules() for array in _initial(module, rng)]


def _initial(module: nn.Module, rng: np.random.Generator) -> Iterator[Array]:
    """Of a module's own tensors, in the order of `state_dict`. A bias follows its weight and has the same fan-in."""
    bound = 0.0
    for name, tensor in _own_tensors(module):
        shape, dtype = tuple(tensor.shape), _numpy_type(tensor)
        if tensor.ndim > 1:
            bound = 1 / math.sqrt(tensor[0].numel())
        if bound:
            yield rng.uniform(-bound, bound, shape).astype(dtype)
        else:
            yield np.full(shape, name in ("weight", "running_var"), dtype)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _numpy_type(tensor: torch.Tensor) -> np.dtype[np.generic]:
    return torch.empty(0, dtype=tensor.dtype).numpy().dtype


def get_arrays(model: nn.Module) -> list[Array]:
    """Copies of the model's state, buffers among it, each contiguous whatever its memory format on the device."""
    return [tensor.cpu().numpy().copy() for tensor in model.state_dict().values()]


def set_arrays(name: str, model: nn.Module, arrays: Sequence[Array]) -> None:
    """Raises UsageError, which begins with the workload's name, where the arrays are not this model's.

    A server's optimizer can carry a running variance below zero, which no square root bears: it is cut off there.
    """
    state = model.state_dict()
    shapes = [tuple(tensor.shape) for tensor in state.values()]
    if [array.shape for array in arrays] != shapes:
        raise UsageError(f"{name}: the model's tensors have shapes {shapes}; got {[array.shape for array in arrays]}.")
    with torch.no_grad():
        for (key, tensor), array in zip(state.items(), arrays, strict=True):
            tensor.copy_(torch.tensor(array))
            if key.endswith("running_var"):
                tensor.clamp_(min=0.0)


def loss_and_accuracy(
    logits_and_labels: Iterable[tuple[torch.Tensor, torch.Tensor]], n_examples: int
) -> tuple[float, float]:
    """Mean cross-entropy and share of hits over batches."""
    loss, hits = 0.0, 0
    for logits, labels in logits_and_labels:
        loss += nn.functional.cross_entropy(logits, labels).item() * (len(labels) / n_examples)
        hits += int((logits.argmax(1) == labels).sum())
    return loss, hits / n_examples

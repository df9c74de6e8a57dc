"""What is sent in the benches of the wire: the shapes of a ResNet-18 with ten classes, and a model of 100 kB."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_STAGES = ((64, 64), (64, 128), (128, 256), (256, 512))  # channels in and out, He et al. 2016, table 1

SHAPES_100K: list[tuple[int, ...]] = [(64, 100), (64,), (100, 180), (180,), (356,)]


def resnet18_shapes() -> list[tuple[int, ...]]:
    """62 tensors of 11,181,642 parameters: convolutions, scales and shifts of the norms, and the last layer."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    for n_in, n_out in _STAGES:
        for n_first in (n_in, n_out):
            shapes += [(n_out, n_first, 3, 3), (n_out,), (n_out,), (n_out, n_out, 3, 3), (n_out,), (n_out,)]
            if n_first != n_out:
                shapes += [(n_out, n_first, 1, 1), (n_out,), (n_out,)]
    return [*shapes, (10, 512), (10,)]


def make(name: str, seed: int = 0) -> list[npt.NDArray[Any]]:
    """`resnet18` or `100k`, as float32."""
    shapes = {"resnet18": resnet18_shapes, "100k": lambda: SHAPES_100K}[name]()
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]

"""Features of images by a frozen network: computed once on a host, and kept on disk under what they were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fl.datasets.cache import Features, cached
from fl.datasets.images import decode, read_bytes
from fl.datasets.mobilenetv2 import FEATURES
from fl.workloads.mobilenetv2 import load_mobilenetv2
from profiler.errors import DataError

_BATCH = 32
_FORMAT = b"fedmeter features 1"  # another number whenever the same inputs would give other features
# Of ImageNet's pixels in 0..1, as torchvision's weights were trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def mobilenet_features(paths: Sequence[Path], size: int, weights: Path, cache: Path, device: str) -> Features:
    """float32[n, 1280] of images that are resized to a square of `size`, in the order of `paths`; in memory or mapped.

    The first process of a host computes them while the others wait. Where `cache` cannot be written they are computed
    for this process alone and a warning is logged. Raises DataError, which names the file, for a broken image, and for
    weights that do not fit.
    """
    return cached(
        cache / f"mobilenetv2-{content_hash(paths, size, weights, device)}.npy",
        (len(paths), FEATURES),
        lambda: compute(paths, size, weights, device),
    )


def content_hash(paths: Sequence[Path], size: int, weights: Path, device: str) -> str:
    """Of the bytes of images and weights, of image size and device, which round differently; not of names.

    Raises DataError.
    """
    digest = hashlib.sha256(_FORMAT + f" {size} {device}".encode())
    for path in (weights, *paths):
        digest.update(hashlib.sha256(read_bytes(path)).digest())
    return digest.hexdigest()[:32]


def compute(paths: Sequence[Path], size: int, weights: Path, device: str) -> Features:
    """In float32, whatever the hardware is fast in: they are shared by all that train on them. Raises DataError."""
    model = load_mobilenetv2(weights).to(device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (_MEAN, _STD))
    features = np.empty((len(paths), FEATURES), np.float32)
    with torch.no_grad():
        for start in range(0, len(paths), _BATCH):
            squares = np.stack([decode(path, size) for path in paths[start : start + _BATCH]])
            images = torch.from_numpy(squares).to(device).permute(0, 3, 1, 2).float()  # channels last, in memory too
            features[start : start + _BATCH] = model((images / 255 - mean) / std).cpu().numpy()
    if not np.isfinite(features).all():
        raise DataError(f"{weights}: the weights give features that are not finite.", remedy="Use other weights.")
    return features

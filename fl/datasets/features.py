"""Features that were computed on another machine: NPY files in a folder, read in place and checked.

`python -m fl.workloads.export --whole` writes them: `features.npy` (float32[n, width]) and `labels.npy` (int64[n]) to
train on, the same with `test-` before them, and `domains.npy` (str[n]) where the data have domains. What is not asked
for need not be there: a device that only trains does without the test set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from fl.datasets.images import MAX_IMAGES
from profiler.errors import DataError

FEATURES_FILE, LABELS_FILE, DOMAINS_FILE = "features.npy", "labels.npy", "domains.npy"
TEST = "test-"
_MAX_CLASSES = 65536
_REMEDY = "Make them with: python -m fl.workloads.export --whole, where the images are, and copy the whole folder."

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def read_features(folder: Path, width: int, part: str = "") -> tuple[Features, Labels]:
    """Mapped, so that a client reads its own rows alone; `part` is `TEST` or nothing. Raises DataError."""
    features: Features = _mapped(folder / (part + FEATURES_FILE), np.dtype("<f4"), 2)
    labels: Labels = np.array(_mapped(folder / (part + LABELS_FILE), np.dtype("<i8"), 1))
    if features.shape != (len(labels), width):
        found = f"features of shape {features.shape} and {len(labels)} labels"
        raise DataError(f"{folder}: {found}; it takes as many of each, and features of width {width}.", remedy=_REMEDY)
    if labels.min() < 0 or labels.max() >= _MAX_CLASSES:
        raise DataError(f"{folder}: labels from {labels.min()} to {labels.max()} are no classes.", remedy=_REMEDY)
    return features, labels


def read_domains(folder: Path, n: int) -> npt.NDArray[np.str_] | None:
    """None where there are none. Raises DataError where they are not those of `n` examples."""
    path = folder / DOMAINS_FILE
    if not path.exists():
        return None
    domains = np.array(_mapped(path, None, 1))
    if domains.dtype.kind != "U" or len(domains) != n:
        raise DataError(f"{path} holds {domains.dtype}{domains.shape}, not the domains of {n} examples.")
    return domains


def rows(features: Features, indices: npt.NDArray[np.int64], where: Path) -> Features:
    """Some rows, in memory. Raises DataError where they hold what is no number."""
    chosen: Features = np.asarray(features[indices])
    if not np.isfinite(chosen).all():
        raise DataError(f"{where}: a feature is not finite.", remedy=_REMEDY)
    return chosen


def _mapped(path: Path, dtype: np.dtype[Any] | None, dimensions: int) -> npt.NDArray[Any]:
    """Of an array whose header and size agree. Nothing of it is unpickled, and nothing is allocated by its header."""
    try:
        found = open_memmap(path, mode="r")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", remedy=_REMEDY) from None
    except (ValueError, SyntaxError, TypeError, OverflowError) as error:
        raise DataError(f"{path} is no array that can be used: {str(error)[:200]}.", remedy=_REMEDY) from None
    if found.ndim != dimensions or (dtype is not None and found.dtype != dtype) or not 0 < len(found) <= MAX_IMAGES:
        raise DataError(f"{path} holds {found.dtype}{list(found.shape)}, which is none of its kind.", remedy=_REMEDY)
    return found

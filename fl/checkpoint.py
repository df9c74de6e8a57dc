"""A run after a round, in one file: the global model, and what the strategy keeps beside it. Atomic, no pickle.

The format is numpy's .npz: `arr_0`, ... are the model's tensors, `state_0`, ... the strategy's, `round` the last round
that is whole.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fl.messages import Array
from profiler.errors import PreconditionError

MAX_CHECKPOINT_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`round` is the last one that is in the model."""

    round: int
    arrays: list[Array]
    state: list[Array] = field(default_factory=list)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """All of it or nothing: a temporary file beside it, fsync, rename. Raises OSError."""
    partial = path.with_name(f".{path.name}.partial")
    named: dict[str, Any] = {f"state_{n}": array for n, array in enumerate(checkpoint.state)}
    named["round"] = np.int64(checkpoint.round)
    with partial.open("wb") as out:
        np.savez(out, *checkpoint.arrays, **named)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def read_checkpoint(path: Path, like: Sequence[Array] | None = None) -> Checkpoint | None:
    """None where there is none. Raises PreconditionError where it cannot be read or is of another model than `like`."""
    if not path.exists():
        return None
    remedy = "Delete the file to begin again."
    try:
        if path.stat().st_size > MAX_CHECKPOINT_BYTES:
            raise ValueError(f"larger than {MAX_CHECKPOINT_BYTES} bytes")
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays, state = _numbered(archive, "arr_"), _numbered(archive, "state_")
            round_ = int(archive["round"])
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise PreconditionError(f"checkpoint {path} cannot be read: {error}.", remedy=remedy) from None
    if like is not None and [(a.shape, a.dtype) for a in arrays] != [(b.shape, b.dtype) for b in like]:
        raise PreconditionError(f"checkpoint {path} holds another model.", remedy=remedy)
    return Checkpoint(round_, arrays, state)


def _numbered(archive: Any, prefix: str) -> list[Array]:  # np.lib.npyio.NpzFile, which numpy has moved about
    n = sum(name.startswith(prefix) for name in archive.files)
    return [archive[f"{prefix}{k}"] for k in range(n)]

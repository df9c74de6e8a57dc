"""Arrays that take long to make: made by one process of a host, kept on disk, mapped by all."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

Features = npt.NDArray[np.float32]

_log = logging.getLogger("fl")


def cached(path: Path, shape: tuple[int, int], make: Callable[[], Features]) -> Features:
    """The array of a file, made first by one process while the others wait. Never a half written one."""
    with _locked(path.parent):
        features = _read(path, shape)
        if features is None:
            features = make()
            _write(path, features)
    return features


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Held by one process of a host at a time; the kernel lets go of it when that process ends, however it does.

    Where there can be no lock there is none: then features are made more than once, and are the same.
    """
    with ExitStack() as held:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _read(path: Path, shape: tuple[int, int]) -> Features | None:
    """Mapped, so that the clients of one host share it; None where there is none, or one that is damaged."""
    with suppress(OSError, ValueError):
        found: Features = open_memmap(path, mode="c")
        if found.shape == shape and found.dtype == np.float32:
            return found
    return None


def _write(path: Path, features: Features) -> None:
    try:
        handle, name = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as out:
                np.save(out, features)
                out.flush()
                os.fsync(out.fileno())
            partial.chmod(0o644)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s cannot be kept: %s. Every client will compute it for itself.", path, error.strerror)

"""Small files of the kernel, read at the edges of spans: one open, one read, one close, 2 µs a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # a FIFO must not stop a span
_MAX_FILE_BYTES = 4096  # what a sysfs file can hold at most (Documentation/filesystems/sysfs.rst)


def text(path: Path | str, max_bytes: int = _MAX_FILE_BYTES) -> str | None:
    """The first bytes of a file without the white space around them; None where it cannot be read."""
    try:
        file = os.open(path, _FLAGS)
    except OSError:
        return None
    try:
        return os.read(file, max_bytes).decode("ascii", errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(file)


def number(path: str, base: int = 10) -> int | None:
    """A whole number; None where there is none to read."""
    try:
        file = os.open(path, _FLAGS)
    except OSError:
        return None
    try:
        return int(os.read(file, 64), base)
    except (OSError, ValueError):
        return None
    finally:
        os.close(file)


def spread(paths: Sequence[T], limit: int) -> tuple[T, ...]:
    """At most so many of them, evenly spaced: what bounds the cost on a large machine."""
    n = len(paths)
    return tuple(paths) if n <= limit else tuple(paths[i * n // limit] for i in range(limit))

"""Small files of the kernel, read at the edges of spans: one open, one read, one close, 2 µs a file."""

from __future__ import annotations

import os
from pathlib import Path

_MAX_FILE_BYTES = 4096  # what a sysfs file can hold at most (Documentation/filesystems/sysfs.rst)


def text(path: Path | str, max_bytes: int = _MAX_FILE_BYTES) -> str | None:
    """The first bytes of a file without the white space around them; None where it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.read(file, max_bytes).decode("ascii", errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(file)


def number(path: Path | str, base: int = 10) -> int | None:
    """A whole number; None where there is none to read."""
    told = text(path, 64)
    try:
        return None if told is None else int(told, base)
    except ValueError:
        return None

"""Small files of the kernel and of the system, read with care: bounded, without waiting, whatever they contain.

Nothing here raises: a file that cannot be read, or does not hold what it should, is None.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MAX_FILE_BYTES = 4096
MAX_TEXT_CHARS = 120
_MAX_INTEGER_BYTES = 64


def head(path: Path | str, limit_bytes: int = MAX_FILE_BYTES) -> bytes | None:
    """The beginning of a file. A FIFO in its place does not hold us up, a terminal does not become ours."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    try:
        return os.read(file, limit_bytes)
    except OSError:
        return None
    finally:
        os.close(file)


def text(path: Path | str, limit_bytes: int = MAX_FILE_BYTES) -> str | None:
    """As `head`, in UTF-8 and without the white space around it; what is not UTF-8 is replaced."""
    content = head(path, limit_bytes)
    return None if content is None else content.decode("utf-8", errors="replace").strip()


def line(path: Path) -> str | None:
    """The first line, or the string of a device tree up to its NUL, fit for a terminal; None where it is empty."""
    found = text(path)
    return None if found is None else printable(found.partition("\n")[0].partition("\0")[0]) or None


def printable(found: str, limit_chars: int = MAX_TEXT_CHARS) -> str:
    """Cut off, with ? for what cannot be printed: names out of files go to terminals and into records."""
    return "".join(char if char.isprintable() else "?" for char in found.strip()[:limit_chars])


def integer(path: Path | str, base: int = 10) -> int | None:
    """A whole number of at most 63 bits and nothing else."""
    content = head(path, _MAX_INTEGER_BYTES)
    if content is None or b"_" in content:  # which Python would take for a number
        return None
    try:
        value = int(content, base)
    except ValueError:
        return None
    return value if abs(value) < 1 << 63 else None


def cell(path: Path) -> int | None:
    """A property of a device tree that is one cell, an unsigned 32-bit big-endian number.

    Source: Devicetree Specification 0.4, 2.2.4. A longer property is none: its first cell alone may mean nothing.
    """
    content = head(path, 8)
    return int.from_bytes(content, "big") if content is not None and len(content) == 4 else None


def folders(folder: Path, pattern: str) -> list[Path]:
    """What matches below a folder, in the order of its numbers: policy10 comes after policy9."""
    try:
        return sorted(folder.glob(pattern), key=lambda path: (len(path.name), path.name))
    except OSError:
        return []


def spread(paths: Sequence[T], limit: int) -> tuple[T, ...]:
    """At most so many of them, evenly spaced: what bounds the cost on a large machine."""
    n = len(paths)
    return tuple(paths) if n <= limit else tuple(paths[i * n // limit] for i in range(limit))


def sys_dir(root: Path) -> Path:
    """The sysfs below a file system root; a folder that is itself a sysfs copy (has `class/`) serves as well."""
    below = root / "sys"
    # not Path.is_dir, which raises where this user may not look
    is_root = os.path.isdir(below) or not os.path.isdir(root / "class")  # noqa: PTH112
    return below if is_root else root

"""Whole files or none: what analysis writes appears under its name only once it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file beside its final place, sync it and move it there. Makes the folder. Raises OSError."""
    with appearing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """An open file that appears under its name, whole and synced, when the block ends well; otherwise never."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

"""Spec files of the harness: found by path, or by name among those that ship. `profiler.spec` reads their tables."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from profiler.errors import SpecError, nearest
from profiler.spec import Table, parse_toml

__all__ = ["Table", "parse_toml", "read_spec"]

MAX_SPEC_BYTES = 4 * 1024 * 1024


def read_spec(name: str, shipped: str, what: str) -> tuple[str, str]:
    """The text of a spec file and where it came from: a path, or the name of one that ships in package `shipped`.

    Raises SpecError where there is neither.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        try:
            if path.stat().st_size > MAX_SPEC_BYTES:
                raise SpecError(f"{path} is larger than {MAX_SPEC_BYTES} bytes: not a {what} file.")
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise SpecError(f"{what} file {path} cannot be read: {reason}.") from None
    known = [entry.name.removesuffix(".toml") for entry in files(shipped).iterdir() if entry.name.endswith(".toml")]
    if name not in known:
        raise SpecError(f"no {what} '{name}'.", remedy=f"{nearest(name, known)} Or give a path that ends in .toml.")
    return (files(shipped) / f"{name}.toml").read_text(encoding="utf-8"), f"{what} '{name}'"

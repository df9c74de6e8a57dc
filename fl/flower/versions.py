"""Which flwr there is, and which ones do."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from profiler.errors import PreconditionError

OLDEST, NEWEST = "1.24", "1.42"
"""1.24 is the first with strategies over messages (1.21) whose protobuf is one of ours (5.28); 1.42 the last tried."""


def require_flwr(installed: str | None = None) -> None:
    """Raises PreconditionError, saying which are supported, where flwr is missing or too old. `installed`: told so."""
    found = _installed() if installed is None else installed
    remedy = f"Supported are {OLDEST} to {NEWEST}: pip install 'fedmeter[flower]'"
    if not found:
        raise PreconditionError("fl.flower needs flwr, which is not installed.", remedy=remedy)
    if _numbers(found) < _numbers(OLDEST):
        raise PreconditionError(f"fl.flower cannot work with flwr {found}.", remedy=remedy)


def _installed() -> str:
    try:
        return version("flwr")
    except PackageNotFoundError:
        return ""


def _numbers(text: str) -> tuple[int, ...]:
    """Major and minor; what has none is as old as can be."""
    found = re.match(r"(\d{1,9})\.(\d{1,9})", text)
    return tuple(int(number) for number in found.groups()) if found else (0, 0)

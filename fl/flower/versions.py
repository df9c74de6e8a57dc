"""Which flwr there is, and which ones do."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from profiler.errors import PreconditionError

ONE_PORT_SINCE = (1, 41)
"""From here on whoever listens has one port, by HTTP; before, nodes, apps and `flwr run` have one each, by gRPC."""
OLDEST, NEWEST = "1.24", "1.42"
"""1.24 is the first with strategies over messages (1.21) whose protobuf is one of ours (5.28); 1.42 the last tried."""


def require_flwr(installed: str | None = None) -> None:
    """Raises PreconditionError, saying which are supported, where flwr is missing or too old. `installed`: told so."""
    found = installed_flwr() if installed is None else installed
    remedy = f"Supported are {OLDEST} to {NEWEST}: pip install 'fedmeter[flower]'"
    if not found:
        raise PreconditionError("fl.flower needs flwr, which is not installed.", remedy=remedy)
    if version_numbers(found) < version_numbers(OLDEST):
        raise PreconditionError(f"fl.flower cannot work with flwr {found}.", remedy=remedy)


def require_ray() -> None:
    """Raises PreconditionError where Flower's simulation has nothing to run on."""
    if find_spec("ray") is None:
        raise PreconditionError(
            "Flower's simulation needs Ray, which is not installed.", remedy="pip install 'flwr[simulation]'"
        )


def installed_flwr() -> str:
    """Its version, empty where there is none."""
    try:
        return version("flwr")
    except PackageNotFoundError:
        return ""


def has_one_port() -> bool:
    """Of the flwr that is installed."""
    return version_numbers(installed_flwr()) >= ONE_PORT_SINCE


def version_numbers(text: str) -> tuple[int, ...]:
    """Major and minor; what has none is as old as can be."""
    found = re.match(r"(\d{1,9})\.(\d{1,9})", text)
    return tuple(int(number) for number in found.groups()) if found else (0, 0)

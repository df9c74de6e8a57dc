"""What the makers of models share: their heavy package, and a file as the result of a command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from profiler.errors import FedmeterError, PreconditionError

_log = logging.getLogger("tools")


def needed(package: str) -> Any:
    """The package, imported. Raises PreconditionError where it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise PreconditionError(
            f"{package}, which makes the model, cannot be imported: {error}.",
            remedy="Run: pip install 'fedmeter[models]', in an environment of its own: it takes some GB.",
        ) from None


def written(path: Path, make: Callable[[], bytes]) -> int:
    """The exit code of a command that makes a file: 0, 2, 3."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        content = make()
        try:
            path.write_bytes(content)
        except OSError as error:
            raise PreconditionError(f"{path} cannot be written: {error.strerror}.") from None
    except FedmeterError as error:
        _log.error("%s", error)
        return error.exit_code
    _log.info("%s: %d bytes", path, len(content))
    return 0

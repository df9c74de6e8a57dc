"""The way to jtop.service through the package jetson-stats: what can go wrong on it, with what to do about it.

Source: https://rnext.it/jetson_stats/reference/jtop.html and the package's versions 4.2.0 to 7.2.2. It is licensed
under the AGPL-3.0: an optional extra, nothing of it is in here.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar, cast

from profiler.sensor import Unavailable

_SOCKET = "run/jtop.sock"

USE_JETSON = "The sensor 'jetson' reads the same chips without any service."
INSTALL = f"On a Jetson run \"pip install 'fedmeter[jtop]'\" and 'sudo jtop --install-service'. {USE_JETSON}"
_START = (
    "Run 'sudo jtop --install-service', or 'sudo systemctl start jtop.service'; in a container pass "
    f"'-v /run/jtop.sock:/run/jtop.sock'. {USE_JETSON}"
)
_JOIN = f"Run 'sudo usermod -aG jtop $USER' and log in again. {USE_JETSON}"
_SAME_VERSION = (
    "Install one version of jetson-stats for root and here, then run 'sudo systemctl restart jtop.service'. "
    f"{USE_JETSON}"
)
UPGRADE = f"Run \"pip install 'fedmeter[jtop]'\": jetson-stats 4.2 or later is needed, also for root. {USE_JETSON}"
LOOK = f"Look at 'systemctl status jtop.service'. {USE_JETSON}"

T = TypeVar("T")


class Client(Protocol):
    """As much of `jtop.jtop` as is used. `attach`ed functions are called in a thread of jtop's at every tick."""

    @property
    def power(self) -> object: ...
    @property
    def uptime(self) -> object: ...
    @property
    def board(self) -> object: ...
    @property
    def interval(self) -> object: ...

    def attach(self, observer: Callable[[Client], None]) -> None: ...
    def start(self) -> None: ...
    def close(self) -> None: ...


class Library(Protocol):
    """As much of the module `jtop` as is used. `jtop` makes a client of a given interval, s."""

    __version__: str
    jtop: Callable[[float], Client]
    JtopException: type[Exception]


class Refused(Exception):
    """Carries why the sensor is unavailable."""

    def __init__(self, reason: str, remedy: str, *, is_absent: bool = False) -> None:
        super().__init__(reason)
        self.outcome = Unavailable(reason, remedy, is_absent=is_absent)


def check_version(library: Library) -> None:
    """4.2 brought today's layout and units of `power`. Raises Refused for what is older."""
    version = re.match(r"(\d{1,4})\.(\d{1,4})", library.__version__)
    if version is not None and (int(version[1]), int(version[2])) < (4, 2):
        raise Refused(f"jetson-stats {library.__version__} gives power in another layout", UPGRADE)


def check_socket(root: Path) -> None:
    """Whether a service of root's may be listening there, and may be asked. Raises Refused with what to do."""
    path = root / _SOCKET
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise Refused(
            f"jtop.service is not active: there is no {path}", _START, is_absent=not _is_jetson(root)
        ) from error
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", _JOIN) from error
    if not stat.S_ISSOCK(found.st_mode):
        raise Refused(f"{path} is no socket", _START)
    if found.st_uid not in (0, os.getuid()):
        raise Refused(f"{path} belongs to user {found.st_uid}, who could run anything here through it", _START)
    if not os.access(path, os.R_OK | os.W_OK):
        raise Refused(f"no permission to use {path}", _JOIN)


def _is_jetson(root: Path) -> bool:
    """A device tree names who made the chip: nvidia,tegra186 and the like."""
    try:
        with (root / "proc/device-tree/compatible").open("rb") as file:
            return b"nvidia,tegra" in file.read(1024)
    except OSError:
        return False


def translated(error: Exception) -> Refused:
    """jtop raises one exception for everything: what it says tells which."""
    said = " ".join(f"{error}".split())[:200] or type(error).__name__
    is_refused = isinstance(error, PermissionError) or "access" in said
    for is_it, remedy in (
        (is_refused, _JOIN),
        ("ismatch" in said or "Authentication" in said, _SAME_VERSION),
        ("not active" in said, _START),
    ):
        if is_it:
            return Refused(said, remedy)
    return Refused(f"jtop.service cannot be asked: {said}", LOOK)


def foreign_errors() -> tuple[type[Exception], ...]:
    """What jtop and the multiprocessing manager below it raise when the other side is not what they think."""
    from multiprocessing import ProcessError
    from multiprocessing.managers import RemoteError
    from pickle import PickleError

    return (
        OSError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        ImportError,
        ProcessError,
        RemoteError,
        PickleError,
    )


def within(limit_s: float, action: Callable[[], T], known: tuple[type[Exception], ...]) -> T:
    """What `action` gives, or raises of what is `known`; TimeoutError where it does not end: then it is left behind."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(action())
        except known as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="jtop-connect", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {limit_s:g} s")
    return results[0]


def load_jtop() -> Library:
    """Import jtop without what that does to the importer. Raises ImportError.

    Since 7.2 it sets how multiprocessing starts processes, to `fork`, which breaks programs that use CUDA.
    """
    import importlib
    import multiprocessing

    method = multiprocessing.get_start_method(allow_none=True)
    try:
        return cast("Library", importlib.import_module("jtop"))
    finally:
        if multiprocessing.get_start_method(allow_none=True) != method:
            multiprocessing.set_start_method(method, force=True)

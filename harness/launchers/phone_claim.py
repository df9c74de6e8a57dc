"""What this machine has changed of a phone, in a file that is written before each change: so that a harness that is
killed can be cleaned up after, by the next one.

A file a phone in the user's state folder (`$XDG_STATE_HOME/fedmeter/phones`), and beside it one that is locked for as
long as a run uses the phone: two runs on one phone would measure each other. Both are named after a digest of the
serial number.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.launchers.adb_options import PACKAGE
from profiler.errors import DeviceError

MAX_BYTES = 64 * 1024
_MAX_UNDOS = 200
_SERIAL = re.compile(r"[\x21-\x7e]{1,128}")
# What the arguments of each kind must be, also when they are read back: commands for a phone are made of them.
_KINDS: Mapping[str, tuple[re.Pattern[str], ...]] = {
    "setting": (re.compile(r"system|global"), re.compile(r"[a-z_]{1,64}"), re.compile(r"null|-?\d{1,10}")),
    "battery": (),
    "screen": (re.compile(r"on|off"),),
    "reverse": (re.compile(r"\d{1,5}"),),
    "app": (PACKAGE,),
    "files": (PACKAGE,),
}


@dataclass(frozen=True, slots=True)
class Undo:
    """One thing to set right again. Kinds and arguments:

    `setting NAMESPACE KEY OLD` (OLD `null`: there was none), `battery` (reset what was faked), `screen on|off`,
    `reverse PORT` (ways to this port of this machine), `app PACKAGE` (end it), `files PACKAGE` (remove its secrets).
    Raises ValueError for anything else.
    """

    kind: str
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        patterns = _KINDS.get(self.kind)
        if patterns is None or len(patterns) != len(self.arguments):
            raise ValueError(f"no such thing to undo: {self.kind!r:.80}")
        for pattern, argument in zip(patterns, self.arguments, strict=True):
            if not isinstance(argument, str) or not pattern.fullmatch(argument):
                raise ValueError(f"{self.kind}: {argument!r:.80} is no such thing")


def state_folder() -> Path:
    """Where such files are kept for this user."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "fedmeter" / "phones"


def digest(serial: str) -> str:
    """What stands for a serial number where others may read: 12 hex digits of its SHA-256."""
    return hashlib.sha256(serial.encode()).hexdigest()[:12]


class PhoneClaim:
    """One phone, for this run alone until `release`. `undos` are what an earlier run has left to set right.

    Raises DeviceError where another run has it, or the file cannot be written.
    """

    def __init__(self, serial: str, device: str, folder: Path | None = None) -> None:
        self.serial = serial
        self.undos: list[Undo] = []
        self._path = (folder or state_folder()) / f"{digest(serial)}.json"
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise DeviceError(
                f"{device}: what is changed of its phone cannot be written down: {error}.",
                remedy="Make that folder writable, or set XDG_STATE_HOME to another.",
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise DeviceError(
                f"{device}: its phone takes part in a run already, of this fleet or of another.",
                remedy="Give each phone one entry; wait for the other run, or end it.",
            ) from None
        left = _read(self._path)
        self.undos = left.undos if left is not None and left.serial == serial else []

    def note(self, undo: Undo) -> None:
        """Write down how to undo what is about to be done. It is on the disk when this returns. Raises OSError."""
        if undo not in self.undos:
            self._write([*self.undos, undo])

    def forget(self, undo: Undo) -> None:
        """It has been undone."""
        self._write([one for one in self.undos if one != undo])

    def _write(self, undos: list[Undo]) -> None:
        self.undos = undos
        if not undos:
            self._path.unlink(missing_ok=True)
            return
        entry = {"serial": self.serial, "undo": [[undo.kind, *undo.arguments] for undo in undos]}
        partial = self._path.with_suffix(".partial")
        with open(partial, "wb", opener=_private) as file:
            file.write(json.dumps(entry).encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)

    def release(self) -> None:
        os.close(self._lock)


@dataclass(frozen=True, slots=True)
class Left:
    """What a file tells: the phone, and what is still to be undone."""

    serial: str
    undos: list[Undo]


def _parsed(content: bytes) -> Left | None:
    """None where there is nothing in it that can be made sense of."""
    try:
        entry: dict[str, Any] = json.loads(content)
        serial = entry["serial"]
        undos = [Undo(str(kind), tuple(arguments)) for kind, *arguments in entry["undo"][:_MAX_UNDOS]]
    except (ValueError, TypeError, KeyError):
        return None
    return Left(serial, undos) if isinstance(serial, str) and _SERIAL.fullmatch(serial) else None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _read(path: Path) -> Left | None:
    try:
        with path.open("rb") as file:
            return _parsed(file.read(MAX_BYTES))
    except OSError:
        return None


def left_behind(folder: Path | None = None) -> Iterator[str]:
    """The serial numbers of phones that were not set right, whether or not a run is at work on them."""
    place = folder or state_folder()
    for path in sorted(place.glob("*.json")) if place.is_dir() else []:
        left = _read(path)
        if left is not None and left.undos and path.stem == digest(left.serial):
            yield left.serial

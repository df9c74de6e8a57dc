"""What kind of machine this is, without anything that tells which one, or whose."""

from __future__ import annotations

import os
from pathlib import Path

_MAX_FILE_BYTES = 1 << 16
_MAX_CHARS = 120
# Strings of the device tree end with a NUL (Devicetree Specification 0.4, 2.2.4); DMI's files are those of
# Documentation/ABI/testing/sysfs-class-dmi. Serial numbers and the board's UUID lie beside it and are not read.
_BOARD_FILES = ("proc/device-tree/model", "sys/class/dmi/id/product_name")


def processor_name(root: Path = Path("/")) -> str | None:
    """The first `model name` (x86) or `Hardware` (Arm) of /proc/cpuinfo; None where there is none."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.lower().startswith(("model name", "hardware")):
            return line.partition(":")[2].strip()[:_MAX_CHARS] or None
    return None


def kind_of_machine(root: Path = Path("/")) -> dict[str, str]:
    """Operating system, architecture, processor and board, as far as they are told: no name, no number of this one."""
    facts = {"processor": processor_name(root), "board": _board(root)}
    if hasattr(os, "uname"):
        system = os.uname()  # not its nodename
        facts |= {"system": system.sysname, "release": system.release, "machine": system.machine}
    return {name: fact for name, fact in facts.items() if fact}


def _board(root: Path) -> str | None:
    names = (_text(root / path).strip("\0 \n") for path in _BOARD_FILES)
    return next((name[:_MAX_CHARS] for name in names if name), None)


def _text(path: Path) -> str:
    """The beginning of a file; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""

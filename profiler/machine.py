"""What a machine says it is: its processor, its board."""

from __future__ import annotations

import os
from pathlib import Path

from profiler.files import line, printable, sys_dir, text

_MAX_CPUINFO_BYTES = 1 << 14  # the first processor's entry has a few thousand


def cpu_info(root: Path) -> dict[str, str]:
    """The entry of the first processor in `{root}/proc/cpuinfo` (proc_cpuinfo(5)); empty where none can be read."""
    entry = (text(root / "proc/cpuinfo", _MAX_CPUINFO_BYTES) or "").split("\n\n")[0]
    pairs = (row.partition(":") for row in reversed(entry.splitlines()))  # the first of a name counts
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name(root: Path) -> str:
    """The processor's name; empty where none is told. Arm kernels name none, but for some a line `Hardware`."""
    about = {key.lower(): value for key, value in cpu_info(root).items()}
    return printable(about.get("model name") or about.get("hardware") or "")


def kind_of_machine(root: Path = Path("/")) -> dict[str, str]:
    """Operating system, architecture, processor and board, as far as they are told: nothing of which one, or whose."""
    product = line(sys_dir(root) / "class/dmi/id/product_name") or ""
    facts = {"processor": cpu_name(root), "board": board(root) or product}
    if hasattr(os, "uname"):
        system = os.uname()  # not its nodename
        facts |= {"system": system.sysname, "release": system.release, "machine": system.machine}
    return {name: fact for name, fact in facts.items() if fact}


def board(root: Path) -> str:
    """The `model` of the device tree, as boards without a PC's firmware have one (Devicetree Specification, 2.3.2)."""
    return line(root / "proc/device-tree/model") or ""

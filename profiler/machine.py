"""What a machine says it is: its processor, its board."""

from __future__ import annotations

from pathlib import Path

from profiler.files import line, printable, text

_MAX_CPUINFO_BYTES = 1 << 14  # the first processor's entry has a few thousand


def cpu_info(root: Path) -> dict[str, str]:
    """The entry of the first processor in `{root}/proc/cpuinfo` (proc_cpuinfo(5)); empty where none can be read."""
    entry = (text(root / "proc/cpuinfo", _MAX_CPUINFO_BYTES) or "").split("\n\n")[0]
    pairs = (row.partition(":") for row in entry.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name(root: Path) -> str:
    """The processor's name; empty where none is told. Arm kernels name none, but for some a line `Hardware`."""
    about = {key.lower(): value for key, value in cpu_info(root).items()}
    return printable(about.get("model name") or about.get("hardware") or "")


def board(root: Path) -> str:
    """The `model` of the device tree, as boards without a PC's firmware have one (Devicetree Specification, 2.3.2)."""
    return line(root / "proc/device-tree/model") or ""

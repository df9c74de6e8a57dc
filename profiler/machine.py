"""What a machine says it is: its processor, its board."""

from __future__ import annotations

from pathlib import Path

_MAX_CPUINFO_BYTES = 1 << 14  # the first processor's entry has a few thousand
_MAX_MODEL_BYTES = 256


def cpu_info(root: Path) -> dict[str, str]:
    """The entry of the first processor in `{root}/proc/cpuinfo` (proc_cpuinfo(5)); empty where none can be read."""
    text = _text(root / "proc" / "cpuinfo", _MAX_CPUINFO_BYTES)
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def board(root: Path) -> str:
    """The `model` of the device tree, as boards without a PC's firmware have one (Devicetree Specification, 2.3.2)."""
    return _text(root / "proc" / "device-tree" / "model", _MAX_MODEL_BYTES).split("\0")[0].strip()


def _text(path: Path, limit_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            return file.read(limit_bytes).decode("utf-8", errors="replace")
    except OSError:
        return ""

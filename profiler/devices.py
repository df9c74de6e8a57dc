"""What is known of named devices, one TOML file each in `devices/`, with the source of every figure.

A file has a `name`, a table `match` of how a machine of that kind names itself, and a table for each thing that is
known. So far that is `power`: what the device draws when idle and when all its processors are busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

from profiler.errors import SpecError, nearest
from profiler.machine import board, cpu_info
from profiler.quantities import Scope
from profiler.spec import Table, parse_toml

KINDS = ("measured", "datasheet", "fitted", "guess")
"""How a figure came about: read off a meter, promised by a vendor, fitted to something else, or guessed."""


@dataclass(frozen=True, slots=True)
class Power:
    """Watts of one device, idle and with all processors busy, and what they cover (`scope`)."""

    idle_w: float
    busy_w: float
    scope: Scope
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device, recognised by patterns of its processor's `model name` or of its board's device tree."""

    name: str
    cpu: tuple[str, ...]
    device_tree: tuple[str, ...]
    power: Power | None

    def is_this(self, cpu_name: str, board_name: str) -> bool:
        return any(fnmatchcase(cpu_name, pattern) for pattern in self.cpu) or any(
            fnmatchcase(board_name, pattern) for pattern in self.device_tree
        )


def known_devices() -> tuple[Device, ...]:
    """Those that ship, by the name of their file. Raises SpecError where one of the files is wrong."""
    entries = sorted((files("profiler") / "devices").iterdir(), key=lambda entry: entry.name)
    found = [entry for entry in entries if entry.name.endswith(".toml")]
    return tuple(read_device(entry.read_text(encoding="utf-8"), f"devices/{entry.name}") for entry in found)


def recognised(root: Path, devices: Sequence[Device]) -> Device | None:
    """The first of the devices that the machine below `root` says it is."""
    cpu_name, board_name = cpu_info(root).get("model name", ""), board(root)
    return next((device for device in devices if device.is_this(cpu_name, board_name)), None)


def read_device(text: str, where: str) -> Device:
    """One device's file. Raises SpecError that names `where`, the key and what to do."""
    table = parse_toml(text, where)
    name = _said(table, "name")
    match = table.table("match")
    cpu, device_tree = _patterns(match, "cpu"), _patterns(match, "device_tree")
    match.finish()
    is_power_known = table.has("power")
    power_table = table.table("power")
    power = _power(power_table) if is_power_known else None
    table.finish()
    return Device(name, cpu, device_tree, power)


def _power(table: Table) -> Power:
    idle_w, busy_w = table.take("idle_w", float), table.take("busy_w", float)
    table.at_least("idle_w", idle_w, 0.0)
    table.at_least("busy_w", busy_w, idle_w)
    if busy_w == float("inf"):
        raise SpecError(f"{table.where}: 'busy_w' must be finite.")
    scope = _one_of(table, "scope", [scope.value for scope in Scope])
    power = Power(idle_w, busy_w, Scope(scope), _one_of(table, "kind", KINDS), _said(table, "source"))
    table.finish()
    return power


def _said(table: Table, key: str) -> str:
    text = table.take(key, str).strip()
    if not text:
        raise SpecError(f"{table.where}: '{key}' is empty.", remedy="Every figure has a source, every device a name.")
    return text


def _one_of(table: Table, key: str, known: Sequence[str]) -> str:
    value = table.take(key, str)
    if value not in known:
        raise SpecError(f"{table.where}: '{key}' is {value!r}.", remedy=nearest(value, known))
    return value


def _patterns(table: Table, key: str) -> tuple[str, ...]:
    values: list[Any] = table.take(key, list, [])
    if any(not isinstance(value, str) or not value.strip("*? ") for value in values):
        raise SpecError(f"{table.where}: '{key}' must be a list of names with * and ?, got {values}.")
    return tuple(values)

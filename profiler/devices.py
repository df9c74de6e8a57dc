"""What is known of named devices, one TOML file each in `devices/`, with the source of every figure.

A file has a `name`, a table `match` of how a machine of that kind names itself, and a table for each thing that is
known: `power`, what the device draws when idle and when all its processors are busy; `link`, how fast it is reached;
and a `[[training]]` for each workload, what local training of it takes. A device with all three can be simulated.
"""

from __future__ import annotations

import math
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

MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Power:
    """Watts of one device, idle and with all processors busy, and what they cover (`scope`).

    `gain_err` is the limit of a rectangular distribution, relative: how far another device of the kind may be off.
    """

    idle_w: float
    busy_w: float
    scope: Scope
    kind: str
    source: str
    gain_err: float | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """How fast data move from the device's view, and the joules of a byte on top of what it draws when idle."""

    download_bytes_s: float
    upload_bytes_s: float
    latency_s: float
    byte_j: float
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class Training:
    """What local training of one workload takes on a device, for steps of `batch_size` examples.

    A fit takes `start_s` before its first step, then `step_s` a step, and `slow_factor` times as long from
    `slow_after_s` on, counted from the fit's start. `step_j` is drawn on top of idle power, whatever the step's time.
    `step_cv` and `fit_cv` are coefficients of variation: of each step, and of a whole fit's pace around the device's.
    An evaluated example takes `evaluate_share` of a trained one. `download_s`, `upload_s` and `transfer_j` (a fit call,
    both ways, on top of idle) stand for the device's link where a table gave them; None: the link says.

    `gain_err` is the limit of a rectangular distribution of the joules, relative. `kind` is that of the times,
    `energy_kind` that of the joules.
    """

    workload: str
    batch_size: int
    step_s: float
    step_j: float
    start_s: float
    slow_after_s: float
    slow_factor: float
    step_cv: float
    fit_cv: float
    evaluate_share: float
    download_s: float | None
    upload_s: float | None
    transfer_j: float | None
    gain_err: float
    kind: str
    energy_kind: str
    source: str


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device, recognised by patterns of its processor's `model name` or of its board's device tree."""

    name: str
    cpu: tuple[str, ...]
    device_tree: tuple[str, ...]
    power: Power | None
    link: Link | None = None
    training: tuple[Training, ...] = ()

    def is_this(self, cpu_name: str, board_name: str) -> bool:
        return any(fnmatchcase(cpu_name, pattern) for pattern in self.cpu) or any(
            fnmatchcase(board_name, pattern) for pattern in self.device_tree
        )

    def training_of(self, workload: str) -> Training:
        """Raises SpecError, naming those that are known, where the workload is not."""
        for training in self.training:
            if training.workload == workload:
                return training
        known = ", ".join(training.workload for training in self.training) or "none"
        raise SpecError(
            f"device {self.name!r}: what training {workload!r} takes is not known; known are {known}.",
            remedy=f"Add a [[training]] with workload = {workload!r} to its file, or let the experiment say "
            "[simulation] costs_of = a workload that is known.",
        )


def known_devices() -> tuple[Device, ...]:
    """Those that ship, by the name of their file. Raises SpecError where one of the files is wrong."""
    return tuple(_shipped(name) for name in device_names())


def device_names() -> list[str]:
    """Names of the files that ship, without their ending."""
    entries = (entry.name for entry in (files("profiler") / "devices").iterdir())
    return sorted(name.removesuffix(".toml") for name in entries if name.endswith(".toml"))


def _shipped(name: str) -> Device:
    entry = files("profiler") / "devices" / f"{name}.toml"
    return read_device(entry.read_text(encoding="utf-8"), f"devices/{name}.toml")


def load_device(name: str) -> Device:
    """A device that ships, by the name of its file, or any device's file by its path (`*.toml`). Raises SpecError."""
    if not name.endswith(".toml"):
        if name not in device_names():
            raise SpecError(f"device profile {name!r} does not ship.", remedy=nearest(name, device_names()))
        return _shipped(name)
    path = Path(name)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"device profile {name} cannot be read: {error}.") from None
    if len(text) > MAX_FILE_BYTES:
        raise SpecError(f"device profile {name} is larger than {MAX_FILE_BYTES} bytes.")
    return read_device(text, name)


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
    has_power, has_link = table.has("power"), table.has("link")
    power_table, link_table = table.table("power"), table.table("link")
    device = Device(
        name,
        cpu,
        device_tree,
        _power(power_table) if has_power else None,
        _link(link_table) if has_link else None,
        tuple(_training(entry) for entry in table.tables("training")),
    )
    table.finish()
    workloads = [training.workload for training in device.training]
    for workload in workloads:
        if workloads.count(workload) > 1:
            raise SpecError(f"{where}: [[training]] of {workload!r} stands twice.", remedy="Keep one of them.")
    return device


def _power(table: Table) -> Power:
    idle_w = _number(table, "idle_w", 0.0)
    busy_w = _number(table, "busy_w", idle_w)
    gain_err = _number(table, "gain_err", 0.0) if table.has("gain_err") else None
    scope = _one_of(table, "scope", [scope.value for scope in Scope])
    power = Power(idle_w, busy_w, Scope(scope), _one_of(table, "kind", KINDS), _said(table, "source"), gain_err)
    table.finish()
    return power


def _link(table: Table) -> Link:
    link = Link(
        download_bytes_s=_number(table, "download_bytes_s", 1.0),
        upload_bytes_s=_number(table, "upload_bytes_s", 1.0),
        latency_s=_number(table, "latency_s", 0.0),
        byte_j=_number(table, "byte_j", 0.0),
        kind=_one_of(table, "kind", KINDS),
        source=_said(table, "source"),
    )
    table.finish()
    return link


def _training(table: Table) -> Training:
    batch_size: int = table.take("batch_size", int)
    table.at_least("batch_size", batch_size, 1)
    kind = _one_of(table, "kind", KINDS)
    training = Training(
        workload=_said(table, "workload"),
        batch_size=batch_size,
        step_s=_number(table, "step_s", 1e-9),
        step_j=_number(table, "step_j", 0.0),
        start_s=_number(table, "start_s", 0.0, 0.0),
        slow_after_s=_number(table, "slow_after_s", 0.0) if table.has("slow_after_s") else math.inf,
        slow_factor=_number(table, "slow_factor", 1.0, 1.0),
        step_cv=_number(table, "step_cv", 0.0, 0.0),
        fit_cv=_number(table, "fit_cv", 0.0, 0.0),
        evaluate_share=_number(table, "evaluate_share", 0.0, 1 / 3),
        download_s=_number(table, "download_s", 0.0) if table.has("download_s") else None,
        upload_s=_number(table, "upload_s", 0.0) if table.has("upload_s") else None,
        transfer_j=_number(table, "transfer_j", 0.0) if table.has("transfer_j") else None,
        gain_err=_number(table, "gain_err", 0.0),
        kind=kind,
        energy_kind=_one_of(table, "energy_kind", KINDS) if table.has("energy_kind") else kind,
        source=_said(table, "source"),
    )
    table.finish()
    return training


def _number(table: Table, key: str, least: float, default: float | None = None) -> float:
    """A finite number from `least` on; needed where there is no default."""
    value: float = table.take(key, float) if default is None else table.take(key, float, default)
    table.at_least(key, value, least)
    if not math.isfinite(value):
        raise SpecError(f"{table.where}: '{key}' must be finite.")
    return value


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

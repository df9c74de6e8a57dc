"""The battery of a phone that is asked over adb: by the files of its power_supply class, or by `dumpsys battery`.

Both give the same rails under the same rules as the battery of this machine does (`profiler.sensors.gauge`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensors.adb_client import Part
from profiler.sensors.dumpsys_battery import BatteryState, parse_battery
from profiler.sensors.gauge import (
    CURRENT_STEP_A,
    GAIN_ERR,
    PHONE_MAX_POWER_W,
    Cell,
    GaugeReader,
    cell_of,
    frozen_after_s,
    rails_of,
)
from profiler.sensors.power_supply import (
    Attribute,
    CurrentUnit,
    Supply,
    batteries,
    chargers,
    decimal,
    guess_current_unit,
    is_own,
    whole_text,
)

DUMPSYS = "dumpsys battery"
SUPPLIES = "/sys/class/power_supply"
_READ = ("status", "power_now", "current_now", "voltage_now", "energy_now")
_ATTRIBUTES = ("type", "scope", "present", "online", "energy_full", "energy_full_design", *_READ)
_PATH = re.compile(rf"{SUPPLIES}/(?P<name>[A-Za-z0-9_.-]{{1,64}})/(?P<attribute>[a-z_]{{1,32}})")
_MAX_BYTES = 64
_MAX_SUPPLIES = 32
_FILE_REFRESH_S = 1.0  # assumed, as in profiler.sensors.battery: gauges renew their values every 0.2 to 30 s
# The battery service looks once a minute while the phone is awake, at least, and in its sleep every ten: AOSP,
# hardware/interfaces/health/utils/libhealthloop (DEFAULT_PERIODIC_CHORES_INTERVAL_FAST). Events of the driver's come
# between, as often as it pleases.
_SERVICE_REFRESH_S = 60.0
# What a phone's charge counter counts in is not told; steps of 1 to 5 mAh are common. Assumed.
_CHARGE_STEP_UAH = 5_000
_J_PER_UAH_V = 3.6e-3


@dataclass(frozen=True, slots=True)
class GaugeOptions:
    """What the gauges of a phone are told. Values are held for `period_s`; `refresh_s` replaces what is assumed."""

    allow_charging: bool
    current_unit: CurrentUnit | None
    period_s: float
    refresh_s: float | None

    @property
    def scope(self) -> Scope:
        return Scope.RAIL if self.allow_charging else Scope.DEVICE

    def stale_s(self, assumed_refresh_s: float) -> float:
        """How old a reading can be, holding it included."""
        return self.period_s + (assumed_refresh_s if self.refresh_s is None else self.refresh_s)


class Gauge(Protocol):
    """One way to a phone's battery. `commands` are for its shell; `take` is given what they printed."""

    commands: tuple[str, ...]
    rails: tuple[Rail, ...]
    notes: tuple[str, ...]

    def take(self, parts: Sequence[Part]) -> None: ...

    def refusal(self) -> str | None:
        """Why the battery does not tell what its phone draws; None where it does."""
        ...

    def values(self, now_ns: int) -> list[float | None]:
        """One a rail."""
        ...


class Snapshot:
    """Files of a phone as they were when last asked for, all within one moment."""

    def __init__(self) -> None:
        self._parts: dict[Path, Part] = {}

    def put(self, paths: Iterable[Path], parts: Iterable[Part]) -> None:
        self._parts.update(zip(paths, parts, strict=True))

    def has(self, path: Path) -> bool:
        return path in self._parts

    def content(self, path: Path) -> bytes:
        """Raises OSError as reading the file would have."""
        if path not in self._parts:
            raise FileNotFoundError(f"{path} was not asked for")
        return self._parts[path].file(str(path))


class SnapshotAttribute:
    """One file of the last snapshot."""

    def __init__(self, path: Path, snapshot: Snapshot, *, needs_newline: bool) -> None:
        self.path = path
        self._snapshot = snapshot
        self._needs_newline = needs_newline

    def text(self) -> str:
        content = self._snapshot.content(self.path)[:_MAX_BYTES]
        return whole_text(self.path, content, needs_newline=self._needs_newline)

    def integer(self) -> int:
        return decimal(self.path, self.text())

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class PhoneSupply(Supply):
    """A supply whose files lie in a snapshot."""

    snapshot: Snapshot

    def has(self, attribute: str) -> bool:
        return self.snapshot.has(self.path / attribute)

    def file(self, attribute: str) -> Attribute:
        return SnapshotAttribute(self.path / attribute, self.snapshot, needs_newline=self.has_newlines)


def attribute_paths(listing: str) -> list[Path]:
    """The files of power supplies that matter, out of what `ls` printed; names with odd characters are left out."""
    matches = [match for match in map(_PATH.fullmatch, listing.splitlines()) if match is not None]
    names = sorted({match["name"] for match in matches})[:_MAX_SUPPLIES]
    return [Path(match[0]) for match in matches if match["name"] in names and match["attribute"] in _ATTRIBUTES]


def cat(path: Path) -> str:
    return f"cat {shlex.quote(str(path))}"


def supplies_of(snapshot: Snapshot, paths: Iterable[Path]) -> list[Supply]:
    """Every supply of the phone itself, by name, whose type can be read."""
    found: list[Supply] = []
    for path in sorted(path.parent for path in paths if path.name == "type"):
        try:
            content = snapshot.content(path / "type")[:_MAX_BYTES]
        except OSError:
            continue
        kind = content.decode("ascii", errors="replace").strip()
        found.append(PhoneSupply(path.name, path, kind, content.endswith(b"\n"), snapshot))
    return list(filter(is_own, found))


class SysfsGauge:
    """The files of the phone's power_supply class.

    Raises OSError or ValueError where they show no battery, or one that gives neither power nor energy.
    """

    def __init__(self, supplies: list[Supply], snapshot: Snapshot, options: GaugeOptions) -> None:
        found, others = batteries(supplies)
        if not found:
            raise ValueError(f"there is no battery below {SUPPLIES}")
        self._options = options
        self._snapshot = snapshot
        self._cells = tuple(cell_of(supply, options.current_unit) for supply in found)
        feeding = tuple(chargers(supplies))
        stale_s = options.stale_s(_FILE_REFRESH_S)
        self._reader = GaugeReader(self._cells, feeding, frozen_after_s(stale_s))
        self._paths = [supply.path / name for supply in found for name in _READ if supply.has(name)]
        self._paths += [charger.path / "online" for charger in feeding]
        self.commands = tuple(map(cat, self._paths))
        rails = [rail for cell in self._cells for rail in rails_of(cell, options.allow_charging, stale_s)]
        self.rails = tuple(rails)
        self.notes = (*map(_unit_note, self._cells), *(f"{other.name} not counted, the same cell" for other in others))

    def take(self, parts: Sequence[Part]) -> None:
        self._snapshot.put(self._paths, parts)

    def refusal(self) -> str | None:
        return None if self._options.allow_charging else self._reader.refusal(self._reader.statuses())

    def is_silent(self) -> bool:
        return self._reader.is_silent()

    def values(self, now_ns: int) -> list[float | None]:
        return self._reader.values(self._reader.statuses(), now_ns, any_direction=self._options.allow_charging)


def _unit_note(cell: Cell) -> str:
    source = f"{SUPPLIES}/{cell.name}"
    return source if cell.unit is None else f"{source}, {_unit_words(cell.unit, cell.is_unit_told)}"


def _unit_words(unit: CurrentUnit, is_told: bool) -> str:
    return f"current {'told' if is_told else 'assumed'} to be in {unit}"


class DumpsysGauge:
    """What `dumpsys battery` says: power where a vendor's line gives a current, and what the charge counter counted.

    Each fall of the counter is made joules with the mean of the voltages around it, from 0 J at the first reading on.
    Without either there is no rail, and only the state of charging is known. Raises ValueError where `first` is none.
    """

    commands: tuple[str, ...] = (DUMPSYS,)

    def __init__(self, first: str, options: GaugeOptions) -> None:
        state = parse_battery(first)
        self._options = options
        self._state: BatteryState | None = state
        self._trouble = ""
        self._unit = options.current_unit or guess_current_unit([state.current or 0]) or "mA"
        self._counted: tuple[int, float] | None = None
        self._energy_j = 0.0
        self._has_power = self._power_w(state) is not None
        self._has_charge = not options.allow_charging and state.charge_uah is not None and state.voltage_v is not None
        self.rails = tuple(self._rails(state.voltage_v or 0.0))
        is_told = options.current_unit is not None
        words = f", {_unit_words(self._unit, is_told)}" if self._has_power else ""
        self.notes: tuple[str, ...] = (f"{DUMPSYS}{words}",)

    def _rails(self, voltage_v: float) -> Iterable[Rail]:
        stale_s = self._options.stale_s(_SERVICE_REFRESH_S)
        power = Rail(
            name="battery",
            scope=self._options.scope,
            kind=RailKind.POWER_W,
            provenance=Provenance.INTEGRATED,
            min_period_s=stale_s,
            resolution=CURRENT_STEP_A * voltage_v,
            gain_err=GAIN_ERR,
            edge_jitter_s=stale_s,
            max_power_w=PHONE_MAX_POWER_W,
        )
        if self._has_power:
            yield power
        if self._has_charge:
            yield Rail(
                name="battery-charge",
                scope=self._options.scope,
                kind=RailKind.COUNTER_J,
                provenance=Provenance.INTEGRATED,  # the charge is counted, its voltage only looked at now and then
                min_period_s=stale_s,
                resolution=_CHARGE_STEP_UAH * _J_PER_UAH_V * voltage_v,
                gain_err=GAIN_ERR,
                edge_jitter_s=stale_s,
                max_power_w=PHONE_MAX_POWER_W,
                parent=power.name if self._has_power else None,
            )

    def _power_w(self, state: BatteryState) -> float | None:
        power_w = state.power_w(self._unit, is_unit_told=self._options.current_unit is not None)
        return power_w or (power_w if self._options.allow_charging else None)  # a phone that runs draws more than 0 W

    def take(self, parts: Sequence[Part]) -> None:
        try:
            self._state, self._trouble = parse_battery(parts[0].text()), ""
        except ValueError as error:
            self._state, self._trouble = None, f"{error}"

    def refusal(self) -> str | None:
        if self._state is None:
            return self._trouble
        if self._options.allow_charging and not self._state.is_stopped:
            return None
        return self._state.refusal

    def values(self, now_ns: int) -> list[float | None]:
        power_w = None if self._state is None else self._power_w(self._state)
        return [power_w] * self._has_power + [self._counted_j()] * self._has_charge

    def _counted_j(self) -> float | None:
        """Joules since the first reading. None where the phone does not tell its charge or its voltage just now."""
        state = self._state
        if state is None or state.charge_uah is None or state.voltage_v is None:
            return None
        if self._counted is not None:
            charge_uah, voltage_v = self._counted
            self._energy_j += (charge_uah - state.charge_uah) * _J_PER_UAH_V * (voltage_v + state.voltage_v) / 2
        self._counted = state.charge_uah, state.voltage_v
        return self._energy_j

"""What a battery's gauge says its device draws: the files of power_supply made watts, joules, or a reason why not.

Shared by whoever has those files, of this machine or of a phone. Only a discharging battery tells what its device
draws: with a charger connected the battery's current is what is left over, in either direction. Sources:
Documentation/ABI/testing/sysfs-class-power of the Linux kernel, and for phones
https://source.android.com/docs/core/power/device.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass, replace
from typing import Literal

from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensors.power_supply import Attribute, CurrentUnit, Supply, guess_current_unit, volts

# AOSP promises no high absolute accuracy of a phone's gauge, only what compares on one device, and leaves resolution
# and rate to the device; ACPI has firmware state none that can be trusted. 5 % is our assumption, no specification.
GAIN_ERR = 0.05
# Smart Battery Data Specification 1.1: current comes in mA, power and capacity in 10 mW and 10 mWh
CURRENT_STEP_A = 0.001
_POWER_STEP_W = 0.01
_ENERGY_STEP_J = 36.0
_J_PER_UWH = 3.6e-3
PHONE_MAX_POWER_W = 150.0  # more is a wrong unit, not a draw
_ACPI_MAX_POWER_W = 300.0
_MAX_ASSUMED_MA = 10_000  # a gauge taken for one of mA that says more gives µA after all
_NOT_THERE = (errno.ENOENT, errno.ENODEV, errno.ENODATA)  # a charger that went with its dock, or that has no state


@dataclass(frozen=True, slots=True)
class Cell:
    """One battery as probed. `power` is None where only `energy_now` is there; `full_uwh` where that is not."""

    supply: Supply
    power: Literal["power_now", "current_now"] | None
    unit: CurrentUnit | None
    is_unit_told: bool
    step_w: float
    full_uwh: int | None

    @property
    def name(self) -> str:
        return self.supply.name

    @property
    def has_power(self) -> bool:
        return self.power is not None

    @property
    def max_power_w(self) -> float:
        return _ACPI_MAX_POWER_W if self.supply.is_acpi else PHONE_MAX_POWER_W


def watts(current: int, unit: CurrentUnit, voltage_v: float, *, is_unit_told: bool) -> float:
    """The magnitude of a current times its voltage. Raises ValueError where the unit was guessed, and wrongly."""
    if unit == "uA":
        return abs(current) / 1e6 * voltage_v
    if abs(current) >= _MAX_ASSUMED_MA and not is_unit_told:
        raise ValueError(f"a current of {current} cannot be in mA")
    return abs(current) / 1e3 * voltage_v


def cell_of(supply: Supply, unit: CurrentUnit | None) -> Cell:
    """Which of its files a battery answers by. Raises OSError or ValueError where it gives neither power nor energy."""
    full_uwh = _full_uwh(supply)
    if _is_readable(supply, "power_now"):
        return Cell(supply, "power_now", None, False, _POWER_STEP_W, full_uwh)
    if _is_readable(supply, "current_now") and _is_readable(supply, "voltage_now"):
        step_w = CURRENT_STEP_A * math.ceil(volts(supply.integer("voltage_now")))
        guess = "uA" if supply.is_acpi else guess_current_unit([supply.integer("current_now")]) or "uA"
        return Cell(supply, "current_now", unit or guess, unit is not None, step_w, full_uwh)
    if full_uwh is not None:
        return Cell(supply, None, None, False, 0.0, full_uwh)
    raise ValueError(f"{supply.path} has neither power_now, nor both current_now and voltage_now, nor energy_now")


def frozen_after_s(refresh_s: float) -> float:
    """For how long a gauge that renews so often may say the same of power, voltage and energy and still be believed."""
    return max(_FROZEN_S, _FROZEN_REFRESHES * refresh_s)


def _is_readable(supply: Supply, attribute: str) -> bool:
    """Whether it can be read now: a driver that has no value answers ENODATA or ENODEV.

    Raises PermissionError, since then there is something to do.
    """
    try:
        supply.integer(attribute)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return False
    return True


def _full_uwh(supply: Supply) -> int | None:
    """From where the energy drawn is counted: what the battery can hold, µWh. None without an `energy_now`."""
    if not _is_readable(supply, "energy_now"):
        return None
    levels_uwh = [
        supply.integer(name)
        for name in ("energy_now", "energy_full", "energy_full_design")
        if _is_readable(supply, name)
    ]
    return max(levels_uwh) if levels_uwh[0] > 0 else None  # 0: the driver has no counter


def rails_of(cell: Cell, allow_charging: bool, refresh_s: float) -> list[Rail]:
    """Power first; the energy counter runs backwards when charging, and is left out where that is allowed."""
    scope = Scope.RAIL if allow_charging else Scope.DEVICE
    power = Rail(
        name=cell.name,
        scope=scope,
        kind=RailKind.POWER_W,
        provenance=Provenance.INTEGRATED,
        min_period_s=refresh_s,
        resolution=cell.step_w,
        gain_err=GAIN_ERR,
        edge_jitter_s=refresh_s,
        max_power_w=cell.max_power_w,
    )
    energy = replace(
        power,
        name=f"{cell.name}-energy",
        kind=RailKind.COUNTER_J,
        provenance=Provenance.COUNTER,
        resolution=_ENERGY_STEP_J,
        parent=cell.name if cell.has_power else None,
    )
    if cell.has_power and (allow_charging or cell.full_uwh is None):
        return [power]
    return [power, energy] if cell.has_power else [energy]


# While it discharges a live gauge changes its power, its voltage or its energy with each renewal, of which the slowest
# known come every 30 s. One that has said the same of all three for so long is frozen; energy alone is too coarse.
_FROZEN_S = 120.0
_FROZEN_REFRESHES = 4.0


class _OpenCell:
    """The kept files of one battery. The troubles are why the last readings of power and energy gave none."""

    def __init__(self, cell: Cell) -> None:
        self.trouble: str | None = None
        self.energy_trouble: str | None = None
        self._cell = cell
        self._said: tuple[float | None, float | None, str | None] | None = None
        self._since_ns = 0
        self._status = cell.supply.file("status")
        self._power = cell.supply.file(cell.power or "power_now")
        self._voltage = cell.supply.file("voltage_now")
        self._energy = cell.supply.file("energy_now")

    def status(self) -> str:
        """Charging, Discharging, Full, Not charging, or Unknown and why where it is not read."""
        try:
            return self._status.text()
        except (OSError, ValueError) as error:
            return f"Unknown ({error})"

    def power_w(self) -> float | None:
        """The magnitude, as signs mean nothing that holds for every driver. None where it cannot be read now."""
        self.trouble = None
        try:
            power_w = self._magnitude_w()
        except (OSError, ValueError) as error:
            self.trouble = str(error)
            return None
        if power_w > self._cell.max_power_w:
            self.trouble = f"{power_w:.4g} W are more than a battery gives"
            return None
        return power_w

    def _magnitude_w(self) -> float:
        raw = abs(self._power.integer())
        if self._cell.power == "power_now":
            return raw / 1e6
        unit = self._cell.unit or "uA"
        return watts(raw, unit, volts(self._voltage.integer()), is_unit_told=self._cell.is_unit_told)

    def energy_j(self) -> float | None:
        """What has left the battery since it was full. None where it cannot be read now."""
        try:
            left_uwh = self._energy.integer()
        except (OSError, ValueError) as error:
            self.energy_trouble = str(error)
            return None
        self.energy_trouble = None if left_uwh > 0 else f"energy_now is {left_uwh}"
        return ((self._cell.full_uwh or 0) - left_uwh) * _J_PER_UWH if left_uwh > 0 else None

    def still_s(self, now_ns: int, power_w: float | None, energy_j: float | None) -> float:
        """For how long power, energy and voltage have been what they are."""
        said = (power_w, energy_j, self._voltage_text())
        if said != self._said:
            self._said, self._since_ns = said, now_ns
        return (now_ns - self._since_ns) / 1e9

    def _voltage_text(self) -> str | None:
        try:
            return self._voltage.text()
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        for file in (self._status, self._power, self._voltage, self._energy):
            file.close()


class GaugeReader:
    """The kept files of one opened sensor. `why` says of each value of the last `values` why it is None.

    `frozen_s`: see `frozen_after_s`.
    """

    def __init__(self, cells: tuple[Cell, ...], feeding: tuple[Supply, ...], frozen_s: float) -> None:
        self.why: list[str | None] = []
        self._cells = cells
        self._frozen_s = frozen_s
        self._open_cells = [_OpenCell(cell) for cell in cells]
        self._online = [(charger.name, charger.file("online")) for charger in feeding]

    def statuses(self) -> list[str]:
        return [cell.status() for cell in self._open_cells]

    def refusal(self, statuses: list[str]) -> str | None:
        """Why the batteries do not tell what the device draws; None where they do."""
        said = ", ".join(f"{cell.name} says {status}" for cell, status in zip(self._cells, statuses, strict=True))
        connected = [name for name, file in self._online if _is_online(file)]
        if connected or "Charging" in statuses:
            return f"charging: {' and '.join(connected) or 'a charger'} may feed the device, {said}"
        return None if "Discharging" in statuses else f"not discharging: {said}"

    def is_silent(self) -> bool:
        """Whether no battery that should tell power tells any: some drivers have the file and say 0 for ever."""
        pairs = zip(self._cells, self._open_cells, strict=True)
        powers_w = [opened.power_w() for cell, opened in pairs if cell.has_power]
        return bool(powers_w) and not any(powers_w)

    def values(self, statuses: list[str], now_ns: int, *, any_direction: bool) -> list[float | None]:
        """One a rail, in the order of `rails_of`."""
        read_w = [cell.power_w() if self._cells[n].has_power else None for n, cell in enumerate(self._open_cells)]
        powers = read_w if any_direction else _as_draw(read_w, statuses)
        values: list[float | None] = []
        self.why = []
        for n, (cell, opened, power_w) in enumerate(zip(self._cells, self._open_cells, powers, strict=True)):
            has_energy = cell.full_uwh is not None and not (any_direction and cell.has_power)
            energy_j = opened.energy_j() if has_energy else None
            trouble = opened.trouble or f"{read_w[n]} W while its driver says {statuses[n]}"
            energy_trouble = opened.energy_trouble
            if power_w and opened.still_s(now_ns, power_w, energy_j) > self._frozen_s:
                trouble = energy_trouble = f"frozen, it has said the same for more than {self._frozen_s:g} s"
                power_w = energy_j = None
            if cell.has_power:
                values.append(power_w)
                self.why.append(f"{cell.name}: {trouble}" if power_w is None else None)
            if has_energy:
                values.append(energy_j)
                self.why.append(f"{cell.name}: {energy_trouble}" if energy_j is None else None)
        return values

    def close(self) -> None:
        for cell in self._open_cells:
            cell.close()
        for _, file in self._online:
            file.close()


def _is_online(file: Attribute) -> bool:
    """0 is offline, 1 and 2 are online (ABI). A charger that cannot be asked may be connected."""
    try:
        return file.integer() != 0
    except OSError as error:
        return error.errno not in _NOT_THERE
    except ValueError:
        return True


def _as_draw(powers_w: list[float | None], statuses: list[str]) -> list[float | None]:
    """Without what has no known direction, and without any where a running device would draw nothing."""
    if not any(powers_w):
        return [None] * len(powers_w)
    return [
        power_w if status == "Discharging" or power_w == 0 else None
        for power_w, status in zip(powers_w, statuses, strict=True)
    ]

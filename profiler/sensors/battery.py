"""What a laptop or a phone draws from its battery, through Linux's power_supply class.

Only a discharging battery tells what its device draws: with a charger connected the battery's current is what is left
over, in either direction. Sources: Documentation/ABI/testing/sysfs-class-power of the Linux kernel, and for phones
https://source.android.com/docs/core/power/device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Scope, weakest
from profiler.sensor import Available, Unavailable, sys_dir
from profiler.sensors.gauge import Cell, GaugeReader, cell_of, frozen_after_s, rails_of
from profiler.sensors.power_supply import CurrentUnit, Supply, batteries, chargers, find_supplies

# drivers/acpi/battery.c asks the firmware at most once in 1000 ms (cache_time). Phones' gauges renew their values
# every 1 to 30 s, which no file says: estimate_refresh_s finds it out of a recording.
_REFRESH_S = 1.0
# MAX17042/47/50: one conversion in 175.8 ms (datasheets, "Current register")
_MAXIM = re.compile(r"max170(xx|42|47|50|55).*")
_MAXIM_REFRESH_S = 0.1758

_NO_BATTERY = "there is no battery below {where}"
_NO_BATTERY_REMEDY = (
    "On Android run in 'adb shell', as apps may not look there; a container needs /sys/class/power_supply mounted; "
    "without a battery use another sensor."
)
_UNPLUG = "Unplug the charger; reach a phone by adb over Wi-Fi ('adb tcpip 5555', then 'adb connect ADDRESS')."
_SILENT = "the battery discharges, says its driver, with 0 W or more than any battery gives"
_SILENT_REMEDY = "The driver does not tell power, or in another unit: use another sensor, or give 'current_unit'."
_UNREADABLE = "Look at the files below {where}; on Android only the shell user of 'adb shell' may read them."


class BatterySensor:
    """The draw of a device that runs on its battery, as the battery's own gauge sees it.

    One rail of power a battery, `power_now` or current times voltage, and where there is `energy_now` a rail
    `NAME-energy` that counts up what has left the battery, in coarse steps. The total is the sum of the power rails
    (of a battery that has none: its energy). Scope `device`: all of it, screen and radio included.

    Sign conventions of fuel gauges differ (negative, positive, or always positive when discharging: Linux commit
    05f94eb98907), so the magnitude is taken, and only while `status` says Discharging and no charger is online. An
    idle battery beside one that discharges counts with 0 W; power of a battery that does not say where it flows is
    not known, and that of a device that draws 0 W is not believed.

    `allow_charging` reads whatever flows at the battery, in whichever direction, and says so: scope `rail`.
    `current_unit` and `refresh_s` replace what is guessed of a gauge that is known better.

    Raises ValueError where `refresh_s` is not positive.
    """

    name = "battery"

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        allow_charging: bool = False,
        current_unit: CurrentUnit | None = None,
        refresh_s: float | None = None,
    ) -> None:
        if refresh_s is not None and not 0 < refresh_s < math.inf:
            raise ValueError(f"refresh_s must be positive, got {refresh_s}")
        self._folder = sys_dir(root) / "class" / "power_supply"
        self._clock = clock
        self._allow_charging = allow_charging
        self._unit = current_unit
        self._refresh_s = refresh_s
        self._cells: tuple[Cell, ...] = ()
        self._chargers: tuple[Supply, ...] = ()
        self._reader: GaugeReader | None = None

    def probe(self) -> Available | Unavailable:
        try:
            supplies = find_supplies(self._folder)
            found, others = batteries(supplies)
            if not found:
                return Unavailable(_NO_BATTERY.format(where=self._folder), _NO_BATTERY_REMEDY, is_absent=True)
            feeding = tuple(chargers(supplies))
            cells = tuple(cell_of(supply, self._unit) for supply in found)
            refused = self._refusal(cells, feeding)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that go round in circles
            return Unavailable(f"{error}", _UNREADABLE.format(where=self._folder))
        if refused is not None:
            return refused
        if self._reader is None:  # what is being read stays what was opened
            self._cells, self._chargers = cells, feeding
        return self._available(cells, others)

    def _refusal(self, cells: tuple[Cell, ...], feeding: tuple[Supply, ...]) -> Unavailable | None:
        """Why nothing can be metered just now. Raises OSError or ValueError where not even that can be read."""
        reader = GaugeReader(cells, feeding, frozen_after_s(self._refresh_s or 0.0))
        try:
            for cell in cells:
                cell.supply.text("status")
            if self._allow_charging:
                return None
            reason = reader.refusal(reader.statuses())
            if reason is not None:
                return Unavailable(reason, _UNPLUG)
            return Unavailable(_SILENT, _SILENT_REMEDY) if reader.is_silent() else None
        finally:
            reader.close()

    def _available(self, cells: tuple[Cell, ...], others: list[Supply]) -> Available:
        scope = Scope.RAIL if self._allow_charging else Scope.DEVICE
        rails = [rail for cell in cells for rail in rails_of(cell, self._allow_charging, self._refresh(cell))]
        total = tuple(rail.name for rail in rails if rail.parent is None)
        provenance = weakest(rail.provenance for rail in rails if rail.parent is None)
        return Available(tuple(rails), total, scope, provenance, "; ".join(self._notes(cells, others)))

    def _refresh(self, cell: Cell) -> float:
        if self._refresh_s is not None:
            return self._refresh_s
        return _MAXIM_REFRESH_S if _MAXIM.fullmatch(cell.name) else _REFRESH_S

    def _notes(self, cells: tuple[Cell, ...], others: list[Supply]) -> list[str]:
        notes = ["no accuracy of a battery gauge is documented, 5 % is assumed"]
        notes += [
            f"{cell.name}: current_now {'is told to be' if cell.is_unit_told else 'assumed to be'} in {cell.unit}"
            for cell in cells
            if cell.unit is not None
        ]
        if others:
            notes.append(f"{', '.join(supply.name for supply in others)} taken for the same cell, not counted")
        if self._allow_charging:
            notes.append("what flows at the battery in either direction: with a charger not what the device draws")
        return notes

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable. The files stay open."""
        self.close()
        outcome = None if self._cells else self.probe()  # rails stay those that were probed
        if isinstance(outcome, Unavailable):
            raise SensorError(f"battery: {outcome.reason}.", remedy=outcome.remedy)
        self._reader = GaugeReader(self._cells, self._chargers, frozen_after_s(self._refresh_s or 0.0))

    def read(self) -> list[float | None]:
        if self._reader is None:
            raise SensorError("battery: not open.", remedy="Call open() first.")
        statuses = self._reader.statuses()
        reason = None if self._allow_charging else self._reader.refusal(statuses)
        if reason is not None:
            raise SensorError(f"battery: {reason}.", remedy=_UNPLUG)
        now_ns = self._clock.monotonic_ns()
        values = self._reader.values(statuses, now_ns, any_direction=self._allow_charging)
        if all(value is None for value in values):
            raise SensorError(
                f"battery: nothing below {self._folder} can be read: {self._reader.why[0]}.",
                remedy=_UNREADABLE.format(where=self._folder),
            )
        return values

    def why(self) -> Sequence[str | None]:
        return () if self._reader is None else tuple(self._reader.why)

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

"""The table of cases that the Java client's battery sources are tested by as well: both must say the same of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.sensor import Unavailable
from profiler.sensors.battery import BatterySensor
from profiler.sensors.power_supply import CurrentUnit
from profiler.sensors.termux import parse_battery_status
from tests.fixtures.battery_cases import Case, Reading, battery_manager_cases, change, power_supply_cases
from tests.fixtures.termux import told

Told = tuple[float | None, str]


def name(case: Case) -> str:
    return case[0]


def check(reading: Reading, power_w: float | None, why: str) -> None:
    assert power_w == (None if reading.power_w is None else pytest.approx(reading.power_w)), why
    assert reading.why in why


class Files:
    """One sensor over the readings of a case: looked for until it is there, open from then on."""

    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self._root = root
        self._sensor = BatterySensor(root, self.clock)
        self._total: tuple[int, ...] = ()

    def read(self) -> Told:
        if not self._total:
            outcome = self._sensor.probe()
            if isinstance(outcome, Unavailable):
                return None, outcome.reason
            names = [rail.name for rail in outcome.rails]
            self._total = tuple(names.index(rail) for rail in outcome.total)
            self._sensor.open()
        try:
            values = self._sensor.read()
        except SensorError as error:
            return None, f"{error}"
        parts = [values[n] for n in self._total]
        why = "; ".join(why for why in self._sensor.why() if why is not None)
        known = [part for part in parts if part is not None]
        return (sum(known), why) if len(known) == len(parts) else (None, why)

    def close(self) -> None:
        self._sensor.close()


@pytest.mark.parametrize("case", power_supply_cases(), ids=name)
def test_files(case: Case, tmp_path: Path) -> None:
    (tmp_path / "sys/class/power_supply").mkdir(parents=True)
    files = Files(tmp_path)
    at_s = 0.0
    for reading in case[1]:
        change(tmp_path, reading.told[1:])
        files.clock.advance(float(reading.told[0]) - at_s)
        at_s = float(reading.told[0])
        check(reading, *files.read())
    files.close()


@pytest.mark.parametrize("case", battery_manager_cases(), ids=name)
def test_manager(case: Case) -> None:
    unit: CurrentUnit | None = None
    for reading in case[1]:
        plugged, status, voltage, current = reading.told
        words = told(plugged=plugged, status=status, voltage=_number(voltage), current=_number(current))
        outcome = parse_battery_status(words, unit=unit)
        unit = unit or outcome.unit
        check(reading, outcome.power_w, outcome.reason or "")


def _number(text: str) -> int | None:
    return None if text == "none" else int(text)

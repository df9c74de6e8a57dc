"""What an Android phone draws, asked from a host over adb.

Whatever the phone has is read in one call a sample: its battery, by the files of the power_supply class that the
shell user may read, else by `dumpsys battery`, and the energy counters of its supply rails where it has any. Sources:
https://source.android.com/docs/core/power/device for gauges, `profiler.sensors.odpm` for the rails.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from profiler.clock import Clock
from profiler.errors import DeviceError, SensorError
from profiler.quantities import Rail, Scope, weakest
from profiler.sensor import Available, Unavailable
from profiler.sensors.adb_client import TIMEOUT_S, AdbClient, AdbMissing, Part
from profiler.sensors.dumpsys_battery import RESET, parse_battery
from profiler.sensors.odpm import SERVICE, odpm_rails, parse_energy_value, parse_service, summed
from profiler.sensors.phone_gauge import (
    DUMPSYS,
    SUPPLIES,
    DumpsysGauge,
    Gauge,
    GaugeOptions,
    Snapshot,
    SysfsGauge,
    attribute_paths,
    cat,
    supplies_of,
)
from profiler.sensors.power_supply import CurrentUnit

_PERIOD_S = 1.0  # each sample starts a process here and some on the phone, which draw power themselves
_ENERGY_VALUES = "/sys/bus/iio/devices/*/energy_value"
_ENERGY_VALUE = re.compile(r"/sys/bus/iio/devices/[A-Za-z0-9_:.-]{1,64}/energy_value")
_LIST = f"ls -1d {SUPPLIES}/*/* {_ENERGY_VALUES}"
_EMULATED = "getprop ro.boot.qemu; getprop ro.kernel.qemu"
_MODEL = "getprop ro.product.model"
_FILES_A_CALL = 25  # older phones take command lines of at most 4096 bytes

_ELSEWHERE = "adb asks phones of this machine, not of the one below {root}"
_ELSEWHERE_REMEDY = "Leave --sysfs-root out."
_EMULATOR = "{serial} is an emulator: the figures of its battery are made up"
_EMULATOR_REMEDY = "Attach a real phone, and say which with ANDROID_SERIAL."
_UNPLUG = (
    "A phone on USB always charges: pair it by USB, run 'adb tcpip 5555' and 'adb connect ADDRESS', unplug it, and "
    "set ANDROID_SERIAL to ADDRESS:5555. --allow-charging reads what flows at its battery all the same."
)
_RAILS_ONLY = "rails of the phone's processors and radios; what lies beside them is not in it"
_SILENT = "the phone tells neither a current, nor a charge, nor the energy of its rails"
_SILENT_REMEDY = "Use another phone, a meter beside it (sensor 'external'), or 'batterystats' for an estimate."
_UNREADABLE = "Look at what 'adb shell dumpsys battery' prints."


@dataclass(frozen=True, slots=True)
class _Odpm:
    """The rails' counters: files that root may read, or without any the power stats service."""

    paths: tuple[str, ...]
    first_j: dict[str, float]

    @property
    def commands(self) -> tuple[str, ...]:
        return tuple(f"cat {shlex.quote(path)}" for path in self.paths) or (SERVICE,)

    def values(self, parts: Sequence[Part]) -> list[float | None]:
        energies_j = _energies_j(self.paths, parts)
        return [energies_j.get(name) for name in self.first_j]


def _energies_j(paths: Sequence[str], parts: Sequence[Part]) -> dict[str, float]:
    """What can be read of the rails now: those of a file that cannot be are left out."""
    energies_j: dict[str, float] = {}
    for path, part in zip(paths or ("",), parts, strict=True):
        try:
            text = part.file(path).decode("ascii", errors="replace")
            energies_j |= parse_energy_value(text) if path else parse_service(text)
        except (OSError, ValueError):
            continue
    return energies_j


@dataclass(frozen=True, slots=True)
class _Phone:
    """What was found at the probe: how to read, and what comes of it."""

    gauge: Gauge
    odpm: _Odpm | None
    rails: tuple[Rail, ...]
    total: tuple[str, ...]
    scope: Scope
    notes: str

    @property
    def commands(self) -> tuple[str, ...]:
        return self.gauge.commands + (self.odpm.commands if self.odpm is not None else ())

    def values(self, parts: Sequence[Part], now_ns: int) -> list[float | None]:
        """One a rail. Raises SensorError where the phone charges, or tells nothing."""
        at = len(self.gauge.commands)
        self.gauge.take(parts[:at])
        refused = self.gauge.refusal()
        if refused is not None:
            raise SensorError(f"adb: {refused}.", remedy=_UNPLUG)
        values = self.gauge.values(now_ns) + (self.odpm.values(parts[at:]) if self.odpm is not None else [])
        if all(value is None for value in values):
            raise SensorError("adb: the phone tells nothing any more.", remedy=_UNREADABLE)
        return values


class AdbSensor:
    """A phone on the other end of adb. `python -m profiler` uses it only where it is named: it is no part of this host.

    Its battery gives a rail of power, or of energy out of what the charge counter counted, scope `device`; its supply
    rails, where the phone has them, a counter each. The total is the battery's, and the sum of the rails, scope
    `module`, where that says nothing. What a charging phone draws is missing; with `allow_charging` the battery's
    rails tell what flows there in either direction, scope `rail`, and the total is that of the supply rails.

    `serial` says which phone; without, `ANDROID_SERIAL`, else the only one. Values are held for `period_s`, and a
    battery's are taken to be up to `refresh_s` old then: 1 s for files, 60 s for the service, unless told. A call that
    gives no answer is given up after `timeout_s`, and not tried again for as long. `current_unit` settles what is
    guessed otherwise.

    Raises ValueError where a time is not positive or the serial number is none.
    """

    name = "adb"
    is_elsewhere = True

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        serial: str | None = None,
        adb: str = "adb",
        allow_charging: bool = False,
        current_unit: CurrentUnit | None = None,
        period_s: float = _PERIOD_S,
        refresh_s: float | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        times_s = (period_s, timeout_s) if refresh_s is None else (period_s, timeout_s, refresh_s)
        if not all(0 < time_s < math.inf for time_s in times_s):
            raise ValueError(f"times must be positive, got {times_s}")
        self._root = root
        self._is_here = adb != "adb" or root.resolve() == Path("/")
        self._clock = clock
        self._client = AdbClient(adb=adb, serial=serial, timeout_s=timeout_s)
        self._period_s = period_s
        self._timeout_s = timeout_s
        self._options = GaugeOptions(allow_charging, current_unit, period_s, refresh_s)
        self._phone: _Phone | None = None
        self._is_open = False
        self._due_ns: int | None = None
        self._held: list[float | None] | SensorError = []

    def probe(self) -> Available | Unavailable:
        if not self._is_here:
            return Unavailable(_ELSEWHERE.format(root=self._root), _ELSEWHERE_REMEDY, is_absent=True)
        try:
            self._client.select()
            found = self._look()
        except DeviceError as error:
            return Unavailable(Exception.__str__(error), error.remedy, is_absent=isinstance(error, AdbMissing))
        except (OSError, ValueError) as error:
            return Unavailable(f"{error}", _UNREADABLE)
        if isinstance(found, Unavailable):
            return found
        if not self._is_open:  # what is being read stays what was opened
            self._phone = found
        provenance = weakest(rail.provenance for rail in found.rails if rail.name in found.total)
        return Available(found.rails, found.total, found.scope, provenance, found.notes)

    def _look(self) -> _Phone | Unavailable:
        """Raises DeviceError where the phone cannot be asked, ValueError where its answers make no sense."""
        listing, battery, service, emulated, model = self._client.ask([_LIST, DUMPSYS, SERVICE, _EMULATED, _MODEL])
        if "1" in emulated.text().split() or self._client.serial.startswith("emulator-"):
            return Unavailable(_EMULATOR.format(serial=self._client.serial), _EMULATOR_REMEDY)
        state = parse_battery(battery.text())
        if state.is_stopped:
            return Unavailable(f"{state.refusal}", f"Run '{self._client.by_hand(RESET)}'.")
        gauge = self._gauge(listing.text(), battery.text())
        refused = gauge.refusal()
        if refused is not None:
            return Unavailable(refused, _UNPLUG)
        odpm = self._odpm(listing.text(), service)
        if not gauge.rails and odpm is None:
            return Unavailable(_SILENT, _SILENT_REMEDY)
        return self._assembled(gauge, odpm, model.text())

    def _gauge(self, listing: str, battery: str) -> Gauge:
        """The files where the shell user may read them and they tell power, else `dumpsys battery`."""
        paths = attribute_paths(listing)
        snapshot = Snapshot()
        for n in range(0, len(paths), _FILES_A_CALL):
            some = paths[n : n + _FILES_A_CALL]
            snapshot.put(some, self._client.ask([cat(path) for path in some]))
        try:
            files = SysfsGauge(supplies_of(snapshot, paths), snapshot, self._options)
            if files.refusal() is not None or self._options.allow_charging or not files.is_silent():
                return files
        except (OSError, ValueError):
            pass  # a phone whose files are closed to the shell user: its battery service tells less, but something
        return DumpsysGauge(battery, self._options)

    def _odpm(self, listing: str, service: Part) -> _Odpm | None:
        paths = tuple(path for path in listing.splitlines() if _ENERGY_VALUE.fullmatch(path))
        if paths:
            energies_j = _energies_j(paths, self._client.ask([f"cat {shlex.quote(path)}" for path in paths]))
            if energies_j:
                return _Odpm(paths, energies_j)
        energies_j = _energies_j((), [service])
        return _Odpm((), energies_j) if energies_j else None

    def _assembled(self, gauge: Gauge, odpm: _Odpm | None, model: str) -> _Phone:
        tops = tuple(rail.name for rail in gauge.rails if rail.parent is None)
        notes = [f"{_printable(model)} ({self._client.serial}): {', '.join(gauge.notes)}"]
        rails, total, scope = gauge.rails, tops, self._options.scope
        if odpm is not None:
            is_beside = self._options.allow_charging or not tops  # then the battery does not contain the rails
            rails += self._odpm_rails(odpm, None if is_beside or len(tops) > 1 else tops[0])
            notes.append("energy of supply rails from " + (", ".join(odpm.paths) or "the power stats service"))
            if is_beside:
                total, scope = summed(odpm.first_j), Scope.MODULE
                notes.append(_RAILS_ONLY)
        notes += ["no accuracy is documented, 5 % is assumed", "starts a process a sample, here and on the phone"]
        notes.append("another device than this one: used only where it is named, with --sensor adb")
        if self._options.allow_charging:
            notes.append("what flows at the battery in either direction: with a charger not what the phone draws")
        return _Phone(gauge, odpm, rails, total, scope, "; ".join(notes))

    def _odpm_rails(self, odpm: _Odpm, parent: str | None) -> tuple[Rail, ...]:
        return odpm_rails(
            odpm.first_j,
            is_service=not odpm.paths,
            stale_s=self._period_s,
            min_period_s=self._period_s,
            parent=parent,
        )

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable."""
        self.close()
        outcome = None if self._phone is not None else self.probe()  # rails stay those that were probed
        if isinstance(outcome, Unavailable):
            raise SensorError(f"adb: {outcome.reason}.", remedy=outcome.remedy)
        self._is_open = True

    def read(self) -> list[float | None]:
        if not self._is_open or self._phone is None:
            raise SensorError("adb: not open.", remedy="Call open() first.")
        now_ns = self._clock.monotonic_ns()
        if self._due_ns is None or now_ns >= self._due_ns:
            pause_s = self._period_s
            try:
                self._held = self._phone.values(self._client.ask(self._phone.commands), now_ns)
            except DeviceError as error:
                self._held = SensorError(f"adb: {Exception.__str__(error)}.", remedy=error.remedy)
                pause_s = max(self._period_s, (self._clock.monotonic_ns() - now_ns) / 1e9)
            except SensorError as error:
                self._held = error
            self._due_ns = self._clock.monotonic_ns() + round(pause_s * 1e9)
        if isinstance(self._held, SensorError):
            raise SensorError(Exception.__str__(self._held), remedy=self._held.remedy)
        return list(self._held)

    def close(self) -> None:
        self._is_open = False
        self._due_ns = None


def _printable(text: str) -> str:
    return "".join(c for c in text.strip()[:40] if c.isprintable() and c not in ";,") or "phone"

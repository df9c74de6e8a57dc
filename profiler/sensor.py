"""The seam to the hardware: what a sensor is, and how built-in and foreign ones are found.

A sensor reads and says what it is reading. It never integrates, never sleeps and never starts a thread: that is the
sampler's work, so that arithmetic can be tested without hardware and hardware without arithmetic.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, Scope

# What code that is not ours raises by mistake, without what nobody should catch
_FAILURES = (
    ArithmeticError, AttributeError, LookupError, NameError, OSError, RuntimeError, SensorError, TypeError, ValueError,
)  # fmt: skip

ENTRY_POINT_GROUP = "fedmeter.sensors"


@dataclass(frozen=True, slots=True)
class Available:
    """A sensor that can be opened: its rails, and which of them make up the device's total."""

    rails: tuple[Rail, ...]
    total: tuple[str, ...]
    scope: Scope
    provenance: Provenance
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A sensor that cannot be used here: why, and the exact thing to do about it.

    `is_absent`: there is no such hardware, as on most machines, so that nobody needs to be told unasked.
    """

    reason: str
    remedy: str = ""
    is_absent: bool = False


@runtime_checkable
class Sensor(Protocol):
    """One back-end. Constructed with `root` (the file system root to read below) and a `clock`.

    `probe` never raises. `read` returns one value a rail, in the order of `probe().rails`: joules for a counter, watts
    for power, None for a rail that cannot be read now. It raises SensorError only where no rail can be read.
    """

    name: str

    def probe(self) -> Available | Unavailable: ...

    def open(self) -> None: ...

    def read(self) -> list[float | None]: ...

    def close(self) -> None: ...


@runtime_checkable
class Explains(Protocol):
    """A sensor that can also say why single rails gave None at its last `read`: one text, or None, a rail."""

    def why(self) -> Sequence[str | None]: ...


SensorFactory = Callable[[Path, Clock], Sensor]


@dataclass(frozen=True, slots=True)
class Probe:
    """What one sensor said when it was asked."""

    sensor: Sensor
    outcome: Available | Unavailable = field()


def sys_dir(root: Path) -> Path:
    """The sysfs below a file system root; a folder that is itself a sysfs copy (has `class/`) serves as well."""
    below = root / "sys"
    # not Path.is_dir, which raises where this user may not look
    is_root = os.path.isdir(below) or not os.path.isdir(root / "class")  # noqa: PTH112
    return below if is_root else root


def discover(root: Path, clock: Clock) -> Iterator[Sensor]:
    """Every sensor that is installed, built in or not, through the entry points `fedmeter.sensors`, by name.

    One that cannot even be loaded or made is there as well, as one that is not available: it must not take the others
    along.
    """
    from importlib.metadata import entry_points  # costs 20 ms, so only when asked for

    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        try:
            factory: SensorFactory = entry.load()
            sensor = factory(root, clock)
        except (ImportError, SyntaxError, *_FAILURES) as error:
            yield Broken(entry.name, f"{entry.value} cannot be loaded: {error}")
            continue
        yield sensor


def probe_all(root: Path, clock: Clock) -> list[Probe]:
    """What every installed sensor says about the machine below `root`.

    One that fails at it, against the contract, is not available: it must not take the others along.
    """
    return [_asked(sensor) for sensor in discover(root, clock)]


def _asked(sensor: Sensor) -> Probe:
    try:
        return Probe(sensor, sensor.probe())
    except _FAILURES as error:
        why = f"it fails when it is asked: {type(error).__name__}: {error}"
        return Probe(sensor, Unavailable(why, "Tell whoever wrote this sensor, or remove the package it comes with."))


class Broken:
    """Stands for a sensor whose code cannot be loaded."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._outcome = Unavailable(reason, "Install what it needs, or install fedmeter again.")

    def probe(self) -> Available | Unavailable:
        return self._outcome

    def open(self) -> None:
        raise SensorError(f"{self.name}: {self._outcome.reason}.", remedy=self._outcome.remedy)

    def read(self) -> list[float | None]:
        raise SensorError(f"{self.name}: not open.")

    def close(self) -> None:
        pass


# Counters beat polled power, measured beats modelled (facts: a 1 Hz poll errs by up to 80 %), wide beats narrow.
_PROVENANCE_ORDER = tuple(Provenance)
_SCOPE_ORDER = tuple(Scope)


def best(probes: list[Probe]) -> Probe | None:
    """The probe to meter with: measured before modelled, then the widest scope, then counter before power."""
    usable = [probe for probe in probes if isinstance(probe.outcome, Available)]
    return min(usable, key=_preference, default=None)


def _preference(probe: Probe) -> tuple[bool, int, int, str]:
    outcome = probe.outcome
    if not isinstance(outcome, Available):
        raise TypeError(f"{probe.sensor.name} is not available")
    return (
        not outcome.provenance.is_measured,
        _SCOPE_ORDER.index(outcome.scope),
        _PROVENANCE_ORDER.index(outcome.provenance),
        probe.sensor.name,
    )

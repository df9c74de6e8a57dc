"""The seam to the hardware: what a sensor is, and how built-in and foreign ones are found.

A sensor reads and says what it is reading. It never integrates, never sleeps and never starts a thread: that is the
sampler's work, so that arithmetic can be tested without hardware and hardware without arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.files import sys_dir as sys_dir  # sensors take it from here
from profiler.quantities import Provenance, Rail, Scope

# What code that is not ours raises by mistake, without what nobody should catch
_FAILURES = (
    ArithmeticError, AttributeError, LookupError, NameError, OSError, RuntimeError, SensorError, TypeError, ValueError,
)  # fmt: skip

ENTRY_POINT_GROUP = "fedmeter.sensors"


@dataclass(frozen=True, slots=True)
class Available:
    """A sensor that can be opened: its rails, and which of them make up the device's total.

    `same_as` names the sensor that reads the same hardware by a better way, where there is one: never both are used.
    """

    rails: tuple[Rail, ...]
    total: tuple[str, ...]
    scope: Scope
    provenance: Provenance
    notes: str = ""
    same_as: str = ""


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

    A class that measures another machine than the one it runs on says `is_elsewhere = True`.
    """

    name: str

    def probe(self) -> Available | Unavailable: ...

    def open(self) -> None: ...

    def read(self) -> list[float | None]: ...

    def close(self) -> None: ...


@runtime_checkable
class Costly(Protocol):
    """A sensor that loads a package, starts a program or wakes a service when asked. `same_as` is what it then says."""

    same_as: str


@runtime_checkable
class Explains(Protocol):
    """A sensor that can also say why single rails gave None at its last `read`: one text, or None, a rail."""

    def why(self) -> Sequence[str | None]: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """What one sensor said when it was asked."""

    sensor: Sensor
    outcome: Available | Unavailable = field()


def is_elsewhere(sensor: object) -> bool:
    """Whether a sensor, or its class, measures another machine: this one is then never metered with it unasked."""
    return getattr(sensor, "is_elsewhere", False) is True


def discover(root: Path, clock: Clock, *, allow_charging: bool = False, elsewhere: bool = False) -> Iterator[Sensor]:
    """Every sensor that is installed, built in or not, through the entry points `fedmeter.sensors`, by name.

    `allow_charging` is for those that know it: to tell what flows at a battery even where that is not what is drawn.
    Sensors of other machines are left out, as asking those takes time and may start services, unless `elsewhere`.
    One that cannot even be loaded or made is there as well, as one that is not available: it must not take the others
    along.
    """
    from importlib.metadata import entry_points  # costs 20 ms, so only when asked for

    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        try:
            factory: Callable[..., Sensor] = entry.load()
            if is_elsewhere(factory) and not elsewhere:
                continue
            knows = allow_charging and _knows(factory, "allow_charging")
            sensor = factory(root, clock, allow_charging=True) if knows else factory(root, clock)
        except (ImportError, SyntaxError, *_FAILURES) as error:
            yield Broken(entry.name, f"{entry.value} cannot be loaded: {error}")
            continue
        yield sensor


def _knows(factory: Callable[..., Sensor], option: str) -> bool:
    import inspect

    try:
        return option in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # one that is written in C
        return False


def _told(sensor: Sensor) -> Available | Unavailable:
    """What it says. One that fails at it, against the contract, is not available: it must not take others along."""
    try:
        return sensor.probe()
    except _FAILURES as error:
        why = f"it fails when it is asked: {type(error).__name__}: {error}"
        return Unavailable(why, "Tell whoever wrote this sensor, or remove the package it comes with.")


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
# What a scope does not contain, so that it is added: RAPL sees packages and memory, no card.
_APART: dict[Scope, tuple[Scope, ...]] = {Scope.HOST: (Scope.GPU,)}


def best(probes: Sequence[Probe], preferred: Collection[str] = ()) -> list[Probe]:
    """The probes to meter this machine with: the best, and with it what measures what it does not contain; or none.

    A preferred name comes first, then measured before modelled, then the widest scope, then counter before power; of
    several ways to the same hardware there is only one (`distinct`).
    `profiler.combined.combined` makes one sensor of them.
    """
    usable = sorted(
        distinct([probe for probe in probes if not is_elsewhere(probe.sensor)], preferred),
        key=lambda probe: (probe.sensor.name not in preferred, *_preference(probe)),
    )
    if not usable:
        return []
    first, *others = usable
    return [first, *(other for other in others if _is_apart(_outcome(first), _outcome(other)))]


def ask(sensors: Iterable[Sensor], wanted: Collection[str] = ()) -> list[Probe]:
    """What every sensor says, in their order. A costly one is asked only where it is needed, or wanted by name."""
    sensors = list(sensors)
    outcomes = {s.name: _told(s) for s in sensors if s.name in wanted or not isinstance(s, Costly)}
    return [Probe(sensor, outcomes.get(sensor.name) or _asked_if_needed(sensor, outcomes)) for sensor in sensors]


def _asked_if_needed(sensor: Sensor, outcomes: Mapping[str, Available | Unavailable]) -> Available | Unavailable:
    other = sensor.same_as if isinstance(sensor, Costly) else ""
    if not isinstance(outcomes.get(other), Available):
        return _told(sensor)
    return Unavailable(
        f"not asked: '{other}' reads the same hardware", f"Require '{sensor.name}' to have it used.", True
    )


def distinct(probes: Sequence[Probe], preferred: Collection[str] = ()) -> list[Probe]:
    """The available probes, one for each piece of hardware: the preferred, else the one that others fall back from.

    Where that one is not available, the best of its fallbacks takes its place.
    """
    ways: dict[str, list[Probe]] = {}
    for probe in probes:
        if isinstance(probe.outcome, Available):
            ways.setdefault(probe.outcome.same_as or probe.sensor.name, []).append(probe)
    return [min(group, key=lambda probe: _standing(probe, preferred)) for group in ways.values()]


def _standing(probe: Probe, preferred: Collection[str]) -> tuple[bool, bool, tuple[bool, int, int, str]]:
    """Order among several ways to the same hardware."""
    return probe.sensor.name not in preferred, bool(_outcome(probe).same_as), _preference(probe)


def _is_apart(first: Available, other: Available) -> bool:
    """Measured and modelled joules are not mixed: the sum would be as weak as the model."""
    both = first.provenance.is_measured and other.provenance.is_measured
    return both and other.scope in _APART.get(first.scope, ())


def _outcome(probe: Probe) -> Available:
    if not isinstance(probe.outcome, Available):
        raise TypeError(f"{probe.sensor.name} is not available")
    return probe.outcome


def _preference(probe: Probe) -> tuple[bool, int, int, str]:
    outcome = _outcome(probe)
    return (
        not outcome.provenance.is_measured,
        _SCOPE_ORDER.index(outcome.scope),
        _PROVENANCE_ORDER.index(outcome.provenance),
        probe.sensor.name,
    )

"""For the doctor: where two sensors read the same hardware, both are read side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from profiler.accumulate import counter_difference
from profiler.agreement import Counted, disagreements, largest_difference
from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Rail, RailKind
from profiler.sensor import Available, Probe, Sensor

_SPAN_S = 1.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """The two sensors' names, the largest relative difference between them, and why they are not to be trusted."""

    sensors: tuple[str, str]
    largest_difference: float | None
    disagreements: tuple[str, ...]
    trouble: str | None = None

    def __str__(self) -> str:
        names = " and ".join(self.sensors)
        if self.trouble is not None:
            return f"{names} could not be compared: {self.trouble}"
        if self.disagreements:
            return f"{names} differ: {'; '.join(self.disagreements)}: do not trust their total before you know why"
        if self.largest_difference is None:
            return f"{names} counted nothing within {_SPAN_S:g} s: there is nothing to compare"
        return f"{names} agree within {self.largest_difference:.2%}, over {_SPAN_S:g} s"


def agreements(probes: Sequence[Probe], clock: Clock, span_s: float = _SPAN_S) -> list[Agreement]:
    """One for each available sensor that is `same_as` another available one and counts joules as that one does."""
    usable = {probe.sensor.name: probe for probe in probes if isinstance(probe.outcome, Available)}
    pairs = [(usable.get(_same_as(probe)), probe) for probe in usable.values()]
    return [
        _compared(first, second, clock, span_s)
        for first, second in pairs
        if first is not None and _counters(first) and _counters(second)
    ]


def _same_as(probe: Probe) -> str:
    return probe.outcome.same_as if isinstance(probe.outcome, Available) else ""


def _rails(probe: Probe) -> tuple[Rail, ...]:
    return probe.outcome.rails if isinstance(probe.outcome, Available) else ()


def _counters(probe: Probe) -> list[Rail]:
    return [rail for rail in _rails(probe) if rail.kind is RailKind.COUNTER_J]


def _compared(first: Probe, second: Probe, clock: Clock, span_s: float) -> Agreement:
    names = first.sensor.name, second.sensor.name
    try:
        before, after = _edges(first.sensor, second.sensor, clock, span_s)
    except (SensorError, OSError) as error:
        return Agreement(names, None, (), str(error))
    one = _counted(first, before.values[0], after.values[0])
    other = _counted(second, before.values[1], after.values[1])
    stale_s = max(rail.edge_jitter_s for rail in (*_counters(first), *_counters(second)))
    duration_s = (after.start_ns - before.start_ns) / 1e9
    apart_s = stale_s + max(edge.end_ns - edge.start_ns for edge in (before, after)) / 1e9
    said = disagreements(one, other, duration_s=duration_s, apart_s=apart_s)
    return Agreement(names, largest_difference(one, other), tuple(said))


@dataclass(frozen=True, slots=True)
class _Edge:
    """Both sensors, read one after the other between two moments."""

    start_ns: int
    values: tuple[list[float | None], list[float | None]]
    end_ns: int


def _edges(first: Sensor, second: Sensor, clock: Clock, span_s: float) -> tuple[_Edge, _Edge]:
    def edge() -> _Edge:
        return _Edge(clock.monotonic_ns(), (first.read(), second.read()), clock.monotonic_ns())

    with ExitStack() as opened:
        for sensor in (first, second):
            opened.callback(sensor.close)
            sensor.open()
        edge()  # the first read of a file or an event takes several times as long
        before = edge()
        clock.sleep(span_s)
        return before, edge()


def _counted(probe: Probe, before: Sequence[float | None], after: Sequence[float | None]) -> Counted:
    """What the rails that could be read at both edges counted; one that was reset has no figure."""
    energy_j: dict[str, float] = {}
    for rail, start_j, end_j in zip(_rails(probe), before, after, strict=True):
        if rail.kind is RailKind.COUNTER_J and start_j is not None and end_j is not None:
            difference_j = counter_difference(start_j, end_j, rail.wrap_j)
            if difference_j is not None:
                energy_j[rail.name] = difference_j
    return Counted(probe.sensor.name, energy_j, {rail.name: rail.resolution for rail in _rails(probe)})

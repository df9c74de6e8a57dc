"""Where the joules of each device come from: this host's shared meter, one of its own, or one that is read from here.
Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from profiler.quantities import EnergyReading, Scope
from profiler.records import Row, SpanRecord, span_energy_columns

NOT_PLACED = "its client does not tell when that was on this host's clock, which its meter is read by"


@dataclass(frozen=True, slots=True)
class Energy:
    """A gross reading of one meter, and for how many seconds that meter's idle power is in it."""

    reading: EnergyReading
    meter: str
    idle_s: float

    def columns(self) -> Row:
        return {**span_energy_columns(self.reading), "idle_s": {self.meter: self.idle_s}}


class HostEnergy(Protocol):
    """The shared meter's view of one round."""

    def of(self, owner: str, start_ns: int, end_ns: int) -> Energy:
        """The share of a device, of `server` or of `other` in a window of the host's monotonic clock."""
        ...

    def host(self, start_ns: int, end_ns: int) -> Energy: ...


class DeviceMeter(Protocol):
    """A meter of one device elsewhere that is read from this host, such as the battery of a phone on adb."""

    def energy(self, start_ns: int, end_ns: int) -> EnergyReading:
        """Of a window of this host's monotonic clock. Missing, with the reason, where the meter told too little."""
        ...

    def catch_up(self) -> None:
        """Read it now, so that windows up to now are covered. May wait for the device."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Of one round. `host_devices` share this host's meter `host`, `meters` are those that are read from here.

    A device that brings joules of its own (`own`) is not counted a second time by a meter that is read from here: that
    one fills in single spans that came without. What a child span draws is in its parent's joules.
    """

    host: HostEnergy
    host_devices: frozenset[str]
    meters: Mapping[str, DeviceMeter]
    own: frozenset[str] = frozenset()

    def of_span(self, device: str, span: SpanRecord, offset_ns: tuple[float, float] | None) -> Energy | None:
        """None where nothing is known, not even why. `offset_ns`: bounds of the device's clock less this host's."""
        if device in self.host_devices:
            return self.host.of(device, span.start_ns, span.end_ns)
        own = None if span.total is None else Energy(span.total, device, span.duration_s)
        meter = self.meters.get(device)
        if meter is None or span.parent_id is not None or has_joules(span):
            return own
        reading = _placed(meter, device, span, offset_ns)
        if own is not None and own.reading.reason and reading.energy_j is None:
            reading = replace(reading, reason=f"{reading.reason}; its client: {own.reading.reason}")
        return Energy(reading, device, span.duration_s)

    def of_window(self, device: str, start_ns: int, end_ns: int) -> Energy | None:
        """Of this host's clock; None for a device that alone knows what it draws."""
        if device in self.host_devices:
            return self.host.of(device, start_ns, end_ns)
        if device not in self.meters or device in self.own:
            return None
        return Energy(self.meters[device].energy(start_ns, end_ns), device, (end_ns - start_ns) / 1e9)

    def of_spans(self, device: str, spans: Iterable[SpanRecord], offset_ns: tuple[float, float] | None) -> list[Energy]:
        """Of the top-level ones, which follow each other without overlap."""
        found = (self.of_span(device, span, offset_ns) for span in spans if span.parent_id is None)
        return [energy for energy in found if energy is not None]


def has_joules(span: SpanRecord) -> bool:
    """Whether the device itself has metered a span."""
    return span.total is not None and span.total.energy_j is not None


def _placed(meter: DeviceMeter, device: str, span: SpanRecord, offset_ns: tuple[float, float] | None) -> EnergyReading:
    """A span of the device's clock on this host's: in the middle of where it can have been.

    By how much its joules differ at either end of that joins the error, linearly, as a limit that always holds.
    """
    if offset_ns is None:
        return EnergyReading.missing(device, Scope.DEVICE, NOT_PLACED)
    length_ns = span.end_ns - span.start_ns
    earliest_ns, latest_ns = (round(span.start_ns - bound_ns) for bound_ns in (offset_ns[1], offset_ns[0]))
    middle_ns = (earliest_ns + latest_ns) // 2
    reading = meter.energy(middle_ns, middle_ns + length_ns)
    if reading.energy_j is None or reading.energy_err_j is None or earliest_ns == latest_ns:
        return reading
    shifted = [meter.energy(start_ns, start_ns + length_ns).energy_j for start_ns in (earliest_ns, latest_ns)]
    if None in shifted:
        reason = "at an end of where the span can have been on this host's clock there are too few samples"
        return EnergyReading.missing(device, reading.scope, reason)
    shift_j = max(abs((energy_j or 0.0) - reading.energy_j) for energy_j in shifted)
    return replace(reading, energy_err_j=reading.energy_err_j + shift_j)


def with_own_joules(spans_of: Iterable[tuple[str, Collection[SpanRecord]]]) -> frozenset[str]:
    """The devices that have metered any of these spans themselves."""
    return frozenset(device for device, spans in spans_of if any(map(has_joules, spans)))

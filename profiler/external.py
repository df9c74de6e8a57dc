"""External meters: traces on a clock of their own, aligned to this host's with a bound that goes into the error.

Pure arithmetic. `profiler.meter_files` reads traces from files, `profiler.sensors.external` reads a meter live. A meter
that runs beside the device knows nothing of its spans and keeps its own time, so a window of the host is moved onto the
meter's clock before it is integrated. How well that can be done is known only within limits, and what those limits cost
depends on how much power differs between the two edges: 10 W x 1 ms is 10 mJ, an unsynchronised second 10 J.
"""

from __future__ import annotations

import bisect
import itertools
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from profiler.errors import SensorError
from profiler.integrate import GAP_PERIODS, integrate
from profiler.quantities import BELOW_RESOLUTION, EnergyReading, Provenance, Rail, RailKind, Scope
from profiler.uncertainty import MIN_WINDOW_JITTERS

# An assumption, not a specification: quartz of everyday devices is sold at ± 20 to 50 ppm, and two of them differ by
# the sum. Exchanges that know the rate better than this replace it.
ASSUMED_SKEW_PPM = 100.0
_MEDIAN_OF = 10_000
_UNKNOWN_RATE = 1.0  # any rate of any clock


@dataclass(frozen=True, slots=True)
class Meter:
    """What the user knows of a meter: what it measures (`wall`, `device`, ...) and the limits its datasheet states.

    `gain_err` is relative and has no default: a joule whose error is unknown is not shown. `resolution` is in W, of a
    meter that accumulates energy in J. `edge_jitter_s` is how stale a value can be when it is time-stamped.
    """

    name: str
    scope: Scope
    gain_err: float
    offset_err_w: float = 0.0
    resolution: float = 0.0
    edge_jitter_s: float = 0.0

    def __post_init__(self) -> None:
        limits = (self.gain_err, self.offset_err_w, self.resolution, self.edge_jitter_s)
        if not all(math.isfinite(limit) and limit >= 0 for limit in limits):
            raise ValueError(f"{self.name}: the limits of a meter are finite and not negative, got {limits}")

    def rail(self, kind: RailKind, *, min_period_s: float = 0.001) -> Rail:
        """This meter as a rail: `counter` where it accumulates energy itself, else `integrated`."""
        is_counter = kind is RailKind.COUNTER_J
        return Rail(
            name=self.name,
            scope=self.scope,
            kind=kind,
            provenance=Provenance.COUNTER if is_counter else Provenance.INTEGRATED,
            min_period_s=min_period_s,
            resolution=self.resolution,
            gain_err=self.gain_err,
            offset_err_w=self.offset_err_w,
            edge_jitter_s=self.edge_jitter_s,
        )


@dataclass(frozen=True, slots=True)
class Trace:
    """Samples of one rail on the meter's clock: `times_ns` strictly rising, `values` in J or W by the rail's kind.

    Compact (`array`): an hour of a 5 kHz meter is 18 million samples. Raises ValueError where there are fewer than two,
    or where they are not finite or not in order.
    """

    rail: Rail
    times_ns: Sequence[int]
    values: Sequence[float]
    notes: str = ""
    period_s: float = field(init=False)

    def __post_init__(self) -> None:
        if len(self.times_ns) != len(self.values) or len(self.values) < 2:
            raise ValueError(f"{self.rail.name}: a trace needs two samples, got {len(self.values)}")
        if not all(map(math.isfinite, self.values)):
            raise ValueError(f"{self.rail.name}: a sample is not finite")
        if any(after <= before for before, after in itertools.pairwise(self.times_ns)):
            raise ValueError(f"{self.rail.name}: times do not rise")
        object.__setattr__(self, "period_s", _median_step_ns(self.times_ns) / 1e9)

    def around(self, start_ns: int, end_ns: int) -> list[tuple[int, float]]:
        """The samples within a window and the two next to it on each side, so that a long trace costs no more."""
        low, high = self.indices(start_ns, end_ns)
        low, high = max(0, low - 1), min(len(self.values), high + 2)
        return list(zip(self.times_ns[low:high], self.values[low:high], strict=True))

    def indices(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """First and last index of the samples that enclose a window; at an end of the trace the outermost two."""
        last = len(self.times_ns) - 1
        low = bisect.bisect_right(self.times_ns, start_ns) - 1
        high = bisect.bisect_left(self.times_ns, end_ns)
        return min(max(0, low), last - 1), max(1, min(high, last))


def _median_step_ns(times_ns: Sequence[int]) -> int:
    """The median time between samples, of evenly spaced ones where there are many."""
    n_steps = len(times_ns) - 1
    steps_ns = sorted(times_ns[i + 1] - times_ns[i] for i in range(0, n_steps, max(1, n_steps // _MEDIAN_OF)))
    return steps_ns[len(steps_ns) // 2]


def accumulate(trace: Trace) -> Trace:
    """A trace of means over each sampling interval as the cumulative joules they stand for.

    Many meters write the mean power since the sample before (Monsoon's `Avg Power`, analysers), and the joules of such
    a trace are the sum of P dt: a trapezoid between the means would blur every edge. The first mean has no interval and
    is dropped. Raises ValueError where the trace has a gap, which a mean cannot be trusted to cover, or where power is
    negative.
    """
    if trace.rail.kind is not RailKind.POWER_W:
        raise ValueError(f"{trace.rail.name}: not a trace of power")
    limit_ns = GAP_PERIODS * trace.period_s * 1e9
    steps_ns = [after - before for before, after in itertools.pairwise(trace.times_ns)]
    if max(steps_ns) > limit_ns:
        raise ValueError(f"{trace.rail.name}: a gap of {max(steps_ns) / 1e9:.3g} s in a trace of interval means")
    if min(trace.values) < 0:
        raise ValueError(f"{trace.rail.name}: negative mean power cannot be accumulated")
    energies_j = array("d", [0.0])
    for step_ns, mean_w in zip(steps_ns, trace.values[1:], strict=True):
        energies_j.append(energies_j[-1] + mean_w * step_ns / 1e9)
    rail = replace(
        trace.rail,
        kind=RailKind.COUNTER_J,
        resolution=0.0,  # a steady power is rounded alike in every interval: half a digit over the whole time
        offset_err_w=trace.rail.offset_err_w + trace.rail.resolution / 2,
    )
    return Trace(rail, trace.times_ns, energies_j, trace.notes)


@dataclass(frozen=True, slots=True)
class Exchange:
    """The meter's clock, read between two readings of the host's: `host_before_ns <= that moment <= host_after_ns`."""

    host_before_ns: int
    meter_ns: int
    host_after_ns: int

    def __post_init__(self) -> None:
        if self.host_after_ns < self.host_before_ns:
            raise ValueError(f"an exchange ends at {self.host_after_ns} ns, before {self.host_before_ns} ns")

    @property
    def host_ns(self) -> int:
        return (self.host_before_ns + self.host_after_ns) // 2

    @property
    def offset_ns(self) -> int:
        return self.meter_ns - self.host_ns

    @property
    def limit_ns(self) -> float:
        """How far the offset can be off, whatever the two ways took: half the round trip.

        And 0.1 % of it, since the clocks drift apart meanwhile, no faster than that; and 1 ns for rounding.
        """
        return (self.host_after_ns - self.host_before_ns) / 2 * 1.001 + 1


@dataclass(frozen=True, slots=True)
class ClockAlignment:
    """Where the meter's clock stands when the host's says `t`: `t + offset + skew (t - reference)`.

    `offset_s` is meter minus host at `reference_ns` of the host's clock (as a float it resolves 0.24 µs between an
    epoch and a monotonic clock). It is right within `bound_s` for moments inside `covers_ns` (None: always); outside
    it, and between the two edges of a window, the rate adds `skew_bound_ppm`.
    """

    offset_s: float
    bound_s: float
    skew_ppm: float = 0.0
    skew_bound_ppm: float = 0.0
    reference_ns: int = 0
    covers_ns: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        numbers = (self.offset_s, self.bound_s, self.skew_ppm, self.skew_bound_ppm)
        if not all(map(math.isfinite, numbers)) or self.bound_s < 0 or self.skew_bound_ppm < 0:
            raise ValueError(f"an alignment is finite and its bounds are not negative, got {self}")

    def to_meter_ns(self, host_ns: int) -> int:
        drift_ns = self.skew_ppm * 1e-6 * (host_ns - self.reference_ns)
        return host_ns + round(self.offset_s * 1e9) + round(drift_ns)

    def bound_at_s(self, host_ns: int) -> float:
        """How far `to_meter_ns` can be off at this moment."""
        if self.covers_ns is None:
            return self.bound_s
        outside_ns = max(0, self.covers_ns[0] - host_ns, host_ns - self.covers_ns[1])
        return self.bound_s + self.skew_bound_ppm * 1e-6 * outside_ns / 1e9

    @classmethod
    def from_exchanges(
        cls, exchanges: Iterable[Exchange], *, assumed_skew_ppm: float = ASSUMED_SKEW_PPM
    ) -> ClockAlignment:
        """The line through the third of the exchanges with the shortest round trips, weighted by 1/RTT².

        Offsets are those of NTP (RFC 5905, section 8) with one reading of the meter's clock. Queueing delays one way
        more than the other, but never by more than the round trip: the true offset of each exchange lies within half of
        it, whatever its direction. Between two moments two lines part no further than at those moments, so the bound is
        the larger |residual| + RTT/2 of two exchanges, the best early and the best late one. Exchanges that know the
        rate less well than `assumed_skew_ppm` give the rate 0 within that assumption.

        Raises ValueError where there is no exchange, SensorError where the meter's clock must have stepped between two.
        """
        ordered = sorted(exchanges, key=lambda exchange: exchange.host_ns)
        if not ordered:
            raise ValueError("an alignment needs at least one exchange")
        _check_steps(ordered, assumed_skew_ppm)
        keep = max(2, math.ceil(len(ordered) / 3))
        kept = sorted(sorted(ordered, key=lambda exchange: exchange.limit_ns)[:keep], key=lambda e: e.host_ns)
        fitted = _fit(kept, with_skew=True)
        if fitted.skew_bound_ppm <= assumed_skew_ppm:
            return fitted
        return replace(_fit(kept, with_skew=False), skew_bound_ppm=assumed_skew_ppm)


def _check_steps(ordered: Sequence[Exchange], assumed_skew_ppm: float) -> None:
    for before, after in itertools.pairwise(ordered):
        drift_ns = assumed_skew_ppm * 1e-6 * (after.host_ns - before.host_ns)
        jump_ns = abs(after.offset_ns - before.offset_ns)
        if jump_ns > before.limit_ns + after.limit_ns + drift_ns:
            raise SensorError(
                f"external: the meter's clock stepped by {jump_ns / 1e9:.6g} s between two exchanges.",
                remedy="Switch off its time synchronisation while measuring, and align again after the step.",
            )


def _fit(kept: Sequence[Exchange], *, with_skew: bool) -> ClockAlignment:
    """Weighted least squares about the weighted mean time; offsets relative to the first keep the digits."""
    reference_ns, base_ns = kept[0].host_ns, kept[0].offset_ns
    weights = [1 / exchange.limit_ns**2 for exchange in kept]
    times_ns = [exchange.host_ns - reference_ns for exchange in kept]
    offsets_ns = [exchange.offset_ns - base_ns for exchange in kept]
    mean_t_ns, mean_offset_ns = _mean(weights, times_ns), _mean(weights, offsets_ns)
    spread = math.fsum(w * (t - mean_t_ns) ** 2 for w, t in zip(weights, times_ns, strict=True))
    rate = 0.0
    if with_skew and spread > 0:
        rows = zip(weights, times_ns, offsets_ns, strict=True)
        rate = math.fsum(w * (t - mean_t_ns) * (o - mean_offset_ns) for w, t, o in rows) / spread
    limits_ns = [
        abs(offset_ns - mean_offset_ns - rate * (t_ns - mean_t_ns)) + exchange.limit_ns
        for exchange, t_ns, offset_ns in zip(kept, times_ns, offsets_ns, strict=True)
    ]
    some = max(1, len(kept) // 3)  # of the early and of the late ones the one that knows best ties down the line
    early = min(range(some), key=limits_ns.__getitem__)
    late = min(range(len(kept) - some, len(kept)), key=limits_ns.__getitem__)
    span_ns = times_ns[late] - times_ns[early]
    start_offset_ns = base_ns + mean_offset_ns - rate * mean_t_ns
    apart = (limits_ns[early] + limits_ns[late]) / span_ns if with_skew and span_ns > 0 else _UNKNOWN_RATE
    return ClockAlignment(
        offset_s=start_offset_ns / 1e9,
        # ... and what a float rounds off an offset between an epoch and a monotonic clock
        bound_s=max(limits_ns[early], limits_ns[late]) / 1e9 + abs(start_offset_ns / 1e9) * 2**-51,
        skew_ppm=rate * 1e6,
        skew_bound_ppm=apart * 1e6,
        reference_ns=reference_ns,
        covers_ns=(kept[early].host_ns, kept[late].host_ns),
    )


def _mean(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)


def alignment_limit_j(trace: Trace, alignment: ClockAlignment, start_ns: int, end_ns: int) -> float:
    """How many joules a window of the host's clock can be off because the clocks are aligned within a bound only.

    A shift of both edges by d moves the energy by d times the difference of the powers at them: nothing where power is
    the same, 10 mJ at 10 W and 1 ms. Power is taken from all samples that enclose an edge within the bound, since
    between two samples it may have been either. Where the rate is uncertain the edges shift unequally as well, which
    costs that part of the duration times the power itself.
    """
    first, last = (_power_range_w(trace, alignment, t_ns) for t_ns in (start_ns, end_ns))
    bound_s = max(alignment.bound_at_s(start_ns), alignment.bound_at_s(end_ns))
    apart_w = max(0.0, last[1] - first[0], first[1] - last[0])
    uneven_s = min(alignment.skew_bound_ppm * 1e-6 * (end_ns - start_ns) / 1e9, 2 * bound_s)
    return bound_s * apart_w + uneven_s * max(map(abs, (*first, *last)))


def _power_range_w(trace: Trace, alignment: ClockAlignment, host_ns: int) -> tuple[float, float]:
    """The lowest and the highest power that the trace shows within the bound around one edge."""
    t_ns = alignment.to_meter_ns(host_ns)
    bound_ns = math.ceil(alignment.bound_at_s(host_ns) * 1e9)
    low, high = trace.indices(t_ns - bound_ns, t_ns + bound_ns)
    high = max(high, low + 1)
    if trace.rail.kind is RailKind.POWER_W:
        powers_w = list(trace.values[low : high + 1])
    else:
        powers_w = [
            (trace.values[i + 1] - trace.values[i]) / (trace.times_ns[i + 1] - trace.times_ns[i]) * 1e9
            for i in range(low, high)
        ]
    return min(powers_w), max(powers_w)


def energy(trace: Trace, alignment: ClockAlignment, start_ns: int, end_ns: int) -> EnergyReading:
    """The joules of a window of the host's monotonic clock, from a meter with a clock of its own.

    The alignment's limit joins the error as one more rectangular contribution (a/√3, k = 2). The meter's seconds are
    taken as they are: its clock's rate error is parts in 10⁵ and part of its gain. Raises ValueError where the window
    runs backwards.
    """
    low_ns, high_ns = alignment.to_meter_ns(start_ns), alignment.to_meter_ns(end_ns)
    samples = trace.around(low_ns, high_ns)
    reading = integrate(trace.rail, samples, low_ns, high_ns, max_gap_s=GAP_PERIODS * trace.period_s)
    if reading.energy_err_j is None:
        return reading
    limit_j = alignment_limit_j(trace, alignment, start_ns, end_ns)
    return replace(
        reading,
        energy_err_j=math.hypot(reading.energy_err_j, 2 * limit_j / math.sqrt(3)),
        reason=_with_doubt(reading.reason, alignment, start_ns, end_ns),
    )


def _with_doubt(reason: str | None, alignment: ClockAlignment, start_ns: int, end_ns: int) -> str | None:
    bound_s = max(alignment.bound_at_s(start_ns), alignment.bound_at_s(end_ns))
    duration_s = (end_ns - start_ns) / 1e9
    if not 0 < duration_s < MIN_WINDOW_JITTERS * bound_s:
        return reason
    why = f"{BELOW_RESOLUTION}: {duration_s:.3g} s, and the meter's clock is aligned to ± {bound_s:.3g} s"
    return f"{why}; {reason}" if reason else why

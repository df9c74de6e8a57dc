"""Spans: named, nested, timed pieces of work with their joules. They nest across threads and asyncio tasks."""

from __future__ import annotations

import contextvars
import itertools
import math
from collections.abc import Callable, Sequence
from types import TracebackType

from profiler.clock import Clock, SystemClock
from profiler.kept_samples import KeptSamples, RailSamples
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.records import MAX_STORED_STEPS, Attribute, Resources, SpanRecord
from profiler.resources import ResourceMark, ResourceReader
from profiler.sampler import Sampler, Window

Sink = Callable[[SpanRecord], None]

# A constant that names a slot of each context; its value is never shared between tasks.
_innermost: contextvars.ContextVar[Span | None] = contextvars.ContextVar("profiler_span", default=None)

_SCOPES = tuple(Scope)
_PROVENANCES = tuple(Provenance)
_MAX_ERROR_CHARS = 200


class Profiler:
    """Makes spans: `with profiler.span("fit", round=3) as span: ...` and then `span.record`.

    Every span opens one window on each sampler. Its total is the reading of the best of them: measured before
    modelled, then the widest scope. `sink` gets every record when its span closes; a list serves as well. `id_prefix`
    keeps ids of several profilers of one run apart. A profiler may be used from many threads.
    """

    def __init__(
        self,
        samplers: Sequence[Sampler] = (),
        clock: Clock | None = None,
        *,
        resources: bool | ResourceReader = True,
        id_prefix: str = "",
        sink: Sink | list[SpanRecord] | None = None,
    ) -> None:
        self.samplers = tuple(samplers)
        self.clock: Clock = SystemClock() if clock is None else clock
        self.sink: Sink | None = sink.append if isinstance(sink, list) else sink
        if isinstance(resources, ResourceReader):
            self._resources: ResourceReader | None = resources
        else:
            self._resources = ResourceReader(self.clock) if resources else None
        self._id_prefix = id_prefix
        self._ids = itertools.count(1)  # next() on it is atomic

    def start(self) -> None:
        """Start every sampler. Where one cannot be, those started before are stopped again."""
        started = []
        try:
            for sampler in self.samplers:
                sampler.start()
                started.append(sampler)
        except BaseException:
            for sampler in started:
                sampler.stop()
            raise

    def stop(self) -> None:
        for sampler in self.samplers:
            sampler.stop()

    def __enter__(self) -> Profiler:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def span(self, name: str, /, *, parent: Span | str | None = None, **attributes: Attribute | None) -> Span:
        """A span to be entered with `with`. Its parent is the span around it in this thread or task.

        A new thread starts without one: hand it over as `parent`, or run the thread in `contextvars.copy_context()`.
        """
        return Span(self, name, parent, attributes)

    def current(self) -> Span | None:
        """The innermost open span of this profiler in this thread or task."""
        span = _innermost.get()
        while span is not None and span._profiler is not self:
            span = span._outer
        return span

    def open_windows(self, kept: Sequence[KeptSamples] = ()) -> tuple[Window, ...]:
        """One window on each sampler, for work whose end is not in the same block as its start: see `record`.

        `kept` is empty, or has one for each sampler.
        """
        if not kept:
            return tuple(sampler.open_window() for sampler in self.samplers)
        return tuple(sampler.open_window(each) for sampler, each in zip(self.samplers, kept, strict=True))

    def record(
        self,
        name: str,
        /,
        start_ns: int,
        end_ns: int,
        *,
        parent: Span | str | None = None,
        windows: Sequence[Window] = (),
        **attributes: Attribute | None,
    ) -> SpanRecord:
        """A span of work that was timed elsewhere on this profiler's clock.

        Its energy is that of `windows`, opened when the work began and closed here; without them it is missing.
        Raises ValueError where it ends before it starts.
        """
        if end_ns < start_ns:
            raise ValueError(f"{name} ends at {end_ns} ns, before it starts at {start_ns} ns")
        energies, total = _close(windows, "timed without a meter window")
        record = SpanRecord(
            span_id=self._next_id(),
            name=name,
            start_ns=start_ns,
            duration_s=(end_ns - start_ns) / 1e9,
            parent_id=self._parent_id(parent),
            total=total,
            energies=energies,
            attributes=_checked(attributes),
        )
        self._emit(record)
        return record

    def _next_id(self) -> str:
        return f"{self._id_prefix}{next(self._ids)}"

    def _parent_id(self, parent: Span | str | None) -> str | None:
        if isinstance(parent, str):
            return parent
        enclosing = self.current() if parent is None else parent
        return None if enclosing is None else enclosing.span_id

    def _emit(self, record: SpanRecord) -> None:
        if self.sink is not None:
            self.sink(record)


class Span:
    """One piece of work, from `with` to its end. Made by `Profiler.span`; usable once."""

    def __init__(
        self, profiler: Profiler, name: str, parent: Span | str | None, attributes: dict[str, Attribute | None]
    ) -> None:
        self.span_id = profiler._next_id()
        self.name = name
        self.record: SpanRecord | None = None
        self._profiler = profiler
        self._parent = parent
        self._parent_id: str | None = None
        self._outer: Span | None = None
        self._attributes = _checked(attributes)
        self._steps_s: tuple[float, ...] = ()
        self._warmup_steps = 0
        self._windows: tuple[Window, ...] = ()
        self._kept: tuple[KeptSamples, ...] = ()
        self._used: ResourceMark | None = None
        self._start_cpu_s = 0.0
        self._start_ns: int | None = None

    def set(self, **attributes: Attribute | None) -> None:
        """Add attributes, bool, int, float or str; None adds nothing. Raises TypeError on anything else.

        A number that is not finite becomes the text `<name>_nonfinite`: a diverged loss must not cost the record.
        """
        self._attributes |= _checked(attributes)

    def steps(self, durations_s: Sequence[float], warmup: int = 0) -> None:
        """The durations of a fit's steps; the first `warmup` are warm-up.

        Above `MAX_STORED_STEPS` evenly spaced ones are kept, the first and the last among them.
        """
        kept = _evenly_spaced(len(durations_s), MAX_STORED_STEPS)
        self._steps_s = tuple(float(durations_s[i]) for i in kept)
        self._warmup_steps = sum(i < warmup for i in kept)

    def keep_samples(self, limit: int) -> None:
        """Keep the raw samples of this span, about so many values of all rails; see `samples`. Before it is entered."""
        samplers = self._profiler.samplers
        n_rails = sum(len(sampler.available.rails) for sampler in samplers)
        each = max(2, limit // max(1, n_rails) // 2 * 2)
        self._kept = tuple(KeptSamples(each) for _ in samplers)

    @property
    def samples(self) -> tuple[RailSamples, ...]:
        """Of every rail, where `keep_samples` was called; whole once the span has closed."""
        return tuple(
            rail
            for sampler, kept in zip(self._profiler.samplers, self._kept, strict=False)
            for rail in kept.of([rail.name for rail in sampler.available.rails])
        )

    def __enter__(self) -> Span:
        if self._start_ns is not None:
            raise RuntimeError(f"span {self.name!r} was used before; make a new one with Profiler.span")
        self._parent_id = self._profiler._parent_id(self._parent)
        self._outer = _innermost.get()
        _innermost.set(self)
        reader = self._profiler._resources
        self._used = None if reader is None else reader.mark()  # before the windows: its cost is not the work's
        self._windows = self._profiler.open_windows(self._kept)
        if reader is not None:
            self._start_cpu_s = reader.cpu_s()
        self._start_ns = self._profiler.clock.monotonic_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end_ns = self._profiler.clock.monotonic_ns()
        cpu_s = self._cpu_s()
        energies, total = _close(self._windows, "no sensor was given to this profiler")
        self._windows = ()
        _innermost.set(self._outer)
        if error is not None:
            self._attributes["error"] = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]
        self.record = self._finished(end_ns, cpu_s, energies, total, "ok" if error is None else "error")
        self._profiler._emit(self.record)

    def _cpu_s(self) -> float | None:
        reader = self._profiler._resources
        return None if reader is None else reader.cpu_s() - self._start_cpu_s

    def _finished(
        self,
        end_ns: int,
        cpu_s: float | None,
        energies: tuple[EnergyReading, ...],
        total: EnergyReading,
        status: str,
    ) -> SpanRecord:
        start_ns = end_ns if self._start_ns is None else self._start_ns
        reader = self._profiler._resources
        return SpanRecord(
            span_id=self.span_id,
            name=self.name,
            start_ns=start_ns,
            duration_s=(end_ns - start_ns) / 1e9,
            status=status,
            parent_id=self._parent_id,
            total=total,
            energies=energies,
            resources=Resources() if reader is None or self._used is None else reader.since(self._used, cpu_s),
            steps_s=self._steps_s,
            warmup_steps=self._warmup_steps,
            attributes=dict(self._attributes),
        )


def _close(windows: Sequence[Window], without: str) -> tuple[tuple[EnergyReading, ...], EnergyReading]:
    """Every rail of some windows, and the total of the best of them."""
    energies: list[EnergyReading] = []
    totals: list[EnergyReading] = []
    for window in windows:
        readings = window.close()
        energies += readings
        totals.append(window.sampler.total(readings))
    best = min(totals, key=_preference, default=EnergyReading.missing("total", Scope.DEVICE, without))
    return tuple(energies), best


def _preference(total: EnergyReading) -> tuple[bool, bool, int, int]:
    return (
        total.energy_j is None,
        not total.provenance.is_measured,
        _SCOPES.index(total.scope),
        _PROVENANCES.index(total.provenance),
    )


def _evenly_spaced(n: int, limit: int) -> Sequence[int]:
    if n <= limit:
        return range(n)
    return [round(i * (n - 1) / (limit - 1)) for i in range(limit)]


def _checked(attributes: dict[str, Attribute | None]) -> dict[str, Attribute]:
    checked: dict[str, Attribute] = {}
    for key, value in attributes.items():
        if value is None:
            continue
        if not isinstance(value, (bool, int, float, str)):
            raise TypeError(f"attribute {key!r} must be bool, int, float or str, got {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            checked[f"{key}_nonfinite"] = repr(float(value))
        else:
            checked[key] = value
    return checked

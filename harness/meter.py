"""The one meter of this host: samples its best sensor, and shares the joules out among clients, server and other.

It runs in the harness, outside every quota: a limited process that sampled its own power would be awake only when it
runs. Sampling is jittered, so that it cannot fall in step with a duty cycle.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fl.metering import host_busy_s
from harness.energy_sources import Energy
from harness.host import process_cpu_s
from harness.processes import ProcessTree
from profiler.clock import Clock
from profiler.combined import combined
from profiler.errors import PreconditionError
from profiler.integrate import GAP_PERIODS, integrate, total
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.sampler import Sample, Sampler
from profiler.sensor import Available, Probe, Unavailable, ask, best, discover
from profiler.shares import Shares, Tick

HOST = "host"
SERVER = "server"
MAX_TASK_SAMPLES = 2_000_000


def probe_sensors(root: Path, clock: Clock, required: Iterable[str] = ()) -> list[Probe]:
    """Ask every installed sensor whether it can be used here."""
    return ask(discover(root, clock), set(required))


def choose(probes: list[Probe], required: Iterable[str]) -> Probe | None:
    """The best available sensor, a required one before others, with those that measure what it does not contain.

    Raises PreconditionError where one that the fleet requires is not available.
    """
    by_name = {probe.sensor.name: probe.outcome for probe in probes}
    names = sorted(set(required))
    for name in names:
        outcome = by_name.get(name, Unavailable("no such sensor is installed"))
        if isinstance(outcome, Unavailable):
            raise PreconditionError(f"required sensor {name} is not available: {outcome.reason}", remedy=outcome.remedy)
    used = best(probes, preferred=names)
    return combined(used) if used else None


class HostMeter:
    """Samples from `start` to `stop`. Windows are asked for afterwards, through `view`."""

    def __init__(self, probes: list[Probe], chosen: Probe | None, clock: Clock, *, rate_hz: float) -> None:
        self._probes = probes
        self._clock = clock
        self._processes: dict[str, Callable[[], float | None]] = {}
        self._cpu_s: dict[str, float] = {}
        self._gone_s: dict[str, float] = {}
        self._history: list[tuple[Sample, Tick | None]] = []
        self._task_samples: list[Sample] = []
        self._started_s = time.monotonic()
        self.latest_tick: Tick | None = None
        """The latest sample, for whoever only looks: reading it takes no sample and no lock."""
        self._sampler: Sampler | None = None
        if chosen is not None:
            self._sampler = Sampler(chosen.sensor, clock, rate_hz=rate_hz, on_sample=self._note)
            self._total = [
                n for n, rail in enumerate(self._sampler.available.rails) if rail.name in self._sampler.available.total
            ]

    @property
    def description(self) -> str:
        """`rapl (counter)`, or that there is no meter."""
        if self._sampler is None:
            return "no sensor: energy will be missing"
        return f"{self._sampler.sensor.name} ({self.provenance.value})"

    @property
    def provenance(self) -> Provenance:
        """That of the energies it will give."""
        return Provenance.MISSING if self._sampler is None else self._sampler.available.provenance

    def start(self) -> None:
        self._started_s = time.monotonic()
        if self._sampler is not None:
            self._sampler.start()

    def stop(self) -> None:
        if self._sampler is not None:
            self._sampler.stop()

    def track(self, owner: str, pid: int, *, has_tree: bool = False) -> None:
        """Charge an owner for a process from now on, its earlier processes included; or for all that it starts, too."""
        if owner in self._processes:
            self._gone_s[owner] = self._cpu_s.get(owner, 0.0)
        self._processes[owner] = ProcessTree(pid).cpu_s if has_tree else partial(process_cpu_s, pid)

    def begin_task(self) -> None:
        self._task_samples.clear()

    def samples(self) -> dict[str, list[Any]]:
        """The samples since `begin_task` as columns: one row a sample and rail."""
        rails = self._sampler.available.rails if self._sampler else ()
        samples = list(self._task_samples)
        rows = [
            (sample.t_ns, rail.name, value)
            for sample in samples
            for rail, value in zip(rails, sample.values, strict=True)
            if value is not None
        ]
        return {
            "t_ns": [row[0] for row in rows],
            "rail": [row[1] for row in rows],
            "value": [row[2] for row in rows],
            "span_id": [None] * len(rows),
            "every": [1] * len(rows),
        }

    async def measure_idle(self, duration_s: float) -> tuple[EnergyReading, float]:
        """What the host draws in a while in which every client waits, and how many seconds that was in the end."""
        if self._sampler is None:
            await asyncio.sleep(duration_s)
            return self._window(None).reading(0, 0), duration_s
        start_ns = self._sampler.sample_now().t_ns
        await asyncio.sleep(duration_s)
        end_ns = self._sampler.sample_now().t_ns
        return self._window(start_ns).reading(start_ns, end_ns), (end_ns - start_ns) / 1e9

    def view(self, start_ns: int) -> HostView:
        """What the meter knows till now; forgets what lies before `start_ns`, but for the wait just before it."""
        view = self.peek(None)
        keep = bisect_left(self._history, start_ns, key=lambda entry: entry[0].t_ns)
        del self._history[: max(0, keep - 1)]
        return view

    def peek(self, start_ns: int | None) -> HostView:
        """What the meter knows from `start_ns` till now."""
        if self._sampler is not None:
            self._sampler.sample_now()
        return self._window(start_ns)

    def facts(self) -> dict[str, Any]:
        """For devices/host.json: every sensor with its rails or its reason, the one in use, and what it costs."""
        facts: dict[str, Any] = {"sensors": [_probe_json(probe) for probe in self._probes], "meter": self.description}
        if self._sampler is not None:
            facts["sampler_rate_hz"] = self._sampler.rate_hz
            facts["sampler_cpu_use"] = self._sampler.cost_s / max(1e-9, time.monotonic() - self._started_s)
        return facts

    def _window(self, start_ns: int | None) -> HostView:
        history = list(self._history)
        if start_ns is not None:
            first = bisect_left(history, start_ns, key=lambda entry: entry[0].t_ns)
            history = history[max(0, first - 1) :]
        samples, ticks = [sample for sample, _ in history], [tick for _, tick in history if tick]
        if self._sampler is None:
            return HostView(samples, ticks, None)
        # By the rate that was asked for: samples taken at edges would make the median period too short.
        max_gap_s = GAP_PERIODS / self._sampler.rate_hz if self._sampler.rate_hz > 0 else None
        return HostView(samples, ticks, self._sampler.available, max_gap_s)

    def _note(self, sample: Sample) -> None:
        """Called by the sampler, under its lock, for each sample."""
        self._read_cpu()
        joules = [sample.energy_j[n] for n in self._total]
        known = [energy_j for energy_j in joules if energy_j is not None]
        tick = None
        if known and len(known) == len(joules):
            tick = Tick(sample.t_ns, math.fsum(known), dict(self._cpu_s), host_busy_s())
            self.latest_tick = tick
        if not self._history or sample.t_ns > self._history[-1][0].t_ns:
            self._history.append((sample, tick))
        if len(self._task_samples) < MAX_TASK_SAMPLES:
            self._task_samples.append(sample)

    def _read_cpu(self) -> None:
        own_s = time.process_time()
        self._cpu_s[SERVER] = own_s
        for owner, cpu_s in list(self._processes.items()):
            used_s = cpu_s()
            if used_s is not None:
                own = own_s if owner == SERVER else 0.0
                self._cpu_s[owner] = own + self._gone_s.get(owner, 0.0) + used_s


class HostView:
    """Immutable: the samples of some stretch of time, and windows of them. A `harness.energy_sources.HostEnergy`."""

    def __init__(
        self,
        samples: list[Sample],
        ticks: list[Tick],
        available: Available | None,
        max_gap_s: float | None = None,
    ) -> None:
        self._samples = samples
        self._times_ns = [sample.t_ns for sample in samples]
        self._available = available
        self._max_gap_s = max_gap_s
        self._shares = Shares(ticks) if len(ticks) >= 2 else None

    def host(self, start_ns: int, end_ns: int) -> Energy:
        """All that the host drew in a window."""
        reading = self.reading(start_ns, end_ns)
        if reading.energy_j is not None and self._shares is not None:
            # From the very sums that are shared out, so that the shares add up to it.
            reading = replace(reading, energy_j=self._shares.host_j(start_ns, end_ns))
        return Energy(reading, HOST, (end_ns - start_ns) / 1e9)

    def of(self, owner: str, start_ns: int, end_ns: int) -> Energy:
        """One owner's share of a window, by CPU time; its error is the host's in the same proportion."""
        host = self.host(start_ns, end_ns).reading
        if host.energy_j is None or self._shares is None:
            return Energy(replace(host, rail=owner, scope=Scope.PROCESS), HOST, 0.0)
        if owner not in self._shares.owners:
            missing = EnergyReading.missing(owner, Scope.PROCESS, f"{owner} had no process that could be metered")
            return Energy(missing, HOST, 0.0)
        share = self._shares.window(owner, start_ns, end_ns)
        part = share.energy_j / host.energy_j if host.energy_j > 0 else 0.0
        reading = replace(
            host,
            rail=owner,
            scope=Scope.PROCESS,
            energy_j=share.energy_j,
            energy_err_j=(host.energy_err_j or 0.0) * part,
        )
        return Energy(reading, HOST, share.time_s)

    def reading(self, start_ns: int, end_ns: int) -> EnergyReading:
        """The total of the sensor's rails in a window, with its error and coverage."""
        if self._available is None:
            return EnergyReading.missing(HOST, Scope.HOST, "no sensor is available")
        first = max(0, bisect_left(self._times_ns, start_ns) - 2)
        last = bisect_left(self._times_ns, end_ns) + 2
        window = self._samples[first:last]
        readings = [
            integrate(rail, [(s.t_ns, s.values[n]) for s in window], start_ns, end_ns, max_gap_s=self._max_gap_s)
            for n, rail in enumerate(self._available.rails)
            if rail.name in self._available.total
        ]
        return total(readings, self._available.total, self._available.scope, rail=HOST)


def _probe_json(probe: Probe) -> dict[str, Any]:
    outcome = probe.outcome
    if isinstance(outcome, Unavailable):
        return {
            "name": probe.sensor.name,
            "available": False,
            "absent": outcome.is_absent,
            "reason": outcome.reason,
            "remedy": outcome.remedy,
        }
    return {
        "name": probe.sensor.name,
        "available": True,
        "scope": outcome.scope.value,
        "provenance": outcome.provenance.value,
        "total_of": list(outcome.total),
        "rails": [rail.name for rail in outcome.rails],
        "notes": outcome.notes,
    }

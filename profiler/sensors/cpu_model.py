"""An estimate where nothing measures: busy CPU time times watts a processor, plus what idle processors draw."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable

# Watts per logical CPU, idle and at full load, averaged over server micro-architectures from SPECpower_ssj2008:
# Cloud Carbon Footprint, methodology, appendix on AWS.
IDLE_W_PER_CPU = 0.74
MAX_W_PER_CPU = 3.5
_GAIN_ERR = 0.5  # our assumption: the spread between micro-architectures; a board may lie outside it

_MAX_STAT_BYTES = 1 << 20
# /proc/stat "cpu": user nice system idle iowait irq softirq steal guest guest_nice (proc_stat(5)). Guest time is in
# user already; stolen time was spent on somebody else's work.
_BUSY_FIELDS = (0, 1, 2, 5, 6)

BusyClock = Callable[[], tuple[float, int]]
"""Busy CPU seconds so far, and the number of logical CPUs."""


class CpuModelSensor:
    """Always `estimated`. One counter: idle power of all processors times time, plus busy CPU seconds times the rest.

    `target="host"`: E = idle·n·t + (max - idle)·busy, busy over all of the machine from `{root}/proc/stat`, without
    stolen time; elsewhere than on Linux from psutil. `target="process"`: E = max·cpu, cpu being this process's CPU
    time: its dynamic part, and a share of the idle power in proportion to its CPU time; what the machine idles beside
    is not in it. Memory, disks, network and power supply are in neither.

    Raises ValueError where the watts make no sense.
    """

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        target: Literal["host", "process"] = "host",
        idle_w_per_cpu: float = IDLE_W_PER_CPU,
        max_w_per_cpu: float = MAX_W_PER_CPU,
        gain_err: float = _GAIN_ERR,
    ) -> None:
        if not 0 <= idle_w_per_cpu <= max_w_per_cpu < float("inf"):
            raise ValueError(f"needs 0 <= idle_w_per_cpu <= max_w_per_cpu, got {idle_w_per_cpu} and {max_w_per_cpu}")
        if target not in ("host", "process"):
            raise ValueError(f"target must be host or process, got {target!r}")
        self.name = "cpu_model"
        self._root = root
        self._clock = clock
        self._target = target
        self._idle_w = idle_w_per_cpu
        self._max_w = max_w_per_cpu
        self._gain_err = gain_err
        self._busy: BusyClock | None = None
        self._start_busy_s: float | None = None
        self._idle_j = 0.0
        self._last_ns = 0

    def probe(self) -> Available | Unavailable:
        try:
            busy = self._busy_clock()
            _, n_cpus = busy()
        except (OSError, ValueError, ImportError) as error:
            return Unavailable(f"the CPU time of the {self._target} is not known: {error}", self._remedy())
        self._busy = busy
        rail = self._rail(n_cpus)
        return Available((rail,), (rail.name,), rail.scope, Provenance.ESTIMATED, self._notes(n_cpus))

    def open(self) -> None:
        outcome = self.probe()
        if isinstance(outcome, Unavailable) or self._busy is None:
            reason = outcome.reason if isinstance(outcome, Unavailable) else "no source of CPU time"
            raise SensorError(f"cpu_model: {reason}.", remedy=self._remedy())
        self._start_busy_s = self._busy()[0]
        self._idle_j, self._last_ns = 0.0, self._clock.monotonic_ns()

    def read(self) -> list[float | None]:
        if self._start_busy_s is None or self._busy is None:
            raise SensorError("cpu_model: not open.", remedy="Call open() first.")
        try:
            busy_s, n_cpus = self._busy()
        except (OSError, ValueError) as error:
            raise SensorError(f"cpu_model: {error}") from error
        busy_s -= self._start_busy_s
        if self._target == "process":
            return [self._max_w * busy_s]
        now_ns = self._clock.monotonic_ns()  # idle power is summed up: processors may be taken away and come back
        self._idle_j += self._idle_w * n_cpus * (now_ns - self._last_ns) / 1e9
        self._last_ns = now_ns
        return [self._idle_j + (self._max_w - self._idle_w) * busy_s]

    def close(self) -> None:
        self._start_busy_s = None

    def _busy_clock(self) -> BusyClock:
        if self._target == "process":
            return _process_busy
        stat = self._root / "proc" / "stat"
        if stat.exists() or sys.platform == "linux":
            return lambda: _proc_stat(stat)
        return _psutil_busy

    def _rail(self, n_cpus: int) -> Rail:
        tick_s = 1e-6 if self._target == "process" else 1 / _ticks_per_s()
        return Rail(
            name="cpu-model",
            scope=Scope.PROCESS if self._target == "process" else Scope.HOST,
            kind=RailKind.COUNTER_J,
            provenance=Provenance.ESTIMATED,
            min_period_s=tick_s,
            resolution=(self._max_w - self._idle_w) * tick_s * n_cpus,
            gain_err=self._gain_err,
            edge_jitter_s=tick_s,
        )

    def _notes(self, n_cpus: int) -> str:
        watts = f"{self._idle_w:g} W idle to {self._max_w:g} W busy per logical CPU"
        if self._target == "process":
            return f"a model, not a measurement: {watts}; idle power shared by CPU time only"
        idle_w = self._idle_w * n_cpus
        return f"a model, not a measurement: {watts}, {n_cpus} CPUs; {idle_w:.3g} W of it are drawn when idle"

    def _remedy(self) -> str:
        return f"Make {self._root / 'proc' / 'stat'} readable, or use the target 'process'."


def _process_busy() -> tuple[float, int]:
    return time.process_time(), os.cpu_count() or 1


def _ticks_per_s() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def _proc_stat(path: Path) -> tuple[float, int]:
    with path.open("rb") as file:
        lines = file.read(_MAX_STAT_BYTES).splitlines()
    fields = lines[0].split() if lines else []
    n_cpus = sum(line.startswith(b"cpu") and line[3:4].isdigit() for line in lines)
    if len(fields) < 8 or fields[0] != b"cpu" or n_cpus == 0 or not all(field.isdigit() for field in fields[1:8]):
        raise ValueError(f"{path} does not start with the line of all CPUs")
    ticks = sum(int(fields[1 + field]) for field in _BUSY_FIELDS)
    return ticks / _ticks_per_s(), n_cpus


def _psutil_busy() -> tuple[float, int]:
    import psutil

    times = psutil.cpu_times()
    busy_s = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
    return busy_s, psutil.cpu_count() or 1

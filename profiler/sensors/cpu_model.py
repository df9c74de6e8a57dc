"""An estimate where nothing measures: busy CPU time times watts a processor, plus what idle processors draw.

Its watts come from the caller, else from a calibration of this machine (`python -m profiler calibrate`), else from what
is known of this kind of device (`profiler/devices/`), else from an average of servers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from profiler.clock import Clock
from profiler.errors import SensorError, SpecError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable

# Watts per logical CPU, idle and at full load, averaged over server micro-architectures from SPECpower_ssj2008:
# Cloud Carbon Footprint, methodology, appendix on AWS.
IDLE_W_PER_CPU = 0.74
MAX_W_PER_CPU = 3.5
_GAIN_ERR = 0.5  # our assumption: the spread between micro-architectures; a board may lie outside it
_MEASURED_GAIN_ERR = 0.3  # our assumption: another board of the same kind, another load, another power supply

_MAX_STAT_BYTES = 1 << 20
# /proc/stat "cpu": user nice system idle iowait irq softirq steal guest guest_nice (proc_stat(5)). Guest time is in
# user already; stolen time was spent on somebody else's work.
_BUSY_FIELDS = (0, 1, 2, 5, 6)

BusyClock = Callable[[], tuple[float, int]]
"""Busy CPU seconds so far, and the number of logical CPUs."""


@dataclass(frozen=True, slots=True)
class _Watts:
    """Watts of one logical CPU, their relative limits, what they cover, and where they are from."""

    idle_w: float
    max_w: float
    gain_err: float
    scope: Scope
    origin: str


class CpuModelSensor:
    """Always `estimated`. One counter: idle power of all processors times time, plus busy CPU seconds times the rest.

    `target="host"`: E = idle·n·t + (max - idle)·busy, busy over all of the machine from `{root}/proc/stat`, without
    stolen time; elsewhere than on Linux from psutil. `target="process"`: E = max·cpu, cpu being this process's CPU
    time: its dynamic part, and a share of the idle power in proportion to its CPU time; what the machine idles beside
    is not in it. What the watts cover is the scope: that of the meter of a calibration or of a known device's figures;
    the average of servers has processors only, without memory, disks, network and power supply.

    Watts given by the caller, a pair, come first. `environment` tells where the user's configuration is, the
    process's own by default. A calibration that is broken, or of another machine, is left aside and the notes say so.

    Raises ValueError where the watts make no sense.
    """

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        target: Literal["host", "process"] = "host",
        idle_w_per_cpu: float | None = None,
        max_w_per_cpu: float | None = None,
        gain_err: float = _GAIN_ERR,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if target not in ("host", "process"):
            raise ValueError(f"target must be host or process, got {target!r}")
        self.name = "cpu_model"
        self._root = root
        self._clock = clock
        self._target = target
        self._given = _given(idle_w_per_cpu, max_w_per_cpu, gain_err)
        self._environment = environment
        self._watts = _AVERAGE
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
        self._watts, troubles = self._find_watts(n_cpus)
        rail = self._rail(n_cpus)
        notes = "; ".join([self._notes(n_cpus), *troubles])
        return Available((rail,), (rail.name,), rail.scope, Provenance.ESTIMATED, notes)

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
            return [self._watts.max_w * busy_s]
        now_ns = self._clock.monotonic_ns()  # idle power is summed up: processors may be taken away and come back
        self._idle_j += self._watts.idle_w * n_cpus * (now_ns - self._last_ns) / 1e9
        self._last_ns = now_ns
        return [self._idle_j + (self._watts.max_w - self._watts.idle_w) * busy_s]

    def close(self) -> None:
        self._start_busy_s = None

    def _busy_clock(self) -> BusyClock:
        return _process_busy if self._target == "process" else host_busy(self._root)

    def _find_watts(self, n_cpus: int) -> tuple[_Watts, list[str]]:
        """The best watts there are, and what was wrong with better ones."""
        if self._given is not None:
            return self._given, []
        environment = os.environ if self._environment is None else self._environment
        watts, troubles = _calibrated(self._root, environment, n_cpus)
        if watts is None:
            watts, trouble = _known(self._root, n_cpus)
            troubles += trouble
        return watts or _AVERAGE, troubles

    def _rail(self, n_cpus: int) -> Rail:
        tick_s = 1e-6 if self._target == "process" else 1 / _ticks_per_s()
        return Rail(
            name="cpu-model",
            scope=Scope.PROCESS if self._target == "process" else self._watts.scope,
            kind=RailKind.COUNTER_J,
            provenance=Provenance.ESTIMATED,
            min_period_s=tick_s,
            resolution=(self._watts.max_w - self._watts.idle_w) * tick_s * n_cpus,
            gain_err=self._watts.gain_err,
            edge_jitter_s=tick_s,
        )

    def _notes(self, n_cpus: int) -> str:
        watts = (
            f"{self._watts.idle_w:.3g} W idle to {self._watts.max_w:.3g} W busy per logical CPU, {self._watts.origin}"
        )
        if self._target == "process":
            return f"a model, not a measurement: {watts}; idle power shared by CPU time only"
        idle_w = self._watts.idle_w * n_cpus
        return f"a model, not a measurement: {watts}; {n_cpus} CPUs, {idle_w:.3g} W of it are drawn when idle"

    def _remedy(self) -> str:
        return f"Make {self._root / 'proc' / 'stat'} readable, or use the target 'process'."


_AVERAGE = _Watts(IDLE_W_PER_CPU, MAX_W_PER_CPU, _GAIN_ERR, Scope.HOST, "an average of servers")


def _given(idle_w: float | None, max_w: float | None, gain_err: float) -> _Watts | None:
    if idle_w is None and max_w is None:
        return None
    if idle_w is None or max_w is None or not 0 <= idle_w <= max_w < float("inf"):
        raise ValueError(f"needs 0 <= idle_w_per_cpu <= max_w_per_cpu, got {idle_w} and {max_w}")
    return _Watts(idle_w, max_w, gain_err, Scope.HOST, "as given")


def _calibrated(root: Path, environment: Mapping[str, str], n_cpus: int) -> tuple[_Watts | None, list[str]]:
    """The first calibration that is whole and of this machine, and why those before it are not."""
    from profiler.sensors.cpu_calibration import COVERS, candidates, processor_name, read_calibration

    troubles = []
    for path in candidates(root, environment):
        try:
            found = read_calibration(path)
        except FileNotFoundError:
            continue
        except SpecError as error:
            troubles.append(f"not used: {error}")
            continue
        misfit = found.misfit(processor_name(root), n_cpus)
        if misfit is None:
            origin = f"calibrated {found.date} by {found.method}, ± {found.fit.gain_err:.1%} for {COVERS}"
            per_cpu_w = found.fit.idle_w / n_cpus, found.fit.busy_w / n_cpus
            return _Watts(*per_cpu_w, found.fit.gain_err, found.scope, origin), troubles
        troubles.append(f"not used: {path}: {misfit}")
    return None, troubles


def _known(root: Path, n_cpus: int) -> tuple[_Watts | None, list[str]]:
    """Watts of this kind of device, from the files that ship."""
    from profiler.devices import known_devices, recognised

    try:
        device = recognised(root, known_devices())
    except (OSError, SpecError) as error:
        return None, [f"not used: {error}"]
    if device is None or device.power is None:
        return None, []
    power = device.power
    gain_err = _MEASURED_GAIN_ERR if power.kind == "measured" else _GAIN_ERR
    origin = f"{power.kind} on another {device.name}: {power.source.split(': ')[0]}"
    return _Watts(power.idle_w / n_cpus, power.busy_w / n_cpus, gain_err, power.scope, origin), []


def host_busy(root: Path) -> BusyClock:
    """Reads the busy time of the machine below `root`; the reader raises OSError or ValueError where it cannot."""
    stat = root / "proc" / "stat"
    return (lambda: _proc_stat(stat)) if stat.exists() or sys.platform == "linux" else _psutil_busy


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

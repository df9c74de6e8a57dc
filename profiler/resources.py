"""What a process and its machine use beside energy: time, memory, heat, clocks, GPUs, brakes. None: nothing tells."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from profiler import files
from profiler.clock import Clock
from profiler.gpus import Gpus, NvmlMark
from profiler.nvml import Library
from profiler.records import Resources
from profiler.sensor import sys_dir
from profiler.throttling import Throttling, ThrottlingMark

_STATUS_BYTES = 64 * 1024
_PEAK = re.compile(rb"^VmHWM:\s+(\d{1,18}) kB$", re.MULTILINE)
_MAX_FILES = 16  # of a kind, evenly spaced among a large machine's: what bounds the cost of an edge
_PLAUSIBLE_C = (-40.0, 150.0)
_PROCESSOR_ZONES = ("cpu", "soc", "x86_pkg", "core", "pkg", "mpu", "tj", "gpu")
_PROCESSOR_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal")


@dataclass(frozen=True, slots=True)
class ResourceMark:
    """What has to be known of the start of a span to say at its end what it used."""

    throttling: ThrottlingMark
    gpus: NvmlMark | None


class ResourceReader:
    """Reads this process's CPU time and memory, and heat, clocks, GPU use and throttling of the machine below `root`.

    Which files tell of the machine is found out once, at the first reading; only then NVML is looked for, which `nvml`
    stands in for. Everything is read at the edges of spans, in between nothing: `mark` at the start, `since` at the
    end. Never raises on what it cannot read.
    """

    def __init__(self, clock: Clock, root: Path = Path("/"), *, nvml: Library | None = None) -> None:
        self.clock = clock
        self._root = root
        self._nvml = nvml
        self._sys = sys_dir(root)
        self._temperatures: tuple[str, ...] | None = None
        self._frequencies: tuple[tuple[str, int], ...] | None = None
        self._machine: tuple[Throttling, Gpus] | None = None

    def cpu_s(self) -> float:
        """CPU seconds, user and system, of all threads of this process; not of its children."""
        return time.process_time()

    def mark(self) -> ResourceMark:
        """The start of a span."""
        throttling, gpus = self._found()
        return ResourceMark(throttling.mark(), gpus.mark())

    def since(self, start: ResourceMark, cpu_s: float | None = None) -> Resources:
        """Everything now, at the end of a span that used `cpu_s`; `Resources` describes it."""
        throttling, gpus = self._found()
        words = throttling.since(start.throttling)
        state = gpus.since(start.gpus)
        is_told = words is not None or state.brakes is not None
        return Resources(
            cpu_s=cpu_s,
            peak_rss_bytes=peak_rss_bytes(),
            temperature_c=self.temperature_c(),
            frequency_hz=self.frequency_hz(),
            gpu_use=state.use,
            gpu_temperature_c=state.temperature_c,
            gpu_frequency_hz=state.frequency_hz,
            throttling=",".join(sorted((words or frozenset()) | (state.brakes or frozenset()))) if is_told else None,
        )

    def _found(self) -> tuple[Throttling, Gpus]:
        if self._machine is None:
            self._machine = Throttling(self._sys), Gpus(self._root, self._nvml)
        return self._machine

    def temperature_c(self) -> float | None:
        """The hottest plausible processor sensor, from thermal zones and hwmon chips (millidegrees in sysfs)."""
        if self._temperatures is None:
            self._temperatures = files.spread(list(_temperature_files(self._sys)), _MAX_FILES)
        degrees_c = [milli / 1000 for path in self._temperatures if (milli := files.integer(path)) is not None]
        low_c, high_c = _PLAUSIBLE_C
        return max((degree_c for degree_c in degrees_c if low_c < degree_c < high_c), default=None)

    def frequency_hz(self) -> float | None:
        """The mean clock of the logical CPUs, from cpufreq's policies (kHz in sysfs)."""
        if self._frequencies is None:
            self._frequencies = files.spread(list(_frequency_files(self._sys)), _MAX_FILES)
        told = ((files.integer(path), n_cpus) for path, n_cpus in self._frequencies)
        read = [(khz, n_cpus) for khz, n_cpus in told if khz is not None and khz > 0]
        n_all = sum(n_cpus for _, n_cpus in read)
        return sum(khz * n_cpus for khz, n_cpus in read) * 1e3 / n_all if n_all else None


def peak_rss_bytes() -> int | None:
    """Largest resident set of this process so far.

    On Linux VmHWM of /proc/self/status: `ru_maxrss` there survives exec, so a client would report the peak of the
    harness that started it.
    """
    if found := _PEAK.search(files.head("/proc/self/status", _STATUS_BYTES) or b""):
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:
        return _psutil_peak_bytes()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _psutil_peak_bytes() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def _temperature_files(sys_: Path) -> Iterable[str]:
    """Files of processor sensors. A Jetson's PMIC zone says 100 °C for ever, and a battery is no processor."""
    for zone in sorted((sys_ / "class/thermal").glob("thermal_zone*")):
        kind = (files.text(zone / "type") or "").lower()
        if any(word in kind for word in _PROCESSOR_ZONES):
            yield f"{zone}/temp"
    for chip in sorted((sys_ / "class/hwmon").glob("hwmon*")):
        if (files.text(chip / "name") or "") in _PROCESSOR_CHIPS:
            yield from map(str, sorted(chip.glob("temp*_input")))


def _frequency_files(sys_: Path) -> Iterable[tuple[str, int]]:
    for policy in sorted((sys_ / "devices/system/cpu/cpufreq").glob("policy*")):
        cpus = (files.text(policy / "affected_cpus") or "").split()
        yield f"{policy}/scaling_cur_freq", max(1, len(cpus))

"""What a process and its machine use beside energy: CPU time, memory, heat, clock speed. None where nothing tells."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from profiler.clock import Clock
from profiler.records import Resources
from profiler.sensor import sys_dir

_MAX_FILE_BYTES = 64 * 1024
_PLAUSIBLE_C = (-40.0, 150.0)
_PROCESSOR_ZONES = ("cpu", "soc", "x86_pkg", "core", "pkg", "mpu", "tj", "gpu")
_PROCESSOR_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal")


class ResourceReader:
    """Reads this process's CPU time and memory, and the temperature and clock of the machine below `root`.

    Which files tell of the machine is found out once, at the first reading. Never raises on what it cannot read.
    """

    def __init__(self, clock: Clock, root: Path = Path("/")) -> None:
        self.clock = clock
        self._sys = sys_dir(root)
        self._temperatures: tuple[Path, ...] | None = None
        self._frequencies: tuple[tuple[Path, int], ...] | None = None

    def cpu_s(self) -> float:
        """CPU seconds, user and system, of all threads of this process; not of its children."""
        return time.process_time()

    def snapshot(self) -> Resources:
        """Everything now: `cpu_s` since the process started, the rest as `Resources` describes it."""
        return Resources(self.cpu_s(), peak_rss_bytes(), self.temperature_c(), self.frequency_hz())

    def temperature_c(self) -> float | None:
        """The hottest plausible processor sensor, from thermal zones and hwmon chips (millidegrees in sysfs)."""
        if self._temperatures is None:
            self._temperatures = tuple(_temperature_files(self._sys))
        degrees_c = [milli / 1000 for path in self._temperatures if (milli := _number(path)) is not None]
        low_c, high_c = _PLAUSIBLE_C
        return max((degree_c for degree_c in degrees_c if low_c < degree_c < high_c), default=None)

    def frequency_hz(self) -> float | None:
        """The mean clock of all logical CPUs, from cpufreq's policies (kHz in sysfs)."""
        if self._frequencies is None:
            self._frequencies = tuple(_frequency_files(self._sys))
        read = [(khz, n_cpus) for path, n_cpus in self._frequencies if (khz := _number(path)) is not None and khz > 0]
        n_all = sum(n_cpus for _, n_cpus in read)
        return sum(khz * n_cpus for khz, n_cpus in read) * 1e3 / n_all if n_all else None


def peak_rss_bytes() -> int | None:
    """Largest resident set of this process so far.

    On Linux VmHWM of /proc/self/status: `ru_maxrss` there survives exec, so a client would report the peak of the
    harness that started it.
    """
    if (text := _text(Path("/proc/self/status"))) is not None:
        for line in text.splitlines():
            if line.startswith("VmHWM:") and line.split()[1:2] and line.split()[1].isdigit():
                return int(line.split()[1]) * 1024
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


def _temperature_files(sys_: Path) -> Iterable[Path]:
    """Files of processor sensors. A Jetson's PMIC zone says 100 °C for ever, and a battery is no processor."""
    for zone in sorted((sys_ / "class/thermal").glob("thermal_zone*")):
        kind = (_text(zone / "type") or "").strip().lower()
        if any(word in kind for word in _PROCESSOR_ZONES):
            yield zone / "temp"
    for chip in sorted((sys_ / "class/hwmon").glob("hwmon*")):
        if (_text(chip / "name") or "").strip() in _PROCESSOR_CHIPS:
            yield from sorted(chip.glob("temp*_input"))


def _frequency_files(sys_: Path) -> Iterable[tuple[Path, int]]:
    for policy in sorted((sys_ / "devices/system/cpu/cpufreq").glob("policy*")):
        cpus = (_text(policy / "affected_cpus") or "").split()
        yield policy / "scaling_cur_freq", max(1, len(cpus))


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("ascii", errors="replace")
    except OSError:
        return None

"""What GPUs do beside drawing power: use, temperature, clock, and what slows them down. Asked at the edges of spans."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler import files
from profiler import nvml as nvml_api
from profiler.nvml import MAX_GPUS, Handle, Library
from profiler.sensor import Unavailable, sys_dir

# Not all that NVML calls a reason is a brake: an idle GPU and clocks that somebody has set are left out.
# nvmlClocksEventReasons: https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
_BRAKES = {
    0x04: "gpu_power_cap",  # SwPowerCap
    0x08: "gpu_hardware_slowdown",  # HwSlowdown
    0x20: "gpu_heat",  # SwThermalSlowdown
    0x40: "gpu_hardware_heat",  # HwThermalSlowdown
    0x80: "gpu_power_brake",  # HwPowerBrakeSlowdown
}
_UTILIZATION_SAMPLES = 1  # NVML_GPU_UTILIZATION_SAMPLES
_UNSIGNED_INT = 1  # NVML_VALUE_TYPE_UNSIGNED_INT
_TEMPERATURE_GPU = 0  # NVML_TEMPERATURE_GPU
_CLOCK_SM = 1  # NVML_CLOCK_SM

# A Jetson's GPU shows its load, in per mille, in a place of each JetPack's own: 4; 5; 6 and later.
_LOAD = (
    "devices/gpu.0/load",
    "devices/platform/gpu.0/load",
    "devices/platform/*.gpu/load",
    "devices/platform/bus@0/*.gpu/load",
)
_GPU = re.compile(r"gpu|gv11b|gp10b|ga10b|gb10b|gm20b|mali|kgsl", re.IGNORECASE)
_PLAUSIBLE_C = (-40.0, 150.0)


@dataclass(frozen=True, slots=True)
class GpuState:
    """Of all GPUs together: mean use (0..1), the hottest, mean clock, what slowed any of them down.

    None where no GPU tells; `brakes` is empty where they tell that nothing does.
    """

    use: float | None = None
    temperature_c: float | None = None
    frequency_hz: float | None = None
    brakes: frozenset[str] | None = None

    def or_else(self, other: GpuState) -> GpuState:
        """Field by field this one's, where it is known, else the other's."""
        return GpuState(
            other.use if self.use is None else self.use,
            other.temperature_c if self.temperature_c is None else self.temperature_c,
            other.frequency_hz if self.frequency_hz is None else self.frequency_hz,
            other.brakes if self.brakes is None else self.brakes,
        )


@dataclass(frozen=True, slots=True)
class NvmlMark:
    """Of each GPU the time of its newest sample of use (µs, NVML's clock; None: keeps no samples) and its reasons."""

    newest_us: tuple[int | None, ...]
    reasons: tuple[int | None, ...]


class NvmlGpus:
    """NVIDIA GPUs. NVML stays started for as long as the process lives: starting it can take a second."""

    def __init__(self, library: Library) -> None:
        self._library = library
        count = nvml_api.ask(library, library.nvmlDeviceGetCount) or 0
        found = (nvml_api.ask(library, library.nvmlDeviceGetHandleByIndex, i) for i in range(min(count, MAX_GPUS)))
        self._handles: tuple[Handle, ...] = tuple(handle for handle in found if handle is not None)
        self._reasons = _reasons_function(library)

    def mark(self) -> NvmlMark:
        newest_us = []
        for handle in self._handles:
            told = self._samples(handle, 0)
            newest_us.append(None if told is None else max((sample.timeStamp for sample in told), default=0))
        return NvmlMark(tuple(newest_us), self._all_reasons())

    def since(self, start: NvmlMark) -> GpuState:
        library, ask = self._library, nvml_api.ask
        uses = [self._use(*pair) for pair in zip(self._handles, start.newest_us, strict=True)]
        degrees_c = [ask(library, library.nvmlDeviceGetTemperature, h, _TEMPERATURE_GPU) for h in self._handles]
        mhz = [ask(library, library.nvmlDeviceGetClockInfo, h, _CLOCK_SM) for h in self._handles]
        known = [reason for reason in (*start.reasons, *self._all_reasons()) if reason is not None]
        return GpuState(
            _mean(uses),
            _hottest(degrees_c),
            _mean([None if clock_mhz is None else clock_mhz * 1e6 for clock_mhz in mhz]),
            frozenset(word for bit, word in _BRAKES.items() for reason in known if reason & bit) if known else None,
        )

    def _use(self, handle: Handle, since_us: int | None) -> float | None:
        """The mean of the driver's samples of use since then (in percent), or else its newest figure."""
        told = None if since_us is None else self._samples(handle, since_us)
        percents = [s.sampleValue.uiVal for s in told or () if since_us is None or s.timeStamp > since_us]
        if not percents:
            rates = nvml_api.ask(self._library, self._library.nvmlDeviceGetUtilizationRates, handle)
            percents = [] if rates is None else [rates.gpu]
        return sum(percents) / len(percents) / 100 if percents and max(percents) <= 100 else None

    def _samples(self, handle: Handle, since_us: int) -> Sequence[Any] | None:
        """None where this GPU keeps none, as when it is divided (MIG); NVML says Not Found where none is new."""
        library = self._library
        told = nvml_api.ask(library, library.nvmlDeviceGetSamples, handle, _UTILIZATION_SAMPLES, since_us)
        return None if told is None or told[0] != _UNSIGNED_INT else told[1]

    def _all_reasons(self) -> tuple[int | None, ...]:
        if self._reasons is None:
            return (None,) * len(self._handles)
        return tuple(nvml_api.ask(self._library, self._reasons, handle) for handle in self._handles)


def _reasons_function(library: Library) -> Callable[[Handle], int] | None:
    """Renamed with driver 535; a driver that is older than the bindings knows the old name only."""
    for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        function: Callable[[Handle], int] | None = getattr(library, name, None)
        if function is not None and _is_known(library, function):
            return function
    return None


def _is_known(library: Library, function: Callable[[Handle], int]) -> bool:
    try:
        function(library.nvmlDeviceGetHandleByIndex(0))
    except library.NVMLError as error:
        return getattr(error, "value", None) != library.NVML_ERROR_FUNCTION_NOT_FOUND
    return True


class SysfsGpu:
    """A GPU that is part of the processor, as a Jetson's is; below a sysfs folder."""

    def __init__(self, sys_: Path) -> None:
        self._load = next((str(path) for pattern in _LOAD for path in sorted(sys_.glob(pattern))), None)
        self._clock = next(_named(sys_.glob("class/devfreq/*"), "cur_freq"), None)
        self._temperatures = tuple(
            f"{zone}/temp"
            for zone in sorted(sys_.glob("class/thermal/thermal_zone*"))
            if _GPU.search(files.text(zone / "type", 64) or "")
        )

    def state(self) -> GpuState:
        per_mille = None if self._load is None else files.integer(self._load)
        hz = None if self._clock is None else files.integer(self._clock)  # Hz: Documentation/ABI, sysfs-class-devfreq
        millis = [files.integer(path) for path in self._temperatures]
        return GpuState(
            per_mille / 1000 if per_mille is not None and 0 <= per_mille <= 1000 else None,
            _hottest([None if milli is None else milli / 1000 for milli in millis]),
            float(hz) if hz is not None and hz > 0 else None,
        )


def _named(devices: Iterable[Path], file: str) -> Iterator[str]:
    return (f"{device}/{file}" for device in sorted(devices) if _GPU.search(device.name))


class Gpus:
    """All GPUs that the machine below `root` shows: NVML's, and the one in files."""

    def __init__(self, root: Path, library: Library | None = None) -> None:
        self._sysfs = SysfsGpu(sys_dir(root))
        self._nvml = _started(root, library)

    def mark(self) -> NvmlMark | None:
        return None if self._nvml is None else self._nvml.mark()

    def since(self, start: NvmlMark | None) -> GpuState:
        state = self._sysfs.state()
        return state if self._nvml is None or start is None else self._nvml.since(start).or_else(state)


def _started(root: Path, injected: Library | None) -> NvmlGpus | None:
    library = injected or nvml_api.find(root)
    if isinstance(library, Unavailable) or nvml_api.start(library, root) is not None:
        return None
    return NvmlGpus(library)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _hottest(degrees_c: Sequence[float | None]) -> float | None:
    low_c, high_c = _PLAUSIBLE_C
    return max((float(c) for c in degrees_c if c is not None and low_c < c < high_c), default=None)

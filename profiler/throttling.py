"""What slows a machine down: heat, a power limit, a weak supply. As words, from counters and flags at span edges.

Sources, all below sysfs:
- x86: devices/system/cpu/cpu*/thermal_throttle/{core,package}_throttle_count, which count the times that a processor
  slowed down for heat (arch/x86/kernel/cpu/mce/therm_throt.c, since Linux 2.6).
- Raspberry Pi: get_throttled of the firmware, hexadecimal flags
  (https://www.raspberrypi.com/documentation/computers/os.html#get_throttled).
- any Linux: class/thermal/cooling_device*/cur_state, above 0 where the kernel holds a processor back
  (Documentation/driver-api/thermal/sysfs-api.rst).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from profiler import files

# What bounds the cost of an edge on a large machine. Heat of a core that is left out shows in its package's counter.
_MAX_COUNTERS = 24
_MAX_COOLERS = 16
_MAX_ALIKE = 4  # ACPI has a cooling device a CPU, all of which it holds back together
_COUNTERS = {"core_throttle_count": "cpu_core_heat", "package_throttle_count": "cpu_package_heat"}
_FIRMWARE = ("devices/platform/soc*/soc*:firmware/get_throttled", "devices/platform/soc*:firmware/get_throttled")
_PI_FLAGS = ("undervoltage", "frequency_cap", "throttled", "soft_temperature_limit")  # bits 0 to 3
_PI_STICKY_SHIFT = 16  # bits 16 to 19: the same, at some time since the start

# Fans, screens and radios are cooling devices as well; these are the names of what slows a processor down: cpufreq's
# and devfreq's, ACPI's Processor, and the trip points of NVIDIA's device trees for Jetson.
_SLOWS = re.compile(
    r"(?!.*fan)(processor|intel_powerclamp|(thermal-)?(cpufreq|devfreq|cpu|gpu|idle)\b.*|.*-alert|.*-balanced"
    r"|tegra-heavy|user-max-throttle)",
    re.IGNORECASE,
)
_UNFIT = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class _File:
    """A counter or a state, and the word that it stands for."""

    path: str
    word: str


@dataclass(frozen=True, slots=True)
class ThrottlingMark:
    """What the files said at one moment."""

    counts: tuple[int | None, ...]
    pi_flags: int | None
    states: tuple[int | None, ...]


class Throttling:
    """Looks for its files once, below a sysfs folder; then `mark` at the start of a span and `since` at its end."""

    def __init__(self, sys_: Path) -> None:
        self._counters = tuple(itertools.islice(_counters(sys_), _MAX_COUNTERS))
        firmware = [path for pattern in _FIRMWARE for path in sorted(sys_.glob(pattern))]
        self._firmware = str(firmware[0]) if firmware else None
        self._coolers = files.spread(_coolers(sys_), _MAX_COOLERS)

    def mark(self) -> ThrottlingMark:
        return ThrottlingMark(
            tuple(files.integer(counter.path) for counter in self._counters),
            None if self._firmware is None else files.integer(self._firmware, 16),
            tuple(files.integer(cooler.path) for cooler in self._coolers),
        )

    def since(self, start: ThrottlingMark) -> frozenset[str] | None:
        """What slowed the machine down, as words; None where nothing tells.

        Counters tell of the whole span, states of its two edges. A Raspberry Pi's flags tell of the edges, and of the
        span where it happened for the first time since the board was started.
        """
        end = self.mark()
        counted = [_counted(*pair) for pair in zip(start.counts, end.counts, strict=True)]
        held = [_held(*pair) for pair in zip(start.states, end.states, strict=True)]
        words = {counter.word for counter, is_on in zip(self._counters, counted, strict=True) if is_on}
        words |= {cooler.word for cooler, is_on in zip(self._coolers, held, strict=True) if is_on}
        pi = _pi_words(start.pi_flags, end.pi_flags)
        is_told = pi is not None or any(is_on is not None for is_on in (*counted, *held))
        return frozenset(words | (pi or set())) if is_told else None


def _counted(before: int | None, after: int | None) -> bool | None:
    """A count below the one before started again, as after a CPU was off line."""
    if before is None or after is None:
        return None
    return after > (before if after >= before else 0)


def _held(before: int | None, after: int | None) -> bool | None:
    """intel_powerclamp says -1 while it does nothing."""
    known = [state for state in (before, after) if state is not None]
    return max(known) > 0 if known else None


def _pi_words(before: int | None, after: int | None) -> set[str] | None:
    if before is None or after is None:
        return None
    fresh = (after & ~before) >> _PI_STICKY_SHIFT
    flags = before | after | fresh
    return {word for bit, word in enumerate(_PI_FLAGS) if flags >> bit & 1}


def _counters(sys_: Path) -> Iterable[_File]:
    """One file a package and one a core, packages first: siblings show the same counter."""
    folders = list(_by_number((sys_ / "devices/system/cpu").glob("cpu[0-9]*")))
    for name, word in reversed(_COUNTERS.items()):
        seen = set()
        for cpu in folders:
            owner = _owner(cpu, name)
            path = cpu / "thermal_throttle" / name
            if owner not in seen and os.access(path, os.R_OK):
                seen.add(owner)
                yield _File(str(path), word)


def _owner(cpu: Path, name: str) -> tuple[str | int | None, ...]:
    package = files.integer(f"{cpu}/topology/physical_package_id")
    core = files.integer(f"{cpu}/topology/core_id")
    if package is None or core is None:
        return (cpu.name,)
    return (package,) if name.startswith("package") else (package, core)


def _coolers(sys_: Path) -> list[_File]:
    alike: dict[str, list[_File]] = {}
    for cooler in _by_number((sys_ / "class/thermal").glob("cooling_device*")):
        kind = files.text(cooler / "type", 64) or ""
        if _SLOWS.fullmatch(kind):
            word = _UNFIT.sub("_", kind.lower()).strip("_")
            alike.setdefault(word, []).append(_File(f"{cooler}/cur_state", word))
    return [cooler for coolers in alike.values() for cooler in files.spread(coolers, _MAX_ALIKE)]


def _by_number(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (len(path.name), path.name))

"""RAPL a second time: the kernel's `power` events, read through perf_event_open(2).

Layout and meaning: Documentation/ABI/testing/sysfs-bus-event_source-devices-events, arch/x86/events/rapl.c and
arch/x86/events/probe.c of the Linux kernel. The counters are the same registers as behind powercap's `energy_uj`, so
this is another way to them, not another meter; the kernel extends them to 64 bits and they do not wrap.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.machine import cpu_info
from profiler.quantities import Provenance, Rail, Scope
from profiler.sensor import Available, Unavailable, sys_dir
from profiler.sensors import rapl_domains
from profiler.sensors.perf_event import OpenEvent, open_event, read_event
from profiler.sensors.rapl import Zone, find_zones

_KINDS = {"pkg": "package", "psys": "psys", "cores": "core", "gpu": "uncore", "ram": "dram"}
_EVENT = re.compile(r"event=0x([0-9a-f]{1,2})", re.IGNORECASE)  # format/event is config:0-7
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_MAX_FILE_BYTES = 4096
_MAX_CPUS = 1024
# Haswell and later count 2^-14 J, others finer (Intel SDM vol. 3, 15.10.1, MSR_RAPL_POWER_UNIT). Of psys the kernel
# says 1 J on Sapphire Rapids (rapl_check_hw_unit). Used where no powercap zone gives the unit.
_RESOLUTION_J = 2**-14
_PSYS_RESOLUTION_J = 1.0
# The kernel shows these without having seen them count, as on Sapphire Rapids and Meteor Lake (perf_msr_probe,
# no_check): in a virtual machine, or before the graphics driver is up, they stay at 0 for ever.
_UNCHECKED = ("psys", "uncore")

_NO_PMU = "there is no power PMU at {where}"
_NO_PACKAGE = "{where} counts no packages; a virtual machine's kernel may show psys all the same, which stays at 0"
_BARE_METAL = "On bare metal run 'sudo modprobe rapl'; a virtual machine cannot see its host's energy."
_PARANOID = (
    "Run 'sudo sysctl kernel.perf_event_paranoid=0' (until the next boot), or give the interpreter the right: "
    "'sudo setcap cap_perfmon=ep $(readlink -f $(command -v python3))'."
)
_SECCOMP = "In a container start it with '--cap-add PERFMON', or with a seccomp profile that allows perf_event_open."


@dataclass(frozen=True, slots=True)
class _Event:
    """One energy event on the processor that counts for its package or die."""

    name: str
    kind: str
    package: str
    event_type: int
    config: int
    cpu: int
    joules_per_count: float


@dataclass(slots=True)
class _State:
    """What an event said last: the time it was enabled, when it was read, its joules, and those before a reset."""

    enabled_ns: int = -1
    read_ns: int | None = None
    total_j: float = 0.0
    reset_at_j: float = 0.0

    def since_reset_j(self, now_ns: int, total_j: float) -> float:
        """Joules since the register was last reset, as during suspend: to the kernel that is a wrap.

        It adds what was missing to 2^32 steps, up to 262 kJ (rapl_event_update). A counter that starts again at 0 is
        what the arithmetic of counters knows as a reset.
        """
        if self.read_ns is not None:
            at_most_s = (now_ns - self.read_ns) / 1e9 + 2 * rapl_domains.EDGE_JITTER_S
            if total_j - self.total_j > 2 * rapl_domains.MAX_POWER_W * at_most_s:
                self.reset_at_j = total_j
        self.read_ns, self.total_j = now_ns, total_j
        return total_j - self.reset_at_j


class PerfSensor:
    """Energy counters of processor packages and memory, where `energy_uj` is closed and perf events are not.

    Rails, total and scope are those of `rapl`, and so are the error limits. Counters start at 0 when opened. A rail
    whose event has stopped, as when the last processor of its package went offline, gives None. So does `psys` or
    `uncore` until it counts something, since the kernel shows some that never do.

    Intel counts by die where a package has several. Elsewhere a package has one counter, which kernels differ in
    showing once for each of its dies: it is taken once.
    """

    name = "perf"

    def __init__(self, root: Path, clock: Clock, *, open_event: OpenEvent = open_event) -> None:
        self._root = root
        self._sys = sys_dir(root)
        self._pmu = self._sys / "bus" / "event_source" / "devices" / "power"
        self._open_event = open_event
        self._events: tuple[_Event, ...] = ()
        self._files: list[int] = []
        self._states: list[_State] = []
        self._clock = clock

    def probe(self) -> Available | Unavailable:
        if not self._pmu.is_dir():
            return Unavailable(_NO_PMU.format(where=self._pmu), _BARE_METAL, is_absent=True)
        try:
            events, notes = self._find_events()
        except (OSError, ValueError) as error:
            return Unavailable(f"{error}", f"Look at the files below {self._pmu}.")
        if not any(event.kind == "package" for event in events):
            return Unavailable(_NO_PACKAGE.format(where=self._pmu), _BARE_METAL, is_absent=True)
        try:
            with self._opened(events):
                pass
        except OSError as error:
            return self._refusal(error)
        self._events = tuple(events)
        total = rapl_domains.total((event.name, event.kind) for event in events)
        notes += rapl_domains.notes([event.kind for event in events], self._root)
        return Available(self._rails(events), total, Scope.HOST, Provenance.COUNTER, "; ".join(notes), same_as="rapl")

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable. The descriptors stay open; counting starts here."""
        self.close()
        outcome = None if self._events else self.probe()  # rails stay those that were probed
        if isinstance(outcome, Unavailable):
            raise SensorError(f"perf: {outcome.reason}.", remedy=outcome.remedy)
        try:
            with self._opened(self._events) as files:
                self._files, self._states = files[:], [_State() for _ in files]
                files.clear()
        except OSError as error:
            refusal = self._refusal(error)
            raise SensorError(f"perf: {refusal.reason}.", remedy=refusal.remedy) from error

    def read(self) -> list[float | None]:
        if not self._files:
            raise SensorError("perf: not open.", remedy="Call open() first.")
        values = [self._read_j(n, event) for n, event in enumerate(self._events)]
        if all(value is None for value in values):
            raise SensorError(f"perf: no event of {self._pmu} counts any more.")
        return values

    def close(self) -> None:
        files, self._files = self._files, []
        for file in files:
            os.close(file)

    def _read_j(self, n: int, event: _Event) -> float | None:
        """Joules since opening, or None where the event does not count: the time it was enabled stands still."""
        try:
            count, enabled_ns = read_event(self._files[n])
        except (OSError, ValueError):
            return None
        state = self._states[n]
        if enabled_ns <= state.enabled_ns or (count == 0 and event.kind in _UNCHECKED):
            return None
        state.enabled_ns = enabled_ns
        return state.since_reset_j(self._clock.monotonic_ns(), count * event.joules_per_count)

    @contextmanager
    def _opened(self, events: Iterable[_Event]) -> Iterator[list[int]]:
        """A descriptor an event; those left in the list are closed at the end. Raises OSError."""
        files: list[int] = []
        try:
            for event in events:
                files.append(self._open_event(event.event_type, event.config, event.cpu))
            yield files
        finally:
            for file in files:
                os.close(file)

    def _find_events(self) -> tuple[list[_Event], list[str]]:
        """Every event on every processor that counts, packages first. Raises OSError or ValueError."""
        event_type = _number(self._pmu / "type")
        packages, notes = self._packages()
        events = []
        for suffix, kind in _KINDS.items():
            path = self._pmu / "events" / f"energy-{suffix}"
            if not path.exists():
                continue
            config, joules = _config(path), _joules_per_count(path)
            for cpu, package in list(packages.items())[: 1 if kind == "psys" else None]:
                name = rapl_domains.label(kind, package)
                events.append(_Event(name, kind, package, event_type, config, cpu, joules))
        return sorted(events, key=lambda event: rapl_domains.KINDS.index(event.kind)), notes

    def _packages(self) -> tuple[dict[int, str], list[str]]:
        """The processor to ask about each package or die, by that package's name in powercap, and what was left out."""
        by_package: dict[int, list[int]] = {}
        for cpu in _cpus(_text(self._pmu / "cpumask"), self._pmu / "cpumask"):
            by_package.setdefault(self._topology(cpu, "physical_package_id"), []).append(cpu)
        names: dict[int, str] = {}
        notes = []
        counts_by_die = cpu_info(self._root).get("vendor_id") == "GenuineIntel"
        for package, cpus in by_package.items():
            if len(cpus) == 1 or not counts_by_die:
                names[cpus[0]] = f"package-{package}"
            else:
                names |= {cpu: f"package-{package}-die-{self._topology(cpu, 'die_id')}" for cpu in cpus}
            if len(cpus) > 1 and not counts_by_die:
                notes.append(f"{len(cpus)} dies of package-{package} mirror one counter, counted once")
        if len(set(names.values())) < len(names):
            raise ValueError(f"{self._pmu / 'cpumask'} names a die twice: {sorted(names.values())}")
        return names, notes

    def _topology(self, cpu: int, what: str) -> int:
        return _number(self._sys / "devices" / "system" / "cpu" / f"cpu{cpu}" / "topology" / what)

    def _rails(self, events: Iterable[_Event]) -> tuple[Rail, ...]:
        """Counters' units are those that powercap states, whose ranges everybody may read; else the coarsest known."""
        try:
            zones = {zone.name: zone for zone in find_zones(self._sys / "class" / "powercap")}
        except (OSError, ValueError, RuntimeError):
            zones = {}
        return tuple(_rail(event, zones.get(event.name)) for event in events)

    def _refusal(self, error: OSError) -> Unavailable:
        if error.errno == errno.EACCES:
            path = self._root / "proc" / "sys" / "kernel" / "perf_event_paranoid"
            try:
                level = f" (it is {_text(path)})"
            except OSError:
                level = ""
            return Unavailable(f"perf events of the whole machine are closed by perf_event_paranoid{level}", _PARANOID)
        if error.errno in (errno.EPERM, errno.ENOSYS):
            return Unavailable(f"perf_event_open is blocked, as by a container's seccomp filter: {error}", _SECCOMP)
        return Unavailable(f"the kernel refuses the events of {self._pmu}: {error}", "Look at 'dmesg | grep -i rapl'.")


def _rail(event: _Event, zone: Zone | None) -> Rail:
    resolution_j = _PSYS_RESOLUTION_J if event.kind == "psys" else _RESOLUTION_J
    return rapl_domains.rail(
        event.name,
        event.kind,
        event.package,
        resolution_j=max(event.joules_per_count, resolution_j if zone is None else zone.unit_uj / 1e6),
        max_power_w=zone.max_power_w if zone is not None else None,
    )


def _config(path: Path) -> int:
    text = _text(path)
    match = _EVENT.fullmatch(text)
    if match is None:
        raise ValueError(f"{path} says {text!r:.80}, not event=0x..")
    return int(match[1], 16)


def _joules_per_count(path: Path) -> float:
    """What one count is worth: 2^-32 J in every kernel so far, but the file says so."""
    scale, unit = (path.with_name(f"{path.name}.{suffix}") for suffix in ("scale", "unit"))
    if _text(unit) != "Joules":
        raise ValueError(f"{unit} says {_text(unit)!r:.80}, not Joules")
    text = _text(scale)
    try:
        joules = float(text)
    except ValueError:
        joules = math.nan
    if not 0 < joules <= 1:
        raise ValueError(f"{scale} says {text!r:.80}, not how many joules a count is")
    return joules


def _cpus(text: str, path: Path) -> list[int]:
    """The processors of a list like `0,28-29`, in order (Documentation/admin-guide/cputopology.rst)."""
    cpus: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match is not None else (0, -1)
        if last < first:
            raise ValueError(f"{path} says {text!r:.80}, not a list of processors")
        cpus |= set(range(first, last + 1))
    if not 0 < len(cpus) <= _MAX_CPUS:
        raise ValueError(f"{path} names {len(cpus)} processors")
    return sorted(cpus)


def _number(path: Path) -> int:
    text = _text(path)
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError(f"{path} says {text!r:.80}, not a number")
    return int(text)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES).decode("ascii", errors="replace").strip()

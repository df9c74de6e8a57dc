"""Intel and AMD RAPL through Linux's powercap sysfs, with a reader of our own.

Layout and units: Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c of the Linux
kernel. Zones are told apart by their `name` file alone; the numbers in their folder names mean nothing.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable, sys_dir

_ZONE = re.compile(r"intel-rapl(:\d+)+")  # not intel-rapl-mmio: the same package a second time
_NAME = re.compile(r"(?P<kind>package)-(?P<package>\d+)(-die-(?P<die>\d+))?|core|uncore|dram|psys")
_MAX_FILE_BYTES = 256
_MAX_ZONES = 1024
_LOOKS = 4

_RAW_STEPS = 2**32 - 1  # the counter behind energy_uj has 32 bits
_EDGE_JITTER_S = 0.001  # the counters tick every 0.976 ms, without a time stamp (Hähnel et al. 2012)
# Neither Intel nor AMD documents an accuracy. Against plug power packages track closely (Khan et al., "RAPL in
# Action", 2018) and memory follows with an offset that depends on the system (Desrochers et al., MEMSYS 2016). These
# limits are our assumption of what that amounts to; they are no specification.
_GAIN_ERR = {"package": 0.05, "psys": 0.05, "core": 0.10, "uncore": 0.10, "dram": 0.20}
_SCOPES = {
    "package": Scope.PACKAGE,
    "psys": Scope.DEVICE,
    "core": Scope.CPU,
    "uncore": Scope.RAIL,
    "dram": Scope.DRAM,
}
_MAX_POWER_W = 1000.0  # no package draws more; only tells a wrapped counter from one that was reset
_MIRROR_TOLERANCE_UJ = 100_000  # what a package draws between two reads of one probe, and some

_NO_TREE = "there is no powercap tree at {where}; in a virtual machine the host hides it"
_LOAD_MODULE = "On bare metal run 'sudo modprobe intel_rapl_msr'; in a container mount /sys/class/powercap into it."
_MAKE_READABLE = "Run 'sudo chmod a+r {where}/*/energy_uj' (until the next boot), or install a udev rule that does it."


@dataclass(frozen=True, slots=True)
class _Zone:
    """One powercap zone that this sensor may use. `package` names the package it belongs to."""

    path: Path
    name: str
    kind: str
    package: str | None
    range_uj: int
    max_power_w: float | None
    has_newlines: bool

    @property
    def unit_uj(self) -> int:
        """What one raw step is worth: 61 µJ, in server memory 15 µJ; the kernel gives only the range."""
        return max(1, round(self.range_uj / _RAW_STEPS))

    @property
    def energy_path(self) -> Path:
        return self.path / "energy_uj"


class RaplSensor:
    """Counters of processor packages and memory.

    The total is the sum of packages and memory. Package zones contain `core` and `uncore` but not `dram`; `psys`
    contains everything where a laptop's firmware wires it up, and is handed out as a rail of its own but not added.
    The scope of the total is `host`: a machine as far as its packages and memory show it. Disks, fans, network, the
    power supply's losses and, without a dram zone, memory are not in it, and everything that runs on the machine is.

    On AMD Zen 1 and 2 every die of a socket mirrors the socket's one counter: dies of one package whose counters agree
    when probed are counted once. Counters of real dies differ by what they drew since boot; two that start together,
    as after a driver reload on such a machine, are taken for mirrors until they have drawn apart by 0.1 J.
    """

    name = "rapl"

    def __init__(self, root: Path, clock: Clock) -> None:
        self._powercap = sys_dir(root) / "class" / "powercap"
        self._zones: tuple[_Zone, ...] = ()
        self._files: list[int] = []
        self._last_uj: list[int | None] = []

    def probe(self) -> Available | Unavailable:
        try:
            zones = _find_zones(self._powercap)
            if not zones:
                return Unavailable(_NO_TREE.format(where=self._powercap), _LOAD_MODULE, is_absent=True)
            zones, notes = _merge_mirrors(_readable(zones))
        except PermissionError as error:
            where = error.filename or self._powercap
            return Unavailable(f"{where} is readable by root only", _MAKE_READABLE.format(where=self._powercap))
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that go round in circles
            return Unavailable(f"{error}", "Look at the files below it, and at 'dmesg | grep -i rapl'.")
        total = _total(zones)
        if not total:
            return Unavailable(f"{self._powercap} has zones, but neither a package nor psys among them", _LOAD_MODULE)
        self._zones = tuple(zones)
        if not any(zone.kind == "dram" for zone in zones):
            notes.append("no dram zone: memory is not in the total")
        return Available(tuple(map(_rail, zones)), total, Scope.HOST, Provenance.COUNTER, "; ".join(notes))

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable. The files stay open: a read then costs 0.5 µs a rail."""
        self.close()
        outcome = None if self._zones else self.probe()  # rails stay those that were probed
        if isinstance(outcome, Unavailable):
            raise SensorError(f"rapl: {outcome.reason}.", remedy=outcome.remedy)
        try:
            for zone in self._zones:
                self._files.append(os.open(zone.energy_path, os.O_RDONLY | os.O_CLOEXEC))
            self._last_uj = [None] * len(self._files)
        except OSError as error:
            self.close()
            raise SensorError(f"rapl: {error}.", remedy=_MAKE_READABLE.format(where=self._powercap)) from error

    def read(self) -> list[float | None]:
        if not self._files:
            raise SensorError("rapl: not open.", remedy="Call open() first.")
        values = [self._read_j(n, zone) for n, zone in enumerate(self._zones)]
        if all(value is None for value in values):
            raise SensorError(f"rapl: no energy_uj below {self._powercap} can be read.")
        return values

    def _read_j(self, n: int, zone: _Zone) -> float | None:
        """Joules, or None where this zone cannot be read now: an offline package gives ENODATA or EIO.

        A file that was replaced stands still. To ask of every file at every reading whether it was would cost as much
        again as reading them, so only one that stands still, or was not read before, is asked.
        """
        last_uj, self._last_uj[n] = self._last_uj[n], None
        try:
            energy_uj = None if last_uj is None else _read_uj(self._files[n], zone.has_newlines)
            if energy_uj is None or energy_uj == last_uj:
                self._follow(n, zone)
                energy_uj = _read_uj(self._files[n], zone.has_newlines)
        except (OSError, ValueError):
            return None
        self._last_uj[n] = energy_uj
        return energy_uj / 1e6 if energy_uj <= zone.range_uj + zone.unit_uj else None

    def _follow(self, n: int, zone: _Zone) -> None:
        """Open the file again that took the place of this one: a reloaded driver, a copied tree. Raises OSError."""
        if os.fstat(self._files[n]).st_nlink == 0:
            fresh = os.open(zone.energy_path, os.O_RDONLY | os.O_CLOEXEC)
            os.close(self._files[n])
            self._files[n] = fresh

    def close(self) -> None:
        files, self._files = self._files, []
        for file in files:
            os.close(file)


def _read_uj(file: int, has_newlines: bool) -> int:
    """The counter. Raises OSError, or ValueError where what is there is no number even at a second look.

    A kernel's file is always whole. A copied tree that somebody else writes to may be empty or cut off for a moment:
    its numbers end with a newline if its other files do, else two equal looks in a row count.
    """
    before = b""
    for _ in range(_LOOKS):
        text = os.pread(file, 64, 0)
        if text.endswith(b"\n") or (text and text == before and not has_newlines):
            return _parse_uj(text)
        before = text
    raise ValueError(f"{text!r:.80} is no count of microjoules")


def _parse_uj(text: bytes) -> int:
    """A whole decimal number. Raises ValueError."""
    if not text.strip().isdigit():
        raise ValueError(f"{text!r:.80} is no count of microjoules")
    return int(text)


def _find_zones(powercap: Path) -> list[_Zone]:
    """Every zone by its real path once, packages before what is in them, sorted by name."""
    zones: dict[str, _Zone] = {}
    for path in _zone_paths(powercap):
        zone = _zone(path)
        if zone is not None:
            zones.setdefault(zone.name, zone)  # a name twice is the same domain twice
    order = list(_GAIN_ERR)
    return sorted(zones.values(), key=lambda zone: (order.index(zone.kind), zone.name))


def _zone_paths(powercap: Path) -> Iterator[Path]:
    if not powercap.is_dir():
        return
    seen: set[Path] = set()
    flat = sorted(entry for entry in powercap.iterdir() if entry.name.startswith("intel-rapl"))
    for entry in (*flat, *_nested(flat)):
        real = entry.resolve()
        if _ZONE.fullmatch(entry.name) and real not in seen and len(seen) < _MAX_ZONES:
            seen.add(real)
            yield real


def _nested(entries: Iterable[Path]) -> Iterator[Path]:
    """Zones inside zones: a copied or partly mounted tree may lack the flat links to them."""
    for entry in entries:
        if not entry.name.startswith("intel-rapl-mmio") and entry.is_dir():
            inner = sorted(path for path in entry.iterdir() if _ZONE.fullmatch(path.name) and not path.is_symlink())
            yield from inner
            yield from _nested(inner)


def _zone(path: Path) -> _Zone | None:
    """None for a folder that is no energy zone of a kind we know."""
    try:
        name = _text(path / "name")
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        kind = match["kind"] or name
        owner = name if kind == "package" else _owner(path)
        label = name if kind in ("package", "psys") or owner is None else f"{name}-{owner.removeprefix('package-')}"
        range_path = path / "max_energy_range_uj"
        has_newlines = _bytes(range_path).endswith(b"\n")
        return _Zone(path, label, kind, owner, _positive(range_path), _max_power_w(path), has_newlines)
    except FileNotFoundError:
        return None


def _owner(path: Path) -> str | None:
    """Name of the package whose folder this zone lies in, if it lies in one."""
    try:
        name = _text(path.parent / "name")
    except OSError:
        return None
    return name if name.startswith("package-") and _NAME.fullmatch(name) else None


def _max_power_w(path: Path) -> float | None:
    """Sum of the zone's power limits as far as it states any."""
    sum_uw = 0
    for limit in sorted(path.glob("constraint_*_max_power_uw")):
        try:
            sum_uw += int(_text(limit))
        except (OSError, ValueError):
            continue
    return sum_uw / 1e6 if sum_uw > 0 else None


def _positive(path: Path) -> int:
    number = _parse_uj(_bytes(path))
    if number == 0:
        raise ValueError(f"{path} is 0: the counter's range is not known")
    return number


def _text(path: Path) -> str:
    return _bytes(path).decode("ascii", errors="replace").strip()


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES)


def _readable(zones: list[_Zone]) -> list[tuple[_Zone, int]]:
    """The zones that can be read, with their counters now.

    Raises OSError or ValueError where one that the total needs cannot be: a total without it would be too small.
    """
    kept = []
    for zone in zones:
        try:
            with zone.energy_path.open("rb") as file:
                kept.append((zone, _read_uj(file.fileno(), zone.has_newlines)))
        except (OSError, ValueError) as error:
            if zone.kind in ("package", "dram") or isinstance(error, PermissionError):
                raise _named(error, zone.energy_path) from error
    return kept


def _named(error: OSError | ValueError, path: Path) -> OSError | ValueError:
    if isinstance(error, OSError):
        return OSError(error.errno or errno.EIO, os.strerror(error.errno or errno.EIO), str(path))
    return ValueError(f"{path}: {error}")


def _merge_mirrors(zones: list[tuple[_Zone, int]]) -> tuple[list[_Zone], list[str]]:
    """Drop all but one of a package's dies that mirror one counter, with what lies in those dropped."""
    dies: dict[str, list[tuple[_Zone, int]]] = {}
    for zone, energy_uj in zones:
        if zone.kind == "package":
            dies.setdefault(zone.name.split("-die-")[0], []).append((zone, energy_uj))
    dropped: set[str] = set()
    notes = []
    for package, group in dies.items():
        counters_uj = [energy_uj for _, energy_uj in group]
        if len(group) > 1 and max(counters_uj) - min(counters_uj) <= _MIRROR_TOLERANCE_UJ:
            dropped |= {zone.name for zone, _ in group[1:]}
            notes.append(f"{len(group)} dies of {package} mirror one counter, counted once")
    return [zone for zone, _ in zones if zone.package not in dropped], notes


def _total(zones: list[_Zone]) -> tuple[str, ...]:
    """Packages and memory; where there are none, psys."""
    if any(zone.kind == "package" for zone in zones):
        return tuple(zone.name for zone in zones if zone.kind in ("package", "dram"))
    return tuple(zone.name for zone in zones if zone.kind == "psys")


def _rail(zone: _Zone) -> Rail:
    return Rail(
        name=zone.name,
        scope=_SCOPES[zone.kind],
        kind=RailKind.COUNTER_J,
        provenance=Provenance.COUNTER,
        min_period_s=_EDGE_JITTER_S,
        resolution=zone.unit_uj / 1e6,
        wrap_j=(zone.range_uj + zone.unit_uj) / 1e6,
        gain_err=_GAIN_ERR[zone.kind],
        edge_jitter_s=_EDGE_JITTER_S,
        max_power_w=zone.max_power_w or _MAX_POWER_W,
        parent=zone.package if zone.kind in ("core", "uncore") else None,
    )

"""Intel and AMD RAPL through Linux's powercap sysfs, with a reader of our own.

Layout and units: Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c of the Linux
kernel. Zones are told apart by their `name` file alone; the numbers in their folder names mean nothing.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Rail, Scope
from profiler.sensor import Available, Unavailable, sys_dir
from profiler.sensors import rapl_domains

_ZONE = re.compile(r"intel-rapl(:\d+)+")  # not intel-rapl-mmio: the same package a second time
_NAME = re.compile(r"(?P<kind>package)-(?P<package>\d+)(-die-(?P<die>\d+))?|core|uncore|dram|psys")
_MAX_FILE_BYTES = 256
_MAX_ZONES = 1024
_LOOKS = 4

_RAW_STEPS = 2**32 - 1  # the counter behind energy_uj has 32 bits
# A package that executes this code draws power, so its counter moves each millisecond. That of a virtual machine is
# renewed once a second (QEMU, target/i386/kvm/vmsr_energy.h); one that stood still for longer has stopped.
_FROZEN_S = 5.0
_NEVER_STILL = ("package", "psys")  # memory may be idle, and graphics or cores be off
_MIRROR_TOLERANCE_UJ = 100_000  # what a package draws between two reads of one probe, and some

_NO_TREE = "there is no powercap tree at {where}; in a virtual machine the host hides it"
_LOAD_MODULE = "On bare metal run 'sudo modprobe intel_rapl_msr'; in a container mount /sys/class/powercap into it."
_UDEV_RULE = 'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"'
_MAKE_READABLE = (
    "Run 'sudo chmod a+r {where}/*/energy_uj' (until the next boot), or write this line into "
    f"/etc/udev/rules.d/70-powercap.rules: {_UDEV_RULE}"
)


@dataclass(frozen=True, slots=True)
class Zone:
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
        self._root = root
        self._powercap = sys_dir(root) / "class" / "powercap"
        self._clock = clock
        self._zones: tuple[Zone, ...] = ()
        self._files: list[int] = []
        self._why: list[str | None] = []
        self._largest_uj: list[float] = []
        self._last_uj: list[int] = []  # each counter's last value, and since when it has been that
        self._since_ns: list[int] = []

    def probe(self) -> Available | Unavailable:
        try:
            zones = find_zones(self._powercap)
            if not zones:
                return Unavailable(_NO_TREE.format(where=self._powercap), _LOAD_MODULE, is_absent=True)
            zones, notes = _merge_mirrors(_readable(zones))
        except PermissionError as error:
            where = error.filename or self._powercap
            return Unavailable(f"{where} is readable by root only", _MAKE_READABLE.format(where=self._powercap))
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that go round in circles
            return Unavailable(f"{error}", "Look at the files below it, and at 'dmesg | grep -i rapl'.")
        total = rapl_domains.total((zone.name, zone.kind) for zone in zones)
        if not total:
            return Unavailable(f"{self._powercap} has zones, but neither a package nor psys among them", _LOAD_MODULE)
        self._zones = tuple(zones)
        notes += rapl_domains.notes([zone.kind for zone in zones], self._root)
        return Available(tuple(map(_rail, zones)), total, Scope.HOST, Provenance.COUNTER, "; ".join(notes))

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable. The files stay open: a read then costs 0.5 µs a rail."""
        self.close()
        outcome = None if self._zones else self.probe()  # rails stay those that were probed
        if isinstance(outcome, Unavailable):
            raise SensorError(f"rapl: {outcome.reason}.", remedy=outcome.remedy)
        self._why = [None] * len(self._zones)
        self._last_uj = [-1] * len(self._zones)
        self._since_ns = [0] * len(self._zones)
        self._largest_uj = [zone.range_uj + zone.unit_uj for zone in self._zones]
        try:
            for zone in self._zones:
                self._files.append(_open(zone.energy_path))
        except OSError as error:
            self.close()
            raise SensorError(f"rapl: {error}.", remedy=_MAKE_READABLE.format(where=self._powercap)) from error

    def read(self) -> list[float | None]:
        if not self._files:
            raise SensorError("rapl: not open.", remedy="Call open() first.")
        now_ns = self._clock.monotonic_ns()
        values: list[float | None] = []
        last_uj, largest_uj, since_ns, why = self._last_uj, self._largest_uj, self._since_ns, self._why
        for n, file in enumerate(self._files):
            try:
                text = os.pread(file, 64, 0)
            except OSError:
                text = b""
            # A whole number that has grown needs no second look; at ten readings a second code is cold, and few lines
            # cost half of what the careful way takes.
            if text[-1:] == b"\n" and text[:-1].isdigit() and last_uj[n] < (uj := int(text)) <= largest_uj[n]:
                last_uj[n], since_ns[n], why[n] = uj, now_ns, None
                values.append(uj / 1e6)
            else:
                values.append(self._read_j(n, self._zones[n], now_ns))
        if values.count(None) == len(values):
            raise SensorError(f"rapl: no energy_uj below {self._powercap} can be read: {self._why[0]}.")
        return values

    def why(self) -> Sequence[str | None]:
        return tuple(self._why)

    def _read_j(self, n: int, zone: Zone, now_ns: int) -> float | None:
        """Joules, or None where this zone cannot be read now: an offline package gives ENODATA or EIO."""
        try:
            energy_uj = self._counter_uj(n, zone)
        except (OSError, ValueError) as error:
            self._why[n] = f"{zone.name}: {error}"
            return None
        self._why[n] = self._distrust(n, zone, energy_uj, now_ns)
        return energy_uj / 1e6 if self._why[n] is None else None

    def _counter_uj(self, n: int, zone: Zone) -> int:
        """Raises OSError or ValueError.

        A file that was replaced stands still. To ask of every file at every reading whether it was would cost as much
        again as reading them, so only one that stands still is asked.
        """
        try:
            energy_uj = _read_uj(self._files[n], zone.has_newlines)
        except (OSError, ValueError) as error:  # of a reloaded driver says ENODEV for ever: is there a new one?
            try:
                self._reopen(n, zone)
            except OSError:
                raise error from None
            return _read_uj(self._files[n], zone.has_newlines)
        if energy_uj == self._last_uj[n] and os.fstat(self._files[n]).st_nlink == 0:  # as a copied tree's
            self._reopen(n, zone)
            energy_uj = _read_uj(self._files[n], zone.has_newlines)
        return energy_uj

    def _reopen(self, n: int, zone: Zone) -> None:
        fresh = _open(zone.energy_path)
        os.close(self._files[n])
        self._files[n] = fresh

    def _distrust(self, n: int, zone: Zone, energy_uj: int, now_ns: int) -> str | None:
        """Why a number is not taken for this zone's counter, if it is not."""
        if energy_uj > self._largest_uj[n]:
            return f"{zone.name}: {energy_uj} uJ are beyond its range"
        if energy_uj != self._last_uj[n]:
            self._last_uj[n], self._since_ns[n] = energy_uj, now_ns
        elif now_ns - self._since_ns[n] > _FROZEN_S * 1e9 and zone.kind in _NEVER_STILL:
            return f"{zone.name}: frozen, its counter has stood still for more than {_FROZEN_S:g} s"
        return None

    def close(self) -> None:
        files, self._files = self._files, []
        for file in files:
            os.close(file)


def _open(path: Path) -> int:
    """Whatever lies there, a pipe even, opening it does not wait."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


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


def find_zones(powercap: Path) -> list[Zone]:
    """Every zone by its real path once, packages before what is in them, sorted by name."""
    zones: dict[str, Zone] = {}
    for path in _zone_paths(powercap):
        zone = _zone(path)
        if zone is not None:
            zones.setdefault(zone.name, zone)  # a name twice is the same domain twice
    return sorted(zones.values(), key=lambda zone: (rapl_domains.KINDS.index(zone.kind), zone.name))


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


def _zone(path: Path) -> Zone | None:
    """None for a folder that is no energy zone of a kind we know. Raises OSError where one has no range."""
    try:
        name = _text(path / "name")
    except FileNotFoundError:
        return None
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    kind = match["kind"] or name
    owner = name if kind == "package" else _owner(path)
    label = rapl_domains.label(kind, owner)
    range_path = path / "max_energy_range_uj"
    has_newlines = _bytes(range_path).endswith(b"\n")
    return Zone(path, label, kind, owner, _positive(range_path), _max_power_w(path), has_newlines)


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
    try:
        number = _parse_uj(_bytes(path))
    except ValueError as error:
        raise _named(error, path) from None
    if number == 0:
        raise ValueError(f"{path} is 0: the counter's range is not known")
    return number


def _text(path: Path) -> str:
    return _bytes(path).decode("ascii", errors="replace").strip()


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES)


def _readable(zones: list[Zone]) -> list[tuple[Zone, int]]:
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


def _merge_mirrors(zones: list[tuple[Zone, int]]) -> tuple[list[Zone], list[str]]:
    """Drop all but one of a package's dies that mirror one counter, with what lies in those dropped."""
    dies: dict[str, list[tuple[Zone, int]]] = {}
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


def _rail(zone: Zone) -> Rail:
    return rapl_domains.rail(
        zone.name,
        zone.kind,
        zone.package,
        resolution_j=zone.unit_uj / 1e6,
        wrap_j=(zone.range_uj + zone.unit_uj) / 1e6,
        max_power_w=zone.max_power_w,
    )

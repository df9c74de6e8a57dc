"""RAPL a second time, through the package pyRAPL (INRIA and University of Lille): a cross-check of the sensor `rapl`.

pyRAPL 0.2.3.1 reads `energy_uj` of packages and memory and gives µJ, whatever its docstrings say of J. Only its public
`PkgAPI` and `DramAPI` are used, which hand out the counters themselves: its `Measurement` subtracts them and turns a
counter that wrapped in between into None. Source: https://github.com/powerapi-ng/pyRAPL, version 0.2.3.1.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Rail
from profiler.sensor import Available, Unavailable
from profiler.sensors.rapl import RaplSensor

if TYPE_CHECKING:
    import logging

_UJ_PER_J = 1e6
_HEAVY_OUTPUTS = ("pyRAPL.outputs.dataframeoutput", "pyRAPL.outputs.mongooutput")
_USE_RAPL = "Use the sensor 'rapl', which reads the same counters and needs no package."
_INSTALL = f"Run \"pip install 'fedmeter[pyrapl]'\" for this cross-check. {_USE_RAPL}"


class DeviceApi(Protocol):
    """What pyRAPL calls a device. `energy` gives µJ by the socket's number, -1 for a number that no socket has."""

    def energy(self) -> Sequence[float]: ...


class Library(Protocol):
    """As much of the module `pyRAPL` as is used. Its constructors raise PyRAPLException, mostly without a message."""

    PkgAPI: Callable[[], DeviceApi]
    DramAPI: Callable[[], DeviceApi]
    PyRAPLException: type[Exception]


@dataclass(frozen=True, slots=True)
class _Device:
    """One of pyRAPL's devices, the numbers of its sockets, and their rails in the same order."""

    api: DeviceApi
    sockets: tuple[int, ...]
    rails: tuple[Rail, ...]

    def read_j(self) -> list[float | None]:
        """None for what cannot be read now: an offline package gives EIO or ENODATA."""
        try:
            energies_uj = self.api.energy()
            values_j = [energies_uj[socket] / _UJ_PER_J for socket in self.sockets]
        except (OSError, ValueError, LookupError):
            return [None] * len(self.sockets)
        pairs = zip(values_j, self.rails, strict=True)
        return [value if rail.wrap_j is not None and 0 <= value <= rail.wrap_j else None for value, rail in pairs]

    def close(self) -> None:
        """pyRAPL has no close of its own and would leave its files to the garbage collector."""
        for file in getattr(self.api, "_sys_files", ()):
            file.close()


class PyRaplSensor:
    """The counters that pyRAPL reads, in J: those of `rapl` as far as pyRAPL knows them, with the same limits.

    pyRAPL raises one exception with an empty message whatever is the matter, and lets others escape; so our own
    reader looks first and says what is missing or not permitted. It also gives the modulus of each counter, by which
    a wrap is put right. pyRAPL has no psys and no cores, no memory unless every package has a zone for it, and
    refuses packages of several dies. It looks at fixed paths, so `root` must be /, unless `load` says otherwise:
    `load` hands out the module and raises ImportError where there is none.
    """

    name = "pyrapl"
    same_as = "rapl"

    def __init__(self, root: Path, clock: Clock, *, load: Callable[[], Library] | None = None) -> None:
        self._root = root
        self._own = RaplSensor(root, clock)
        self._load = load or load_pyrapl
        self._is_injected = load is not None
        self._rails: tuple[Rail, ...] = ()
        self._devices: tuple[_Device, ...] = ()

    def probe(self) -> Available | Unavailable:
        own = self._look()
        if isinstance(own, Unavailable):
            return own
        devices = self._find(own)
        if isinstance(devices, Unavailable):
            return devices
        for device in devices:
            device.close()
        rails = tuple(rail for device in devices for rail in device.rails)
        names = tuple(rail.name for rail in rails)
        lacking = [name for name in own.total if name not in names]
        notes = [own.notes, "read through pyRAPL: a cross-check of 'rapl', the same counters"]
        notes += [f"{', '.join(lacking)}: not known to pyRAPL, not in the total"] if lacking else []
        if not self._devices:
            self._rails = rails
        return replace(
            own, rails=rails, total=names, notes="; ".join(note for note in notes if note), same_as=self.same_as
        )

    def _look(self) -> Available | Unavailable:
        """What our own reader says of the tree that pyRAPL will read."""
        if not self._is_injected and self._root.resolve() != Path("/"):
            return Unavailable(f"pyRAPL reads this machine, not what is below {self._root}", _USE_RAPL, is_absent=True)
        return self._own.probe()

    def _find(self, own: Available) -> tuple[_Device, ...] | Unavailable:
        """pyRAPL's devices, opened, or why it has none though there are counters that can be read."""
        try:
            library = self._load()
        except ImportError as error:
            return Unavailable(f"pyRAPL cannot be imported: {error}", _INSTALL, is_absent=True)
        with _hushed():  # files that it forgets to close; the last go with the exception, inside of this block
            try:
                return _devices(library, own)
            except OSError as error:
                return Unavailable(f"pyRAPL cannot start: {_said(error)}", _remedy(error))
            except (library.PyRAPLException, ValueError, TypeError, LookupError) as error:
                said = f"{type(error).__name__} {error}".strip()
                return Unavailable(f"pyRAPL refuses this processor ({said}): {_packages(own)}", _USE_RAPL)

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable. pyRAPL keeps its files open."""
        self.close()
        outcome = self.probe() if not self._rails else self._look()
        devices = outcome if isinstance(outcome, Unavailable) else self._find(outcome)
        if isinstance(devices, Unavailable):
            raise SensorError(f"pyrapl: {devices.reason}.", remedy=devices.remedy)
        self._devices = devices
        if tuple(rail.name for device in devices for rail in device.rails) != tuple(rail.name for rail in self._rails):
            self.close()
            raise SensorError("pyrapl: there are other counters than when it was probed.", remedy="Probe it again.")

    def read(self) -> list[float | None]:
        if not self._devices:
            raise SensorError("pyrapl: not open.", remedy="Call open() first.")
        values = [value for device in self._devices for value in device.read_j()]
        if all(value is None for value in values):
            raise SensorError("pyrapl: no counter can be read through pyRAPL.", remedy=_USE_RAPL)
        return values

    def close(self) -> None:
        devices, self._devices = self._devices, ()
        for device in devices:
            device.close()


def _devices(library: Library, own: Available) -> tuple[_Device, ...]:
    """Packages, and memory where pyRAPL finds it. Raises what pyRAPL raises, ValueError for an unknown socket."""
    rails = {rail.name: rail for rail in own.rails}
    packages = _device(library.PkgAPI(), "package", rails)
    try:
        memory = _device(library.DramAPI(), "dram", rails)
    except library.PyRAPLException:  # a package without a zone for its memory
        return (packages,)
    return packages, memory


def _device(api: DeviceApi, kind: str, rails: dict[str, Rail]) -> _Device:
    sockets = tuple(socket for socket, energy_uj in enumerate(api.energy()) if energy_uj >= 0)
    return _Device(api, sockets, tuple(_rail(f"{kind}-{socket}", rails) for socket in sockets))


def _rail(name: str, rails: dict[str, Rail]) -> Rail:
    """Our rail of that name, or of its only die. Raises ValueError."""
    found = [rail for label, rail in rails.items() if label == name or label.startswith(f"{name}-die-")]
    if len(found) != 1:
        raise ValueError(f"{len(found)} zones are {name}")
    return found[0]


def _packages(own: Available) -> str:
    names = [rail.name for rail in own.rails if rail.name.startswith("package-")]
    return f"it wants one package zone for each socket, and there are {', '.join(names) or 'none'}"


def _said(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else f"{error}" or type(error).__name__


def _remedy(error: OSError) -> str:
    """An offline CPU has no topology folder, and pyRAPL looks for one of every CPU that is present."""
    if isinstance(error, FileNotFoundError) and "/topology/" in os.fspath(error.filename or ""):
        return f"Bring every CPU online ('echo 1 | sudo tee /sys/devices/system/cpu/cpu*/online'). {_USE_RAPL}"
    return _USE_RAPL


@contextmanager
def _hushed() -> Iterator[None]:
    """Warnings about pyRAPL's own code must not reach a user who runs with -W error. Other threads share it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load_pyrapl() -> Library:
    """Import pyRAPL without what that does to the importer. Raises ImportError.

    It warns through the root logger of optional outputs, which gives that logger a handler for good, and its source
    has invalid escapes, a SyntaxWarning from Python 3.12 on. Its outputs to pandas and MongoDB are left out, as those
    take 100 MB to meter with; import it first to have them.
    """
    import importlib
    import logging

    root = logging.getLogger()
    handler = logging.NullHandler()  # with a handler there, logging.warning() adds none
    root.addHandler(handler)
    root.addFilter(_is_of_others)
    try:
        with _hushed(), _left_out(_HEAVY_OUTPUTS):
            return cast("Library", importlib.import_module("pyRAPL"))
    finally:
        root.removeFilter(_is_of_others)
        root.removeHandler(handler)


@contextmanager
def _left_out(names: Sequence[str]) -> Iterator[None]:
    """An import of these modules fails as if they were not there, which pyRAPL is prepared for."""
    blocked: dict[str, None] = {name: None for name in names if name not in sys.modules}
    sys.modules.update(cast("dict[str, ModuleType]", blocked))
    try:
        yield
    finally:
        for name in blocked:
            sys.modules.pop(name, None)


def _is_of_others(record: logging.LogRecord) -> bool:
    return "pyRAPL" not in Path(record.pathname).parts

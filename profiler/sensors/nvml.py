"""NVIDIA GPUs: their energy counters where they have one, their power where not, through NVML.

API: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html and group__nvmlFieldValueQueries.html. Which
source a GPU has is found out by calling it: initialising NVML succeeds on devices that tell nothing, a Jetson's
integrated GPU among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from profiler import nvml as nvml_api
from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.nvml import MAX_GPUS, Handle, Library
from profiler.quantities import Provenance, Rail, RailKind, Scope, weakest
from profiler.sensor import Available, Unavailable

# The registers behind power and energy renew about every 100 ms (Yang, Adamek, Armour, "Part-time Power Measurements:
# nvidia-smi's Lack of Attention", SC'24, arXiv 2312.02741), without a time stamp.
_TICK_S = 0.1
# nvmlDeviceGetPowerUsage: "On Ampere (except GA100) or newer GPUs, the API returns power averaged over 1 sec interval".
# GA100 is not told apart: it has a counter, and 1 s is the wider bound.
_AVERAGED_S = 1.0
_AMPERE = 7  # NVML_DEVICE_ARCH_AMPERE; an unknown architecture is 0xffffffff, so taken for a newer one
# Asked for power more than 20 times a second some GPUs answer 0 or Not Supported. Between calls the last answer is
# held, and is older by that much. A counter is asked no more often either: it could not have ticked twice.
_HOLD_S = 0.05

# NVIDIA documents an accuracy of power readings for Fermi and Kepler (NVML: "accurate to within +/- 5% of current
# power draw") and, in nvidia-smi's manual, "+/- 5 watts". arXiv 2312.02741 finds errors of that class on later ones.
# That both limits hold together, and for counters as well, is our assumption.
_GAIN_ERR = 0.05
_OFFSET_ERR_W = 5.0
_MAX_PLAUSIBLE_W = 10_000.0  # five times what the largest board takes; some answer 0xffffffff mW instead of an error

_PART_TIME = re.compile(r"\b[AH]100\b")
_PART_TIME_NOTE = "its sensor looks 25 % of the time (arXiv 2312.02741): measure over several seconds"
_JETSON = "On a Jetson use the sensor 'jetson'; elsewhere a meter at the supply."


def _counter_j(library: Library, handle: Handle) -> float | None:
    """mJ since the driver was loaded. 0 stands before the first tick, or for a GPU that does not count."""
    energy_mj = library.nvmlDeviceGetTotalEnergyConsumption(handle)
    return energy_mj / 1e3 if energy_mj > 0 else None


def _instant_w(library: Library, handle: Handle) -> float | None:
    return _field_w(library, handle, 186)  # NVML_FI_DEV_POWER_INSTANT; the GPU's own scope by default


def _average_w(library: Library, handle: Handle) -> float | None:
    return _field_w(library, handle, 185)  # NVML_FI_DEV_POWER_AVERAGE


def _field_w(library: Library, handle: Handle, field_id: int) -> float | None:
    [value] = library.nvmlDeviceGetFieldValues(handle, [field_id])
    power_mw = nvml_api.unsigned(value)
    return None if power_mw is None else _watts(power_mw)


def _usage_w(library: Library, handle: Handle) -> float | None:
    return _watts(library.nvmlDeviceGetPowerUsage(handle))


def _watts(power_mw: int) -> float | None:
    """A GPU that is on draws something: 0 is what one says that was asked too soon."""
    power_w = power_mw / 1e3
    return power_w if 0 < power_w <= _MAX_PLAUSIBLE_W else None


@dataclass(frozen=True, slots=True)
class _Source:
    """One way to ask a GPU. `read` gives J or W, None where the answer is none, or raises NVMLError."""

    name: str
    provenance: Provenance
    read: Callable[[Library, Handle], float | None]
    stale_s: float

    @property
    def kind(self) -> RailKind:
        return RailKind.COUNTER_J if self.provenance is Provenance.COUNTER else RailKind.POWER_W


_SOURCES = (  # the best first
    _Source("energy counter", Provenance.COUNTER, _counter_j, _TICK_S),
    _Source("power field (instant)", Provenance.INTEGRATED, _instant_w, _TICK_S),
    _Source("power field (average over 1 s)", Provenance.INTEGRATED, _average_w, _AVERAGED_S),
)
_USAGE = _Source("power reading", Provenance.INTEGRATED, _usage_w, _TICK_S)
_AVERAGED_USAGE = _Source("power reading (average over 1 s)", Provenance.INTEGRATED, _usage_w, _AVERAGED_S)


@dataclass(frozen=True, slots=True)
class _Gpu:
    """One GPU as it was found. Without a source, `notes` says why."""

    index: int
    uuid: str | None
    source: _Source | None
    max_power_w: float | None
    notes: tuple[str, ...]

    @property
    def rail_name(self) -> str:
        return f"gpu{self.index}"

    @property
    def note(self) -> str:
        return f"{self.rail_name}: {', '.join(self.notes)}"


class NvmlSensor:
    """One rail a GPU, `gpu0` and so on in NVML's order; the total is all that tell anything, scope `gpu`.

    A GPU that tells nothing is not in the total, and the notes say so. A GPU that is lost later reads None, and the
    others go on. All that a GPU draws is counted, whoever uses it; of one that is divided (MIG) that of all instances.

    NVML asks the machine it runs on, so another `root` is unavailable. `nvml` stands in for the module `pynvml`.
    """

    name = "nvml"

    def __init__(self, root: Path, clock: Clock, *, nvml: Library | None = None) -> None:
        self._root = root
        self._clock = clock
        self._injected = nvml
        self._library: Library | None = None  # while open
        self._gpus: tuple[_Gpu, ...] = ()  # those with a source
        self._handles: list[Handle | None] = []
        self._due_ns: int | None = None
        self._held: list[float | None] = []
        self._failures: dict[str, str] = {}

    def probe(self) -> Available | Unavailable:
        library = self._started()
        if isinstance(library, Unavailable):
            return library
        try:
            gpus = [_look(library, i) for i in range(min(library.nvmlDeviceGetCount(), MAX_GPUS))]
        except library.NVMLError as error:
            return Unavailable(f"NVML cannot count its GPUs: {error}", "Look at what 'nvidia-smi' says.")
        finally:
            nvml_api.stop(library)
        return self._outcome(gpus)

    def _started(self) -> Library | Unavailable:
        library = self._injected or nvml_api.find(self._root)
        if isinstance(library, Unavailable):
            return library
        return nvml_api.start(library, self._root) or library

    def _outcome(self, gpus: list[_Gpu]) -> Available | Unavailable:
        usable = tuple(gpu for gpu in gpus if gpu.source is not None)
        notes = "; ".join(gpu.note for gpu in gpus)
        if not usable:
            reason = notes or "NVML works, and finds no GPU"
            return Unavailable(reason, _JETSON, is_absent=not gpus)
        if self._library is None:
            self._gpus = usable
        rails = tuple(_rail(gpu, gpu.source) for gpu in usable if gpu.source is not None)
        total = tuple(rail.name for rail in rails)
        return Available(rails, total, Scope.GPU, weakest(rail.provenance for rail in rails), notes)

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable."""
        self.close()
        outcome = None if self._gpus else self.probe()  # rails stay those that were probed
        library = outcome if isinstance(outcome, Unavailable) else self._started()
        if isinstance(library, Unavailable):
            raise SensorError(f"nvml: {library.reason}.", remedy=library.remedy)
        self._library = library
        self._handles = [_handle(library, gpu) for gpu in self._gpus]

    def read(self) -> list[float | None]:
        """Joules since the driver was loaded, or watts, as each GPU's rail says; asks at most 20 times a second."""
        if self._library is None:
            raise SensorError("nvml: not open.", remedy="Call open() first.")
        now_ns = self._clock.monotonic_ns()
        if self._due_ns is None or now_ns >= self._due_ns:
            self._due_ns = now_ns + round(_HOLD_S * 1e9)
            self._failures = {}
            self._held = [self._ask(self._library, i) for i in range(len(self._gpus))]
        if all(value is None for value in self._held):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._failures.items())
            raise SensorError(f"nvml: no GPU tells anything: {reasons}.")
        return list(self._held)

    def _ask(self, library: Library, i: int) -> float | None:
        gpu, handle = self._gpus[i], self._handles[i]
        value, reason = None, "it is gone"
        if handle is not None and gpu.source is not None:
            try:
                value, reason = gpu.source.read(library, handle), "no value"
            except library.NVMLError as error:
                reason = str(error)
        if value is None:
            self._failures[gpu.rail_name] = reason
        return value

    def close(self) -> None:
        library, self._library = self._library, None
        self._handles = []
        self._due_ns = None
        if library is not None:
            nvml_api.stop(library)


def _look(library: Library, index: int) -> _Gpu:
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
    except library.NVMLError as error:
        return _Gpu(index, None, None, None, (f"not counted: {error}",))
    name = nvml_api.plain(nvml_api.ask(library, library.nvmlDeviceGetName, handle) or "a GPU without a name")
    uuid = nvml_api.ask(library, library.nvmlDeviceGetUUID, handle)
    notes = [name] if uuid is None else [f"{name} ({nvml_api.plain(uuid)})"]
    source = _source(library, handle, notes)
    mig = nvml_api.ask(library, library.nvmlDeviceGetMigMode, handle)
    if mig is not None and mig[0] == 1:  # NVML_DEVICE_MIG_ENABLE, the current mode
        notes.append("divided (MIG): all of its instances together")
    if source is not None and _PART_TIME.search(name):
        notes.append(_PART_TIME_NOTE)
    limits_mw = nvml_api.ask(library, library.nvmlDeviceGetPowerManagementLimitConstraints, handle)
    max_power_w = _watts(limits_mw[1]) if limits_mw is not None else None
    return _Gpu(index, None if uuid is None else nvml_api.plain(uuid), source, max_power_w, tuple(notes))


def _source(library: Library, handle: Handle, notes: list[str]) -> _Source | None:
    """The first source that gives a number when called; says in `notes` which, or why there is none."""
    architecture = nvml_api.ask(library, library.nvmlDeviceGetArchitecture, handle)
    usage = _USAGE if architecture is not None and architecture < _AMPERE else _AVERAGED_USAGE
    reasons: dict[str, None] = {}
    for source in (*_SOURCES, usage):
        try:
            if source.read(library, handle) is not None:
                notes.append(source.name)
                return source
            reasons["no value"] = None
        except library.NVMLError as error:
            reasons[str(error)] = None
    notes.append(f"gives neither energy nor power ({', '.join(reasons)}), not counted")
    return None


def _handle(library: Library, gpu: _Gpu) -> Handle | None:
    """By UUID: the order of NVML's indices may change between two starts of it."""
    if gpu.uuid is None:
        return nvml_api.ask(library, library.nvmlDeviceGetHandleByIndex, gpu.index)
    return nvml_api.ask(library, library.nvmlDeviceGetHandleByUUID, gpu.uuid)


def _rail(gpu: _Gpu, source: _Source) -> Rail:
    return Rail(
        name=gpu.rail_name,
        scope=Scope.GPU,
        kind=source.kind,
        provenance=source.provenance,
        min_period_s=_TICK_S,
        resolution=0.001,  # a whole mJ, or mW
        gain_err=_GAIN_ERR,
        offset_err_w=_OFFSET_ERR_W,
        edge_jitter_s=source.stale_s + _HOLD_S,
        max_power_w=gpu.max_power_w,
    )

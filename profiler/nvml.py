"""NVIDIA's management library (NVML), through NVIDIA's own bindings `nvidia-ml-py`, loaded only where they are needed.

API: https://docs.nvidia.com/deploy/nvml-api/. Nothing here converts a unit: that is the work of who asks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from profiler.sensor import Unavailable, sys_dir

MAX_GPUS = 64
MAX_TEXT_CHARS = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE and NVML_DEVICE_NAME_V2_BUFFER_SIZE

_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"  # a Jetson's PCIe bridges and a graphics card's sound have the same vendor

_INSTALL = "Run pip install 'fedmeter[nvidia]'."
_REPLACE = "Run pip uninstall pynvml, then pip install --upgrade 'fedmeter[nvidia]'."  # another package, same module
_DRIVER = "Install NVIDIA's driver; start a container with '--gpus all' (NVIDIA Container Toolkit)."
_NONE_NEEDED = "Use this sensor on a machine with an NVIDIA GPU and its driver."
_LOOK = "Look at what 'nvidia-smi' says."

Handle = Any
"""What NVML calls a device: opaque, and of no use after `nvmlShutdown`."""

T = TypeVar("T")


class Library(Protocol):
    """The part of the module `pynvml` that we use. Every function raises `NVMLError`, whose `value` is the code.

    Energy is in mJ, power in mW, temperature in °C, clocks in MHz, use in percent.
    """

    NVMLError: type[Exception]
    NVML_ERROR_LIBRARY_NOT_FOUND: int
    NVML_ERROR_DRIVER_NOT_LOADED: int
    NVML_ERROR_LIB_RM_VERSION_MISMATCH: int
    NVML_ERROR_NO_PERMISSION: int
    NVML_ERROR_FUNCTION_NOT_FOUND: int

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Handle: ...

    def nvmlDeviceGetName(self, handle: Handle) -> str | bytes: ...

    def nvmlDeviceGetUUID(self, handle: Handle) -> str | bytes: ...

    def nvmlDeviceGetArchitecture(self, handle: Handle) -> int: ...

    def nvmlDeviceGetMigMode(self, handle: Handle) -> Sequence[int]: ...

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle: Handle) -> Sequence[int]: ...

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Handle) -> int: ...

    def nvmlDeviceGetPowerUsage(self, handle: Handle) -> int: ...

    def nvmlDeviceGetFieldValues(self, handle: Handle, field_ids: Sequence[int]) -> Sequence[Any]: ...

    def nvmlDeviceGetSamples(self, handle: Handle, kind: int, since_us: int) -> tuple[int, Sequence[Any]]: ...

    def nvmlDeviceGetUtilizationRates(self, handle: Handle) -> Any: ...

    def nvmlDeviceGetTemperature(self, handle: Handle, sensor: int) -> int: ...

    def nvmlDeviceGetClockInfo(self, handle: Handle, clock: int) -> int: ...


def has_gpu(root: Path) -> bool:
    """Whether there is an NVIDIA GPU below a file system root, going by device nodes and PCI alone."""
    try:
        if any((root / "dev").glob("nvidia*")):
            return True
        devices = sorted((sys_dir(root) / "bus/pci/devices").glob("*"))
        return any(
            _starts(device / "vendor", _VENDOR) and _starts(device / "class", _DISPLAY_CLASS) for device in devices
        )
    except OSError:
        return False


def _starts(path: Path, text: str) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(text)) == text.encode()
    except OSError:
        return False


def find(root: Path) -> Library | Unavailable:
    """The bindings, where NVML can tell of the machine below `root`. Imports nothing where there is no NVIDIA GPU."""
    is_wsl = (root / "dev/dxg").exists()  # under WSL 2 GPUs are behind this node
    if not has_gpu(root) and not is_wsl:
        reason = f"there is no NVIDIA GPU: neither {root / 'dev'}/nvidia* nor a PCI device of vendor {_VENDOR}"
        return Unavailable(reason, _NONE_NEEDED, is_absent=True)
    try:
        library = importlib.import_module("pynvml")
    except ImportError as error:
        return Unavailable(f"nvidia-ml-py cannot be imported: {error}", _INSTALL, is_absent=not has_gpu(root))
    if root.resolve() != Path("/"):
        return Unavailable(f"NVML asks this machine, not the one below {root}", _NONE_NEEDED, is_absent=True)
    lacking = sorted(name for name in vars(Library) if name.startswith("nvml") and not hasattr(library, name))
    if lacking:
        return Unavailable(f"the module pynvml is too old: it lacks {lacking[0]}", _REPLACE)
    return cast(Library, library)


def start(library: Library, root: Path) -> Unavailable | None:
    """Initialise NVML; each success needs one `stop`. That it succeeds says nothing of what a GPU can tell."""
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        return Unavailable(f"NVML cannot be started: {error}", _remedy(library, error), is_absent=not has_gpu(root))
    return None


def _remedy(library: Library, error: Exception) -> str:
    remedies = {
        library.NVML_ERROR_LIBRARY_NOT_FOUND: _DRIVER,
        library.NVML_ERROR_DRIVER_NOT_LOADED: "Run 'sudo modprobe nvidia'; if that fails, install NVIDIA's driver.",
        library.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "Reboot: the driver was updated, and the old one is still loaded.",
        library.NVML_ERROR_NO_PERMISSION: "Let this user open /dev/nvidia*; see 'ls -l /dev/nvidia*'.",
    }
    return remedies.get(getattr(error, "value", -1), _LOOK)


def stop(library: Library) -> None:
    """Undo one `start`. Never raises: somebody else in this process may have shut NVML down."""
    ask(library, library.nvmlShutdown)


def ask(library: Library, call: Callable[..., T], *arguments: Any) -> T | None:
    """What a call gives, or None where NVML refuses it, or gives a name that is no text."""
    try:
        return call(*arguments)
    except (library.NVMLError, UnicodeDecodeError):
        return None


def plain(text: str | bytes) -> str:
    """A name as a device tells it, fit for a note: bounded, printable."""
    told = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else str(text)
    return "".join(character if character.isprintable() else "?" for character in told[:MAX_TEXT_CHARS])


def unsigned(value: Any) -> int | None:
    """The content of a `c_nvmlFieldValue_t`; None where the field was refused, or is no whole number from 0.

    `nvmlDeviceGetFieldValues` succeeds as a whole while each field has a return code of its own. The kind of the value
    (nvmlValueType_t) says which member of the union holds it.
    """
    if value.nvmlReturn != 0:  # NVML_SUCCESS
        return None
    member = _MEMBERS.get(value.valueType)
    number = None if member is None else getattr(value.value, member)
    return number if isinstance(number, int) and number >= 0 else None


# nvmlValueType_t. Doubles and shorts are left out: no field that we ask for has ever been one.
_MEMBERS = {1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal"}

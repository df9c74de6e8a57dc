"""What a machine is and how it is set up: the part of a device record that says under which conditions it was measured.

Flat, one scalar a key, so that it fits a JSON file and a Flower message alike. Works on every Linux, the rest of the
keys only where there is such a thing (see `profiler.jetson_state`). What cannot be read is left out, never 0.
Sources: the kernel's Documentation/ABI/testing/sysfs-devices-system-cpu, sysfs-class-devfreq, sysfs-class-thermal and
sysfs-firmware-dmi; proc(5); os-release(5). Virtual machines are told as systemd does (src/basic/virt.c).
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from profiler.files import folders, head, integer, line, printable, text
from profiler.jetson_state import Fact, Facts, jetson_facts
from profiler.machine import board, cpu_info, cpu_name
from profiler.sensor import sys_dir

_MAX_GROUPS = 16
_MAX_ZONES = 32
_PLAUSIBLE_C = (-40.0, 150.0)
_DUMMY_ZONE = "PMIC-Die"  # 100 °C for ever on Jetsons up to Xavier: a number in the device tree, no sensor
_GPU = re.compile(r"gpu|gm20b|gp10b|gv11b|ga10b|gb10b|kgsl|mali")  # names of devfreq devices: Tegra, Adreno, Mali
_KEY = re.compile(r"[^A-Za-z0-9_-]")

_MAKERS = {  # what firmware of virtual machines says of itself, in the order of asking
    "KVM": "kvm",
    "OpenStack": "kvm",
    "Amazon EC2": "amazon",
    "QEMU": "qemu",
    "VMware": "vmware",
    "innotek GmbH": "virtualbox",
    "VirtualBox": "virtualbox",
    "Xen": "xen",
    "Bochs": "bochs",
    "Parallels": "parallels",
    "BHYVE": "bhyve",
    "Google Compute Engine": "google",
    "Apple Virtualization": "apple",
}


def machine_facts(root: Path = Path("/")) -> Facts:
    """Everything known of the machine below `root` now. Never raises.

    `system`, `release`, `machine` and `python` are those of this process. Clocks in Hz: CPUs of equal limits make one
    group, `cpufreq.0.cpus` (0-5), `.governor`, `.min_hz`, `.max_hz` and `.now_hz` (the mean); GPUs are `gpu.0`, ....
    `clocks_pinned`: every CPU and GPU is kept at one frequency, as `jetson_clocks` does. Temperatures are
    `temperature.<zone>_c`.
    """
    try:
        sys_ = sys_dir(root)
    except OSError:  # a root that may not be entered; then nothing below it can be read either
        sys_ = root / "sys"
    cpus, gpus = _cpu_clocks(sys_), _gpu_clocks(sys_)
    facts: dict[str, Fact | None] = {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "os": _os_name(root),
        "model": _model(root, sys_),
        "cpu_model": cpu_name(root) or None,
        "memory_bytes": _memory_bytes(root),
        "cpus_online": line(sys_ / "devices/system/cpu/online"),
        "governor": line(sys_ / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "virtual_machine": _virtual_machine(root, sys_),
        "container": _container(root),
        **_numbered("cpufreq", cpus),
        **_numbered("gpu", gpus),
        "clocks_pinned": _are_pinned(cpus, gpus),
        **_temperatures(sys_),
        **jetson_facts(root, sys_),
    }
    return {name: value for name, value in facts.items() if value is not None and value != ""}


@dataclass(frozen=True, slots=True)
class _Clock:
    """A GPU, or CPUs of equal limits. `name` is the device, or the CPUs as in 0-3,6."""

    name: str
    governor: str | None
    min_hz: int | None
    max_hz: int | None
    now_hz: int | None


def _are_pinned(cpus: Sequence[_Clock], gpus: Sequence[_Clock]) -> bool | None:
    """None where there is a limit that nobody tells."""
    clocks = (*cpus, *gpus)
    if not cpus or not gpus or any(None in (clock.min_hz, clock.max_hz) for clock in clocks):
        return None
    return all(clock.min_hz == clock.max_hz for clock in clocks)


def _numbered(kind: str, clocks: Sequence[_Clock]) -> dict[str, Fact | None]:
    facts: dict[str, Fact | None] = {}
    for n, clock in enumerate(clocks[:_MAX_GROUPS]):
        facts[f"{kind}.{n}.{'cpus' if kind == 'cpufreq' else 'name'}"] = clock.name
        facts[f"{kind}.{n}.governor"] = clock.governor
        facts[f"{kind}.{n}.min_hz"] = clock.min_hz
        facts[f"{kind}.{n}.max_hz"] = clock.max_hz
        facts[f"{kind}.{n}.now_hz"] = clock.now_hz
    return facts


def _cpu_clocks(sys_: Path) -> list[_Clock]:
    """Policies with the same governor and limits as one: a server has one policy a CPU."""
    groups: dict[tuple[str | None, int | None, int | None], tuple[list[int], list[int]]] = {}
    for policy in folders(sys_ / "devices/system/cpu/cpufreq", "policy*"):
        low_khz, high_khz = integer(policy / "scaling_min_freq"), integer(policy / "scaling_max_freq")
        cpus, now_khz = groups.setdefault((line(policy / "scaling_governor"), low_khz, high_khz), ([], []))
        cpus += [int(cpu) for cpu in (line(policy / "affected_cpus") or "").split() if cpu.isdigit()]
        khz = integer(policy / "scaling_cur_freq")
        now_khz += [] if khz is None else [khz]
    return [
        _Clock(
            ranges(cpus), governor, _hz(low), _hz(high), _hz(round(sum(now_khz) / len(now_khz)) if now_khz else None)
        )
        for (governor, low, high), (cpus, now_khz) in groups.items()
    ]


def _hz(khz: int | None) -> int | None:
    return None if khz is None else khz * 1000


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as the kernel lists CPUs: 0-3,6."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][-1] == number - 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def _gpu_clocks(sys_: Path) -> list[_Clock]:
    return [
        _Clock(
            printable(folder.name),
            line(folder / "governor"),
            integer(folder / "min_freq"),
            integer(folder / "max_freq"),
            integer(folder / "cur_freq"),
        )
        for folder in folders(sys_ / "class/devfreq", "*")
        if _GPU.search(folder.name) and len(folder.name) <= 64
    ]


def _temperatures(sys_: Path) -> Facts:
    """Every thermal zone by its type (m°C in sysfs). A zone that is off answers EAGAIN and is left out."""
    facts: Facts = {}
    for zone in folders(sys_ / "class/thermal", "thermal_zone*")[:_MAX_ZONES]:
        kind, milli = line(zone / "type"), integer(zone / "temp")
        if kind is None or kind == _DUMMY_ZONE or milli is None or not _PLAUSIBLE_C[0] < milli / 1e3 < _PLAUSIBLE_C[1]:
            continue
        key = f"temperature.{_KEY.sub('_', kind)[:40]}"
        same = sum(name.removesuffix("_c").partition("@")[0] == key for name in facts)
        facts[f"{key}@{same}_c" if same else f"{key}_c"] = milli / 1e3
    return facts


def _os_name(root: Path) -> str | None:
    for row in (text(root / "etc/os-release") or "").splitlines():
        name, _, value = row.partition("=")
        if name == "PRETTY_NAME":
            return printable(value.strip().strip("\"'")) or None
    return None


def _model(root: Path, sys_: Path) -> str | None:
    """The board out of the device tree, else maker and product out of the firmware's tables (DMI)."""
    if named := board(root):
        return named
    dmi = sys_ / "class/dmi/id"
    names = [name for name in (line(dmi / "sys_vendor"), line(dmi / "product_name")) if name]
    return " ".join(names) or None


def _memory_bytes(root: Path) -> int | None:
    match = re.match(r"MemTotal:\s{1,32}(\d{1,15}) kB", text(root / "proc/meminfo") or "")
    return int(match[1]) * 1024 if match else None


def _virtual_machine(root: Path, sys_: Path) -> str | None:
    """Whose virtual machine this is; `unknown` where the CPU says that there is one; None where nothing says so."""
    dmi = sys_ / "class/dmi/id"
    for name in ("product_name", "sys_vendor", "board_vendor", "bios_vendor"):
        said = line(dmi / name) or ""
        for maker, kind in _MAKERS.items():
            if said.startswith(maker):
                return kind
    if (line(dmi / "sys_vendor"), line(dmi / "product_name")) == ("Microsoft Corporation", "Virtual Machine"):
        return "microsoft"
    is_guest = "hypervisor" in cpu_info(root).get("flags", "").split()
    return line(sys_ / "hypervisor/type") or ("unknown" if is_guest else None)


def _container(root: Path) -> str | None:
    """What runs this container, as far as its marks tell: files of Docker and Podman, systemd's, the control groups."""
    return next(_container_marks(root), None)


def _container_marks(root: Path) -> Iterator[str]:
    for path, kind in (("run/.containerenv", "podman"), (".dockerenv", "docker")):
        if head(root / path, 1) is not None:
            yield kind
    told = line(root / "run/systemd/container")
    if told:
        yield told
    for kind in ("kubepods", "docker", "libpod", "lxc", "containerd"):
        if f"/{kind}" in (text(root / "proc/1/cgroup") or ""):
            yield kind

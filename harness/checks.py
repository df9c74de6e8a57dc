"""`--check`: what can be told of each device before a run, all of them at a time and none for ever."""

from __future__ import annotations

import asyncio
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fl.threads import in_daemon_thread
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, launcher_class
from profiler.errors import FedmeterError
from profiler.files import printable
from profiler.jetson_state import Facts
from profiler.sensor import Available, Probe

AT_ONCE = 16
LIMIT_S = 180.0
_CELL_CHARS = 300


def check_devices(
    devices: Sequence[DeviceSpec], *, at_once: int = AT_ONCE, limit_s: float = LIMIT_S
) -> list[DeviceCheck]:
    """One of each, in order. A check that does not end within `limit_s` has failed, and is left to itself."""

    async def check_all() -> list[DeviceCheck]:
        places = asyncio.Semaphore(at_once)

        async def check_in_turn(device: DeviceSpec) -> DeviceCheck:
            async with places:
                try:
                    return await asyncio.wait_for(in_daemon_thread(_check, device), limit_s)
                except asyncio.TimeoutError:
                    return DeviceCheck(False, f"no answer within {limit_s:g} s", reachable=False)

        return list(await asyncio.gather(*map(check_in_turn, devices)))

    return asyncio.run(check_all())


def _check(device: DeviceSpec) -> DeviceCheck:
    try:
        return launcher_class(device.launcher).check(device)
    except (FedmeterError, OSError) as error:
        return DeviceCheck(False, str(error))


def of_this_host(outcome: DeviceCheck, probes: Sequence[Probe], machine: Facts) -> DeviceCheck:
    """A check of a device whose client runs here, with what there is to say of this machine."""
    sensors = tuple(
        (probe.sensor.name, probe.outcome.provenance.value) for probe in probes if isinstance(probe.outcome, Available)
    )
    return replace(
        outcome,
        reachable=True,
        version=_own_version(),
        machine=f"{platform.machine()}, Python {platform.python_version()}",
        sensors=sensors,
        clock_offset_s=(0.0, 0.0),
        free_bytes=shutil.disk_usage(Path.cwd()).free,
        power_mode=power_mode(machine),
    )


def power_mode(machine: Mapping[str, Any]) -> str | None:
    """The power mode of a Jetson, or else the governor of the first CPUs; None where neither is known."""
    mode, governor = machine.get("power_mode"), machine.get("cpufreq.0.governor")
    found = mode or (governor and f"governor {governor}")
    return printable(str(found), 64) if found else None


def check_json(device: DeviceSpec, outcome: DeviceCheck) -> dict[str, Any]:
    told = asdict(outcome)
    sensors = [{"sensor": name, "provenance": provenance} for name, provenance in outcome.sensors or ()]
    told["sensors"] = None if outcome.sensors is None else sensors
    return {"device": device.id, "processor": device.processor, "launcher": device.launcher, **told}


def check_row(device: DeviceSpec, outcome: DeviceCheck) -> dict[str, str]:
    """One line of the table. `-` stands for what nobody has asked, or nobody has told."""
    sensors = outcome.sensors and ", ".join(f"{name} ({provenance})" for name, provenance in outcome.sensors)
    cells = {
        "device": device.id,
        "processor": device.processor,
        "ok": "yes" if outcome.ok else "NO",
        "reachable": None if outcome.reachable is None else "yes" if outcome.reachable else "NO",
        "version": outcome.version,
        "machine": outcome.machine,
        "sensors": "none" if outcome.sensors == () else sensors,
        "clock (ms)": outcome.clock_offset_s and _bounds(*outcome.clock_offset_s),
        "free (GB)": None if outcome.free_bytes is None else f"{outcome.free_bytes / 1e9:.1f}",
        "power mode": outcome.power_mode,
        "detail": outcome.detail,
    }
    return {name: printable(cell, _CELL_CHARS) if cell else "-" for name, cell in cells.items()}


def _bounds(low_s: float, high_s: float) -> str:
    return "the same" if low_s == high_s == 0 else f"{1e3 * low_s:+.2f} to {1e3 * high_s:+.2f}"


def _own_version() -> str | None:
    try:
        return version("fedmeter")
    except PackageNotFoundError:
        return None

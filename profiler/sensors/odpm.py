"""On-device power monitor (ODPM): the energy that supply rails of a Pixel 6 or later have carried, accumulated.

Two ways to it. Root reads the driver's files `/sys/bus/iio/devices/iio:device*/energy_value`: a line
`CH0(T=349894)[S10M_VDD_TPU], 5578756` a channel, in µWs since boot, as IioEnergyMeterDataProvider.cpp of
https://android.googlesource.com/platform/hardware/google/pixel parses them. The shell user gets the same from the
power stats service, `dumpsys android.hardware.power.stats.IPowerStats/default`, in mWs: PowerStatsAidl.cpp there
prints `[CHANNEL]:SUBSYSTEM  1039108.42 mWs` below a heading of its own, from a 32-bit float.

Without `delta`, an argument which makes the service remember what it last told, to anybody.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from profiler.quantities import Provenance, Rail, RailKind, Scope

SERVICE = "dumpsys android.hardware.power.stats.IPowerStats/default"

_HEADING = "PowerStats HAL 2.0 energy meter"
_NAME = r"(?P<name>[A-Za-z0-9_.-]{1,64})"
_CHANNEL = re.compile(rf"CH[0-9]{{1,3}}\(T=[0-9]{{1,19}}\)\[{_NAME}\],[ \t]*(?P<uj>[0-9]{{1,19}})[ \t]*")
_METER = re.compile(
    rf"[ \t]*\[{_NAME}\]:[^\r\n]{{0,64}}?[ \t]+(?P<mj>[0-9]{{1,15}}\.[0-9]{{2}}) mWs"
    r"[ \t]*(\([^()\r\n]{1,32}\))?[ \t]*"
)
_MAX_RAILS = 64
_FILE_STEP_J = 1e-6
_SERVICE_STEP_J = 1e-5
_FLOAT_BITS = 24  # the mantissa of the float that the service prints from
_GAIN_ERR = 0.05  # no accuracy is documented: our assumption, no specification
# Rails called L1S_..., L15M_... come from regulators behind another rail's converter (S6M_LLDO1 and the like), so
# that they may be counted there. Our reading of the names, as no document says which feeds which.
_BEHIND_ANOTHER = re.compile(r"L[0-9]+[A-Z]_.*")


def parse_energy_value(text: str) -> dict[str, float]:
    """Joules of every channel of one `energy_value` file, by name.

    Raises ValueError where there is none, one comes twice, or a line is not understood: it may have been cut off.
    """
    energies_j: dict[str, float] = {}
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not re.fullmatch(r"t=[0-9]{1,19}[ \t]*", lines[0]):
        raise ValueError(f"this is no energy_value: {text[:80]!r}")
    for line in lines[1 : _MAX_RAILS + 1]:
        match = _CHANNEL.fullmatch(line)
        if match is None or match["name"] in energies_j:
            raise ValueError(f"energy_value has a line that is not understood: {line[:80]!r}")
        energies_j[match["name"]] = int(match["uj"]) / 1e6
    if not energies_j:
        raise ValueError("energy_value has no channel")
    return energies_j


def parse_service(text: str) -> dict[str, float]:
    """Joules of every channel that the power stats service prints, by name, with or without its `delta` column.

    Raises ValueError where there is none: a phone without the hardware, or without the service.
    """
    _, heading, rest = text.partition(_HEADING)
    energies_j: dict[str, float] = {}
    for line in rest.partition("End of ")[0].splitlines():
        match = _METER.fullmatch(line)
        if match is not None and len(energies_j) < _MAX_RAILS:
            energies_j.setdefault(match["name"], float(match["mj"]) / 1e3)
    if not heading or not energies_j:
        raise ValueError(f"the power stats service tells no rails: {text.strip()[:80]!r}")
    return energies_j


def float_step_j(energy_j: float) -> float:
    """By how much the service's figure jumps near an energy: two digits of a mWs, or the step of a 32-bit float of µWs.

    A counter of 86 kJ, a day at 1 W, moves in steps of 8 mJ. Taken at twice the energy, so that the counter has room.
    """
    _, exponent = math.frexp(2 * max(energy_j, 1e-6) * 1e6)
    return float(max(_SERVICE_STEP_J, 2.0 ** (exponent - _FLOAT_BITS) / 1e6))


def odpm_rails(
    energies_j: Mapping[str, float], *, is_service: bool, stale_s: float, min_period_s: float, parent: str | None
) -> tuple[Rail, ...]:
    """One counter a channel. A channel behind another has no parent of a known name; `summed` leaves it out."""
    return tuple(
        Rail(
            name=name,
            scope=Scope.RAIL,
            kind=RailKind.COUNTER_J,
            provenance=Provenance.COUNTER,
            min_period_s=min_period_s,
            resolution=float_step_j(energy_j) if is_service else _FILE_STEP_J,
            gain_err=_GAIN_ERR,
            edge_jitter_s=stale_s,
            parent=parent,
        )
        for name, energy_j in energies_j.items()
    )


def summed(names: Mapping[str, float]) -> tuple[str, ...]:
    """The channels whose sum counts nothing twice; all of them where there would be none left."""
    return tuple(name for name in names if not _BEHIND_ANOTHER.fullmatch(name)) or tuple(names)

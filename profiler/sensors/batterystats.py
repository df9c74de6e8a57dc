"""What `dumpsys batterystats --checkin` prints: energy by app as Android's own model sees it. An estimate, no measure.

Lines of comma-separated values: version, user id, kind of total, section, values, as BatteryStats.java of AOSP writes
them (dumpCheckinLocked): `vers`, `uid` (a package of a user id), `pws` (capacity, modelled and measured discharge),
`pwi` (mAh a user id or a component), and the history `h`. Time in the history is in ms since the line before it.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from profiler.quantities import EnergyReading, Provenance, Scope

MAX_BYTES = 16_777_216
COMMAND = "dumpsys batterystats --checkin"
J_PER_MAH_V = 3.6  # 1 mAh is 3.6 C

_FORMATS = ("8", "9")  # the first field: the version of the list itself
_SINCE_CHARGED = "l"
_MAX_HISTORY = 1_000_000
_HISTORY_TIME = re.compile(r"([0-9]{1,12})(:.*)?")
_VALUE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?(E-?[0-9]{1,2})?")
_UID = re.compile(r"[0-9]{1,9}")
# Approximate models of the power of phones' processors were off by up to 959 % in federated learning, against less
# than 10 % for one calibrated on the device (arXiv 2605.27601). Nobody bounds that of batterystats: the widest cited
# error is taken, on either side.
MODEL_ERR = 9.59


@dataclass(frozen=True, slots=True)
class Moment:
    """The battery at a moment of the history, `t_s` after its first line. What was not told yet is None."""

    t_s: float
    level_percent: int | None
    voltage_v: float | None
    charge_mah: float | None


@dataclass(frozen=True, slots=True)
class Checkin:
    """Everything since the last full charge or reset.

    `uid_mah` are what the model gives to user ids (an app has one, or shares it with others), `components_mah` to
    screen, radios and so on, seen another way: the two are never added. `discharge_mah` are the limits of what really
    left the battery.
    """

    version: int
    packages: Mapping[int, tuple[str, ...]]
    capacity_mah: float | None
    computed_mah: float | None
    discharge_mah: tuple[float, float] | None
    uid_mah: Mapping[int, float]
    components_mah: Mapping[str, float]
    history: tuple[Moment, ...]

    @property
    def voltage_v(self) -> float | None:
        """The mean over time of the voltages of the history; None where it has none."""
        told = [moment for moment in self.history if moment.voltage_v is not None]
        steps = [(b.t_s - a.t_s, a.voltage_v or 0.0) for a, b in itertools.pairwise(told)]
        duration_s = math.fsum(dt_s for dt_s, _ in steps)
        if duration_s <= 0:
            return told[-1].voltage_v if told else None
        return math.fsum(dt_s * voltage_v for dt_s, voltage_v in steps) / duration_s

    def uids_of(self, package: str) -> tuple[int, ...]:
        """The user ids a package runs under: one for each user of the phone."""
        return tuple(uid for uid, names in self.packages.items() if package in names)


@dataclass(slots=True)
class _Found:
    """What was read so far."""

    version: int | None = None
    packages: dict[int, list[str]] = field(default_factory=dict)
    capacity_mah: float | None = None
    computed_mah: float | None = None
    discharge_mah: tuple[float, float] | None = None
    uid_mah: dict[int, float] = field(default_factory=dict)
    components_mah: dict[str, float] = field(default_factory=dict)
    history: list[Moment] = field(default_factory=list)
    t_ms: int = 0
    level_percent: int | None = None
    voltage_v: float | None = None
    charge_mah: float | None = None


def parse_checkin(text: str) -> Checkin:
    """Raises ValueError, with the line, where this is no such list, or one of its figures makes no sense."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"batterystats printed more than {MAX_BYTES} characters")
    found = _Found()
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            _take(found, _fields(line))
        except (ValueError, IndexError) as error:
            raise ValueError(f"batterystats, line {number}: {error}: {line[:80]!r}") from error
    if found.version is None:
        raise ValueError(f"batterystats printed no version: {text.strip()[:80]!r}")
    return Checkin(
        version=found.version,
        packages={uid: tuple(names) for uid, names in found.packages.items()},
        capacity_mah=found.capacity_mah,
        computed_mah=found.computed_mah,
        discharge_mah=found.discharge_mah,
        uid_mah=found.uid_mah,
        components_mah=found.components_mah,
        history=tuple(found.history),
    )


def _fields(line: str) -> list[str]:
    """Texts are in quotes, in which a backslash stands before a quote. A line by itself: no quote runs on."""
    if not line.startswith(_FORMATS):
        return []
    try:
        return next(csv.reader([line.rstrip("\r")], doublequote=False, escapechar="\\"))
    except csv.Error as error:
        raise ValueError(f"{error}") from error


def _take(found: _Found, row: list[str]) -> None:
    if len(row) < 3 or row[0] not in _FORMATS:
        return
    if row[1] == "h":
        _take_history(found, row)
    elif row[2:4] == ["i", "vers"]:
        found.version = int(_checked(_UID, row[4]))
    elif row[2:4] == ["i", "uid"]:
        names = found.packages.setdefault(int(_checked(_UID, row[4])), [])
        names += [row[5]] if row[5] not in names else []
    elif row[2:4] == [_SINCE_CHARGED, "pws"]:
        found.capacity_mah, found.computed_mah = _mah(row[4]), _mah(row[5])
        found.discharge_mah = _mah(row[6]), _mah(row[7])
    elif row[2:4] == [_SINCE_CHARGED, "pwi"]:
        _take_item(found, row)


def _take_item(found: _Found, row: list[str]) -> None:
    """A row `pwi`: of a user id where it says `uid`, else of a component, whatever user it is kept under."""
    if row[4] == "uid":
        uid = int(_checked(_UID, row[1]))
        if uid in found.uid_mah:
            raise ValueError(f"user id {uid} comes twice")
        found.uid_mah[uid] = _mah(row[5])
    else:
        found.components_mah[row[4]] = found.components_mah.get(row[4], 0.0) + _mah(row[5])


def _take_history(found: _Found, row: list[str]) -> None:
    """`9,h,2500,Bl=99,Bv=4395`: what changed, and how long after the line before."""
    match = _HISTORY_TIME.fullmatch(row[2])
    if match is None or len(found.history) >= _MAX_HISTORY:
        return
    found.t_ms += int(match[1])
    for word in row[3:]:
        key, equals, value = word.partition("=")
        if equals and key in ("Bl", "Bv", "Bcc"):
            number = int(_checked(_UID, value))
            if key == "Bl":
                found.level_percent = number
            elif key == "Bv":
                found.voltage_v = number / 1e3 if number > 0 else None
            else:
                found.charge_mah = float(number)
    found.history.append(Moment(found.t_ms / 1e3, found.level_percent, found.voltage_v, found.charge_mah))


def _mah(text: str) -> float:
    return float(_checked(_VALUE, text))


def _checked(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no number")
    return text


def energy_of_uid(checkin: Checkin, uid: int, *, voltage_v: float | None = None) -> EnergyReading:
    """What Android's model gives to a user id since the last reset, as an estimate: J = mAh * 3.6 * V.

    The voltage is that of the history, unless told. The error is the widest that is cited of such models, 959 % of the
    estimate, taken as limits of a rectangular distribution, k = 2: this figure may rank apps, it does not measure them.
    """
    rail = f"uid {uid}"
    used_v = checkin.voltage_v if voltage_v is None else voltage_v
    if uid not in checkin.uid_mah:
        return EnergyReading.missing(rail, Scope.PROCESS, "batterystats lists no use of this user id")
    if used_v is None:
        reason = "batterystats tells charge, and its history no voltage: give one"
        return EnergyReading.missing(rail, Scope.PROCESS, reason)
    if not 0 < used_v < 100:
        raise ValueError(f"voltage_v must be above 0 and below 100, got {used_v}")
    energy_j = checkin.uid_mah[uid] * J_PER_MAH_V * used_v
    names = checkin.packages.get(uid, ())
    return EnergyReading(
        rail,
        energy_j,
        2 * MODEL_ERR * energy_j / math.sqrt(3),
        Provenance.ESTIMATED,
        Scope.PROCESS,
        coverage=1.0,
        reason=f"shared by {', '.join(names)}" if len(names) > 1 else None,
    )


def energy_of_package(checkin: Checkin, package: str, *, voltage_v: float | None = None) -> EnergyReading:
    """`energy_of_uid` of the one user id a package runs under; missing where there is none, or several."""
    uids = checkin.uids_of(package)
    if len(uids) != 1:
        reason = f"runs under the user ids {uids}: ask for one" if uids else "batterystats knows no such package"
        return EnergyReading.missing(package, Scope.PROCESS, reason)
    return energy_of_uid(checkin, uids[0], voltage_v=voltage_v)

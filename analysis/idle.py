"""Net energy: gross energy less what the same meter's idle power is in it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from profiler.records import Row

Values = npt.NDArray[np.float64]
_decode_charged = msgspec.json.Decoder(dict[str, Annotated[float, msgspec.Meta(ge=0)]]).decode


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Idle power of one meter in a run, W, with its expanded uncertainty (k = 2)."""

    power_w: float
    err_w: float


def idle_powers(records: Iterable[Row]) -> dict[str, IdlePower]:
    """Idle power by meter, from the idle records of one run: the mean of those before and after its tasks.

    One meter's errors do not average out over its baselines, so the largest one stands. What the baselines differ by is
    a drift: the limits ± half their range, taken as rectangular (JCGM 100:2008, 4.3.7), join it.
    """
    powers_w: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in records:
        if row.get("energy_j") is not None and row["duration_s"] > 0:
            seconds = row["duration_s"]
            powers_w[row["device"]].append((row["energy_j"] / seconds, (row.get("energy_err_j") or 0.0) / seconds))
    return {meter: _mean_power(baselines) for meter, baselines in powers_w.items()}


def _mean_power(baselines: list[tuple[float, float]]) -> IdlePower:
    taken_w = [power_w for power_w, _ in baselines]
    drift_w = 2 * (max(taken_w) - min(taken_w)) / 2 / math.sqrt(3)
    worst_w = max(err_w for _, err_w in baselines)
    return IdlePower(math.fsum(taken_w) / len(taken_w), math.hypot(worst_w, drift_w))


def net_energy(row: Row, powers: Mapping[str, IdlePower]) -> tuple[float | None, float | None]:
    """Net joules of a span or round and their error; None where gross energy or an idle power is not known.

    The errors are taken as independent, which overstates them where one offset is in both. Raises ValueError where
    `idle_s` does not map meters to seconds.
    """
    energy_j, err_j, idle_s = row.get("energy_j"), row.get("energy_err_j"), row.get("idle_s")
    if energy_j is None or err_j is None or idle_s is None:
        return None, None
    charged_s = _checked(idle_s)
    if not charged_s.keys() <= powers.keys():
        return None, None
    idle_j = math.fsum(powers[meter].power_w * seconds for meter, seconds in charged_s.items())
    idle_err_j = math.fsum(powers[meter].err_w * seconds for meter, seconds in charged_s.items())
    return energy_j - idle_j, math.hypot(err_j, idle_err_j)


def net_energies(
    energy_j: Values, err_j: Values, idle_s: Iterable[str | None], powers: Mapping[str, IdlePower]
) -> tuple[Values, Values]:
    """The same of many, as float64[n] with NaN for what is not known; `idle_s` is JSON. Raises ValueError."""
    watts = {meter: (power.power_w, power.err_w) for meter, power in powers.items()}
    idle = np.array([_idle_joules(text, watts) for text in idle_s], dtype=np.float64).reshape(-1, 2)
    known = ~np.isnan(energy_j + err_j + idle[:, 0])
    return (
        np.where(known, energy_j - idle[:, 0], math.nan),
        np.where(known, np.hypot(err_j, idle[:, 1]), math.nan),
    )


def _idle_joules(idle_s: str | None, watts: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Idle energy and its error, in joules; NaN where a meter's power is not known."""
    if idle_s is None:
        return math.nan, math.nan
    charged_s = _charged(idle_s)
    if not charged_s.keys() <= watts.keys():
        return math.nan, math.nan
    parts = [(watts[meter][0] * seconds, watts[meter][1] * seconds) for meter, seconds in charged_s.items()]
    if len(parts) == 1:  # nearly always
        return parts[0]
    return math.fsum(part[0] for part in parts), math.fsum(part[1] for part in parts)


def _charged(idle_s: str) -> dict[str, float]:
    try:
        return _decode_charged(idle_s)
    except msgspec.ValidationError:
        return _checked(json.loads(idle_s))  # which says what is wrong


def _checked(idle_s: object) -> dict[str, float]:
    if not isinstance(idle_s, dict):
        raise ValueError(f"idle_s must map meters to seconds, got {idle_s!r:.80}")
    for seconds in idle_s.values():
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise ValueError(f"idle_s must hold seconds, got {seconds!r:.80}")
    return idle_s

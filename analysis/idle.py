"""Net energy: gross energy less what the same meter's idle power is in it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from profiler.records import Row


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


def _checked(idle_s: object) -> dict[str, float]:
    if not isinstance(idle_s, dict):
        raise ValueError(f"idle_s must map meters to seconds, got {idle_s!r:.80}")
    for seconds in idle_s.values():
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise ValueError(f"idle_s must hold seconds, got {seconds!r:.80}")
    return idle_s

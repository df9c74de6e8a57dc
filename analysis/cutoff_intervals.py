"""Intervals of all rules: by bootstrap, and of what is recommended by the intervals that it is made of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.cutoff_resampling import Pool, bootstrap_intervals
from analysis.cutoff_rules import KINDS, Problem, Rules, recommended, rule_name
from analysis.stats import Interval


def rule_intervals(
    problem: Problem, taus_s: Mapping[str, float], *, seed: int = 0
) -> tuple[dict[str, Interval | None], Mapping[str, Pool]]:
    """Rule's name -> its 90 % interval around its τ in `taus_s`, and the pools that were drawn from.

    Drawn are fewer fits than there may be, see `pool_of_windows`; their intervals are moved to the estimate of all.
    """
    rules, pools = Rules.to_resample(problem, np.random.default_rng(seed))
    found = bootstrap_intervals(pools, rules.estimate, rules.needs(), seed=seed)
    reduced = rules.estimate(rules.weights())
    moved = {
        name: interval and _moved(interval, taus_s[name] - float(reduced[name][0])) for name, interval in found.items()
    }
    for processor in problem.by_processor:
        moved[rule_name("recommended", processor)] = _of_recommended(rules, moved, taus_s, processor)
    return moved, pools


def _moved(interval: Interval, by_s: float) -> Interval:
    return max(0.0, interval[0] + by_s), max(0.0, interval[1] + by_s)


def _of_recommended(
    rules: Rules, intervals: Mapping[str, Interval | None], taus_s: Mapping[str, float], processor: str
) -> Interval | None:
    """The recommendation of all lower ends, and that of all upper ones: it only grows with each τ that it is made of.

    A bootstrap of the clipped τ itself is too narrow near the clip, where the estimate has a corner.
    """
    limits = rules.problem.limits
    parts = ["accuracy", *(["knee"] if np.isfinite(taus_s[rule_name("knee", processor)]) else [])]
    parts += ["time"] if limits.max_slowdown is not None else []
    parts += ["energy"] if limits.max_energy_j is not None else []
    known = {kind: interval for kind in parts if (interval := intervals[rule_name(kind, processor)]) is not None}
    if len(known) < len(parts):
        return None
    low, high = ({kind: np.array([known[kind][end] if kind in known else np.nan]) for kind in KINDS} for end in (0, 1))
    return float(recommended(low, rules.longest_allowed(low))[0]), float(
        recommended(high, rules.longest_allowed(high))[0]
    )

"""Do the 90 % intervals of cutoffs hold the best τ in 85 to 95 % of experiments? 500 of ten runs, every rule.

python -m tests.soak.intervals [--experiments N] [--runs N]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from analysis.cutoff_intervals import rule_intervals
from analysis.cutoff_resampling import ENOUGH_UNITS
from analysis.cutoff_rules import Rules
from analysis.stats import Interval
from tests.fixtures.cutoff_experiments import drawn, true_taus_s

LOW, HIGH = 0.85, 0.95
N_EXPERIMENTS = 500
WATCHED = ("parity slow", "time slow", "energy slow", "joint fast", "accuracy slow", "knee slow", "recommended slow")


def intervals(seed: int, n_runs: int) -> dict[str, Interval | None]:
    """Of every rule, in one experiment."""
    problem = drawn(seed, n_runs)
    rules = Rules.of_all(problem)
    taus_s = {name: float(tau_s[0]) for name, tau_s in rules.estimate(rules.weights()).items()}
    return rule_intervals(problem, taus_s, seed=seed)[0]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=N_EXPERIMENTS)
    parser.add_argument("--runs", type=int, default=ENOUGH_UNITS)
    arguments = parser.parse_args(argv)
    true_s = true_taus_s()
    held: Counter[str] = Counter()
    with ProcessPoolExecutor() as workers:
        for found in workers.map(partial(intervals, n_runs=arguments.runs), range(arguments.experiments), chunksize=5):
            for rule in WATCHED:
                interval = found[rule]
                held[rule] += interval is not None and interval[0] <= true_s[rule] <= interval[1]
    parts = {rule: held[rule] / arguments.experiments for rule in WATCHED}
    for rule, part in parts.items():
        print(f"{rule}: the interval holds {true_s[rule]:.3f} s in {100 * part:.1f} %")
    return 0 if all(LOW <= part <= HIGH for part in parts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.soak.honesty`: stated against true errors, over more spans than the tests have time for.

Exits with 1 where a class of sensor leaves 93-99 %, or where the median bound exceeds 4 times the median true error (7
with gaps).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import fmean

from tests.profiler.honesty import CLASSES, Honesty, judge
from tests.profiler.synthetic import SensorClass

MIN_COVERAGE, MAX_COVERAGE = 0.93, 0.99
MAX_RATIO, MAX_RATIO_WITH_GAPS = 4.0, 7.0


def max_ratio(kind: SensorClass) -> float:
    return MAX_RATIO_WITH_GAPS if kind.outages[1] > 0 else MAX_RATIO


def is_honest(kind: SensorClass, coverage: float, ratio: float) -> bool:
    return MIN_COVERAGE <= coverage <= MAX_COVERAGE and ratio <= max_ratio(kind)


def soak(kind: SensorClass, n_spans: int, seeds: Sequence[int]) -> bool:
    """Prints one line an estimator; whether both are honest over all seeds together."""
    by_name: dict[str, list[Honesty]] = {}
    for seed in seeds:
        for name, honesty in judge(kind, n_spans, seed).items():
            by_name.setdefault(name, []).append(honesty)
    honest = True
    for name, found in by_name.items():
        coverage, ratio = fmean(one.coverage for one in found), fmean(one.ratio for one in found)
        good = is_honest(kind, coverage, ratio)
        low, high = min(one.coverage for one in found), max(one.coverage for one in found)
        n_spans_known, bias = sum(one.n_spans for one in found), fmean(one.bias for one in found)
        print(
            f"{kind.name:18} {name:9} {n_spans_known:7} spans  {coverage:6.1%} ({low:.1%} to {high:.1%} a seed)  "
            f"bound/error {ratio:.2f}  bias {bias:+.2f}  {'ok' if good else 'NOT HONEST'}"
        )
        honest &= good
    return honest


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds (default 20)")
    parser.add_argument("--spans", type=int, default=2_050, help="spans a class and a seed (default 2050)")
    options = parser.parse_args(argv)
    return 0 if all([soak(kind, options.spans, range(options.seeds)) for kind in CLASSES]) else 1


if __name__ == "__main__":
    sys.exit(main())

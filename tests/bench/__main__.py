"""`make bench`: what the instrument itself costs, each figure beside a peer in the same run, as a ratio.

The machine should be idle. Each figure is the median of several repeats, ours and the peer's in turn. Names run some of
them: `python -m tests.bench sampling footprint`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from tabulate import tabulate

from tests.bench.analysis import million, results, results_10m
from tests.bench.engines import flower_engines
from tests.bench.figures import Figure
from tests.bench.flower import flower, flower_100, flower_1000
from tests.bench.metering import footprint, sampling
from tests.bench.peers import peers
from tests.bench.prediction import prediction
from tests.bench.simulation import simulation
from tests.bench.slowdown import slowdown
from tests.bench.speed import decoding, folding, fronts, importing
from tests.bench.starting import starting
from tests.bench.training import training

BENCHES: dict[str, Callable[[], list[Figure]]] = {
    bench.__name__: bench
    for bench in (
        importing,
        sampling,
        footprint,
        slowdown,
        peers,
        folding,
        decoding,
        fronts,
        million,
        results,
        results_10m,
        simulation,
        training,
        flower,
        flower_100,
        flower_1000,
        flower_engines,
        prediction,
        starting,
    )
}

# a hundred large models, a thousand clients, environments of a gigabyte, 7 GB of results, 200 processes
LARGE = ("flower_100", "flower_1000", "flower_engines", "results_10m", "starting")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHES)}; without any all but {', '.join(LARGE)}")
    names = parser.parse_args(argv).names or [name for name in BENCHES if name not in LARGE]
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    figures: list[Figure] = []
    for name in names:
        start_s = time.monotonic()
        figures += BENCHES[name]()
        print(f"{name}: {time.monotonic() - start_s:.0f} s", file=sys.stderr)
    print(tabulate([figure.cells() for figure in figures], headers="keys", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())

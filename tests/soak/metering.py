"""`python -m tests.soak.metering`: meters for 20 minutes at 100 Hz in real time and says whether the process has grown.

Exits with 1 where it grew by 200 kB or more, or where the sampler took fewer than nine readings in ten.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
from collections.abc import Sequence

from profiler import Profiler, Sampler, SystemClock
from profiler.sensors.rapl import RaplSensor
from tests.bench.footprint import RATE_HZ, rss_bytes
from tests.fixtures.powercap import driven_tree

WARM_UP_S = 300.0  # until then code and heap pages that are touched for the first time add some 0.4 MB
MAX_GROWN_BYTES = 200_000
MIN_SHARE_OF_RATE = 0.9


def soak(minutes: float) -> tuple[int, float, float]:
    """Bytes grown after the warm-up, readings a second, and the sampler's share of a core."""
    with driven_tree() as root:
        clock = SystemClock()
        sampler = Sampler(RaplSensor(root, clock), clock, rate_hz=RATE_HZ)
        with Profiler([sampler], clock) as meter, meter.span("all") as whole:
            _steps(meter, WARM_UP_S)
            gc.collect()
            early_bytes = rss_bytes()
            for minute in range(1, math.ceil(minutes) + 1):
                _steps(meter, 60 * min(1.0, minutes - minute + 1))
                print(f"minute {minute}: {(rss_bytes() - early_bytes) / 1e3:+.0f} kB", flush=True)
            gc.collect()
            grown_bytes = rss_bytes() - early_bytes
    assert whole.record is not None
    effective_hz = min(reading.effective_hz for reading in whole.record.energies)
    return grown_bytes, effective_hz, sampler.cost_s / whole.record.duration_s


def _steps(meter: Profiler, duration_s: float) -> None:
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        with meter.span("step"):
            time.sleep(0.2)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    minutes = parser.parse_args(argv).minutes
    grown_bytes, effective_hz, share = soak(minutes)
    print(
        f"{minutes:g} min at {RATE_HZ:g} Hz: grown by {grown_bytes / 1e3:.0f} kB, "
        f"{effective_hz:.1f} readings/s, {share:.2%} of a core"
    )
    return 0 if grown_bytes < MAX_GROWN_BYTES and effective_hz >= MIN_SHARE_OF_RATE * RATE_HZ else 1


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.bench.footprint ROOT SECONDS TICKS`: memory of one process that meters, as one line of JSON.

It loads numpy, as every process that trains does, and from then on counts what metering adds: the imports, a sampler
at 100 Hz over the powercap tree in ROOT, one span around everything and short ones beside it, for so many seconds.
After these it takes TICKS readings more as fast as it can, which is 20 minutes for 120,000.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler import Profiler, Sampler

RATE_HZ = 100.0


def rss_bytes() -> int:
    """Resident memory of this process: proc_pid_statm(5), second field, in pages."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main(root: Path, duration_s: float, ticks: int) -> dict[str, float]:
    import numpy as np

    np.ones(1000) @ np.ones(1000)
    gc.collect()
    with_numpy_bytes = rss_bytes()

    from profiler import Profiler, Sampler, SystemClock
    from profiler.sensors.rapl import RaplSensor

    clock = SystemClock()
    sampler = Sampler(RaplSensor(root, clock), clock, rate_hz=RATE_HZ)
    with Profiler([sampler], clock) as meter, meter.span("all") as span:
        _real_time(meter, duration_s)
        running_bytes = rss_bytes()
        _tick(meter, sampler, ticks // 10)  # whatever is made once has been made
        gc.collect()
        early_bytes, early_blocks = rss_bytes(), sys.getallocatedblocks()
        _tick(meter, sampler, ticks)
        gc.collect()
        grown_bytes, grown_blocks = rss_bytes() - early_bytes, sys.getallocatedblocks() - early_blocks
    assert span.record is not None
    n_samples = min(reading.n_samples for reading in span.record.energies)
    return {
        "added_bytes": running_bytes - with_numpy_bytes,
        "grown_bytes": grown_bytes,
        "grown_blocks": grown_blocks,
        "n_samples": n_samples,
        "n_rails": len(span.record.energies),
    }


def _real_time(meter: Profiler, duration_s: float) -> None:
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        with meter.span("step"):
            time.sleep(0.05)


def _tick(meter: Profiler, sampler: Sampler, n: int) -> None:
    for i in range(n):
        with sampler._lock:
            sampler._tick()
        if i % 1_000 == 0:
            with meter.span("step"):
                pass


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))

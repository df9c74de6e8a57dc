"""What a client meters itself with, where nobody else does."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import psutil

from profiler.clock import Clock
from profiler.combined import combined
from profiler.sampler import Sampler
from profiler.sensor import ask, best, discover

_log = logging.getLogger("fl")


def best_samplers(root: Path, clock: Clock, allow_charging: bool = False) -> tuple[Sampler, ...]:
    """The best sensor there is, said in one line; none is no reason not to train."""
    used = best(ask(discover(root, clock, allow_charging=allow_charging)))
    if not used:
        _log.warning("no energy sensor is available: energy will be missing; see python -m profiler list")
        return ()
    chosen = combined(used)
    _log.info("energy from %s: %s", chosen.sensor.name, getattr(chosen.outcome, "notes", ""))
    return (Sampler(chosen.sensor, clock),)


def host_busy_s() -> float:
    """CPU seconds that processes of this host have used. Time stolen by a hypervisor is not among them."""
    times = psutil.cpu_times()
    names = ("user", "nice", "system", "irq", "softirq")
    return math.fsum(float(getattr(times, name, 0.0)) for name in names)

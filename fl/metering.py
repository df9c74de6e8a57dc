"""What a client meters itself with, where nobody else does, and what tells how much of a host's work is its own."""

from __future__ import annotations

import logging
import math
from hashlib import blake2b
from pathlib import Path

import psutil

from profiler import files
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


def machine_id(root: Path) -> str:
    """The same for all clients of one machine and different elsewhere; empty where the kernel does not tell.

    A digest of the kernel's boot id (random(4)): nobody learns the id itself.
    """
    boot = files.line(root / "proc/sys/kernel/random/boot_id")
    return "" if boot is None else blake2b(boot.encode(), digest_size=8).hexdigest()

"""`python -m profiler calibrate`: this machine's watts for `cpu_model`, from a wall meter or from another sensor."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from profiler.clock import Clock, SystemClock
from profiler.commands.common import DEFAULT_RATE_HZ, MAX_SECONDS, add_probing, choose, number
from profiler.errors import PreconditionError, SensorError, UsageError
from profiler.quantities import Scope
from profiler.sampler import Sampler
from profiler.sensors.cpu_calibration import (
    COVERS,
    Calibration,
    Fit,
    Phase,
    default_path,
    fit,
    processor_name,
    write_calibration,
)
from profiler.sensors.cpu_model import BusyClock, host_busy

HELP = "fit the watts of cpu_model to this machine: idle, half and fully busy, read off a wall meter or another sensor"
COMMAND = ""
DEFAULT_SECONDS = 60.0
DEFAULT_METER_ERR = 0.02  # our assumption for plug meters, which promise 1 to 2 %
_SETTLE_SHARE = 0.25  # of each phase passes before it counts: clocks and fans settle, counters of a plug meter catch up
_MAX_IDLE_USE = 0.2
_MIN_BUSY_USE = 0.8
# Integer arithmetic until its time is over or its parent has gone, so that nothing spins on after a crash.
_BURN = """
import os, sys, time
end_s, parent, x = time.monotonic() + float(sys.argv[1]), int(sys.argv[2]), 1
while time.monotonic() < end_s and os.getppid() == parent:
    for _ in range(20000):
        x = (x * 1103515245 + 12345) & 0xFFFFFFFF
"""

Load = Callable[[int, float], AbstractContextManager[None]]
"""Keeps some processors busy while its block runs, and at most for some seconds."""


@dataclass(frozen=True, slots=True)
class Held:
    """One phase as it went: the share of all processors' time that was busy, and what a sensor measured meanwhile."""

    name: str
    use: float
    power_w: float | None = None
    gain_err: float = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_probing(parser)
    watts = number("a power", 1e6)
    parser.add_argument("--sensor", metavar="NAME", help="measure all phases with this sensor of the machine")
    parser.add_argument("--seconds", type=number("a time", MAX_SECONDS), default=DEFAULT_SECONDS, metavar="S")
    for name, use in (("idle", 0.0), ("half", 0.5), ("busy", 1.0)):
        parser.add_argument(
            f"--{name}-w", type=watts, metavar="W", help=f"mean power that the meter showed when {name}"
        )
        parser.add_argument(f"--{name}-use", type=_share, default=use, metavar="U", help=f"busy share when {name}")
    parser.add_argument(
        "--meter-err", type=_share, default=DEFAULT_METER_ERR, metavar="E", help="relative, 0.02 is 2 %%"
    )
    parser.add_argument("--scope", choices=[scope.value for scope in Scope], default=Scope.WALL.value)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="instead of the user's configuration")
    parser.add_argument("--force", action="store_true", help="overwrite the file")


def _share(text: str) -> float:
    """For argparse: from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a share must be a number from 0 to 1, got {text!r}")
    return value


def run(options: argparse.Namespace) -> int:
    """Without watts and sensor: hold the phases for somebody at a meter, and say how to go on. Else write the file.

    Raises UsageError on arguments that contradict each other or a file that cannot be written, PreconditionError where
    the machine was not idle or not busy, SensorError where the sensor cannot measure.
    """
    by_hand = [options.idle_w, options.half_w, options.busy_w]
    if options.sensor is not None and any(watts is not None for watts in by_hand):
        raise UsageError("calibrate takes --sensor or watts, not both.", remedy="Either of them says what was drawn.")
    if (options.idle_w is None) != (options.busy_w is None) or (options.half_w and not options.idle_w):
        raise UsageError("--idle-w and --busy-w go together.", remedy="Give both, and --half-w if you have it.")
    clock = SystemClock()
    busy = host_busy(options.sysfs_root)
    n_cpus = _n_cpus(busy)
    if options.idle_w is not None:
        phases = [
            Held(name, getattr(options, f"{name}_use"), watts, options.meter_err)
            for name, watts in zip(("idle", "half", "busy"), by_hand, strict=True)
            if watts is not None
        ]
        return _write(options, phases, n_cpus, clock, "a meter read by hand", Scope(options.scope))
    if options.sensor is None:
        _tell_what_to_do(hold(None, busy, clock, options.seconds, load=burning), options.seconds)
        return 0
    _check_output(options)
    sensor, available = choose(options, clock)
    if not available.provenance.is_measured:
        raise SensorError(f"{sensor.name} is a model itself.", remedy="Calibrate with a sensor that measures.")
    with Sampler(sensor, clock, rate_hz=DEFAULT_RATE_HZ) as sampler:
        phases = hold(sampler, busy, clock, options.seconds, load=burning)
    return _write(options, phases, n_cpus, clock, f"sensor {sensor.name}", available.scope)


def hold(
    sampler: Sampler | None,
    busy: BusyClock,
    clock: Clock,
    phase_s: float,
    *,
    load: Load,
    say: Callable[[str], None] = print,
) -> list[Held]:
    """Hold the machine idle, half busy and busy, each for `phase_s`; half is left out where there is one processor.

    Raises PreconditionError where other programs kept it from being idle or busy, SensorError where the sensor failed.
    """
    n_cpus = _n_cpus(busy)
    phases = []
    for name, n_busy in (("idle", 0), ("half", n_cpus // 2), ("busy", n_cpus)):
        if name == "half" and n_busy == 0:
            continue
        say(f"{name}: {n_busy} of {n_cpus} processors busy for {phase_s:g} s; the last {_counts_s(phase_s):g} s count")
        with load(n_busy, phase_s):
            clock.sleep(phase_s - _counts_s(phase_s))
            phases.append(_measured(name, sampler, busy, clock, _counts_s(phase_s)))
        say(f"  {phases[-1].use:.1%} of all processors' time was busy")
        _check_use(phases[-1])
    return phases


def _counts_s(phase_s: float) -> float:
    return phase_s * (1 - _SETTLE_SHARE)


def _measured(name: str, sampler: Sampler | None, busy: BusyClock, clock: Clock, duration_s: float) -> Held:
    start_ns, (start_s, n_cpus) = clock.monotonic_ns(), busy()
    window = sampler.open_window() if sampler is not None else None
    clock.sleep(duration_s)
    readings = window.close() if window is not None else ()
    elapsed_s, (end_s, _) = (clock.monotonic_ns() - start_ns) / 1e9, busy()
    use = min(1.0, max(0.0, (end_s - start_s) / (elapsed_s * n_cpus)))
    if sampler is None:
        return Held(name, use)
    total = sampler.total(readings)
    if total.energy_j is None or total.energy_err_j is None or total.energy_j <= 0:
        raise SensorError(
            f"{sampler.sensor.name}: nothing was measured while {name}: {total.reason or 'it shows 0 J'}."
        )
    return Held(name, use, total.energy_j / elapsed_s, total.energy_err_j / total.energy_j)


def _check_use(phase: Held) -> None:
    if phase.name == "idle" and phase.use > _MAX_IDLE_USE:
        raise PreconditionError(
            f"The processors were {phase.use:.0%} busy when they should have been idle.",
            remedy="End other programs and run it again.",
        )
    if phase.name == "busy" and phase.use < _MIN_BUSY_USE:
        raise PreconditionError(
            f"The processors were only {phase.use:.0%} busy when they should have been fully.",
            remedy="A quota or a hypervisor takes their time away: calibrate without one.",
        )


def _tell_what_to_do(phases: Sequence[Held], phase_s: float) -> None:
    words = " ".join(f"--{phase.name}-w ... --{phase.name}-use {phase.use:.4f}" for phase in phases)
    print(
        f"\nIf you have read the meter's mean power over the last {_counts_s(phase_s):g} s of each phase, put it in"
        f" place of the dots:\n\n    python -m profiler calibrate {words}\n\nElse connect a meter and run this again."
    )


def _write(
    options: argparse.Namespace, phases: Sequence[Held], n_cpus: int, clock: Clock, method: str, scope: Scope
) -> int:
    path = _check_output(options)
    found = fitted(phases)
    calibration = Calibration(found, scope, processor_name(options.sysfs_root), n_cpus, clock.wall_time()[:10], method)
    write_calibration(path, calibration, overwrite=options.force)
    print(f"{found.idle_w:.4g} W idle to {found.busy_w:.4g} W busy, scope {scope.value}")
    print(f"± {found.gain_err:.1%} for {COVERS}")
    print(f"Written to {path}. cpu_model uses it from now on" + (" if it finds it there." if options.output else "."))
    return 0


def fitted(phases: Sequence[Held]) -> Fit:
    """The fit of phases that have watts. Raises UsageError where they make no rising line."""
    points = {phase.name: Phase(phase.power_w or 0.0, phase.use, phase.gain_err) for phase in phases}
    try:
        return fit(points["idle"], points["busy"], points.get("half"))
    except ValueError as error:
        raise UsageError(
            f"No model fits: {error}.", remedy="Check what the meter is wired to, and its figures."
        ) from None


def _check_output(options: argparse.Namespace) -> Path:
    """Where the file goes. Raises UsageError before anything is measured for a file that could not be written."""
    path: Path | None = options.output or default_path(os.environ)
    if path is None:
        raise UsageError("There is no home folder to keep the calibration in.", remedy="Name a file with -o.")
    if path.exists() and not options.force:
        raise UsageError(f"{path} exists, and is not overwritten.", remedy="Give --force, or name another file.")
    return path


def _n_cpus(busy: BusyClock) -> int:
    try:
        return busy()[1]
    except (OSError, ValueError, ImportError) as error:
        raise PreconditionError(f"The processors' busy time is not known: {error}.") from error


@contextmanager
def burning(n_busy: int, at_most_s: float) -> Iterator[None]:
    """`n_busy` processes that compute as long as the block runs, or half as long again as it should take."""
    command = [sys.executable, "-I", "-S", "-c", _BURN, str(1.5 * at_most_s + 5), str(os.getpid())]
    with ExitStack() as ending:
        for _ in range(n_busy):
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=True)
            ending.callback(process.wait)
            ending.callback(process.kill)
        yield

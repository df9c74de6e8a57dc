"""What the verbs share: their options, and how a sensor is chosen."""

from __future__ import annotations

import argparse
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from profiler.clock import Clock
from profiler.combined import combined
from profiler.errors import SensorError, UsageError, nearest
from profiler.sensor import Available, Probe, Sensor, ask, best, discover

MAX_RATE_HZ = 1000.0  # the counters we know tick no faster, and a Python thread keeps up with no more
MAX_SECONDS = 366 * 86400.0
DEFAULT_RATE_HZ = 10.0


def add_probing(parser: argparse.ArgumentParser) -> None:
    """What decides how sensors are looked for."""
    parser.add_argument("--sysfs-root", type=Path, default=Path("/"), metavar="DIR", help="read below DIR instead of /")
    parser.add_argument(
        "--allow-charging",
        action="store_true",
        help="read batteries with a charger connected too: what flows there is then not what the device draws",
    )


def add_sensor(parser: argparse.ArgumentParser) -> None:
    add_probing(parser)
    parser.add_argument("--sensor", metavar="NAME", help="meter with this one instead of the best that is available")
    parser.add_argument(
        "--rate",
        type=number("a rate", MAX_RATE_HZ),
        default=DEFAULT_RATE_HZ,
        metavar="HZ",
        help=f"samples a second, {DEFAULT_RATE_HZ:g} by default, at most {MAX_RATE_HZ:g}",
    )


def add_seconds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=number("a time", MAX_SECONDS), metavar="S", help="end after S seconds")


def number(what: str, limit: float) -> Callable[[str], float]:
    """For argparse: a number above 0 and at most `limit`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= limit:
            raise argparse.ArgumentTypeError(f"{what} must be a number above 0 and at most {limit:g}, got {text!r}")
        return value

    return parse


def ask_all(options: argparse.Namespace, clock: Clock) -> list[Probe]:
    """What every sensor says about the machine, as `add_probing` was answered. Raises UsageError on a wrong root."""
    sensors = _sensors(options, clock)
    return ask(sensors, {sensor.name for sensor in sensors})


def _sensors(options: argparse.Namespace, clock: Clock) -> list[Sensor]:
    root: Path = options.sysfs_root
    if not os.path.isdir(root):  # noqa: PTH112  Path.is_dir raises where this user may not look
        raise UsageError(f"{root} is not a folder, or not for us.", remedy="Give --sysfs-root a file system root.")
    return list(discover(root, clock, allow_charging=options.allow_charging, elsewhere=True))


def choose(options: argparse.Namespace, clock: Clock) -> tuple[Sensor, Available]:
    """The sensor that was named, or the best one of this machine, with those that measure what it does not contain.

    Raises UsageError where no sensor is called that, SensorError where it, or every one, is unavailable.
    """
    name: str | None = options.sensor
    probes = ask(_sensors(options, clock), [] if name is None else [name])
    if name is None:
        if not (used := best(probes)):
            raise SensorError(
                "No sensor can be used here: energy would be missing.", remedy="'python -m profiler doctor' says why."
            )
        chosen = combined(used)
    else:
        named = {probe.sensor.name: probe for probe in probes}
        if name not in named:
            raise UsageError(f"There is no sensor {name!r}.", remedy=nearest(name, named))
        chosen = named[name]
    if isinstance(chosen.outcome, Available):
        return chosen.sensor, chosen.outcome
    raise SensorError(f"{chosen.sensor.name}: {chosen.outcome.reason}.", remedy=chosen.outcome.remedy)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, with KeyboardInterrupt, so that what is known still gets written."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

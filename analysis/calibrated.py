"""Calibration files beside results: what `analysis.recommend`, and `analysis.cutoff --calibration`, make of them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from analysis.known_devices import (
    configurations,
    from_calibrations,
    from_profiles,
    from_published,
    from_results,
    planned_steps,
)
from analysis.load import SYSTEM, Results
from analysis.new_hardware import Accuracies, Known, Recommendation, Wish, recommendations
from analysis.step_estimates import HORIZON_S, KnownSteps, NewDevice
from analysis.windows import Group, Windows
from profiler.calibrations import load_calibration
from profiler.devices import known_devices
from profiler.errors import ResultsError, UsageError
from profiler.published import published
from profiler.records import Row

_MOST = 1e18
_MAX_HORIZON_S = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Told:
    """What the command line says of the new device and of known ones."""

    calibrations: Sequence[Path]
    known: Sequence[Path] = ()
    processor: str | None = None
    speed: float | None = None
    speeds: Mapping[str, float] = field(default_factory=dict)


def add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="what harness.calibrate has written on a device that never took part",
    )


def recommend(
    results: Results,
    groups: Mapping[Group, Mapping[str, Windows]],
    accuracies: Mapping[tuple[str, int], Accuracies],
    told: Told,
    wish: Wish,
) -> list[Recommendation]:
    """Raises UsageError and SpecError for what was told, ResultsError where no group is of the device's clock."""
    device = _device(told)
    if not groups:
        raise ResultsError(
            "no run without a cutoff tells how long its fits took: there is nothing to be level with.",
            remedy="Run the experiment once without --cutoffs, with training.",
        )
    if not any(group.clock == device.clock for group in groups):
        have, need = ("simulated", "measured") if device.clock == SYSTEM else ("measured", "simulated")
        raise ResultsError(
            f"{device.processor} is {need} and the runs are {have}; the two are never mixed.",
            remedy=f"Name {need} results.",
        )
    devices = [
        *from_results(results),
        *from_calibrations(map(load_calibration, told.known)),
        *from_published(published()),
        *from_profiles(known_devices()),
    ]
    known = Known(KnownSteps(devices, told.speeds), planned_steps(results), configurations(results), accuracies)
    return recommendations(device, groups, known, wish)


def _device(told: Told) -> NewDevice:
    if told.calibrations:
        device = NewDevice.of([load_calibration(path) for path in told.calibrations], told.speed)
        if told.processor not in (None, device.processor):
            raise UsageError(f"--processor {told.processor}: the calibration is of {device.processor}.")
        return device
    if told.processor is None or told.speed is None or not told.speeds:
        raise UsageError(
            "nothing is told of the new device.",
            remedy="Give --calibration FILE, or --processor NAME with --speed and --known-speed.",
        )
    return NewDevice(told.processor, SYSTEM, (), told.speed)


def parse_speed(text: str) -> tuple[str, float]:
    """`PROCESSOR=SPEED`. Raises UsageError."""
    name, equals, value = text.rpartition("=")
    return checked_name(name, text) if equals else checked_name("", text), checked_speed(value, text)


def checked_name(name: str, text: str) -> str:
    if not name:
        raise UsageError(
            f"--known-speed {text!r:.80} is not PROCESSOR=SPEED.", remedy="As in --known-speed tx2-gpu=665."
        )
    return name


def checked_speed(value: str, text: str) -> float:
    """A number above 0. Raises UsageError."""
    try:
        speed = float(value)
    except ValueError:
        speed = math.nan
    if not 0 < speed <= _MOST:
        raise UsageError(f"{text!r:.80}: a speed is a number above 0, in one unit for all, such as peak GFLOP/s.")
    return speed


def checked_wish(wish: Wish) -> Wish:
    """Raises UsageError for what makes no sense."""
    if not 0 <= wish.max_drop < 1:
        raise UsageError(f"--max-drop {wish.max_drop}: must be at least 0 and less than 1.")
    if not 0 < wish.horizon_s <= _MAX_HORIZON_S:
        raise UsageError(
            "--horizon-minutes must be more than 0 and at most 30 days.", remedy=f"{HORIZON_S / 60:g} by default."
        )
    if wish.comm_s is not None and not 0 <= wish.comm_s < math.inf:
        raise UsageError("--communication-s must be a number of seconds from 0.")
    return wish


def entry(one: Recommendation) -> Row:
    """As in cutoffs.json, with lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(one).items()}

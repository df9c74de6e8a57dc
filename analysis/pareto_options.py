"""What `analysis.pareto` can be asked, checked before anything is read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from analysis import cli
from analysis.choice import Limit
from analysis.configurations import ENERGY_COLUMNS, OBJECTIVES, EnergyKind
from analysis.resolution import MEASURED, Resolution, binomial_se, parse
from analysis.runs import EVERY_ROUND
from profiler.errors import UsageError

_LIMITS = {"max_energy_kj": ("energy_j", 1000.0), "max_time_min": ("time_s", 60.0), "min_accuracy": ("accuracy", 1.0)}


@dataclass(frozen=True, slots=True)
class Options:
    """A checked command line. `stop_after` are the rounds after which runs that were stopped are candidates, too."""

    objectives: tuple[str, ...]
    energy: EnergyKind
    reference: tuple[float, ...] | None
    resolution: Resolution
    test_examples: int | None
    stop_after: Container[int]
    target: float | None
    limits: tuple[Limit, ...]

    def resolution_for(self, accuracies: Sequence[float]) -> Resolution:
        """The resolution, of accuracy by the size of the test set where that is known: at the best accuracy."""
        if self.test_examples is None or not accuracies:
            return self.resolution
        return replace(self.resolution, accuracy=binomial_se(max(accuracies), self.test_examples))


def add_options(parser: argparse.ArgumentParser) -> None:
    default = ",".join(f"{name}={MEASURED.of(name):g}" for name in OBJECTIVES)
    add = parser.add_argument
    add("--objectives", default=",".join(OBJECTIVES), help="some of %(default)s")
    add("--energy", choices=list(ENERGY_COLUMNS), default="gross", help="which energy (default gross)")
    add("--ref", help="reference point of the hypervolume, in the units shown: 0,6000,120000")
    add("--resolution", help=f"smallest differences that count, of time and energy relative (default {default})")
    add(
        "--test-examples",
        type=int,
        metavar="N",
        help="examples in the test set: accuracy counts from its standard error",
    )
    stops = parser.add_mutually_exclusive_group()
    stops.add_argument("--trajectories", action="store_true", help="runs stopped after any round are candidates, too")
    stops.add_argument("--stop-after", type=int, nargs="+", default=[], metavar="ROUND", help="after these rounds only")
    add("--target", type=float, metavar="A", help="time and energy until accuracy A, 0..1")
    add("--max-energy-kj", type=float, metavar="KJ", help="choose the best within this energy")
    add("--max-time-min", type=float, metavar="MIN", help="choose the best within this time")
    add("--min-accuracy", type=float, metavar="A", help="choose the best of at least this accuracy, 0..1")


def options(arguments: argparse.Namespace) -> Options:
    """Raises UsageError where the command line makes no sense."""
    objectives = _objectives(arguments.objectives)
    n = arguments.test_examples
    if n is not None and n < 1:
        raise UsageError(f"--test-examples {n}: must be at least 1.")
    if n is not None and "accuracy" in (arguments.resolution or ""):
        raise UsageError("--test-examples and --resolution accuracy=... contradict each other.", remedy="Give one.")
    return Options(
        objectives=objectives,
        energy=arguments.energy,
        reference=_reference(arguments.ref, objectives),
        resolution=parse(arguments.resolution),
        test_examples=n,
        stop_after=EVERY_ROUND if arguments.trajectories else _rounds(arguments.stop_after),
        target=None if arguments.target is None else _within("--target", arguments.target, 1.0),
        limits=_limits(arguments),
    )


def _objectives(given: str) -> tuple[str, ...]:
    names = tuple(cli.choose("--objectives", name.strip(), OBJECTIVES) for name in given.split(","))
    if len(set(names)) != len(names) or len(names) < 2:
        raise UsageError(f"--objectives {given}: two or three different ones are needed.")
    return names


def _reference(given: str | None, objectives: Sequence[str]) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        values = tuple(float(part) for part in given.split(","))
    except ValueError:
        values = ()
    if len(values) != len(objectives) or not all(math.isfinite(value) for value in values):
        raise UsageError(f"--ref {given}: needs {len(objectives)} numbers, for {', '.join(objectives)}.")
    return values


def _rounds(given: Sequence[int]) -> frozenset[int]:
    if any(number < 1 for number in given):
        raise UsageError(f"--stop-after {min(given)}: rounds count from 1.")
    return frozenset(given)


def _within(option: str, value: float, most: float) -> float:
    if not 0 <= value <= most or math.isinf(value):
        raise UsageError(
            f"{option} {value:g}: must be a number from 0" + (f" to {most:g}." if most < math.inf else ".")
        )
    return value


def _limits(arguments: argparse.Namespace) -> tuple[Limit, ...]:
    made = []
    for name, (objective, factor) in _LIMITS.items():
        value = getattr(arguments, name)
        if value is not None:
            most = 1.0 if objective == "accuracy" else math.inf
            made.append(Limit(objective, factor * _within(f"--{name.replace('_', '-')}", value, most)))
    return tuple(made)

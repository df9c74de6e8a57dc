"""`python -m profiler replay FILE`: the figures of a recorded trace, at once, and where it was recorded."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

from profiler.accumulate import RailAccumulator
from profiler.commands.figures import Figures, plain
from profiler.commands.meter import PeakPower
from profiler.integrate import GAP_PERIODS, integrate, total
from profiler.sampler import Sample
from profiler.sensor import Available
from profiler.sensors.replay import Moment, read_recorded, read_trace

HELP = "the figures of a trace that was recorded, here or elsewhere"
COMMAND = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", type=Path, metavar="FILE", help="a trace that 'record' has written")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(options: argparse.Namespace) -> int:
    """0. Raises SensorError where the file is no trace."""
    recorded = read_recorded(options.trace)
    figures = figures_of(*read_trace(options.trace), recorded, options.trace.name)
    if options.json:
        print(json.dumps(figures.as_json() | {"recorded": recorded}, ensure_ascii=False))
        return 0
    print(figures.as_table())
    about = ", ".join(f"{name} {value}" for name, value in recorded.items())
    print(f"  recorded: {plain(about)}" if about else "  The trace does not say where it was recorded.")
    return 0


def figures_of(available: Available, moments: list[Moment], recorded: Mapping[str, str | float], name: str) -> Figures:
    """The figures over the whole of a trace, with the gaps that a sampler of its rate would have seen."""
    start_ns, end_ns = moments[0][0], moments[-1][0]
    rate_hz = _rate_hz(moments, recorded)
    rails = [
        integrate(
            rail,
            [(t_ns, values[i]) for t_ns, values in moments],
            start_ns,
            end_ns,
            max_gap_s=GAP_PERIODS / rate_hz,
        )
        for i, rail in enumerate(available.rails)
    ]
    readings = (*rails, total(rails, available.total, available.scope))
    duration_s = (end_ns - start_ns) / 1e9
    return Figures(
        sensor=str(recorded.get("sensor", "replay")),
        available=available,
        rate_hz=rate_hz,
        start_ns=start_ns,
        end_ns=end_ns,
        duration_s=duration_s,
        readings=readings,
        peaks_w=_peaks(available, moments, rate_hz).of(readings, duration_s),
        sampler_cpu_s=None,
        what=f"trace {name}",
    )


def _rate_hz(moments: list[Moment], recorded: Mapping[str, str | float]) -> float:
    """What the trace says, else one over its median period."""
    said = recorded.get("rate_hz")
    if isinstance(said, float) and said > 0:
        return said
    periods_ns = sorted(after[0] - before[0] for before, after in itertools.pairwise(moments))
    return 1e9 / periods_ns[len(periods_ns) // 2] if periods_ns else 1.0


def _peaks(available: Available, moments: list[Moment], rate_hz: float) -> PeakPower:
    peaks = PeakPower(available, rate_hz)
    rails = [RailAccumulator(rail, GAP_PERIODS / rate_hz) for rail in available.rails]
    for t_ns, values in moments:
        for rail, value in zip(rails, values, strict=True):
            rail.add(t_ns, value)
        peaks(Sample(t_ns, values, tuple(rail.energy_j for rail in rails)))
    return peaks

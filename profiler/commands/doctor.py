"""`python -m profiler doctor`: every sensor in full, the remedy for those that are missing, what metering costs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from profiler.clock import Clock, SystemClock
from profiler.commands.agreement import agreements
from profiler.commands.common import DEFAULT_RATE_HZ, add_probing, ask_all
from profiler.commands.figures import aligned, plain, with_error
from profiler.errors import SensorError
from profiler.jetson_state import Facts, power_mode_lines
from profiler.machine_facts import machine_facts
from profiler.quantities import EnergyReading, Rail, RailKind
from profiler.sampler import Sampler
from profiler.sensor import Available, Probe, Sensor, best

HELP = "every sensor in full: available or the exact remedy, its rails, their error limits, what metering costs here"
COMMAND = ""
_TRIAL_S = 1.0
_MAX_READS = 200
_READS_S = 0.25  # a read over adb takes 0.1 s: stop at this time, whatever the number


@dataclass(frozen=True, slots=True)
class Trial:
    """What a second of sampling at 10 Hz gave and took. `read_s` is the median wall time of one read."""

    power_w: float | None
    power_err_w: float | None
    sampler_cpu_share: float
    read_s: float | None
    reason: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_probing(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run(options: argparse.Namespace) -> int:
    """0, or 3 where no sensor at all can be used. Raises UsageError where the root is no folder."""
    clock = SystemClock()
    probes = ask_all(options, clock)
    used = best(probes)
    machine = machine_facts(options.sysfs_root)
    rows = [_examined(probe, probe in used, clock) for probe in probes]
    checks = agreements(probes, clock)
    if options.json:
        document = {"sensors": rows, "machine": machine, "agreements": list(map(asdict, checks))}
        print(json.dumps(document, ensure_ascii=False))
    else:
        parts = [*_machine_text(machine), *map(_text, rows), *(plain(str(check)) for check in checks)]
        print("\n\n".join(parts))
    if not used:
        print("\nNo sensor can be used here: energy would be missing.", file=sys.stderr)
        return 3
    return 0


def _machine_text(machine: Facts) -> list[str]:
    """Only where the machine runs in a power mode, which changes every figure below."""
    lines = power_mode_lines(machine)
    return (
        ["\n".join(map(plain, [f"{machine.get('model', 'this Jetson')}:", *(f"  {line}" for line in lines)]))]
        if lines
        else []
    )


def _examined(probe: Probe, is_chosen: bool, clock: Clock) -> dict[str, Any]:
    row: dict[str, Any] = {"sensor": probe.sensor.name, "available": isinstance(probe.outcome, Available)}
    row["chosen"] = is_chosen
    if not isinstance(probe.outcome, Available):
        return row | asdict(probe.outcome)
    try:
        trial = asdict(tried(probe.sensor, clock))
    except SensorError as error:  # probed as available, but cannot be opened: the doctor's case exactly
        trial = {"reason": str(error)}
    return row | asdict(probe.outcome) | {"trial": trial}


def tried(sensor: Sensor, clock: Clock) -> Trial:
    """Meter nothing in particular for a second. Raises SensorError where the sensor cannot be opened."""
    with Sampler(sensor, clock, rate_hz=DEFAULT_RATE_HZ) as sampler:
        start_ns = clock.monotonic_ns()
        window = sampler.open_window()
        clock.sleep(_TRIAL_S)
        total = sampler.total(window.close())
        duration_s = (clock.monotonic_ns() - start_ns) / 1e9
        share = sampler.cost_s / duration_s
    power_w, power_err_w = _mean_power(total, duration_s)
    return Trial(power_w, power_err_w, share, _read_time_s(sensor), total.reason)


def _mean_power(total: EnergyReading, duration_s: float) -> tuple[float | None, float | None]:
    if total.energy_j is None or total.energy_err_j is None:
        return None, None
    return total.energy_j / duration_s, total.energy_err_j / duration_s


def _read_time_s(sensor: Sensor) -> float | None:
    """The median over many reads in a row; None where none succeeds."""
    times_s: list[float] = []
    deadline_s = time.perf_counter() + _READS_S
    try:
        sensor.open()
        while len(times_s) < _MAX_READS and (not times_s or time.perf_counter() < deadline_s):
            before_s = time.perf_counter()
            sensor.read()
            times_s.append(time.perf_counter() - before_s)
    except (SensorError, OSError):
        pass
    finally:
        sensor.close()
    return sorted(times_s)[len(times_s) // 2] if times_s else None


def _text(row: dict[str, Any]) -> str:
    if not row["available"]:
        remedy = [f"  remedy: {plain(row['remedy'])}"] if row["remedy"] else []
        return "\n".join([f"{row['sensor']}: not available", f"  why: {plain(row['reason'])}", *remedy])
    mark = ", the one that is used" if row["chosen"] else ""
    lines = [
        f"{row['sensor']}: available{mark}",
        f"  gives: {row['provenance'].value}, scope {row['scope'].value}, total = {plain('+'.join(row['total']))}",
    ]
    lines += [f"  note: {plain(row['notes'])}"] if row["notes"] else []
    header = ("rail", "kind", "scope", "at most", "resolution", "error limits", "stale by", "part of")
    rails = [header, *(_rail_cells(Rail(**rail)) for rail in row["rails"])]
    return "\n".join([*lines, *(f"  {line}" for line in aligned(rails)), *_trial_lines(row["trial"])])


def _rail_cells(rail: Rail) -> tuple[str, ...]:
    unit = "J" if rail.kind is RailKind.COUNTER_J else "W"
    limits = [f"± {rail.gain_err:.1%}"] if rail.gain_err else []
    limits += [f"± {rail.offset_err_w:.3g} W"] if rail.offset_err_w else []
    return (
        plain(rail.name),
        "counter" if rail.kind is RailKind.COUNTER_J else "power",
        rail.scope.value,
        f"{1 / rail.min_period_s:.4g} Hz" if rail.min_period_s > 0 else "not known",
        f"{rail.resolution:.2g} {unit}" if rail.resolution else "not stated",
        " ".join(limits) or "not stated",
        f"{rail.edge_jitter_s * 1e3:.3g} ms" if rail.edge_jitter_s else "not stated",
        plain(rail.parent or "-"),
    )


def _trial_lines(trial: dict[str, Any]) -> list[str]:
    reason = [f"  trouble: {plain(trial['reason'])}"] if trial["reason"] else []
    if "power_w" not in trial:
        return reason
    read_s = trial["read_s"]
    read = "no reading" if read_s is None else f"{read_s * 1e6:.1f} us a read"
    return [
        f"  now: {with_error(trial['power_w'], trial['power_err_w'])} W over {_TRIAL_S:g} s",
        f"  costs: {trial['sampler_cpu_share']:.2%} of a core at {DEFAULT_RATE_HZ:g} Hz, {read}",
        *reason,
    ]

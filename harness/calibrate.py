"""`python -m harness.calibrate --workload W`: what training takes on this device, as a file for `analysis`."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from fl.client import limit_threads
from fl.workload import NumPyClient, Option, Partition, load_workload, parse_option
from harness.calibration import Calibrator, Progress, Training, drift
from harness.device_model import costs_of
from harness.meter import choose, probe_sensors
from harness.simulated_board import Heat, SimulatedBoard, parse_heat
from harness.simulated_device import SimulatedMeter
from profiler.calibrations import Calibration, Point, PowerFigure
from profiler.clock import FakeClock, SystemClock
from profiler.devices import load_device
from profiler.errors import FedmeterError, SpecError, UsageError
from profiler.machine_facts import machine_facts
from profiler.quantities import Scope
from profiler.resources import ResourceReader
from profiler.sampler import Sampler

EXIT_INTERRUPTED = 130
MINUTES = 5.0
IDLE_S = 60.0
_MAX_MINUTES = 24 * 60
_MAX_IDLE_S = 3600.0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m harness.calibrate",
        description="Train a workload on this device until its steps are steady, and write what they take.",
        epilog="Then: python -m analysis.recommend results/ --calibration FILE",
    )
    p.add_argument("--workload", required=True, metavar="W", help="what to train")
    p.add_argument("--workload-option", action="append", default=[], metavar="K=V", help="an option of the workload")
    p.add_argument("--batch-size", type=int, nargs="+", metavar="N", help="a point each (default: the workload's own)")
    p.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help="a point takes at most (%(default)g)")
    p.add_argument("--idle-s", type=float, default=IDLE_S, metavar="S", help="idle power is measured for (%(default)g)")
    p.add_argument("--device", metavar="NAME", help="what this device is called (default: what it says of itself)")
    p.add_argument("--processor", metavar="P", help="the label that its cutoff is keyed by (default: the device)")
    p.add_argument("--shards", type=int, default=10, metavar="N", help="train on one of N parts (%(default)d)")
    p.add_argument("--threads", type=int, metavar="N", help="threads that train (default: all)")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of examples (%(default)d)")
    p.add_argument("--device-profile", metavar="NAME", help="simulate that device instead, in virtual time")
    p.add_argument("--throttle", metavar="PART:SECONDS", help="with --device-profile: let it heat up, as in 0.25:300")
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the calibration to a new FILE")
    p.add_argument("--sysfs-root", type=Path, default=Path("/"), metavar="DIR", help="read sensors below DIR, not /")
    p.add_argument("--json", action="store_true", help="print the calibration instead of a table")
    p.add_argument("--quiet", action="store_true", help="no progress")
    p.add_argument("-v", "--verbose", action="store_true", help="log more, and show the traceback of an error")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Errors are printed to stderr and become the exit code."""
    args = parser().parse_args(argv)
    level = logging.DEBUG if args.verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        return _main(args)
    except FedmeterError as error:
        if args.verbose:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader has gone (`| head`): nothing more to print, least of all at the last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _main(args: argparse.Namespace) -> int:
    _check(args)
    progress: Progress = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    plan = Plan(
        workload=args.workload,
        options=dict(map(parse_option, args.workload_option)),
        batch_sizes=tuple(args.batch_size or ()),
        limit_s=args.minutes * 60,
        idle_s=args.idle_s,
        seed=args.seed,
    )
    if args.device_profile:
        heat = parse_heat(args.throttle) if args.throttle else Heat()
        made, is_whole = simulated(plan, args.device_profile, heat, device=args.device, processor=args.processor), True
    else:
        made, is_whole = _measured(args, plan, progress)
    if args.output is not None:
        _write(args.output, made)
    print(made.as_json() if args.json else table(made), flush=True)
    return 0 if is_whole else EXIT_INTERRUPTED


def _check(args: argparse.Namespace) -> None:
    if not 0 < args.minutes <= _MAX_MINUTES:
        raise UsageError(f"--minutes {args.minutes:g}: must be more than 0 and at most {_MAX_MINUTES}.")
    if not 0 <= args.idle_s <= _MAX_IDLE_S:
        raise UsageError(f"--idle-s {args.idle_s:g}: must be from 0 to {_MAX_IDLE_S:g}.")
    for name in ("shards", "threads", "seed"):
        value, least = getattr(args, name), int(name != "seed")
        if value is not None and value < least:
            raise UsageError(f"--{name} {value}: must be at least {least}.")
    if any(size < 1 for size in args.batch_size or ()):
        raise UsageError("--batch-size: must be at least 1.")
    if args.throttle and not args.device_profile:
        raise UsageError("--throttle goes with --device-profile: a real device throttles by itself.")
    if args.output is not None and args.output.exists():
        raise UsageError(f"{args.output} exists, and is not overwritten.", remedy="Name another file, or remove it.")
    if not args.sysfs_root.is_dir():
        raise UsageError(f"--sysfs-root {args.sysfs_root} is not a folder.")


@dataclass(frozen=True, slots=True)
class Plan:
    """One workload, a point for each batch size (none: the workload's own), idle power first."""

    workload: str
    options: dict[str, Option]
    batch_sizes: tuple[int, ...]
    limit_s: float
    idle_s: float
    seed: int = 0

    def trainings(self, batch_size: int, lr: float) -> list[Training]:
        sizes = self.batch_sizes or (batch_size,)
        return [Training(self.workload, self.options, size, lr, self.limit_s, self.seed) for size in sizes]


def simulated(
    plan: Plan, profile: str, heat: Heat | None = None, *, device: str | None = None, processor: str | None = None
) -> Calibration:
    """A device's profile in virtual time. Raises SpecError where there is none, or it lacks the workload."""
    known = load_device(profile)
    if plan.options:
        raise SpecError(f"device profile {profile}: what options change is not known.", remedy="Leave them out.")
    costs, clock = costs_of(known, plan.workload), FakeClock()
    scope = known.power.scope if known.power is not None else Scope.DEVICE
    meter = SimulatedMeter(clock, costs, scope)
    points = []
    with Sampler(meter, clock, rate_hz=0) as sampler:
        calibrator = Calibrator([sampler], clock)
        idle = calibrator.idle(plan.idle_s)
        for training in plan.trainings(costs.training.batch_size, lr=0.0):
            board = SimulatedBoard(costs, clock, meter, heat or Heat())
            points.append(calibrator.measure(board, training, pace=board.step_done))
    name = device or known.name
    facts = {"profile": known.name, "time": costs.training.kind, "energy": costs.training.energy_kind}
    return Calibration(name, processor or name, clock.wall_time(), "simulated", idle, tuple(points), facts, {})


def _measured(args: argparse.Namespace, plan: Plan, progress: Progress) -> tuple[Calibration, bool]:
    """This machine, and whether every point was measured; an interruption costs the one that it meets."""
    clock = SystemClock()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads or os.cpu_count() or 1))
    workload = load_workload(plan.workload, **plan.options)
    client = workload.client(0, Partition(shards=args.shards))
    if args.threads:
        limit_threads(args.threads)
    chosen = choose(probe_sensors(args.sysfs_root, clock), ())
    resources = ResourceReader(clock, args.sysfs_root)
    facts, wall_time = machine_facts(args.sysfs_root), clock.wall_time()
    with ExitStack() as stack:
        samplers = [stack.enter_context(Sampler(chosen.sensor, clock))] if chosen is not None else []
        calibrator = Calibrator(samplers, clock, resources, progress)
        progress(f"idle for {plan.idle_s:g} s")
        idle = calibrator.idle(plan.idle_s)
        defaults = workload.defaults
        trainings = plan.trainings(defaults.batch_size, defaults.lr)
        points = measured_points(calibrator, client, trainings)
    name = str(args.device or facts.get("model") or facts.get("cpu_model") or "this device")
    after = machine_facts(args.sysfs_root)
    made = Calibration(name, args.processor or name, wall_time, "system", idle, tuple(points), facts, after)
    return made, len(points) == len(trainings)


def measured_points(calibrator: Calibrator, client: NumPyClient, trainings: Sequence[Training]) -> list[Point]:
    """Those before an interruption, if any; KeyboardInterrupt passes where there are none."""
    points: list[Point] = []
    try:
        for training in trainings:
            points.append(calibrator.measure(client, training))
    except KeyboardInterrupt:
        if not points:
            raise
    return points


def _write(path: Path, made: Calibration) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(made.as_json())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}.", remedy="Name a new file that can be written.") from error
    print(f"wrote {path}", file=sys.stderr)


def table(made: Calibration) -> str:
    """For a terminal: one line a point, idle power below."""
    kind = " (simulated: a model of another machine)" if made.is_simulated else ""
    rows = [_cells(point) for point in made.points]
    lines = [
        f"{made.device}, processor {made.processor}{kind}",
        "",
        tabulate(rows, headers="keys", disable_numparse=True),
    ]
    return "\n".join([*lines, "", f"idle: {_watts(made.idle)}", *map(_remark, made.points)]).rstrip()


def _cells(point: Point) -> dict[str, str]:
    options = "".join(f" {key}={json.dumps(value)}" for key, value in point.options.items())
    return {
        "workload": f"{point.workload}{options}",
        "batch": str(point.batch_size),
        "step (s)": f"{point.step_s:.4g} ± {100 * point.step_err_s / point.step_s:.1f} %",
        "steps": str(point.n_steps),
        "steadiness": drift(point),
        "stopped by": point.stopped_by,
        "power": _watts(point.power),
    }


def _watts(figure: PowerFigure) -> str:
    if figure.power_w is None:
        return f"missing: {figure.reason}"
    err_w = math.nan if figure.power_err_w is None else figure.power_err_w
    return f"{figure.power_w:.3g} ± {err_w:.2g} W {figure.provenance.value}"


def _remark(point: Point) -> str:
    if not point.is_throttled:
        return ""
    part = point.curve.added_s / point.curve.first_s
    return f"batch {point.batch_size} slows down by {100 * part:.0f} % with {point.curve.constant_s:.0f} s (fitted)"


if __name__ == "__main__":
    sys.exit(main())

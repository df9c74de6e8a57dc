"""`python -m harness.run [FLEET]`: run an experiment over a fleet of devices, and leave a results folder."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fl.workload import Workload, load_workload
from harness.cutoffs import read_cutoffs
from harness.engine import Engine, RunSpec
from harness.experiment import (
    Cutoff,
    CutoffEntry,
    ExperimentSpec,
    check_experiment,
    load_experiment,
    with_cutoffs,
)
from harness.fleet import load_fleet, parse_fleet
from harness.host import available_cores, git_state, host_facts, versions
from harness.launcher import launcher_class
from harness.meter import HostMeter, choose, probe_sensors
from harness.plan import Task, make_plan
from harness.progress import Progress
from harness.store import Done, Store, open_for_resume
from harness.summary import summary_json, summary_rows
from profiler.clock import SystemClock
from profiler.errors import FedmeterError, PreconditionError, SpecError, UsageError

EXIT_OK, EXIT_FAILURES, EXIT_USAGE, EXIT_PRECONDITION, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

_OVERRIDES = ("workload", "rounds", "epochs", "clients", "seeds", "strategy", "cutoffs")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m harness.run",
        description="Run an experiment over a fleet of devices. Flags override the experiment file.",
        epilog="Exit: 0 done; 1 finished, with failures listed; 2 wrong usage or spec; 3 a precondition is missing; "
        "130 interrupted, after writing what is known.",
    )
    p.add_argument(
        "fleet", nargs="?", metavar="FLEET", help="fleet file, or the name of a shipped one (default: local)"
    )
    p.add_argument("--experiment", metavar="NAME|FILE", help="what to run (default: demo)")
    p.add_argument("-o", "--output", metavar="ROOT", help="each run makes its own folder below it (default: results)")
    p.add_argument("--workload", metavar="W", help="what to train")
    p.add_argument("--rounds", type=int, metavar="N", help="federated rounds")
    p.add_argument("--epochs", type=int, nargs="+", metavar="N", help="local epochs E, a sweep if several")
    p.add_argument("--clients", type=int, nargs="+", metavar="N", help="clients C, a sweep if several")
    p.add_argument("--seeds", type=int, nargs="+", metavar="N", help="seeds, a replicate each")
    p.add_argument("--strategy", metavar="S", help="how clients are chosen and updates folded in")
    p.add_argument("--cutoffs", type=Path, metavar="FILE", help="apply the cutoffs that analysis.cutoff has written")
    p.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run, skip what is finished")
    p.add_argument("--dry-run", action="store_true", help="print the resolved plan and touch nothing")
    p.add_argument("--check", action="store_true", help="probe devices and sensors, start nothing")
    p.add_argument("--sysfs-root", type=Path, default=Path("/"), metavar="DIR", help="read sensors below DIR, not /")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    p.add_argument("--quiet", action="store_true", help="no progress")
    p.add_argument("-v", "--verbose", action="store_true", help="log more, and show the traceback of an error")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Errors are printed to stderr and become the exit code."""
    args = parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if args.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        return _main(args)
    except FedmeterError as error:
        if args.verbose:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


@dataclass(frozen=True, slots=True)
class _Job:
    """What the command line comes down to."""

    spec: RunSpec
    workload: Workload
    experiment_text: str
    resume: Path | None
    done: Done


def _main(args: argparse.Namespace) -> int:
    job = _resumed_job(args) if args.resume else _new_job(args)
    if args.dry_run:
        return _show_plan(job.spec, as_json=args.json)
    clock = SystemClock()
    probes = probe_sensors(args.sysfs_root, clock)
    if args.check:
        return _check(job.spec, probes, as_json=args.json)
    chosen = choose(probes, [name for device in job.spec.fleet.devices for name in device.require])
    meter = HostMeter(probes, chosen, clock, rate_hz=job.spec.fleet.meter_rate_hz)
    progress = Progress(len(job.spec.tasks) - len(job.done.finished), quiet=args.quiet)
    for line in _preamble(job.spec, meter):
        progress.say(line)
    store = _store(args, job)
    try:
        return _execute(args, job, store, meter, progress, clock)
    finally:
        store.close()


def _new_job(args: argparse.Namespace) -> _Job:
    experiment, text = load_experiment(args.experiment or "demo")
    experiment = _override(experiment, args)
    fleet = load_fleet(args.fleet or "local", cores=available_cores())
    workload = load_workload(experiment.workload)
    spec = RunSpec(fleet, experiment, make_plan(fleet, experiment, workload.defaults))
    return _Job(spec, workload, text, None, Done())


def _override(experiment: ExperimentSpec, args: argparse.Namespace) -> ExperimentSpec:
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in _OVERRIDES
        if name != "cutoffs" and (value := getattr(args, name)) is not None
    }
    for name in ("epochs", "clients", "seeds"):
        values = changes.get(name, ())
        if len(set(values)) != len(values):
            raise UsageError(f"--{name} names a value twice: {' '.join(map(str, values))}.")
        if any(value < (0 if name == "seeds" else 1) for value in values):
            raise UsageError(f"--{name} must be at least {0 if name == 'seeds' else 1}.")
    experiment = replace(experiment, **changes)
    if args.cutoffs is not None:
        experiment = with_cutoffs(experiment, read_cutoffs(args.cutoffs))
    return check_experiment(experiment, "command line")


def _resumed_job(args: argparse.Namespace) -> _Job:
    """The run as it was planned. Raises SpecError where the command line or the files plan something else."""
    run, fleet_text, planned, done = open_for_resume(args.resume)
    where = f"{args.resume}/run.json"
    experiment = _override(_experiment_from_json(run.get("experiment_spec"), where), args)
    fleet = parse_fleet(fleet_text, f"{args.resume}/fleet.toml", cores=int(run.get("cores", available_cores())))
    if args.fleet is not None and load_fleet(args.fleet, cores=available_cores()).text != fleet_text:
        raise SpecError(
            f"--resume {args.resume}: fleet '{args.fleet}' is not the fleet of that run.",
            remedy="Leave the fleet out, or start a new run without --resume.",
        )
    if args.experiment is not None:
        raise UsageError("--resume and --experiment do not go together: a run keeps its experiment.")
    workload = load_workload(experiment.workload)
    tasks = make_plan(fleet, experiment, workload.defaults)
    if [task.id for task in tasks] != [row["task"] for row in planned]:
        raise SpecError(
            f"--resume {args.resume}: the plan has changed: {_plan_difference(tasks, planned)}.",
            remedy="Resume without flags that change the plan, or start a new run.",
        )
    return _Job(RunSpec(fleet, experiment, tasks), workload, "", args.resume, done)


def _plan_difference(tasks: Sequence[Task], planned: Sequence[dict[str, Any]]) -> str:
    if len(tasks) != len(planned):
        return f"{len(tasks)} tasks now, {len(planned)} then"
    for task, row in zip(tasks, planned, strict=True):
        now = json.loads(json.dumps(task.row()))
        for name, value in now.items():
            if name != "task" and value != row.get(name):
                return f"task {row['task']} has {name} = {value} now, {row.get(name)} then"
    return "plan.jsonl was edited"


def _experiment_from_json(values: Any, where: str) -> ExperimentSpec:
    if not isinstance(values, dict):
        raise SpecError(f"{where} has no 'experiment_spec'.", remedy="Start a new run.")
    try:
        cutoffs = tuple(
            CutoffEntry(**{**entry, "cutoff": Cutoff(**entry["cutoff"])}) for entry in values.get("cutoffs", [])
        )
        lists = {name: tuple(values[name]) for name in ("epochs", "seeds")}
        clients = tuple(values["clients"]) if values.get("clients") else None
        return check_experiment(ExperimentSpec(**{**values, **lists, "clients": clients, "cutoffs": cutoffs}), where)
    except (TypeError, KeyError, AttributeError) as error:
        raise SpecError(f"{where}: 'experiment_spec' is damaged: {error}.", remedy="Start a new run.") from None


def _store(args: argparse.Namespace, job: _Job) -> Store:
    if job.resume is not None:
        return Store(job.resume)
    run = {
        "wall_time": SystemClock().wall_time(),
        "argv": list(sys.argv[1:]),
        "fleet": job.spec.fleet.name,
        "experiment": job.spec.experiment.name,
        "experiment_spec": asdict(job.spec.experiment),
        "experiment_text": job.experiment_text,
        "cores": available_cores(),
        "versions": versions(),
        "git": git_state(Path(__file__).parent),
        "host": host_facts(),
    }
    rows = [task.row() for task in job.spec.tasks]
    return Store.create(Path(args.output or "results"), run, job.spec.fleet.text, rows)


def _preamble(spec: RunSpec, meter: HostMeter) -> list[str]:
    lines = [
        f"fleet {spec.fleet.name}: {len(spec.fleet.devices)} clients; experiment {spec.experiment.name}: "
        f"{len(spec.tasks)} tasks of workload {spec.experiment.workload}",
        f"energy of this host: {meter.description}",
    ]
    lines += _better_sensors(meter)
    wanted = sum(launcher_class(device.launcher).cores(device) for device in spec.fleet.devices)
    if wanted > available_cores() + 1e-9:
        lines.append(
            f"note: the clients can use {wanted:g} cores, this host has {available_cores()}: they will slow each other"
        )
    lines += [f"cutoffs of {task.label}: {_cutoff_text(task)}" for task in spec.tasks if task.cutoffs]
    return lines


def _better_sensors(meter: HostMeter) -> list[str]:
    """Where energy is only estimated: what stands in the way of measuring it."""
    facts = meter.facts()
    if "estimated" not in meter.description:
        return []
    return [
        f"note: {sensor['name']} could measure it: {sensor['reason']} {sensor['remedy']}".rstrip()
        for sensor in facts["sensors"]
        if not sensor["available"]
    ]


def _cutoff_text(task: Task) -> str:
    return ", ".join(
        f"{name} {'none' if cutoff.tau_s == 0 else f'{cutoff.tau_s:.3f} s'} ({cutoff.kind})"
        for name, cutoff in task.cutoffs.items()
    )


def _execute(
    args: argparse.Namespace, job: _Job, store: Store, meter: HostMeter, progress: Progress, clock: SystemClock
) -> int:
    engine = Engine(job.spec, job.workload, store, meter, clock, progress, job.done)
    try:
        asyncio.run(_until_done_or_told(engine))
    except (KeyboardInterrupt, asyncio.CancelledError):
        store.sync()
        print(f"interrupted; go on with: python -m harness.run --resume {store.folder}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except PreconditionError:
        print(f"what is known is in {store.folder}", file=sys.stderr)
        raise
    failures = engine.done.failures
    summary = summary_json(store.folder, job.spec.tasks, engine.done)
    store.finish({"wall_time": clock.wall_time(), "status": "failures" if failures else "completed", **summary})
    _print_summary(summary, as_json=args.json)
    return EXIT_FAILURES if failures or len(engine.done.finished) < len(job.spec.tasks) else EXIT_OK


async def _until_done_or_told(engine: Engine) -> None:
    """Ctrl-C and SIGTERM both cancel the run, which then stops its clients in order."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("no running task")
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_, task.cancel)
    await engine.run()


def _print_summary(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False))
        return
    print(tabulate(summary_rows(summary), headers="keys", tablefmt="simple", disable_numparse=True))
    for failure in summary["failures"]:
        where = f"round {failure['round']}" if failure.get("round") else "outside rounds"
        print(f"failed: {failure.get('device') or '-'} in {failure['phase']}, {where}: {failure['reason']}")
    print(f"results: {summary['folder']}")


def _show_plan(spec: RunSpec, *, as_json: bool) -> int:
    if as_json:
        devices = [asdict(device) for device in spec.fleet.devices]
        tasks = [task.row() for task in spec.tasks]
        print(json.dumps({"fleet": spec.fleet.name, "devices": devices, "tasks": tasks}, indent=2, allow_nan=False))
        return EXIT_OK
    print(
        tabulate(
            [
                {"device": device.id, "launcher": device.launcher, "processor": device.processor, "shard": device.shard}
                for device in spec.fleet.devices
            ],
            headers="keys",
        )
    )
    rows = [
        {
            "task": task.id,
            "workload": task.workload,
            "E": task.epochs,
            "C": task.clients,
            "rounds": task.rounds,
            "batch": task.batch_size,
            "lr": task.lr,
            "seed": task.seed,
            "strategy": task.strategy,
            "cutoffs": _cutoff_text(task) or "none",
        }
        for task in spec.tasks
    ]
    print()
    print(tabulate(rows, headers="keys"))
    return EXIT_OK


def _check(spec: RunSpec, probes: list[Any], *, as_json: bool) -> int:
    required = {name for device in spec.fleet.devices for name in device.require}
    chosen, problem = None, ""
    try:
        chosen = choose(probes, required)
    except PreconditionError as error:
        problem = str(error)
    meter = HostMeter(probes, chosen, SystemClock(), rate_hz=spec.fleet.meter_rate_hz)
    devices = []
    for device in spec.fleet.devices:
        outcome = launcher_class(device.launcher).check(device)
        devices.append({"device": device.id, "processor": device.processor, "ok": outcome.ok, "detail": outcome.detail})
    sensors = meter.facts()["sensors"]
    if as_json:
        report = {"devices": devices, "sensors": sensors, "meter": meter.description, "problem": problem or None}
        print(json.dumps(report, indent=2))
    else:
        print(tabulate(devices, headers="keys"))
        print()
        print(tabulate([_sensor_line(sensor) for sensor in sensors], headers="keys"))
        print(f"\nenergy of this host: {meter.description}")
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return EXIT_PRECONDITION if problem or not all(device["ok"] for device in devices) else EXIT_OK


def _sensor_line(sensor: dict[str, Any]) -> dict[str, str]:
    if sensor["available"]:
        return {
            "sensor": sensor["name"],
            "state": sensor["provenance"],
            "detail": f"rails {', '.join(sensor['rails'])}",
        }
    return {"sensor": sensor["name"], "state": "unavailable", "detail": f"{sensor['reason']} {sensor['remedy']}"}


if __name__ == "__main__":
    sys.exit(main())

"""`python -m harness.run [FLEET]`: run an experiment over a fleet of devices, and leave a results folder."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fl.security import DEVICES
from harness.engine import Engine, access
from harness.fleet import load_fleet
from harness.host import available_cores, git_state, host_facts, versions
from harness.init import init
from harness.job import Job, new_job, resumed_job
from harness.meter import HostMeter, choose, probe_sensors
from harness.progress import Progress
from harness.show import check, preamble, print_summary, show_plan
from harness.store import Store
from harness.summary import summary_json
from profiler.clock import SystemClock
from profiler.errors import FedmeterError, PreconditionError, UsageError
from profiler.machine_facts import machine_facts

EXIT_OK, EXIT_FAILURES, EXIT_PRECONDITION, EXIT_INTERRUPTED = 0, 1, 3, 130


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
    p.add_argument(
        "--init",
        nargs="?",
        type=Path,
        const=Path("fedmeter-tls"),
        metavar="DIR",
        help="make certificates and a token in a new folder (default: fedmeter-tls), and nothing else",
    )
    p.add_argument("--name", action="append", default=[], metavar="HOST", help="with --init: a further server name")
    p.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="ID",
        help="with --init: a certificate of its own for this device, and each of FLEET; DIR may be there already",
    )
    p.add_argument("--days", type=int, metavar="N", help="with --init: how long they are good (default: 365)")
    p.add_argument("--insecure", action="store_true", help="serve in plain text, also where other machines can read it")
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
        code = _main(args)
        sys.stdout.flush()
        return code
    except FedmeterError as error:
        if args.verbose:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader has gone (`| head`): nothing more to print, least of all at the last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def _main(args: argparse.Namespace) -> int:
    if args.init is not None:
        return init(args.init, args.name, args.days, [*args.device, *_without_certificate(args.fleet, args.init)])
    if args.name or args.device or args.days is not None:
        raise UsageError("--name, --device and --days go with --init.")
    job = resumed_job(args) if args.resume else new_job(args)
    if args.dry_run:
        show_plan(job.spec, as_json=args.json)
        return EXIT_OK
    if job.resume is not None and len(job.done.finished) == len(job.spec.tasks):
        print(f"{job.resume} is complete: nothing to resume", file=sys.stderr)
        return _finish(args, job, job.resume)
    if not args.sysfs_root.is_dir():
        raise UsageError(f"--sysfs-root {args.sysfs_root} is not a folder.")
    access(job.spec)  # plain text to others, or an expired certificate, must show before there is a results folder
    clock = SystemClock()
    required = [name for device in job.spec.devices for name in device.require]
    probes = probe_sensors(args.sysfs_root, clock, required)
    if args.check:
        return (
            EXIT_OK if check(job.spec, probes, machine_facts(args.sysfs_root), as_json=args.json) else EXIT_PRECONDITION
        )
    chosen = choose(probes, required)
    meter = HostMeter(probes, chosen, clock, rate_hz=job.spec.fleet.meter_rate_hz)
    progress = Progress(len(job.spec.tasks) - len(job.done.finished), quiet=args.quiet)
    for line in preamble(job.spec, meter):
        progress.say(line)
    store = _store(args, job)
    try:
        return _execute(args, job, store, meter, progress, clock)
    finally:
        store.close()


def _without_certificate(fleet: str | None, folder: Path) -> list[str]:
    """The devices of a fleet that can show a certificate, and have none in a security folder."""
    devices = [] if fleet is None else load_fleet(fleet, cores=available_cores()).devices
    return [device.id for device in devices if not (device.foreign or (folder / DEVICES / device.id).exists())]


def _store(args: argparse.Namespace, job: Job) -> Store:
    if job.resume is not None:
        return Store.resume(job.resume)
    run = {
        "wall_time": SystemClock().wall_time(),
        "argv": list(sys.argv[1:]),
        "fleet": job.spec.fleet.name,
        "experiment": job.spec.experiment.name,
        "experiment_spec": asdict(job.spec.experiment),
        "experiment_text": job.experiment_text,
        "cores": available_cores(),
        "versions": versions(),
        "git": git_state(Path(__file__)),
        "host": host_facts(args.sysfs_root),
    }
    rows = [task.row() for task in job.spec.tasks]
    return Store.create(Path(args.output or "results"), run, job.spec.fleet.text, rows)


def _execute(
    args: argparse.Namespace, job: Job, store: Store, meter: HostMeter, progress: Progress, clock: SystemClock
) -> int:
    engine = Engine(job.spec, job.workload, store, meter, clock, progress, job.done, root=args.sysfs_root)
    try:
        asyncio.run(_until_done_or_told(engine))
    except (KeyboardInterrupt, asyncio.CancelledError):
        store.sync()
        print(f"interrupted; go on with: python -m harness.run --resume {store.folder}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except PreconditionError:
        print(f"what is known is in {store.folder}", file=sys.stderr)
        raise
    status = "failures" if job.done.failures else "completed"
    store.finish({"wall_time": clock.wall_time(), "status": status, **_summary(job, store.folder)})
    return _finish(args, job, store.folder)


def _finish(args: argparse.Namespace, job: Job, folder: Path) -> int:
    """The closing summary, and the exit code that goes with it."""
    print_summary(_summary(job, folder), as_json=args.json)
    return EXIT_FAILURES if job.done.failures or len(job.done.finished) < len(job.spec.tasks) else EXIT_OK


def _summary(job: Job, folder: Path) -> dict[str, Any]:
    return summary_json(folder, job.spec.tasks, job.done)


async def _until_done_or_told(engine: Engine) -> None:
    """Ctrl-C and SIGTERM both cancel the run, which then stops its clients in order."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("no running task")
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_, task.cancel)
    await engine.run()


if __name__ == "__main__":
    sys.exit(main())

"""`python -m harness.run [FLEET]`: run an experiment over a fleet of devices, and leave a results folder."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from fl.security import DEVICES
from harness.arguments import check_arguments, check_fleet
from harness.execution import EXIT_INTERRUPTED, EXIT_OK, close_run, finish, run_real, run_simulated
from harness.fleet import load_fleet
from harness.flower.choice import ENGINES
from harness.host import available_cores
from harness.init import init
from harness.job import new_job, resumed_job
from harness.live.serving import DEFAULT_ADDRESS
from harness.show import show_plan
from profiler.errors import FedmeterError, UsageError


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
    p.add_argument(
        "--engine",
        choices=ENGINES,
        help="what carries the rounds: fedmeter's own (default), Flower's SuperLink and SuperNodes, which launchers "
        "start on this machine, or Flower's simulation on Ray (docs/flower.md)",
    )
    p.add_argument(
        "--federation",
        metavar="HOST:PORT",
        help="with --engine flower: a SuperLink that is there, with nodes that others start; flower-sim: a Ray cluster",
    )
    p.add_argument("--no-training", action="store_true", help="simulate time and energy alone, of a simulated fleet")
    p.add_argument("--workers", type=int, metavar="N", help="processes that train for simulated devices (one a core)")
    p.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run, skip what is finished")
    p.add_argument("--dry-run", action="store_true", help="print the resolved plan and touch nothing")
    p.add_argument("--check", action="store_true", help="probe devices and sensors, start nothing")
    p.add_argument(
        "--init",
        nargs="?",
        type=Path,
        const=Path("fedmeter-tls"),
        metavar="DIR",
        help="make certificates, a token and, where no FLEET is given, a fleet file of what is found, in a new folder "
        "(default: fedmeter-tls)",
    )
    p.add_argument(
        "--ssh",
        nargs="+",
        default=[],
        metavar="HOST",
        help="with --init: hosts for the fleet file, [USER@]HOST[:PORT], or @FILE with one a line",
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
    p.add_argument(
        "--live",
        nargs="?",
        const=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help=f"show the run on a page while it goes on, and at /metrics (default: {DEFAULT_ADDRESS})",
    )
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
        return _init(args)
    if args.name or args.device or args.ssh or args.days is not None:
        raise UsageError("--name, --device, --ssh and --days go with --init.")
    check_arguments(args)
    job = resumed_job(args) if args.resume else new_job(args)
    check_fleet(job.spec, asks=args.check)
    if args.dry_run:
        show_plan(job.spec, as_json=args.json)
        return EXIT_OK
    if job.resume is not None and len(job.done.finished) == len(job.spec.tasks):
        print(f"{job.resume} is complete: nothing to resume", file=sys.stderr)
        close_run(job, job.resume)
        return finish(args, job, job.resume)
    return run_simulated(args, job) if job.spec.fleet.is_simulated else run_real(args, job)


def _init(args: argparse.Namespace) -> int:
    """A fleet file is written where there is none: neither named nor, for devices by name, about to be."""
    if args.dry_run or args.check or args.resume:
        raise UsageError(
            "--init makes files, and neither runs nor checks: --dry-run, --check and --resume go without it."
        )
    has_fleet = args.fleet is not None or bool(args.device)
    if has_fleet and args.ssh:
        raise UsageError("--ssh is for a new fleet file: it goes neither with FLEET nor with --device.")
    devices = [*args.device, *_without_certificate(args.fleet, args.init)]
    return init(args.init, args.name, args.days, devices, None if has_fleet else args.ssh)


def _without_certificate(fleet: str | None, folder: Path) -> list[str]:
    """The devices of a fleet that can show a certificate, and have none in a security folder."""
    devices = [] if fleet is None else load_fleet(fleet, cores=available_cores()).devices
    return [device.id for device in devices if not (device.foreign or (folder / DEVICES / device.id).exists())]


if __name__ == "__main__":
    sys.exit(main())

"""What can be told of a command line, and of the files that a fleet names, before anything is touched."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from harness.device import DeviceSpec
from harness.flower.federation import check_way
from harness.launcher import launcher_class
from harness.launchers.limits import missing_cores
from harness.launchers.shared_options import missing_files
from harness.live.serving import live_address
from harness.run_spec import RunSpec, access
from profiler.errors import PreconditionError, SpecError, UsageError, nearest
from profiler.sensor import ENTRY_POINT_GROUP


def check_arguments(args: argparse.Namespace) -> None:
    """Raises UsageError for what is wrong whatever the fleet and the experiment say."""
    if args.dry_run and args.check:
        raise UsageError("--dry-run touches nothing and --check asks devices: leave out one of them.")
    if args.live is not None:
        live_address(args.live)
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers {args.workers}: at least 1.")
    if not args.sysfs_root.is_dir():
        raise UsageError(f"--sysfs-root {args.sysfs_root} is not a folder.")
    root = Path(args.output or "results")
    if in_the_way := next((path for path in (root, *root.parents) if path.exists() and not path.is_dir()), None):
        raise UsageError(f"-o {root}: {in_the_way} is no folder.", remedy="Choose another with -o.")


def check_fleet(spec: RunSpec, *, asks: bool) -> None:
    """Raises PreconditionError or SpecError for what no run over this fleet can get by.

    Where devices are asked one by one (`asks`) each says itself which of its files are not there.
    """
    if spec.fleet.is_simulated:
        return
    access(spec)  # plain text to others, or an expired certificate
    check_way(spec)
    _check_required(spec.devices)
    if not asks:
        _check_machine(spec.devices)


def _check_machine(devices: Iterable[DeviceSpec]) -> None:
    """What entries say of this machine: files, and numbers of cores."""
    for device in devices:
        if absent := missing_cores(device.options):
            raise PreconditionError(f"{device.id}: {absent}.")
        for key, path in missing_files(device.options).items():
            raise PreconditionError(
                f"{device.id}: {key} = {path} is not there.", remedy="A relative path counts from where you run this."
            )


def _check_required(devices: Iterable[DeviceSpec]) -> None:
    """Of this host's devices: what others have is known there."""
    known = {entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}
    for device in devices:
        unknown = set(device.require) - known if launcher_class(device.launcher).shares_host else set()
        if unknown:
            name = min(unknown)
            raise SpecError(f"{device.id}: require: there is no sensor '{name}'.", remedy=nearest(name, known))

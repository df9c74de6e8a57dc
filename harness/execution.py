"""Carries a job out: over real devices, in simulated time, or without training. And what it comes to in the end."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from harness.cgroups import sweep_stale_cgroups
from harness.cost_only import CostEngine
from harness.engine import Engine
from harness.flower.federation import Federation
from harness.host import available_cores, git_state, host_facts, versions
from harness.job import Job
from harness.live.board import Board, Subject
from harness.live.serving import served
from harness.meter import HostMeter, choose, probe_sensors
from harness.progress import Progress
from harness.show import check, preamble, print_summary, simulated_preamble
from harness.store import Store
from harness.summary import summary_json
from harness.virtual_time import VirtualClock, virtual_loop
from harness.watching import Watcher, Watchers
from profiler.clock import Clock, SystemClock
from profiler.errors import PreconditionError
from profiler.machine_facts import machine_facts
from profiler.sensor import Probe

EXIT_OK, EXIT_FAILURES, EXIT_PRECONDITION, EXIT_INTERRUPTED = 0, 1, 3, 130


class Runs(Protocol):
    """An engine: does all that is left to do of a plan."""

    async def run(self) -> None: ...


def run_real(args: argparse.Namespace, job: Job) -> int:
    """Over devices that there are; the exit code."""
    clock = SystemClock()
    required = job.spec.required_here
    probes = probe_sensors(args.sysfs_root, clock, required)
    if args.check:
        return _check(args, job, probes)
    meter = HostMeter(probes, choose(probes, required), clock, rate_hz=job.spec.fleet.meter_rate_hz)
    workers = _workers(args, default=1)  # simulated devices beside real ones: cores are for those that are measured
    with _watched(args, job, preamble(job.spec, meter), clock, meter) as watcher:
        store = _store(args, job)
        watcher.run_started(store.run_id)
        try:
            engine = Engine(
                *(job.spec, job.trained, store, meter, clock, watcher, job.done),
                root=args.sysfs_root,
                workers=workers,
                carrier=_carrier(job, store),
            )
            return _execute(args, job, store, engine, asyncio.run)
        finally:
            store.close()


def run_simulated(args: argparse.Namespace, job: Job) -> int:
    """In simulated time: with training in real processes, or of time and energy alone; the exit code."""
    workers = _workers(args, default=available_cores())
    if args.check:
        return _check(args, job, [])
    with virtual_loop() as loop:
        clock = VirtualClock(loop)
        meter = HostMeter([], None, clock, rate_hz=job.spec.fleet.meter_rate_hz)
        with _watched(args, job, simulated_preamble(job.spec, workers), clock, meter) as watcher:
            store = _store(args, job)
            watcher.run_started(store.run_id)
            try:
                if not job.spec.trains:
                    return _execute(args, job, store, CostEngine(job.spec, store, watcher, job.done), asyncio.run)
                engine = Engine(
                    *(job.spec, job.trained, store, meter, clock, watcher, job.done),
                    root=args.sysfs_root,
                    workers=workers,
                )
                return _execute(args, job, store, engine, loop.run_until_complete)
            finally:
                store.close()


def _carrier(job: Job, store: Store) -> Federation | None:
    return Federation(job.spec, store.logs) if job.spec.engine.is_flower else None


def _workers(args: argparse.Namespace, *, default: int) -> int:
    workers: int = default if args.workers is None else args.workers
    return workers


def _check(args: argparse.Namespace, job: Job, probes: list[Probe]) -> int:
    is_good = check(job.spec, probes, machine_facts(args.sysfs_root), as_json=args.json)
    return EXIT_OK if is_good else EXIT_PRECONDITION


@contextmanager
def _watched(args: argparse.Namespace, job: Job, lines: list[str], clock: Clock, meter: HostMeter) -> Iterator[Watcher]:
    """Who is told of the run: the terminal, and the live page where one is wanted, from before there are results."""
    progress = Progress(len(job.spec.tasks) - len(job.done.finished), quiet=args.quiet)
    with closing(progress):
        if args.live is None:
            yield _told(progress, lines)
            return
        board = Board(_subject(job, meter), clock, job.done)
        with served(args.live, board, tls=job.spec.fleet.tls, latest_tick=lambda: meter.latest_tick):
            yield _told(Watchers(progress, board), lines)


def _told(watcher: Watcher, lines: list[str]) -> Watcher:
    for line in lines:
        watcher.say(line)
    return watcher


def _subject(job: Job, meter: HostMeter) -> Subject:
    spec = job.spec
    return Subject(
        fleet=spec.fleet.name,
        experiment=spec.experiment.name,
        tasks=spec.tasks,
        devices=tuple((device.id, device.processor, device.launcher) for device in spec.devices) if spec.trains else (),
        n_devices=len(spec.devices) if spec.trains else spec.fleet.size,
        is_simulated=spec.fleet.is_simulated,
        meter="simulated" if spec.fleet.is_simulated else meter.description,
    )


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
        "clock": "simulated" if job.spec.fleet.has_simulated else "system",  # as weak as its weakest part
        "training": job.spec.trains,
        "engine": job.spec.engine.facts(job.spec.launchers),
        "cores": available_cores(),
        "versions": versions(),
        "git": git_state(Path(__file__)),
        "host": host_facts(args.sysfs_root),
    }
    rows = [task.row() for task in job.spec.tasks]
    return Store.create(Path(args.output or "results"), run, job.spec.fleet.text, rows)


def _execute(
    args: argparse.Namespace, job: Job, store: Store, engine: Runs, run: Callable[[Coroutine[Any, Any, None]], None]
) -> int:
    try:
        run(_until_done_or_told(engine))
    except (KeyboardInterrupt, asyncio.CancelledError):
        store.sync()
        print(f"interrupted; go on with: python -m harness.run --resume {store.folder}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except PreconditionError:
        print(f"what is known is in {store.folder}", file=sys.stderr)
        raise
    _end(store, job)
    return finish(args, job, store.folder)


def _end(store: Store, job: Job) -> None:
    status = "failures" if job.done.failures else "completed"
    store.finish({"wall_time": SystemClock().wall_time(), "status": status, **_summary(job, store.folder)})


def close_run(job: Job, folder: Path) -> None:
    """Where a run was killed after its last task: write what was left to write, and remove what it has left behind."""
    if (folder / "end.json").exists():
        return
    sweep_stale_cgroups()
    store = Store.resume(folder)
    try:
        _end(store, job)
    finally:
        store.close()


def finish(args: argparse.Namespace, job: Job, folder: Path) -> int:
    """The closing summary, and the exit code that goes with it."""
    print_summary(_summary(job, folder), as_json=args.json)
    return EXIT_FAILURES if job.done.failures or len(job.done.finished) < len(job.spec.tasks) else EXIT_OK


def _summary(job: Job, folder: Path) -> dict[str, Any]:
    return summary_json(folder, job.spec.tasks, job.done)


async def _until_done_or_told(engine: Runs) -> None:
    """Ctrl-C and SIGTERM both cancel the run, which then stops its clients in order."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("no running task")
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_, task.cancel)
    await engine.run()

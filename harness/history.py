"""What `fl.start_server` returned becomes a results folder, so that `python -m analysis...` reads it like any other."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from fl.loop import CallRecord, RoundResult
from fl.standalone import History
from fl.workload import Partition
from harness.host import available_cores, host_facts, versions
from harness.plan import Task
from harness.recorder import Energy, TaskContext, round_rows
from harness.store import Store
from profiler.clock import Clock, SystemClock
from profiler.errors import UsageError
from profiler.quantities import EnergyReading, Scope
from profiler.records import Row

UNLABELLED = "unlabelled"
_FLEET = "# No fleet file: clients joined fl.start_server by themselves.\n"

N = TypeVar("N", int, float)


def save_history(
    history: History,
    root: Path | str = "results",
    *,
    workload: str,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    processors: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> Path:
    """Write a run folder below `root` (docs/results.md) and return it. `processors` maps device ids to labels.

    Epochs E, batch size, learning rate and seed are those of the clients' config where it says them. A device without a
    meter of its own has no energy: nobody has metered this host. Raises UsageError, naming the argument, for what
    neither says, and where no round has a result; PreconditionError where the folder cannot be written.
    """
    rounds = [_labelled(result, processors or {}) for result in history.rounds]
    fits = [call for result in rounds for call in result.calls if call.call == "fit"]
    if not any(call.answer is not None for call in fits):
        raise UsageError("this history has no round with a result: there is nothing to save.")
    members = {call.device: call.processor for call in fits}
    task = Task(
        workload=workload,
        partition=asdict(Partition(kind="unknown", shards=len(members))),
        rounds=len(rounds),
        epochs=_told("epochs", epochs, fits, int),
        clients=len(members),
        batch_size=_told("batch_size", batch_size, fits, int),
        lr=_told("lr", lr, fits, float),
        seed=_told("seed", seed, fits, int),
        strategy=history.strategy,
        strategy_options={},
        processors=dict(sorted(Counter(members.values()).items())),
        cutoffs={},
    )
    return _write(Path(root), task, members, rounds, clock or SystemClock())


def _labelled(result: RoundResult, processors: Mapping[str, str]) -> RoundResult:
    """A cutoff and a table are keyed by the processor, so each device has a label, if only that it has none."""
    calls = (
        replace(call, processor=processors.get(call.device) or call.processor or UNLABELLED) for call in result.calls
    )
    return replace(result, calls=tuple(calls))


def _told(name: str, given: N | None, fits: list[CallRecord], kind: type[N]) -> N:
    if given is not None:
        return kind(given)
    values = {value for call in fits if isinstance(value := call.config.get(name), (int, float))}
    if len(values) == 1:
        return kind(values.pop())
    what = "differs between clients or rounds" if values else "is not in the clients' config"
    raise UsageError(f"save_history: {name} {what}.", remedy=f"Pass {name}=...")


def _write(root: Path, task: Task, members: Mapping[str, str], rounds: list[RoundResult], clock: Clock) -> Path:
    run = {
        "wall_time": clock.wall_time(),
        "argv": list(sys.argv),
        "fleet": "standalone",
        "experiment": "standalone",
        "cores": available_cores(),
        "versions": versions(),
        "host": host_facts(Path("/")),
    }
    store = Store.create(root, run, _FLEET, [task.row()])
    try:
        base = {"task": task.id, "attempt": 1, "wall_time": clock.wall_time()}
        context = TaskContext(task.id, 1, 1, members, frozenset(), clock.wall_time())
        store.append([{"kind": "task_started", **base, "from_round": 1}])
        for result in rounds:
            store.append(round_rows(context, result, _Unmetered()))
        store.append([{"kind": "task_finished", **base, "status": "completed", "rounds_done": len(rounds)}])
        for device, processor in members.items():
            store.write_device(device, _device(device, processor))
        failures = sum(result.n_failures for result in rounds)
        store.finish({"wall_time": clock.wall_time(), "status": "failures" if failures else "completed"})
    finally:
        store.close()
    return store.folder


def _device(device: str, processor: str) -> Row:
    return {"device": device, "processor": processor, "host": None}


class _Unmetered:
    """No meter of this host was read."""

    def of(self, owner: str, start_ns: int, end_ns: int) -> Energy:
        return Energy(EnergyReading.missing(owner, Scope.PROCESS, "this host was not metered"), "host", 0.0)

    def host(self, start_ns: int, end_ns: int) -> Energy:
        return Energy(EnergyReading.missing("host", Scope.HOST, "this host was not metered"), "host", 0.0)

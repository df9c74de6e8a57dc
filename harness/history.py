"""The rounds of `fl.start_server` as a results folder, so that `python -m analysis...` reads it like any other.

fl.start_server(..., recorder=harness.Recording("results", workload="mine"))    # round by round
harness.save_history(history, "results", workload="mine")                       # afterwards
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fl.loop import CallRecord, RoundResult
from fl.proxy import ClientInfo
from fl.receipts import SpanKey, Stray
from fl.standalone import History
from fl.workload import Partition
from harness.energy_sources import Energy
from harness.host import available_cores, host_facts, versions
from harness.plan import Task
from harness.recorder import TaskContext, round_rows, sampled, stray_rows
from harness.store import Done, Store, check_root, open_for_resume
from profiler.clock import Clock, SystemClock
from profiler.errors import SpecError, UsageError
from profiler.quantities import EnergyReading, Scope
from profiler.records import Row

UNLABELLED = "unlabelled"
STANDALONE = "standalone"
_FLEET = "# No fleet file: clients joined fl.start_server by themselves.\n"

_log = logging.getLogger("harness")


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
    labels = _Labels(workload, _given(epochs=epochs, batch_size=batch_size, lr=lr, seed=seed), processors or {})
    fits = _fits(history.rounds)
    if not any(call.answer is not None for call in fits):
        raise UsageError("this history has no round with a result: there is nothing to save.")
    members = {call.device: labels.processor(call.device, call.processor) for call in fits}
    task = labels.task(history.strategy, len(history.rounds), members, fits)
    now = clock or SystemClock()
    store = Store.create(Path(root), _run(now), _FLEET, [task.row()])
    with closing(store):
        folder = _Folder(store, task.id, labels, now, 1, members)
        for result in history.rounds:
            folder.add(result)
        folder.finish()
    return store.folder


class Recording:
    """A run folder below `root` that `fl.start_server(recorder=)` fills as its rounds end; arguments as `save_history`.

    The folder is made when the first round has ended, since only then it is known what that trained with. A crash loses
    at most the running round. `resume` is the folder of a recording that was cut off: with `start_server(checkpoint=)`
    the rounds after the last checkpoint are added to it, as a further attempt, and what clients send again is known.

    Raises PreconditionError where nothing can be written below `root`, SpecError where `resume` is no such folder.
    """

    def __init__(
        self,
        root: Path | str = "results",
        *,
        workload: str,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        seed: int | None = None,
        processors: Mapping[str, str] | None = None,
        resume: Path | str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._labels = _Labels(
            workload, _given(epochs=epochs, batch_size=batch_size, lr=lr, seed=seed), processors or {}
        )
        self._root = Path(root)
        self._clock: Clock = clock or SystemClock()
        self._earlier = None if resume is None else _Earlier.read(Path(resume))
        self._strategy = ""
        self._rounds = range(0)
        self._members: dict[str, str] = {}
        self._folder: _Folder | None = None
        check_root(self._root)

    @property
    def folder(self) -> Path | None:
        """Where the rounds are; None before the first has ended."""
        return None if self._folder is None else self._folder.store.folder

    @property
    def known_spans(self) -> Mapping[str, Collection[SpanKey]]:
        return {} if self._earlier is None else self._earlier.done.latest_spans

    def begin(self, strategy: str, rounds: range, clients: Sequence[ClientInfo]) -> None:
        """Raises UsageError where the folder to resume is of another training."""
        self._strategy, self._rounds = strategy, rounds
        self._members = {info.device: self._labels.processor(info.device, info.processor) for info in clients}
        if self._earlier is not None:
            self._earlier.check(self._labels, strategy, rounds)
            store, done = Store.resume(self._earlier.folder), self._earlier.done
            self._folder = self._opened(store, self._earlier.planned["task"], self._members, done)

    def record(self, result: RoundResult) -> None:
        if self._folder is None:
            self._folder = self._new(result)
        self._folder.add(result)

    def _new(self, first: RoundResult) -> _Folder:
        """Raises UsageError, naming the argument, for what neither the user nor the first round's configs say."""
        fits = _fits([first])
        members = self._members | {call.device: self._labels.processor(call.device, call.processor) for call in fits}
        task = self._labels.task(self._strategy, self._rounds.stop - 1, members, fits)
        store = Store.create(self._root, _run(self._clock), _FLEET, [task.row()])
        return self._opened(store, task.id, members)

    def _opened(self, store: Store, task: str, members: Mapping[str, str], done: Done | None = None) -> _Folder:
        return _Folder(store, task, self._labels, self._clock, self._rounds.start, members, done)

    def finish(self, strays: Sequence[Stray] = ()) -> None:
        if self._folder is not None:
            self._folder.finish(strays)

    def close(self) -> None:
        if self._folder is not None:
            self._folder.store.close()


@dataclass(frozen=True, slots=True)
class _Labels:
    """What the user says of a training beside its rounds."""

    workload: str
    given: Mapping[str, float]
    processors: Mapping[str, str]

    def processor(self, device: str, described: str) -> str:
        """A cutoff and a table are keyed by the processor, so each device has a label, if only that it has none."""
        return self.processors.get(device) or described or UNLABELLED

    def labelled(self, result: RoundResult) -> RoundResult:
        calls = (replace(call, processor=self.processor(call.device, call.processor)) for call in result.calls)
        return replace(result, calls=tuple(calls), strays=tuple(self.labelled_strays(result.strays)))

    def labelled_strays(self, strays: Iterable[Stray]) -> list[Stray]:
        return [replace(stray, processor=self.processor(stray.device, stray.processor)) for stray in strays]

    def task(self, strategy: str, rounds: int, members: Mapping[str, str], fits: Sequence[CallRecord]) -> Task:
        return Task(
            workload=self.workload,
            partition=asdict(Partition(kind="unknown", shards=len(members))),
            rounds=rounds,
            epochs=int(self._told("epochs", fits)),
            clients=len(members),
            batch_size=int(self._told("batch_size", fits)),
            lr=float(self._told("lr", fits)),
            seed=int(self._told("seed", fits)),
            strategy=strategy,
            strategy_options={},
            processors=dict(sorted(Counter(members.values()).items())),
            cutoffs={},
        )

    def _told(self, name: str, fits: Sequence[CallRecord]) -> float:
        if name in self.given:
            return self.given[name]
        values = _configured(name, fits)
        if len(values) == 1:
            return values.pop()
        what = "differs between clients or rounds" if values else "is not in the clients' config"
        raise UsageError(f"results of start_server: {name} {what}.", remedy=f"Pass {name}=...")


def _given(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _fits(rounds: Iterable[RoundResult]) -> list[CallRecord]:
    return [call for result in rounds for call in result.calls if call.call == "fit"]


def _configured(name: str, fits: Iterable[CallRecord]) -> set[float]:
    return {value for call in fits if isinstance(value := call.config.get(name), (int, float))}


class _Folder:
    """The one task of a run folder, from the beginning of an attempt. `done` is what the folder has."""

    def __init__(
        self,
        store: Store,
        task: str,
        labels: _Labels,
        clock: Clock,
        first_round: int,
        members: Mapping[str, str],
        done: Done | None = None,
    ) -> None:
        self.store = store
        self._done = done or Done()
        self._labels = labels
        self._clock = clock
        self._trained_with: dict[str, set[float]] = {}
        attempt = self._done.attempts.get(task, 0) + 1
        self._context = TaskContext(task, attempt, first_round, {}, frozenset(), clock.wall_time())
        self._append([{"kind": "task_started", **self._base(), "from_round": first_round}])
        self._meet(members)

    def add(self, result: RoundResult) -> None:
        result = self._labels.labelled(result)
        self._meet({call.device: call.processor for call in result.calls})
        self._warn_of_changes(result)
        self._context = replace(self._context, wall_time=self._clock.wall_time())
        self._append(round_rows(self._context, result, _Unmetered()))
        for device, columns in sampled(result):
            self.store.append_samples(self._context.task, self._context.attempt, device, columns)
        self.store.sync()

    def finish(self, strays: Sequence[Stray] = ()) -> None:
        rounds = self._done.rounds.get(self._context.task, {})
        self.store.close_samples()
        for stray in self._labels.labelled_strays(strays):
            self._append(stray_rows(self._context, stray, _Unmetered(), max(rounds, default=0)))
        ended = {"kind": "task_finished", "status": "completed", "rounds_done": len(rounds)}
        self._append([{**ended, **self._base()}])
        status = "failures" if self._done.failures else "completed"
        self.store.finish({"wall_time": self._clock.wall_time(), "status": status})

    def _meet(self, devices: Mapping[str, str]) -> None:
        """A round's energy is the sum over the devices that are known, also of those that came later."""
        new = {device: label for device, label in devices.items() if device not in self._context.processors}
        for device, label in new.items():
            self.store.write_device(device, {"device": device, "processor": label, "host": None})
        self._context = replace(self._context, processors={**self._context.processors, **new})

    def _warn_of_changes(self, result: RoundResult) -> None:
        """A task is named by what its first round trained with."""
        for name in {"epochs", "batch_size", "lr", "seed"} - self._labels.given.keys():
            values = _configured(name, _fits([result]))
            if values - self._trained_with.setdefault(name, values):
                self._trained_with[name] |= values
                _log.warning(
                    "round %d trains with another %s than the task is named after; pass %s= to say what is meant",
                    result.round,
                    name,
                    name,
                )

    def _base(self) -> Row:
        wall_time = self._clock.wall_time()
        return {"task": self._context.task, "attempt": self._context.attempt, "wall_time": wall_time}

    def _append(self, rows: Sequence[Row]) -> None:
        self.store.append(rows)
        for row in rows:
            self._done.note(row)


@dataclass(frozen=True, slots=True)
class _Earlier:
    """The folder of a recording that was cut off, and what it has."""

    folder: Path
    planned: Row
    done: Done

    @classmethod
    def read(cls, folder: Path) -> _Earlier:
        run, _, plan, done = open_for_resume(folder)
        if run.get("experiment") != STANDALONE or len(plan) != 1:
            raise SpecError(f"{folder} is no recording of start_server.", remedy="Use: python -m harness.run --resume")
        return cls(folder, plan[0], done)

    def check(self, labels: _Labels, strategy: str, rounds: range) -> None:
        """Raises UsageError where this is another training."""
        asked = {"workload": labels.workload, "strategy": strategy, "rounds": rounds.stop - 1, **labels.given}
        for name, value in asked.items():
            if self.planned[name] != value:
                raise UsageError(f"{self.folder} has {name} = {self.planned[name]}, and {value} is asked for now.")


def _run(clock: Clock) -> Row:
    return {
        "wall_time": clock.wall_time(),
        "argv": list(sys.argv),
        "fleet": STANDALONE,
        "experiment": STANDALONE,
        "cores": available_cores(),
        "versions": versions(),
        "host": host_facts(Path("/")),
    }


class _Unmetered:
    """No meter of this host was read."""

    def of(self, owner: str, start_ns: int, end_ns: int) -> Energy:
        return Energy(EnergyReading.missing(owner, Scope.PROCESS, "this host was not metered"), "host", 0.0)

    def host(self, start_ns: int, end_ns: int) -> Energy:
        return Energy(EnergyReading.missing("host", Scope.HOST, "this host was not metered"), "host", 0.0)

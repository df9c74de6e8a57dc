"""Time and energy of simulated fleets without training: rounds as columns of clients, no loop over devices.

The same arithmetic as the launcher `simulated` (`harness.device_model`), drawn for a whole round at once, so that a
million devices take a second. Nothing is learnt: rounds have no accuracy, and a strategy only says who takes part.
Devices that are not drawn for a round neither wait nor draw power in it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fl.strategies.fedavg import FedAvg
from harness.device import DeviceGroup
from harness.device_model import Costs, Floats, Group, Ints, Population, assumptions, costs_of, draw_fits
from harness.launchers.simulated import profile_of, scope_of
from harness.plan import Task
from harness.run_spec import RunSpec
from harness.sample_files import ClientColumns
from harness.store import Done, Store
from harness.watching import Watcher
from profiler.clock import SystemClock
from profiler.errors import SpecError, UsageError
from profiler.quantities import Provenance
from profiler.records import Row

Bools = npt.NDArray[np.bool_]

_COVERAGE = 2 / math.sqrt(3)  # from the limit of a rectangular distribution to an expanded uncertainty, k = 2
_LEARNS = ("round_deadline_s", "round_energy_j")  # options of a strategy that look at what rounds before took
MAX_CLIENT_ROWS = 10_000_000
_BREATH_ROUNDS = 16  # after so many rounds the event loop may hear of Ctrl-C


@dataclass(frozen=True, slots=True)
class Calls:
    """What a call takes beside training, float64[n_groups]: transfers, the client's own evaluation, their joules."""

    download_s: Floats
    upload_s: Floats
    evaluate_s: Floats
    work_j: Floats

    @classmethod
    def of(cls, costs: Sequence[Costs], model_bytes: int | None, *, evaluates: bool) -> Calls:
        """Raises SpecError where the size of the model is needed and not said."""
        if model_bytes is None and any(_needs_bytes(cost) for cost in costs):
            raise SpecError(
                "a simulation without training needs the size of the model, where transfers follow from a link.",
                remedy="Add [simulation] model_bytes = N to the experiment.",
            )
        n_bytes = model_bytes or 0
        download_s = np.array([cost.download_s(n_bytes) for cost in costs])
        upload_s = np.array([cost.upload_s(n_bytes) for cost in costs])
        transfer_j = np.array([cost.transfer_j(2 * n_bytes) for cost in costs])
        if not evaluates:
            return cls(download_s, upload_s, np.zeros(len(costs)), transfer_j)
        epochs = np.array([(cost.steps_per_epoch or 0) * cost.training.evaluate_share for cost in costs])
        step_s, step_j = (np.array([getattr(c.training, name) for c in costs]) for name in ("step_s", "step_j"))
        return cls(download_s, upload_s, download_s + epochs * step_s + upload_s, 2 * transfer_j + epochs * step_j)


def _needs_bytes(costs: Costs) -> bool:
    training = costs.training
    return None in (training.download_s, training.upload_s, training.transfer_j)


@dataclass(frozen=True, slots=True)
class RoundColumns:
    """One round: a row a client that was drawn, and what the round comes to.

    `fit_s` is the training window; `wait_s` from a client's own update to the last accepted one, evaluation included.
    `present_s` is how long each draws idle power: the whole round, and what a late one takes beyond it.
    """

    devices: Ints
    group: Ints
    steps_done: Ints
    steps_planned: Ints
    download_s: Floats
    fit_s: Floats
    upload_s: Floats
    wait_s: Floats
    present_s: Floats
    idle_j: Floats
    work_j: Floats
    fit_j: Floats
    is_late: Bools
    fit_time_s: float
    time_s: float

    @property
    def energy_j(self) -> Floats:
        return self.idle_j + self.work_j


def simulate_round(
    population: Population, calls: Calls, devices: Ints, rng: np.random.Generator, deadline_s: float
) -> RoundColumns:
    """The round of some devices of a population."""
    group = population.group_of(devices)
    fits = draw_fits(population, group, rng)
    download_s, upload_s = calls.download_s[group], calls.upload_s[group]
    call_s = download_s + fits.window_s + upload_s
    is_late = call_s > deadline_s
    fit_time_s = float(np.max(call_s, where=~is_late, initial=0.0)) or deadline_s
    time_s = fit_time_s + float(np.max(calls.evaluate_s[group], initial=0.0))
    present_s = np.maximum(time_s, call_s)
    fit_work_j = population.step_j[group] * fits.steps_done
    return RoundColumns(
        devices=devices,
        group=group,
        steps_done=fits.steps_done,
        steps_planned=fits.steps_planned,
        download_s=download_s,
        fit_s=fits.window_s,
        upload_s=upload_s,
        wait_s=np.maximum(0.0, time_s - call_s),
        present_s=present_s,
        idle_j=population.idle_w[group] * present_s,
        work_j=fit_work_j + calls.work_j[group],
        fit_j=population.idle_w[group] * fits.window_s + fit_work_j,
        is_late=is_late,
        fit_time_s=fit_time_s,
        time_s=time_s,
    )


class CostEngine:
    """All that is left to do of a plan without training. A task that was interrupted begins anew."""

    def __init__(self, spec: RunSpec, store: Store, progress: Watcher, done: Done) -> None:
        """Raises UsageError for a strategy that learns who takes part, SpecError where a profile lacks something."""
        self._spec = spec
        self._store = store
        self._progress = progress
        self._done = done
        self._clock = SystemClock()
        self._costs = {group.first.id: self._costs_of(group) for group in spec.fleet.groups}
        for task in spec.tasks:
            _refuse_learning(task)

    async def run(self) -> None:
        self._write_devices()
        for number, task in enumerate(self._spec.tasks, start=1):
            if task.id not in self._done.finished:
                await self._run_task(task, f"[{number}/{len(self._spec.tasks)}] {task.label} seed {task.seed}")

    def _costs_of(self, group: DeviceGroup) -> Costs:
        experiment = self._spec.experiment
        return costs_of(profile_of(group.first), experiment.costs_of or experiment.workload, experiment.steps_per_epoch)

    def _write_devices(self) -> None:
        """A file and an idle record for each group: its devices are alike."""
        rows: list[Row] = []
        for group in self._spec.fleet.groups:
            costs, meter = self._costs[group.first.id], _meter(group)
            told = {"devices": group.first.id, "count": group.count, "processor": group.processor}
            self._store.write_device(
                meter, {**told, "launcher": group.launcher, **assumptions(profile_of(group.first), costs)}
            )
            rows.append(self._idle_row(group, costs, meter))
        if not self._done.idle:
            self._append(rows)

    def _idle_row(self, group: DeviceGroup, costs: Costs, meter: str) -> Row:
        seconds = self._spec.experiment.idle_s
        return {
            "kind": "idle",
            "wall_time": self._clock.wall_time(),
            "device": meter,
            "phase": "before",
            "duration_s": seconds,
            "energy_j": costs.idle_w * seconds,
            "energy_err_j": _COVERAGE * costs.idle_gain_err * costs.idle_w * seconds,
            "provenance": Provenance.SIMULATED.value,
            "energy_scope": scope_of(group.first).value,
        }

    async def _run_task(self, task: Task, title: str) -> None:
        attempt = self._done.attempts.get(task.id, 0) + 1
        base = {"task": task.id, "attempt": attempt, "wall_time": self._clock.wall_time()}
        self._append([{"kind": "task_started", **base, "from_round": 1}])
        rounds = _Rounds(self._spec, task, self._costs)
        keeps_clients = rounds.n_drawn * task.rounds <= MAX_CLIENT_ROWS
        if not keeps_clients:
            self._progress.say(f"{title}: more than {MAX_CLIENT_ROWS} rows of clients, which are not kept")
        with self._store.clients(task.id, attempt) if keeps_clients else nullcontext() as clients:
            for round_ in range(1, task.rounds + 1):
                columns = rounds.simulate(round_)
                if clients is not None:
                    clients.add(client_columns(round_, columns))
                self._append(rounds.rows(columns, {**base, "round": round_}))
                if round_ % _BREATH_ROUNDS == 0:
                    await asyncio.sleep(0)
        self._append([{"kind": "task_finished", **base, "status": "completed", "rounds_done": task.rounds}])
        self._store.sync()
        done = self._done.rounds[task.id].values()
        time_s, energy_j = (math.fsum(row[name] for row in done) for name in ("time_s", "energy_j"))
        self._progress.say(f"{title}: {time_s / 60:.4g} min, {energy_j / 1000:.4g} kJ (simulated)")

    def _append(self, rows: Sequence[Row]) -> None:
        self._store.append(rows)
        for row in rows:
            self._done.note(row)
        self._progress.recorded(rows)


def _refuse_learning(task: Task) -> None:
    learned = [name for name in _LEARNS if task.strategy_options.get(name) is not None]
    if task.strategy == "adaptive" or learned:
        raise UsageError(
            f"--no-training cannot simulate strategy '{task.strategy}'{' with ' + learned[0] if learned else ''}: "
            "it chooses by what earlier rounds took.",
            remedy="Simulate it with training.",
        )


def _meter(group: DeviceGroup) -> str:
    """What the devices of a group are called together; the results hold no name for each."""
    return group.first.id.replace("{n}", "each")


class _Rounds:
    """The rounds of one task."""

    def __init__(self, spec: RunSpec, task: Task, costs: Mapping[str, Costs]) -> None:
        self._task = task
        taken = spec.fleet.first(task.clients, task.processors)
        wanted = task.strategy_options.get("processors")
        taken = [(group, count) for group, count in taken if wanted is None or group.processor in wanted]
        self._groups = [group for group, _ in taken]
        groups = [
            Group(group.first.id, group.processor, costs[group.first.id], count, task.tau_s.get(group.processor, 0.0))
            for group, count in taken
        ]
        self._population = Population(groups, task.epochs)
        evaluates = bool(task.strategy_options.get("evaluate", FedAvg.evaluate))
        self._calls = Calls.of([group.costs for group in groups], spec.experiment.model_bytes, evaluates=evaluates)
        self._gains = [(group.costs.idle_gain_err, group.costs.training.gain_err) for group in groups]
        self._deadline_s = spec.experiment.fit_timeout_s
        self._n_bytes = spec.experiment.model_bytes
        self.n_drawn = _drawn(self._population.size, task.strategy_options)

    def simulate(self, round_: int) -> RoundColumns:
        rng = np.random.default_rng([self._task.seed, round_])
        size = self._population.size
        everybody = self.n_drawn == size
        devices = (
            np.arange(size) if everybody else np.sort(rng.choice(size, self.n_drawn, replace=False, shuffle=False))
        )
        return simulate_round(self._population, self._calls, devices, rng, self._deadline_s)

    def rows(self, columns: RoundColumns, base: Row) -> list[Row]:
        """The round's record, and before it one of failures, if some were too late."""
        n_late = int(columns.is_late.sum())
        rows = [self._round_row(columns, base, n_late)]
        if n_late:
            reason = f"{n_late} of {columns.devices.size} simulated fits took longer than {self._deadline_s:g} s"
            rows.insert(0, {"kind": "failure", **base, "phase": "fit", "reason": reason})
        return rows

    def _round_row(self, columns: RoundColumns, base: Row, n_late: int) -> Row:
        n = columns.devices.size
        idle_j, work_j = self._by_group(columns, columns.idle_j), self._by_group(columns, columns.work_j)
        fit_j = float(columns.fit_j.sum())
        waits_j = self._population.idle_w[columns.group] * columns.wait_s
        straggler_s = np.maximum(0.0, columns.fit_time_s - (columns.download_s + columns.fit_s + columns.upload_s))
        stragglers_j = float((self._population.idle_w[columns.group] * straggler_s).sum())
        energy_j = float(columns.energy_j.sum())
        error = self._error(idle_j, work_j) / energy_j if energy_j else 0.0
        seconds = self._by_group(columns, columns.present_s)
        return {
            "kind": "round",
            **base,
            "time_s": columns.time_s,
            "fit_time_s": columns.fit_time_s,
            "server_s": 0.0,
            "n_selected": n,
            "n_results": n - n_late,
            "n_failures": n_late,
            "energy_j": energy_j,
            "energy_err_j": error * energy_j,
            "provenance": Provenance.SIMULATED.value,
            "energy_scope": scope_of(self._groups[0].first).value,
            "idle_s": dict(zip(map(_meter, self._groups), seconds, strict=True)),
            "energy_fit_j": fit_j,
            "energy_fit_err_j": error * fit_j,
            "energy_wait_j": float(waits_j.sum()),
            "energy_wait_err_j": error * float(waits_j.sum()),
            "energy_straggler_wait_j": stragglers_j,
            "energy_straggler_wait_err_j": error * stragglers_j,
            **(
                {}
                if self._n_bytes is None
                else {"download_bytes": n * self._n_bytes, "upload_bytes": n * self._n_bytes}
            ),
        }

    def _by_group(self, columns: RoundColumns, values: Floats) -> list[float]:
        sums: list[float] = np.bincount(columns.group, weights=values, minlength=len(self._groups)).tolist()
        return sums

    def _error(self, idle_j: Sequence[float], work_j: Sequence[float]) -> float:
        """Devices of a kind err alike, so that their errors add up."""
        return _COVERAGE * math.fsum(
            math.hypot(idle_gain * idle, work_gain * work)
            for (idle_gain, work_gain), idle, work in zip(self._gains, idle_j, work_j, strict=True)
        )


def _drawn(size: int, options: Mapping[str, object]) -> int:
    """How many of so many a strategy draws a round, as `fl.selection` says."""
    fraction, clients = options.get("fraction"), options.get("clients")
    if isinstance(fraction, (int, float)):
        return max(1, math.ceil(fraction * size - 1e-9))
    return min(size, clients) if isinstance(clients, int) else size


def client_columns(round_: int, columns: RoundColumns) -> ClientColumns:
    """A round's rows for the table of clients."""
    return {
        "round": np.full(columns.devices.size, round_),
        "device": columns.devices,
        "steps_done": columns.steps_done,
        "steps_planned": columns.steps_planned,
        "download_s": columns.download_s,
        "fit_s": columns.fit_s,
        "upload_s": columns.upload_s,
        "wait_s": columns.wait_s,
        "energy_j": columns.energy_j,
        "energy_fit_j": columns.fit_j,
        "is_late": columns.is_late,
    }

"""Executes a plan: clients up, idle power, task after task, clients down. What fails is recorded and left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fl.admission import Access
from fl.checkpoint import Checkpoint
from fl.in_process import InProcessServer
from fl.instrument import TELEMETRY_KEY
from fl.loop import CallRecord, RoundResult, run_rounds
from fl.messages import Array, GetPropertiesIns, Parameters
from fl.proxy import ClientInfo, ClientProxy
from fl.receipts import Stray
from fl.security import ServerSecurity, server_security
from fl.server import Server
from fl.strategy import Adjusted, Assignment, Strategy, load_strategy
from fl.workload import Workload
from harness.device import DeviceSpec
from harness.experiment import ExperimentSpec
from harness.fleet import FleetSpec
from harness.host import device_facts, host_facts
from harness.idle import idle_facts, measure_idle
from harness.launcher import JoinSpec, Launcher, launcher_class
from harness.launchers.external import invitations
from harness.meter import HOST, HostMeter
from harness.plan import Task
from harness.progress import Progress
from harness.recorder import IgnoredCutoffs, TaskContext, round_rows, sampled, stray_rows
from harness.sessions import Sessions, dead_at_start
from harness.store import Done, Store
from profiler.clock import Clock
from profiler.errors import ClientFailure, PreconditionError
from profiler.records import Row

_FAREWELL_S = 5.0
_CLOSE_S = 2.0
_JOIN_POLL_S = 60.0
_LAST_WAIT_S = 10.0
_MODELS_PER_MESSAGE = 4
_EXTRA_MESSAGE_BYTES = 32 * 1024 * 1024  # twice what is read of one measurement


@dataclass(frozen=True, slots=True)
class RunSpec:
    """All that a run is: who, what, and the tasks that follow from them."""

    fleet: FleetSpec
    experiment: ExperimentSpec
    tasks: tuple[Task, ...]

    @property
    def trains(self) -> bool:
        """False where time and energy alone are simulated."""
        return all(task.training for task in self.tasks)

    @property
    def devices(self) -> tuple[DeviceSpec, ...]:
        """Those that take part in any task."""
        members = {device.id: device for task in self.tasks for device in self.members(task)}
        return tuple(sorted(members.values(), key=lambda device: device.number))

    @property
    def required_here(self) -> frozenset[str]:
        """The sensors that this host must have: of devices elsewhere, their launchers ask there."""
        return frozenset(
            name for device in self.devices if launcher_class(device.launcher).shares_host for name in device.require
        )

    def members(self, task: Task) -> tuple[DeviceSpec, ...]:
        """Those that take part in a task."""
        return self.fleet.members(task.clients, task.processors)


def message_bound(model: Sequence[Array]) -> int:
    """How large a message may be: several models, for what a strategy sends along, and room for measurements."""
    n_bytes = sum(array.nbytes for array in model)
    return min(_MODELS_PER_MESSAGE * n_bytes + _EXTRA_MESSAGE_BYTES, 2**31 - 1)


def access(spec: RunSpec) -> Access:
    """Who may join: the devices of the run by their names, and as many foreign clients as there are entries for.

    Raises PreconditionError where the certificates cannot be used, or where plain text would leave this machine.
    """
    fleet = spec.fleet
    foreign = tuple(device.id for device in spec.devices if device.foreign)
    allowed = Access(
        ServerSecurity() if fleet.tls is None else server_security(fleet.tls),
        devices=frozenset(device.id for device in spec.devices if not device.foreign),
        foreign=foreign,
        foreign_address=fleet.foreign_address if foreign else None,
        asks_names=fleet.asks_names,
        insecure=fleet.insecure,
    )
    allowed.check_addresses(fleet.address)
    return allowed


class Engine:
    """One run over one store. `done` is what an earlier attempt has left, `root` where this host is described from."""

    def __init__(
        self,
        spec: RunSpec,
        workload: Workload,
        store: Store,
        meter: HostMeter,
        clock: Clock,
        progress: Progress,
        done: Done,
        *,
        root: Path = Path("/"),
        workers: int = 1,
    ) -> None:
        self._spec = spec
        self._workers = workers
        self._workload = workload
        self._store = store
        self._meter = meter
        self._clock = clock
        self._progress = progress
        self.done = done
        self._root = root
        self._devices = {device.id: device for device in spec.devices}
        self._told: dict[str, Mapping[str, object]] = {}  # what clients said of their machines
        self._ignored = IgnoredCutoffs()
        self._shared = frozenset(device.id for device in spec.devices if launcher_class(device.launcher).shares_host)
        self._last: TaskContext | None = None
        self._in_process = InProcessServer(self._describe) if spec.fleet.is_simulated else None
        self._server = self._in_process or Server(
            spec.fleet.address,
            describe=self._describe,
            max_message_bytes=message_bound(workload.initial_parameters(spec.tasks[0].seed)),
            access=access(spec),
            known_spans=done.latest_spans,
        )

    async def run(self) -> None:
        """Execute every task that is not finished. Raises PreconditionError where the run cannot begin at all."""
        join = self._join_spec(await self._server.start())
        foreign = self._spec.fleet.foreign_address, self._server.foreign_port
        for line in invitations(self._devices.values(), join, *foreign):
            self._progress.say(line)
        if self._server.foreign_port:
            self._progress.say(f"foreign clients join by TLS at port {self._server.foreign_port}")
        sessions = Sessions(self._launchers(self._store.logs), join, self._joined)
        self._meter.start()
        try:
            await self._start_all(sessions)
            await self._measure_idle(sessions, "before")
            for task in self._spec.tasks:
                if task.id not in self.done.finished:
                    await self._restart_dead(sessions, task)
                    await self._run_task(sessions, task)
            await self._measure_idle(sessions, "after")
            await self._server.farewell(_FAREWELL_S)
            self._record_strays()
        finally:
            sessions.stop()
            self._meter.stop()
            await self._close()

    def _join_spec(self, port: int) -> JoinSpec:
        fleet, experiment = self._spec.fleet, self._spec.experiment
        return JoinSpec(
            f"{fleet.address.rpartition(':')[0]}:{port}",
            experiment.workload,
            experiment.partition(fleet.shards),
            fleet.tls,
            experiment.workload_options,
            admit=None if self._in_process is None else self._in_process.admit,
            workers=self._workers,
            costs_of=experiment.costs_of,
            steps_per_epoch=experiment.steps_per_epoch,
        )

    async def _close(self) -> None:
        """Close the server once it has seen that its clients are gone."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _CLOSE_S
        while self._server.proxies() and loop.time() < until_s:
            await asyncio.sleep(0.01)
        await self._server.close()

    def _launchers(self, log_dir: Path) -> dict[str, Launcher]:
        names = sorted({device.launcher for device in self._devices.values()})
        return {name: launcher_class(name)(log_dir) for name in names}

    def _describe(self, device: str) -> ClientInfo:
        spec = self._devices.get(device)
        return ClientInfo(device, spec.processor, tensors=spec.tensors) if spec else ClientInfo(device)

    def _joined(self) -> set[str]:
        return {proxy.info.device for proxy in self._server.proxies()}

    async def _start_all(self, sessions: Sessions) -> None:
        self._progress.say(f"starting {len(self._devices)} clients: {', '.join(self._devices)}")
        for device in self._devices.values():
            session = sessions.start(device)
            if device.id in self._shared and session.pid is not None:
                self._meter.track(device.id, session.pid)
        failed = await sessions.wait_joined(self._devices.values(), self._spec.fleet.join_timeout_s)
        if failed:
            raise dead_at_start(failed)

    async def _measure_idle(self, sessions: Sessions, phase: str) -> None:
        """Idle power while every client waits, and the device files, which hold it."""
        idle_s, proxies = self._spec.experiment.idle_s, self._server.proxies()
        if idle_s > 0 and proxies:
            self._progress.say(f"all clients wait; measuring idle power for {idle_s:g} s, {phase} the rounds")
            own = [proxy for proxy in proxies if proxy.info.device not in self._shared]
            meter = self._meter if self._shared else None
            self._append(await measure_idle(idle_s, phase, meter, own, self._clock.wall_time()))
            self._store.sync()
        meter_facts = {} if self._in_process else self._meter.facts()
        host = {**host_facts(self._root), **meter_facts, **idle_facts(self.done.idle, HOST)}
        self._store.write_device(HOST, host)
        self._told.update((proxy.info.device, proxy.info.properties) for proxy in proxies)
        for device in self._devices.values():
            facts = device_facts(device, sessions[device.id].facts, self._told.get(device.id, {}))
            self._store.write_device(device.id, {**facts, **idle_facts(self.done.idle, device.id)})

    async def _restart_dead(self, sessions: Sessions, task: Task) -> None:
        """A client that died in an earlier task gets another chance; without it, the task goes on with the rest."""
        dead = [device for device in self._spec.members(task) if sessions.is_dead(device.id)]
        started = [device for device in dead if self._restart(sessions, task, device)]
        failed = await sessions.wait_joined(started, min(_JOIN_POLL_S, self._spec.fleet.join_timeout_s))
        for device, reason in failed.items():
            self._fail(task, self._next_attempt(task), device, "join", reason)

    def _restart(self, sessions: Sessions, task: Task, device: DeviceSpec) -> bool:
        self._progress.say(f"starting {device.id} again")
        try:
            session = sessions.start(device)
        except Exception as error:  # noqa: BLE001  the boundary to devices: whatever a launcher meets, the run goes on
            self._fail(task, self._next_attempt(task), device.id, "start", str(error))
            return False
        if device.id in self._shared and session.pid is not None:
            self._meter.track(device.id, session.pid)
        return True

    def _next_attempt(self, task: Task) -> int:
        return self.done.attempts.get(task.id, 0) + 1

    async def _run_task(self, sessions: Sessions, task: Task) -> None:
        attempt = self._next_attempt(task)
        start = self._starting_point(task)
        members = {device.id: device.processor for device in self._spec.members(task)}
        began_ns = self._clock.monotonic_ns()
        context = TaskContext(
            task.id,
            attempt,
            start.round,
            members,
            self._shared & members.keys(),
            self._clock.wall_time(),
            began_ns,
        )
        self._append([self._task_row("task_started", task, attempt, from_round=start.round)])
        self._progress.task_started(task, start.round)
        self._meter.begin_task()
        status = "completed"
        try:
            await self._rounds(sessions, task, context, start)
        except PreconditionError as error:
            status = "failed"
            self._fail(task, attempt, None, "round", str(error))
        finally:
            self._progress.task_finished()
            self._last = context
            self._record_strays()
            if self._shared:
                self._store.append_samples(task.id, attempt, HOST, self._meter.samples())
            self._store.close_samples()
        rounds_done = len(self.done.rounds.get(task.id, {}))
        self._append([self._task_row("task_finished", task, attempt, status=status, rounds_done=rounds_done)])
        self._store.sync()

    async def _rounds(
        self,
        sessions: Sessions,
        task: Task,
        context: TaskContext,
        start: Checkpoint,
    ) -> None:
        strategy = self._strategy(task)
        strategy.restore(start.state)
        rounds = run_rounds(
            strategy,
            lambda: self._proxies(context.processors),
            parameters=Parameters(tuple(start.arrays)),
            rounds=range(start.round, task.rounds + 1),
            clock=self._clock,
            evaluate=lambda model: self._workload.evaluate(model.copy()),
            min_clients=self._spec.experiment.min_clients,
            observer=self._progress,
            energies_of=self._energies,
            strays=self._server.receipts.take,
        )
        async for result in rounds:
            if result.round == task.rounds:
                result = replace(result, strays=(*result.strays, *await self._last_waits(context)))
            now = replace(context, wall_time=self._clock.wall_time())
            self._record(sessions, now, task, result, strategy.state())

    async def _last_waits(self, context: TaskContext) -> list[Stray]:
        """The wait of the last round, which no reply would bring any more, of devices that meter themselves.

        It is over when they are asked. Who is late or gone is not asked: its wait comes later, and counts for no round.
        """
        own = [proxy for proxy in self._proxies(context.processors) if proxy.info.device not in self._shared]
        return [stray for stray in await asyncio.gather(*(_last_wait(proxy) for proxy in own)) if stray is not None]

    def _record_strays(self) -> None:
        """What came after the last round of a task, or with the goodbyes: the task it belongs to is the latest."""
        strays = self._server.receipts.take()
        if not strays or self._last is None:
            return
        context = replace(self._last, wall_time=self._clock.wall_time())
        energy, last_round = self._meter.peek(None), max(self.done.rounds.get(context.task, {}), default=0)
        self._append([row for stray in strays for row in stray_rows(context, stray, energy, last_round)])
        self._store.sync()

    def _energies(self, calls: Sequence[CallRecord]) -> dict[str, float]:
        """What devices without a meter of their own drew during their answered calls, from this host's."""
        answered = [(call.device, call.answer.timing) for call in calls if call.answer and call.device in self._shared]
        if not answered:
            return {}
        view = self._meter.peek(min(timing.sent_ns for _, timing in answered))
        readings = {device: view.of(device, t.sent_ns, t.received_ns).reading for device, t in answered}
        return {device: found.energy_j for device, found in readings.items() if found.energy_j is not None}

    def _record(
        self, sessions: Sessions, context: TaskContext, task: Task, result: RoundResult, state: Sequence[Array]
    ) -> None:
        rows = round_rows(context, result, self._meter.view(result.fit_window_ns[0]))
        for row in rows:
            if row["kind"] == "failure":
                row["detail"] = sessions.post_mortem(row["device"])
        self._append(rows)
        for device, columns in sampled(result):
            self._store.append_samples(task.id, context.attempt, device, columns)
        self._store.sync()
        self._warn_of_cutoffs(result)
        self._store.write_checkpoint(task.id, Checkpoint(result.round, list(result.parameters.arrays), list(state)))
        self._progress.round_finished(task, rows[-1])

    def _warn_of_cutoffs(self, result: RoundResult) -> None:
        """A cutoff that nothing in a client obeys would be taken for one that was not needed."""
        for device in self._ignored.new(result.calls):
            self._progress.say(
                f"{device}: was sent a cutoff but does not count its steps, so that nothing stops it; "
                "let its training loop go through fl.steps"
            )

    def _strategy(self, task: Task) -> Strategy:
        strategy = task_strategy(task, self._spec.experiment)
        names = {device.id: device.config_keys for device in self._spec.members(task) if device.config_keys}
        return with_renamed_keys(strategy, names) if names else strategy

    def _proxies(self, members: Mapping[str, str]) -> Sequence[ClientProxy]:
        return [proxy for proxy in self._server.proxies() if proxy.info.device in members]

    def _starting_point(self, task: Task) -> Checkpoint:
        """The round, model and strategy's state to go on from: after the last checkpoint, or the beginning."""
        initial = self._workload.initial_parameters(task.seed)
        last = self._store.read_checkpoint(task.id, initial)
        return Checkpoint(1, initial) if last is None else replace(last, round=last.round + 1)

    def _task_row(self, kind: str, task: Task, attempt: int, **columns: object) -> Row:
        return {"kind": kind, "task": task.id, "attempt": attempt, "wall_time": self._clock.wall_time(), **columns}

    def _fail(self, task: Task, attempt: int, device: str | None, phase: str, reason: str) -> None:
        processor = self._devices[device].processor if device else None
        self._progress.say(f"{device or task.label}: {phase} failed: {reason}")
        self._append(
            [self._task_row("failure", task, attempt, device=device, processor=processor, phase=phase, reason=reason)]
        )

    def _append(self, rows: Sequence[Row]) -> None:
        self._store.append(rows)
        for row in rows:
            self.done.note(row)


async def _last_wait(proxy: ClientProxy) -> Stray | None:
    if not proxy.is_ready:
        return None
    try:
        answer = await proxy.get_properties(GetPropertiesIns({TELEMETRY_KEY: "full"}), _LAST_WAIT_S)
    except ClientFailure:
        return None
    return Stray(proxy.info.device, proxy.info.processor, answer.spans)


def task_strategy(task: Task, experiment: ExperimentSpec) -> Strategy:
    """The strategy of a task. Raises UsageError for a name or an option that there is not."""
    options = dict(task.strategy_options)
    if task.cutoffs:
        options["cutoffs"] = task.tau_s
    return load_strategy(
        task.strategy,
        epochs=task.epochs,
        batch_size=task.batch_size,
        lr=task.lr,
        seed=task.seed,
        fit_timeout_s=experiment.fit_timeout_s,
        **options,
    )


def with_renamed_keys(strategy: Strategy, names: Mapping[str, Mapping[str, str]]) -> Strategy:
    """A strategy whose config keys are renamed for clients, by device, that know them by other names."""

    def rename(assignment: Assignment) -> Assignment:
        known_as = names.get(assignment.device, {})
        config = {known_as.get(key, key): value for key, value in assignment.config.items()}
        return replace(assignment, config=config)

    return Adjusted(strategy, rename)

"""Executes a plan: clients up, idle power, task after task, clients down. What fails is recorded and left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from fl.checkpoint import Checkpoint
from fl.in_process import InProcessServer
from fl.loop import CallRecord, RoundResult, run_rounds
from fl.messages import Array, Parameters
from fl.mixed_server import MixedServer
from fl.proxy import ClientInfo, ClientProxy
from fl.receipts import Stray
from fl.server import Server
from fl.strategy import Strategy
from fl.workload import Workload
from harness.crew import Crew
from harness.device import DeviceSpec
from harness.device_files import DeviceFiles
from harness.energy_sources import DeviceMeter, Sources
from harness.failures import Failures
from harness.flower.federation import Federation
from harness.idle import filled_in, last_waits, measure_idle
from harness.launcher import JoinSpec, Launcher, Session, Spooled, launcher_class
from harness.launchers.external import invitations
from harness.meter import HOST, SERVER, HostMeter
from harness.plan import Task
from harness.progress import some_names
from harness.recorder import IgnoredCutoffs, TaskContext, round_rows, sampled
from harness.run_spec import RunSpec, access, message_bound
from harness.sessions import Sessions, Trouble
from harness.store import Done, Store
from harness.strays import Strays
from harness.task_strategy import task_strategy, with_renamed_keys
from harness.watching import Watcher
from profiler.clock import Clock
from profiler.errors import PreconditionError, StorageError
from profiler.records import Row

_FAREWELL_S = 5.0
_CLOSE_S = 2.0


class Engine:
    """One run over one store. `done` is what an earlier attempt has left, `root` where this host is described from.

    `carrier` is what stands between this server and its devices, where something does.
    """

    def __init__(
        self,
        spec: RunSpec,
        workload: Workload,
        store: Store,
        meter: HostMeter,
        clock: Clock,
        progress: Watcher,
        done: Done,
        *,
        root: Path = Path("/"),
        workers: int = 1,
        carrier: Federation | None = None,
    ) -> None:
        self._spec = spec
        self._carrier = carrier
        self._workers = workers
        self._workload = workload
        self._store = store
        self._meter = meter
        self._clock = clock
        self._progress = progress
        self.done = done
        self._devices = {device.id: device for device in spec.devices}
        self._device_files = DeviceFiles(store, self._devices, done.idle, root)
        self._ignored = IgnoredCutoffs()
        self._shared = frozenset(device.id for device in spec.devices if launcher_class(device.launcher).shares_host)
        self._metered: set[str] = set()  # those of them that have ever had a process
        self._task: Task | None = None
        self._in_process: InProcessServer | None = None
        self._server = self._make_server()
        processors = {device.id: device.processor for device in spec.devices}
        self._failures = Failures(processors, clock, self._append, progress.say)
        self._strays = Strays(self._server.receipts, meter, done, clock, self._append)

    def _make_server(self) -> Server | InProcessServer | MixedServer:
        """Over the network, and in this process for devices that are not there: what the fleet needs of both."""
        fleet = self._spec.fleet
        if fleet.is_simulated:
            self._in_process = InProcessServer(self._describe)
            return self._in_process
        network = Server(
            fleet.address,
            describe=self._describe,
            max_message_bytes=self._message_bound(),
            access=access(self._spec),
            known_spans=self.done.latest_spans,
        )
        if not fleet.has_simulated:
            return network
        self._in_process = InProcessServer(self._describe, receipts=network.receipts)
        return MixedServer(network, self._in_process)

    def _message_bound(self) -> int:
        return message_bound(self._workload.initial_parameters(self._spec.tasks[0].seed))

    async def run(self) -> None:
        """Execute every task that is not finished. Raises PreconditionError where the run cannot begin at all."""
        join = self._join_spec(await self._server.start())
        if self._carrier is None:
            await self._run(join)
            return
        try:
            join = await self._carrier.start(join, self._message_bound(), self._progress.say)
            if self._carrier.pid is not None:
                self._meter.track(SERVER, self._carrier.pid, has_tree=True)
            await self._run(join)
        finally:
            await self._carrier.close()
            await self._server.close()

    def _invite(self, join: JoinSpec) -> None:
        foreign = self._spec.fleet.foreign_address, self._server.foreign_port
        for line in invitations(self._devices.values(), join, *foreign):
            self._progress.say(line)
        if self._server.foreign_port:
            self._progress.say(f"foreign clients join by TLS at port {self._server.foreign_port}")

    async def _run(self, join: JoinSpec) -> None:
        if self._carrier is None:
            self._invite(join)
        crew = self._crew(join)
        self._meter.start()
        try:
            self._progress.say(f"starting {len(self._devices)} clients: {some_names(self._devices, 8)}")
            await crew.assemble(self._is_enough)
            self._tell_standing(crew.sessions)
            with self._watched(crew):
                await self._measure_idle(crew, "before")
                for task in self._open_tasks():
                    await self._run_task(crew, task)
                await self._measure_idle(crew, "after")
            await self._server.farewell(_FAREWELL_S)
            self._strays.record()
        finally:
            await crew.close()
            crew.sessions.stop()
            self._strays.record()
            self._store.sync()
            self._meter.stop()
            await self._close()

    def _open_tasks(self) -> list[Task]:
        return [task for task in self._spec.tasks if task.id not in self.done.finished]

    def _is_enough(self, joined: Collection[str]) -> bool:
        """Whether there is a task left that these are enough for."""
        n_there = (sum(one.id in joined for one in self._spec.members(task)) for task in self._open_tasks())
        return max(n_there, default=0) >= self._spec.experiment.min_clients

    def _crew(self, join: JoinSpec) -> Crew:
        sessions = Sessions(
            self._launchers(self._store.logs), join, self._joined, on_start=self._started, on_spool=self._spooled
        )
        return Crew(
            self._devices.values(),
            self._shared,
            sessions,
            self._joined,
            self._spec.fleet.relaunch,
            self._spec.fleet.join_timeout_s,
            report=self._report,
            watcher=self._progress,
        )

    @contextmanager
    def _watched(self, crew: Crew) -> Iterator[None]:
        """While it lasts, who is gone elsewhere is started again. What is simulated comes and goes with its worker."""
        watch = None if self._spec.fleet.is_simulated else asyncio.create_task(crew.watch())
        try:
            yield
        finally:
            if watch is not None:
                watch.cancel()

    def _started(self, session: Session) -> None:
        device, pid = session.device.id, session.pid
        if device in self._shared and pid is not None:
            self._meter.track(device, pid, has_tree=self._carrier is not None)
            self._metered.add(device)
        self._device_files.outdated(device)

    def _spooled(self, device: str, spooled: Spooled) -> None:
        self._strays.spooled(device, self._devices[device].processor, spooled)

    def _report(self, device: DeviceSpec, trouble: Trouble) -> None:
        """A client that did not come is of the task that is going on, or comes next."""
        task = self._task or self._open_tasks()[0]
        attempt = self._next_attempt(task) - (task is self._task)
        self._failures.of_start(task, attempt, device.id, trouble)

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
        names = sorted(self._spec.launchers)
        return {name: launcher_class(name)(log_dir) for name in names}

    def _describe(self, device: str) -> ClientInfo:
        spec = self._devices.get(device)
        return ClientInfo(device, spec.processor, tensors=spec.tensors) if spec else ClientInfo(device)

    def _joined(self) -> set[str]:
        return {proxy.info.device for proxy in self._server.proxies()}

    def _tell_standing(self, sessions: Sessions) -> None:
        """Who is connected, and who has ended."""
        joined = self._joined()
        self._progress.present(joined)
        for device in self._devices.keys() - joined:
            if sessions.is_dead(device):
                self._progress.gone(device, sessions.post_mortem(device))

    async def _measure_idle(self, crew: Crew, phase: str) -> None:
        """Idle power while every client waits, and the device files, which hold it."""
        idle_s, proxies = self._spec.experiment.idle_s, self._server.proxies()
        if idle_s > 0 and proxies:
            self._progress.say(f"all clients wait; measuring idle power for {idle_s:g} s, {phase} the rounds")
            own = [proxy for proxy in proxies if proxy.info.device not in self._shared]
            meter = self._meter if self._shared else None
            began_ns, wall_time = self._clock.monotonic_ns(), self._clock.wall_time()
            rows = await measure_idle(idle_s, phase, meter, own, wall_time)
            await crew.sessions.read_meters()
            window_ns = began_ns, self._clock.monotonic_ns()
            here = {proxy.info.device for proxy in proxies} & crew.sessions.meters.keys()
            read = {device: crew.sessions.meters[device].energy(*window_ns) for device in here}
            self._append(filled_in(rows, phase, read, (window_ns[1] - window_ns[0]) / 1e9, wall_time))
            self._store.sync()
        meter_facts = {} if self._spec.fleet.is_simulated else self._meter.facts()
        self._device_files.write_all(crew.sessions, self._server.proxies(), meter_facts)

    def _next_attempt(self, task: Task) -> int:
        return self.done.attempts.get(task.id, 0) + 1

    async def _run_task(self, crew: Crew, task: Task) -> None:
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
            crew.sessions.meters,
        )
        self._append([self._task_row("task_started", task, attempt, from_round=start.round)])
        self._task = task
        self._progress.task_started(task, start.round)
        self._meter.begin_task()
        status = "completed"
        try:
            await self._rounds(crew, task, context, start)
        except StorageError:
            raise  # it would befall every other task as well
        except PreconditionError as error:
            status = "failed"
            self._failures.of_task(task, attempt, str(error))
        finally:
            self._progress.task_finished()
            self._failures.round_ended()
            self._strays.last = context
            self._strays.record()
            if self._shared:
                self._store.append_samples(task.id, attempt, HOST, self._meter.samples())
            self._store.close_samples()
        rounds_done = len(self.done.rounds.get(task.id, {}))
        self._append([self._task_row("task_finished", task, attempt, status=status, rounds_done=rounds_done)])
        self._store.sync()

    async def _rounds(
        self,
        crew: Crew,
        task: Task,
        context: TaskContext,
        start: Checkpoint,
    ) -> None:
        there = await crew.before_task(context.processors, self._spec.experiment.min_clients)
        self._strays.record_unsent()  # of the task before
        self._strays.last = context
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
            energies_of=partial(self._energies, context.meters),
            strays=self._server.receipts.take,
        )
        self._failures.round_begins()
        async for result in rounds:
            if result.round == task.rounds:
                result = replace(result, strays=(*result.strays, *await self._last_waits(context)))
            hosts = context.host_devices & self._metered
            now = replace(context, wall_time=self._clock.wall_time(), host_devices=hosts)
            await crew.sessions.read_meters()
            self._record(crew.sessions, now, task, result, strategy.state())
            self._account_for(crew, task, context, result, there)
            if result.round < task.rounds:
                there = await self._between_rounds(crew, context)
                self._failures.round_begins()

    async def _between_rounds(self, crew: Crew, context: TaskContext) -> set[str]:
        """Who is there for the next round, after those of this host were started again that are gone."""
        if self._spec.fleet.is_simulated:
            return self._joined() & context.processors.keys()
        there = await crew.before_round(context.processors, self._spec.experiment.min_clients)
        self._strays.record_unsent()
        self._device_files.write(crew.sessions, self._server.proxies())
        return there

    def _account_for(
        self, crew: Crew, task: Task, context: TaskContext, result: RoundResult, there: Collection[str]
    ) -> None:
        """Record who took no part in a round since it was not there, and who was lost beside its calls."""
        crew.served(call.device for call in result.calls if call.answer is not None)
        self._failures.round_ended()
        failed = {call.device for call in result.calls if call.answer is None}
        for device, reason in crew.lost().items():
            if device not in failed:
                self._failures.of_client(task, context.attempt, device, reason, crew.sessions.post_mortem(device))
        absent = context.processors.keys() - set(there) - {call.device for call in result.calls}
        for device in sorted(absent):
            self._failures.of_absence(task, context.attempt, device, crew.why_absent(device), result.round)

    async def _last_waits(self, context: TaskContext) -> list[Stray]:
        """Of devices that meter themselves."""
        own = [proxy for proxy in self._proxies(context.processors) if proxy.info.device not in self._shared]
        return await last_waits(own)

    def _energies(self, meters: Mapping[str, DeviceMeter], calls: Sequence[CallRecord]) -> dict[str, float]:
        """What devices without a meter of their own drew during their answered calls, as far as this host knows."""
        timings = {call.device: call.answer.timing for call in calls if call.answer}
        first_ns = min((timing.sent_ns for timing in timings.values()), default=0)
        sources = Sources(self._meter.peek(first_ns), self._shared, meters)
        found = {device: sources.of_window(device, t.sent_ns, t.received_ns) for device, t in timings.items()}
        joules = {device: energy.reading.energy_j for device, energy in found.items() if energy is not None}
        return {device: energy_j for device, energy_j in joules.items() if energy_j is not None}

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
        self._tell_standing(sessions)

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

    def _append(self, rows: Sequence[Row]) -> None:
        self._store.append(rows, self.done.note)
        self._progress.recorded(rows)

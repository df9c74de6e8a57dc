"""The FL loop: rounds of fit, aggregate, evaluate. No grpc, no files, no threads of its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, TypeVar

from fl.messages import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters
from fl.proxy import Answer, CallTiming, ClientInfo, ClientProxy
from fl.receipts import Stray
from fl.strategy import Aggregator, Assignment, Experience, Strategy
from fl.threads import THREAD_BYTES, in_daemon_thread
from profiler.clock import Clock
from profiler.errors import ClientFailure, PreconditionError
from profiler.records import SpanRecord

CallName = Literal["fit", "evaluate"]
POLL_S = 0.05
FOLD_LIMIT_S = 120.0  # folding in takes some 10 ms for 45 MB; what takes longer than this will never end

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call of one round: an answer, or the failure's reason. `config` is what was sent.

    A fit answer kept here has no parameters any more: they were folded in. `refused_spans` came with a reply whose
    update was not taken.
    """

    device: str
    processor: str
    call: CallName
    config: dict[str, object]
    answer: Answer[FitRes] | Answer[EvaluateRes] | None = None
    failure: str | None = None
    refused_spans: tuple[SpanRecord, ...] = ()

    @property
    def timing(self) -> CallTiming | None:
        """None where no answer was taken."""
        return None if self.answer is None else self.answer.timing

    @property
    def spans(self) -> tuple[SpanRecord, ...]:
        """What the client measured, whether its update was taken or not."""
        return self.refused_spans if self.answer is None else self.answer.spans


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What one round gave. `time_s` excludes `server_s`, the server's own aggregation and evaluation.

    `strays` are the late replies and other spans that came since the round before, to calls of this round or earlier.

    The `*_ns` windows are on the server's monotonic clock: first instruction sent to last accepted result, per phase.
    """

    round: int
    parameters: Parameters
    calls: tuple[CallRecord, ...]
    time_s: float
    fit_time_s: float
    server_s: float
    fit_window_ns: tuple[int, int]
    evaluate_window_ns: tuple[int, int] | None
    loss: float | None
    accuracy: float | None
    n_selected: int
    n_results: int
    strays: tuple[Stray, ...] = ()

    @property
    def n_late(self) -> int:
        """Replies that came after their deadline."""
        return sum(stray.late_s is not None for stray in self.strays)

    @property
    def n_failures(self) -> int:
        return sum(call.failure is not None for call in self.calls)


class Observer(Protocol):
    """Told of every call as it starts and ends, for a display of who is being waited for. Must be quick."""

    def call_started(self, round_: int, call: CallName, device: str) -> None: ...

    def call_finished(self, round_: int, call: CallName, device: str, failure: str | None) -> None: ...


class SilentObserver:
    def call_started(self, round_: int, call: CallName, device: str) -> None:
        pass

    def call_finished(self, round_: int, call: CallName, device: str, failure: str | None) -> None:
        pass


async def run_rounds(
    strategy: Strategy,
    proxies: Callable[[], Sequence[ClientProxy]],
    *,
    parameters: Parameters,
    rounds: Iterable[int],
    clock: Clock,
    evaluate: Callable[[Parameters], tuple[float | None, float | None]] | None = None,
    min_clients: int = 1,
    wait_s: float = 60.0,
    observer: Observer | None = None,
    energies_of: Callable[[Sequence[CallRecord]], Mapping[str, float]] = lambda calls: {},
    strays: Callable[[], Sequence[Stray]] = list,
) -> AsyncIterator[RoundResult]:
    """Train round by round, from `parameters` on; one result a round, as soon as it is over.

    `proxies` is asked anew before each phase, so clients may come and go. `evaluate` gives loss and accuracy (0..1) of
    a global model, None for what is not known; it runs in a thread. A call that fails is recorded in its round, and the
    round goes on without it.
    `energies_of` gives the joules of fit calls, by device, that clients' own meters do not tell, for the strategy.
    `strays` hands over what came with late replies, each once (`Receipts.take`).

    Raises PreconditionError where fewer than `min_clients` clients are ready within `wait_s`, and where the strategy's
    folding of one update does not end within `FOLD_LIMIT_S`.
    """
    caller = _Caller(proxies, clock, observer or SilentObserver())
    for round_ in rounds:
        clients = await _ready_clients(proxies, min_clients, wait_s)
        fit = _FitPhase(strategy.aggregator(round_, parameters), clock)
        fit_calls, fit_window = await caller.fit(round_, strategy.configure_fit(round_, clients), parameters, fit)
        began_ns = clock.monotonic_ns()
        parameters = fit.aggregator.result() or parameters
        loss, accuracy = (None, None) if evaluate is None else await in_daemon_thread(evaluate, parameters)
        server_ns = fit.folding_ns + clock.monotonic_ns() - began_ns
        strategy.observe(round_, experiences(fit_calls, energies_of(fit_calls)))
        infos = [proxy.info for proxy in proxies() if proxy.is_ready]
        evaluate_calls, evaluate_window = await caller.evaluate(
            round_, strategy.configure_evaluate(round_, infos), parameters
        )
        yield RoundResult(
            round=round_,
            parameters=parameters,
            calls=(*fit_calls, *evaluate_calls),
            time_s=_length_s(fit_window) + (_length_s(evaluate_window) if evaluate_calls else 0.0),
            fit_time_s=_length_s(fit_window),
            server_s=server_ns / 1e9,
            fit_window_ns=fit_window,
            evaluate_window_ns=evaluate_window if evaluate_calls else None,
            loss=loss,
            accuracy=accuracy,
            n_selected=len(fit_calls),
            n_results=sum(call.failure is None for call in fit_calls),
            strays=tuple(strays()),
        )


def experiences(calls: Sequence[CallRecord], energies_j: Mapping[str, float]) -> list[Experience]:
    """What each answered fit call took. A device's own figure of its training goes before `energies_j`, by device."""
    found = []
    for call in calls:
        if call.answer is not None:
            timing, metrics = call.answer.timing, call.answer.result.metrics
            own_j = _number(metrics.get("fit.energy_j"))
            found.append(
                Experience(
                    device=call.device,
                    processor=call.processor,
                    device_s=timing.round_trip_s if timing.device_s is None else timing.device_s,
                    download_s=timing.download_s or 0.0,
                    upload_s=timing.upload_s or 0.0,
                    fit_s=_number(metrics.get("fit.duration_s")),
                    is_cut=bool(metrics.get("fit.stopped_by_cutoff", False)),
                    energy_j=energies_j.get(call.device) if own_j is None else own_j,
                )
            )
    return found


def _number(value: object) -> float | None:
    """A client's metric, where it is a sensible number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None
    return float(value)


class _FitPhase:
    """Folds updates in as they arrive, one at a time, and sums up what that takes."""

    def __init__(self, aggregator: Aggregator, clock: Clock) -> None:
        self.aggregator = aggregator
        self.folding_ns = 0
        self._clock = clock
        self._turn = asyncio.Lock()

    async def fold(self, device: str, answer: Answer[FitRes]) -> Answer[FitRes]:
        """The answer without its parameters. Raises ClientFailure, with its spans, where the update is refused."""
        async with self._turn:
            began_ns = self._clock.monotonic_ns()
            try:
                await self._bounded_fold(device, answer.result)
            except ClientFailure as failure:
                failure.spans = answer.spans
                raise
            finally:
                self.folding_ns += self._clock.monotonic_ns() - began_ns
        return replace(answer, result=replace(answer.result, parameters=Parameters(())))

    async def _bounded_fold(self, device: str, update: FitRes) -> None:
        if update.parameters.n_bytes <= THREAD_BYTES:  # at once, where no limit could end it
            self.aggregator.fold(device, update)
            return
        try:
            await asyncio.wait_for(in_daemon_thread(partial(self.aggregator.fold, device), update), FOLD_LIMIT_S)
        except asyncio.TimeoutError:
            raise PreconditionError(
                f"{device}: folding its update in did not end within {FOLD_LIMIT_S:g} s.",
                remedy="The strategy's aggregator is stuck: its fold must only do arithmetic.",
            ) from None


class _Caller:
    """Makes the calls of one phase concurrently, each with its own deadline."""

    def __init__(self, proxies: Callable[[], Sequence[ClientProxy]], clock: Clock, observer: Observer) -> None:
        self._proxies = proxies
        self._clock = clock
        self._observer = observer

    async def fit(
        self, round_: int, assignments: Sequence[Assignment], parameters: Parameters, phase: _FitPhase
    ) -> tuple[list[CallRecord], tuple[int, int]]:
        async def call(proxy: ClientProxy, assignment: Assignment) -> Answer[FitRes]:
            answer = await proxy.fit(FitIns(parameters, assignment.config), assignment.deadline_s)
            return await phase.fold(assignment.device, answer)

        return await self._all(round_, "fit", assignments, call)

    async def evaluate(
        self, round_: int, assignments: Sequence[Assignment], parameters: Parameters
    ) -> tuple[list[CallRecord], tuple[int, int]]:
        async def call(proxy: ClientProxy, assignment: Assignment) -> Answer[EvaluateRes]:
            return await proxy.evaluate(EvaluateIns(parameters, assignment.config), assignment.deadline_s)

        return await self._all(round_, "evaluate", assignments, call)

    async def _all(
        self, round_: int, name: CallName, assignments: Sequence[Assignment], call: _Call
    ) -> tuple[list[CallRecord], tuple[int, int]]:
        """The records in the order of the assignments, and the window from the first instruction to the last result."""
        began_ns = self._clock.monotonic_ns()
        by_device = {proxy.info.device: proxy for proxy in self._proxies()}
        records = await _gather_or_none(
            self._one(round_, name, part, by_device.get(part.device), call) for part in assignments
        )
        sent = [record.answer.timing.sent_ns for record in records if record.answer is not None]
        received = [record.answer.timing.received_ns for record in records if record.answer is not None]
        if not received:  # nothing was accepted: the time was spent all the same
            return records, (began_ns, self._clock.monotonic_ns())
        return records, (min(sent), max(received))

    async def _one(
        self, round_: int, name: CallName, assignment: Assignment, proxy: ClientProxy | None, call: _Call
    ) -> CallRecord:
        device = assignment.device
        answer: Answer[FitRes] | Answer[EvaluateRes] | None = None
        reason: str | None = None
        refused: tuple[SpanRecord, ...] = ()
        self._observer.call_started(round_, name, device)
        try:
            if proxy is None:
                raise ClientFailure(device, name, "the client has left")
            answer = await call(proxy, assignment)
        except ClientFailure as failure:
            reason, refused = failure.reason, failure.spans
        self._observer.call_finished(round_, name, device, reason)
        processor = "" if proxy is None else proxy.info.processor
        return CallRecord(device, processor, name, dict(assignment.config), answer, reason, refused)


_Call = Callable[[ClientProxy, Assignment], Awaitable["Answer[FitRes] | Answer[EvaluateRes]"]]


async def _gather_or_none(calls: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """The results in order. Where one raises, the others are ended before it goes on: none outlives its round."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _ready_clients(
    proxies: Callable[[], Sequence[ClientProxy]], min_clients: int, wait_s: float
) -> list[ClientInfo]:
    deadline_s = asyncio.get_running_loop().time() + wait_s
    while True:
        connected = list(proxies())
        ready = [proxy.info for proxy in connected if proxy.is_ready]
        if len(ready) >= min_clients:
            return ready
        if asyncio.get_running_loop().time() >= deadline_s:
            busy = ", ".join(proxy.info.device for proxy in connected if not proxy.is_ready)
            raise PreconditionError(
                f"{len(ready)} of {min_clients} clients are ready after {wait_s:g} s"
                f" (ready: {', '.join(info.device for info in ready) or 'none'}; busy: {busy or 'none'}).",
                remedy="Start the missing clients, or ask for fewer.",
            )
        await asyncio.sleep(POLL_S)


def _length_s(window_ns: tuple[int, int]) -> float:
    return (window_ns[1] - window_ns[0]) / 1e9

"""`start_server`: train with whoever joins, in Flower's argument shape.

A `Recorder` writes every round down as it ends: `harness.Recording` makes a results folder of them, and
`harness.save_history` does so afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from fl.admission import Access
from fl.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from fl.flower_style import FedAvg
from fl.loop import CallRecord, Observer, RoundResult, run_rounds
from fl.messages import Array, EvaluateRes, FitRes, GetParametersIns, Parameters, Scalar
from fl.proxy import ClientInfo
from fl.receipts import SpanKey, Stray
from fl.security import ServerSecurity, Triple
from fl.server import HEARTBEAT_S, MAX_MESSAGE_BYTES, PROBE_DEADLINE_S, Server
from fl.strategy import Adjusted, Assignment, Strategy
from fl.threads import in_daemon_thread
from profiler.clock import SystemClock
from profiler.errors import PreconditionError, UsageError

MIN_CLIENTS = 2

_log = logging.getLogger("fl")

Evaluate = Callable[[Parameters], tuple[float | None, float | None]]
Series = list[tuple[int, float]]
Metrics = dict[str, list[tuple[int, Scalar]]]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`round_timeout`: seconds that a client has for one call where the strategy sets none; None for no limit."""

    num_rounds: int = 1
    round_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What the rounds gave, in order, with every call's timing and spans.

    Only `parameters`, the last global model, is kept of the models, and nothing of raw samples. The other names are
    those of Flower's `History` (flwr/server/history.py): lists of (round, value), round 0 being the initial model. The
    `metrics_*` are filled by the functions of a `fl.FedAvg`.
    """

    rounds: list[RoundResult] = field(default_factory=list)
    parameters: Parameters | None = None
    initial_loss: float | None = None
    strategy: str = ""
    metrics_distributed_fit: Metrics = field(default_factory=dict)
    metrics_distributed: Metrics = field(default_factory=dict)
    metrics_centralized: Metrics = field(default_factory=dict)

    @property
    def losses_centralized(self) -> Series:
        """Of the global model, where there is an `evaluate_fn`."""
        first = [] if self.initial_loss is None else [(0, self.initial_loss)]
        return first + [(result.round, result.loss) for result in self.rounds if result.loss is not None]

    @property
    def losses_distributed(self) -> Series:
        """Mean of the clients' losses, weighted by examples; a round without any has none."""
        means = [(result.round, _mean_loss(result.calls)) for result in self.rounds]
        return [(round_, mean) for round_, mean in means if mean is not None]


def _mean_loss(calls: Sequence[CallRecord]) -> float | None:
    answers = [call.answer.result for call in calls if call.answer is not None and call.call == "evaluate"]
    losses = [(answer.num_examples, answer.loss) for answer in answers if isinstance(answer, EvaluateRes)]
    examples = sum(n for n, _ in losses)
    return math.fsum(n * loss for n, loss in losses) / examples if examples else None


class Recorder(Protocol):
    """Writes rounds down as they end, each before its checkpoint. Belongs to one training.

    All but `known_spans` and `close` are called in a thread of their own, one at a time. What they raise ends the
    training; `close` is called all the same.
    """

    @property
    def known_spans(self) -> Mapping[str, Collection[SpanKey]]:
        """The latest spans, by device, that an earlier recorder of the same training has written down."""
        ...

    def begin(self, strategy: str, rounds: range, clients: Sequence[ClientInfo]) -> None:
        """Before the first round: the strategy's name, the rounds that are due, who has come so far."""
        ...

    def record(self, result: RoundResult) -> None: ...

    def finish(self, strays: Sequence[Stray]) -> None:
        """After the last round and the farewell, with what came in between."""
        ...

    def close(self) -> None: ...


class _Unrecorded:
    """Nobody writes anything down."""

    known_spans: Mapping[str, Collection[SpanKey]] = MappingProxyType({})

    def begin(self, strategy: str, rounds: range, clients: Sequence[ClientInfo]) -> None:
        pass

    def record(self, result: RoundResult) -> None:
        pass

    def finish(self, strays: Sequence[Stray]) -> None:
        pass

    def close(self) -> None:
        pass


def start_server(
    server_address: str = "127.0.0.1:8080",
    *,
    server: None = None,
    config: ServerConfig | None = None,
    strategy: Strategy | None = None,
    client_manager: None = None,
    grpc_max_message_length: int = MAX_MESSAGE_BYTES,
    certificates: Triple | None = None,
    access: Access | None = None,
    insecure: bool = False,
    min_clients: int | None = None,
    initial_parameters: Sequence[Array] | Parameters | None = None,
    evaluate_fn: Callable[[Parameters], tuple[float, float]] | None = None,
    describe: Callable[[str], ClientInfo] = ClientInfo,
    wait_s: float = 24 * 3600.0,
    observer: Observer | None = None,
    checkpoint: str | Path | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    recorder: Recorder | None = None,
) -> History:
    """Train for some rounds with whoever joins, then send everybody home. Blocks until it is done.

    The first seven arguments are Flower's. `strategy` is one of ours, or `fl.FedAvg`, which takes Flower's arguments
    and is the default. `certificates` are the CA's, the server's own and its key, as PEM. Without initial parameters a
    client is asked for its own. `evaluate_fn` gives loss and accuracy of a global model. `describe` tells what is known
    of a device beforehand: its processor's label, and how its tensors are encoded.

    Without certificates an address that other machines can reach is refused unless `insecure` is said; `access` says
    more precisely who may join, instead of both. `heartbeat_s`: see `Server`.

    `checkpoint` is a file (.npz) that the model and the strategy's state are written to after every round; where it is
    there already, training goes on after its round, up to `num_rounds`, and `History.rounds` begins there. `recorder`
    (`harness.Recording`) writes each round down when it ends.

    Raises UsageError for what is not supported, PreconditionError where the address or the checkpoint cannot be used,
    or where fewer than `min_clients` come within `wait_s`, and what the recorder raises.
    """
    settings = config or ServerConfig()
    _refuse(server, client_manager, settings.num_rounds)
    plan = _plan(strategy or FedAvg(), min_clients, initial_parameters, evaluate_fn)
    clock = SystemClock()
    path = None if checkpoint is None else Path(checkpoint)
    last = None if path is None else read_checkpoint(path, None if plan.initial is None else plan.initial.arrays)
    if last is not None:
        plan.strategy.restore(last.state)
    rounds = range(last.round + 1 if last else 1, settings.num_rounds + 1)
    written = recorder or _Unrecorded()

    async def serve() -> History:
        listening = Server(
            server_address,
            clock=clock,
            describe=describe,
            max_message_bytes=grpc_max_message_length,
            access=access or Access(ServerSecurity(certificates), insecure=insecure),
            foreign_tensors="npy" if plan.style is None else plan.style.foreign_tensors,
            heartbeat_s=heartbeat_s,
            known_spans=written.known_spans,
        )
        async with _until_farewell(listening):
            await listening.wait_for(plan.min_clients, wait_s)
            parameters = Parameters(tuple(last.arrays)) if last else await _initial(plan.initial, listening)
            kept = await asyncio.to_thread(_Kept, plan, parameters, rounds.start - 1)
            clients = [proxy.info for proxy in listening.proxies()]
            await in_daemon_thread(lambda _: written.begin(plan.strategy.name, rounds, clients), None)
            results = run_rounds(
                _with_timeout(plan.strategy, settings.round_timeout),
                listening.proxies,
                parameters=parameters,
                rounds=rounds,
                clock=clock,
                evaluate=kept.evaluate,
                min_clients=plan.min_clients,
                wait_s=wait_s,
                observer=observer,
                strays=listening.receipts.take,
            )
            async for result in results:
                await in_daemon_thread(written.record, result)
                if path is not None:
                    await in_daemon_thread(partial(_keep, path, plan.strategy), result)
                kept.add(result)
        await in_daemon_thread(written.finish, listening.receipts.take())
        return kept.history()

    with closing(written):
        return asyncio.run(serve())


def _keep(path: Path, strategy: Strategy, result: RoundResult) -> None:
    write_checkpoint(path, Checkpoint(result.round, list(result.parameters.arrays), strategy.state()))


def _refuse(server: object, client_manager: object, num_rounds: int) -> None:
    if server is not None:
        raise UsageError("start_server: server= is not supported.", remedy="Put the round's logic into a strategy.")
    if client_manager is not None:
        raise UsageError(
            "start_server: client_manager= is not supported.",
            remedy="Choose clients in the strategy: see fl.selection for draws by fraction, label, deadline, energy.",
        )
    if num_rounds < 1:
        raise UsageError(f"num_rounds = {num_rounds}: at least one round is needed.")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a strategy and the arguments beside it come down to. `style` where the strategy is Flower-like."""

    strategy: Strategy
    style: FedAvg | None
    min_clients: int
    initial: Parameters | None
    evaluate: Callable[[Parameters], tuple[float, float]] | None


def _plan(
    strategy: Strategy,
    min_clients: int | None,
    initial: Sequence[Array] | Parameters | None,
    evaluate: Callable[[Parameters], tuple[float, float]] | None,
) -> _Plan:
    given = Parameters(tuple(initial)) if initial is not None and not isinstance(initial, Parameters) else initial
    if not isinstance(strategy, FedAvg):
        return _Plan(strategy, None, min_clients or MIN_CLIENTS, given, evaluate)
    if evaluate is not None and strategy.evaluate_fn is not None:
        raise UsageError("evaluate_fn is given twice, to start_server and to the strategy: give one of them.")
    least = strategy.least_clients if min_clients is None else min_clients
    return _Plan(strategy, strategy, least, strategy.initial_parameters if given is None else given, evaluate)


class _Kept:
    """Gathers the history. Its `evaluate` is called once a round, before that round's `add`."""

    def __init__(self, plan: _Plan, initial: Parameters, rounds_done: int) -> None:
        self._style = plan.style
        self._history = History(strategy=plan.strategy.name)
        self._parameters = initial
        self._round = rounds_done
        self._initial_loss: float | None = None
        self.evaluate: Evaluate | None = plan.evaluate
        if plan.style is not None and plan.style.evaluate_fn is not None:
            self.evaluate = self._central
            self._initial_loss, _ = self._central(initial)

    def _central(self, parameters: Parameters) -> tuple[float | None, float | None]:
        found = None if self._style is None else self._style.central(self._round, parameters)
        round_, self._round = self._round, self._round + 1
        if found is None:
            return None, None
        loss, metrics = found
        _extend(self._history.metrics_centralized, round_, metrics)
        accuracy = metrics.get("accuracy")
        return float(loss), float(accuracy) if isinstance(accuracy, (int, float)) else None

    def add(self, result: RoundResult) -> None:
        self._parameters = result.parameters
        calls = tuple(_without_samples(call) for call in result.calls)
        self._history.rounds.append(replace(result, parameters=Parameters(()), calls=calls))
        if self._style is not None:
            fits, evaluations = _told(result.calls, FitRes), _told(result.calls, EvaluateRes)
            _extend(self._history.metrics_distributed_fit, result.round, self._style.fit_metrics(fits))
            _extend(self._history.metrics_distributed, result.round, self._style.evaluate_metrics(evaluations))
        _log.info("round %d: %.1f s, accuracy %s", result.round, result.time_s, result.accuracy)

    def history(self) -> History:
        return replace(self._history, parameters=self._parameters, initial_loss=self._initial_loss)


def _without_samples(call: CallRecord) -> CallRecord:
    """64 kB a call would add up over a training."""
    answer = call.answer
    return replace(call, answer=replace(answer, samples=b"")) if answer is not None and answer.samples else call


def _told(calls: Sequence[CallRecord], kind: type[FitRes] | type[EvaluateRes]) -> list[tuple[int, dict[str, Scalar]]]:
    """Examples and metrics of each answered call of a kind, by device: Flower's argument to aggregation functions."""
    results = [call.answer.result for call in calls if call.answer is not None]
    return [(result.num_examples, dict(result.metrics)) for result in results if isinstance(result, kind)]


def _extend(series: Metrics, round_: int, metrics: Mapping[str, Scalar]) -> None:
    for key, value in metrics.items():
        series.setdefault(key, []).append((round_, value))


@asynccontextmanager
async def _until_farewell(server: Server) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        await server.farewell()


async def _initial(parameters: Parameters | None, server: Server) -> Parameters:
    if parameters is not None:
        return parameters
    for proxy in server.proxies():
        if proxy.is_ready:
            answer = await proxy.get_parameters(GetParametersIns(), PROBE_DEADLINE_S)
            return answer.result.parameters
    raise PreconditionError("no client is left to give the initial parameters.", remedy="Pass initial_parameters.")


def _with_timeout(strategy: Strategy, timeout_s: float | None) -> Strategy:
    """A strategy whose calls without a deadline of their own get the server's."""

    def limited(assignment: Assignment) -> Assignment:
        return replace(assignment, deadline_s=timeout_s) if assignment.deadline_s is None else assignment

    return Adjusted(strategy, limited)

"""Flower strategies that take measurements out of the replies, set cutoffs and have the rounds written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from fl.flower import keys
from fl.flower.replies import Nodes, Phase, WatchedGrid, take
from fl.instrument import TELEMETRY_KEY
from fl.loop import RoundResult
from fl.messages import Parameters
from fl.strategies.fedavg import fit_deadline_s, require_cutoffs, require_positive, require_telemetry
from profiler.clock import Clock, SystemClock
from profiler.errors import UsageError

if TYPE_CHECKING:
    from fl.standalone import Recorder


EvaluateFn = Callable[[int, Any], Any]


class ProfiledStrategy(Strategy):
    """Any strategy of Flower's, over nodes whose ClientApp has a `profiling_mod`.

    It takes the measurements out of the replies before the strategy sees them, so that none is averaged, and adds to
    its aggregated metrics `fit.energy_j`, the sum over nodes, which is left out where one is not known, and
    `fit.duration_s`, the longest (`evaluate.*` likewise). `recorder` (`harness.Recording`) writes every round down.

    `cutoffs` maps processor labels to seconds; 0, or no entry, means none. A node gets its own as `cutoff_s`, and those
    of all until it has told its processor. A node known to have a cutoff is given up after max(fit_timeout_s, 3 cutoff
    + 30 s), by the time-to-live of its message, which else is the strategy's own. `telemetry` as in `fl.instrument`.

    Accuracy and loss are those that `start(evaluate_fn=)` gives under these names.

    Raises UsageError for options outside their range, and for a strategy whose rounds are not Flower's own loop.
    """

    def __init__(
        self,
        strategy: Any,
        *,
        recorder: Recorder | None = None,
        cutoffs: Mapping[str, float] | None = None,
        fit_timeout_s: float = 600.0,
        telemetry: str = "full",
        clock: Clock | None = None,
    ) -> None:
        if type(strategy).start is not Strategy.start:
            raise UsageError(
                f"{type(strategy).__name__} has a loop of its own, which cannot be watched.",
                remedy="Wrap a strategy that leaves Strategy.start as it is.",
            )
        self._cutoffs = dict(cutoffs or {})
        require_cutoffs(self._cutoffs)
        require_positive("fit_timeout_s", fit_timeout_s)
        require_telemetry(telemetry)
        self.strategy = strategy
        self._recorder = recorder
        self._fit_timeout_s = fit_timeout_s
        self._telemetry = telemetry
        self._clock: Clock = clock or SystemClock()
        self._nodes = Nodes()
        self._round = _Round()
        self._grid: WatchedGrid | None = None

    def summary(self) -> None:
        self.strategy.summary()

    def start(
        self,
        grid: Any,
        initial_arrays: Any,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: Any = None,
        evaluate_config: Any = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Any:
        """As `Strategy.start`. What the recorder raises ends the training; it is closed all the same."""
        watched = self._grid = WatchedGrid(grid, self._clock)
        recorder = self._recorder
        if recorder is not None:
            recorder.begin(type(self.strategy).__name__.lower(), range(1, num_rounds + 1), [])
        try:
            result = super().start(
                watched,
                initial_arrays,
                num_rounds,
                timeout,
                train_config,
                evaluate_config,
                lambda round_, arrays: self._end_round(round_, arrays, evaluate_fn),
            )
            if recorder is not None:
                recorder.finish([])
        finally:
            if recorder is not None:
                recorder.close()
        return result

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        self._round = _Round()
        due = self.strategy.configure_train(server_round, arrays, config, grid)
        return [self._adjusted(message, server_round, "fit") for message in due]

    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        due = self.strategy.configure_evaluate(server_round, arrays, config, grid)
        return [self._adjusted(message, server_round, "evaluate") for message in due]

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        began_ns = self._clock.monotonic_ns()
        kept = list(replies)
        self._round.fit = self._take("fit", kept)
        arrays, metrics = self.strategy.aggregate_train(server_round, kept)
        self._round.server_ns += self._clock.monotonic_ns() - began_ns
        return arrays, _with_totals(metrics, self._round.fit.totals("fit"))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Any]) -> Any:
        kept = list(replies)
        self._round.evaluate = self._take("evaluate", kept)
        metrics = self.strategy.aggregate_evaluate(server_round, kept)
        return _with_totals(metrics, self._round.evaluate.totals("evaluate"))

    def _take(self, phase: keys.Phase, replies: list[Any]) -> Phase:
        if self._grid is None:
            raise UsageError("a ProfiledStrategy aggregates only in its own start().")
        return take(phase, self._grid, replies, self._nodes, getattr(self.strategy, "weighted_by_key", "num-examples"))

    def _adjusted(self, message: Any, round_: int, phase: keys.Phase) -> Any:
        """A message to one node of its own, with what our mod wants to know."""
        node_id, content = message.metadata.dst_node_id, message.content
        ours: dict[str, Any] = {"round": round_, TELEMETRY_KEY: self._telemetry}
        cutoff_s = 0.0
        if phase == "fit" and self._cutoffs:
            info = self._nodes.get(node_id)
            if info is None:
                ours |= {keys.PROCESSORS_KEY: list(self._cutoffs)}
                ours |= {keys.CUTOFFS_KEY: [float(one) for one in self._cutoffs.values()]}
            else:
                cutoff_s = ours["cutoff_s"] = float(self._cutoffs.get(info.processor, 0.0))
        name, record = next(iter(content.config_records.items()), ("config", {}))
        metadata = message.metadata
        return Message(
            RecordDict({**content, name: ConfigRecord({**record, **ours})}),
            dst_node_id=node_id,
            message_type=metadata.message_type,
            ttl=fit_deadline_s(cutoff_s, self._fit_timeout_s) if cutoff_s else metadata.ttl,
            group_id=metadata.group_id,
        )

    def _end_round(self, round_: int, arrays: Any, evaluate_fn: EvaluateFn | None) -> Any:
        """Flower evaluates the global model last of all in a round: its result is the round's."""
        began_ns = self._clock.monotonic_ns()
        told = None if evaluate_fn is None else evaluate_fn(round_, arrays)
        self._round.server_ns += self._clock.monotonic_ns() - began_ns
        if round_ > 0 and self._recorder is not None:
            self._recorder.record(self._round.result(round_, told or {}))
        return told


class ProfiledFedAvg(ProfiledStrategy):
    """Flower's FedAvg in a `ProfiledStrategy`: the arguments of both, by name."""

    def __init__(
        self,
        *,
        recorder: Recorder | None = None,
        cutoffs: Mapping[str, float] | None = None,
        fit_timeout_s: float = 600.0,
        telemetry: str = "full",
        clock: Clock | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(
            FedAvg(**arguments),
            recorder=recorder,
            cutoffs=cutoffs,
            fit_timeout_s=fit_timeout_s,
            telemetry=telemetry,
            clock=clock,
        )


class _Round:
    """What one round has come to so far."""

    def __init__(self) -> None:
        self.fit = Phase((), (0, 0))
        self.evaluate = Phase((), (0, 0))
        self.server_ns = 0

    def result(self, round_: int, told: Mapping[str, Any]) -> RoundResult:
        """`told`: what the server's own evaluation gave. The model itself is Flower's to keep."""
        return RoundResult(
            round=round_,
            parameters=Parameters(()),
            calls=(*self.fit.calls, *self.evaluate.calls),
            time_s=self.fit.length_s + (self.evaluate.length_s if self.evaluate.calls else 0.0),
            fit_time_s=self.fit.length_s,
            server_s=self.server_ns / 1e9,
            fit_window_ns=self.fit.window_ns,
            evaluate_window_ns=self.evaluate.window_ns if self.evaluate.calls else None,
            loss=_finite(told.get("loss")),
            accuracy=_finite(told.get("accuracy")),
            n_selected=len(self.fit.calls),
            n_results=sum(call.answer is not None for call in self.fit.calls),
        )


def _finite(value: object) -> float | None:
    number = keys.number_of(value)
    return number if number is not None and math.isfinite(number) else None


def _with_totals(metrics: Any, totals: Mapping[str, float]) -> Any:
    if not totals:
        return metrics
    record = MetricRecord() if metrics is None else metrics
    record.update(totals)
    return record

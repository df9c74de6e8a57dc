"""The FL loop: rounds of fit, aggregate, evaluate. No grpc, no files, no threads of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fl.messages import EvaluateRes, FitRes, Parameters
from fl.proxy import Answer

CallName = Literal["fit", "evaluate"]


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call of one round: an answer, or the failure's reason. `config` is what was sent.

    A fit answer kept here has no parameters any more: they were folded in.
    """

    device: str
    processor: str
    call: CallName
    config: dict[str, object]
    answer: Answer[FitRes] | Answer[EvaluateRes] | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What one round gave. `time_s` excludes `server_s`, the server's own aggregation and evaluation.

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

    @property
    def n_failures(self) -> int:
        return sum(call.failure is not None for call in self.calls)

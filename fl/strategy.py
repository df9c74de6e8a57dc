"""A strategy decides: which clients, with which config, and how to fold their results in. It holds no connection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from fl.messages import Config, FitRes, Parameters
from fl.plugins import load_plugin
from fl.proxy import ClientInfo
from profiler.errors import UsageError

ENTRY_POINT_GROUP = "fedmeter.strategies"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One client's part in a round: its config, and the server's deadline, later than any cutoff in the config."""

    device: str
    config: Config
    deadline_s: float | None = None


class Aggregator(Protocol):
    """One round's folding. Streams: `fold` checks a whole update before it folds any of it in, and keeps none."""

    def fold(self, device: str, update: FitRes) -> None:
        """Raises ClientFailure, and stays as it was, where shapes, types or values cannot be folded in."""
        ...

    def result(self) -> Parameters | None:
        """The new global model, or None where nothing was folded in."""
        ...


class Strategy(Protocol):
    """Chosen by name through the entry points `fedmeter.strategies`."""

    name: str

    def configure_fit(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]: ...

    def configure_evaluate(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]: ...

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator: ...


def load_strategy(name: str, **options: object) -> Strategy:
    """The strategy of that name, made with these options.

    Raises UsageError for an unknown name and for options that it does not take.
    """
    factory = cast(Callable[..., Strategy], load_plugin(ENTRY_POINT_GROUP, name))
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise UsageError(f"strategy {name!r}: {error}.") from None
    return factory(**options)

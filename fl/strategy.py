"""A strategy decides: which clients, with which config, and how to fold their results in. It holds no connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from fl.messages import Array, Config, FitRes, Parameters
from fl.plugins import make_plugin
from fl.proxy import ClientInfo

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


@dataclass(frozen=True, slots=True)
class Experience:
    """What one answered fit call took, for strategies that learn from it.

    `device_s` is the device's own time from receiving to handing over, the whole round trip where it does not tell;
    `fit_s` its training window, None where it does not tell. `energy_j` is None where it is not known.
    """

    device: str
    processor: str
    device_s: float
    download_s: float
    upload_s: float
    fit_s: float | None = None
    is_cut: bool = False
    energy_j: float | None = None

    @property
    def communication_s(self) -> float:
        return self.download_s + self.upload_s


class Strategy(Protocol):
    """Chosen by name through the entry points `fedmeter.strategies`."""

    name: str

    def configure_fit(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]: ...

    def configure_evaluate(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]: ...

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator: ...

    def observe(self, round_: int, calls: Sequence[Experience]) -> None:
        """Told of a round's fit calls once it is over; what was learned is not kept over a resume."""
        ...

    def state(self) -> list[Array]:
        """What the next round depends on beside the model, for the checkpoint: a server's momentum; mostly []."""
        ...

    def restore(self, state: Sequence[Array]) -> None:
        """Go on from a checkpoint's `state`. Raises UsageError where it is not this strategy's."""
        ...


class Adjusted:
    """A strategy whose every assignment is changed on its way out."""

    def __init__(self, strategy: Strategy, change: Callable[[Assignment], Assignment]) -> None:
        self.name = strategy.name
        self.aggregator = strategy.aggregator
        self.observe = strategy.observe
        self.state = strategy.state
        self.restore = strategy.restore
        self._strategy = strategy
        self._change = change

    def configure_fit(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        return [self._change(assignment) for assignment in self._strategy.configure_fit(round_, clients)]

    def configure_evaluate(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        return [self._change(assignment) for assignment in self._strategy.configure_evaluate(round_, clients)]


def load_strategy(name: str, **options: object) -> Strategy:
    """The strategy of that name, made with these options.

    Raises UsageError for an unknown name and for options that it does not take.
    """
    return cast(Strategy, make_plugin(ENTRY_POINT_GROUP, name, options))

"""Federated averaging.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fl.aggregate import WeightedMean
from fl.instrument import TELEMETRY_LEVELS
from fl.messages import Array, Parameters, Scalar
from fl.proxy import ClientInfo
from fl.selection import Selection
from fl.strategy import Aggregator, Assignment, Experience
from profiler.errors import UsageError

WEIGHTS = ("examples", "processed")


@dataclass(kw_only=True)
class FedAvg:
    """Chosen clients train `epochs` local epochs; the new model is their mean, weighted by number of examples.

    `clients`, `fraction`, `processors`, `round_deadline_s` and `round_energy_j` choose among those that are ready: see
    `fl.selection`. The same draw evaluates where `evaluate` is set. `telemetry` is what clients shall send of
    their measurements: `flat`, `full` or `samples` (`fl.instrument`).

    `cutoffs` maps processor labels to seconds; 0, or no entry, means no cutoff. A partial update weighs as much as a
    whole one of the same data: weighing by examples processed pulls the model away from slow devices twice, once for
    their fewer steps and once for their smaller weight. `weigh_by = "processed"` does it, for comparison.

    The server's deadline of a client with a cutoff is max(fit_timeout_s, 3 cutoff + 30 s): never before the cutoff,
    with room for one overlong step, a slow clock and the transfer. It only ends the wait for a client that is lost.

    Raises UsageError for options outside their range.
    """

    clients: int | None = None
    fraction: float | None = None
    processors: Sequence[str] | None = None
    round_deadline_s: float | None = None
    round_energy_j: float | None = None
    epochs: int
    batch_size: int
    lr: float
    seed: int = 0
    telemetry: str = "full"
    fit_timeout_s: float = 600.0
    evaluate: bool = True
    cutoffs: Mapping[str, float] = field(default_factory=dict)
    weigh_by: str = "examples"
    _known: dict[str, Experience] = field(init=False, repr=False, compare=False, default_factory=dict)
    _fitting: tuple[int, frozenset[str]] = field(init=False, repr=False, compare=False, default=(0, frozenset()))

    name = "fedavg"

    def __post_init__(self) -> None:
        for option, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, option)
            if value < least:
                raise UsageError(f"{option} = {value}: it must be at least {least}.")
        for option in ("lr", "fit_timeout_s"):
            require_positive(option, getattr(self, option))
        require_telemetry(self.telemetry)
        if self.weigh_by not in WEIGHTS:
            raise UsageError(f"weigh_by = {self.weigh_by!r}: it is one of {', '.join(WEIGHTS)}.")
        require_cutoffs(self.cutoffs)
        _ = self._selection  # its own checks

    @cached_property
    def _selection(self) -> Selection:
        return Selection(
            clients=self.clients,
            fraction=self.fraction,
            processors=self.processors,
            round_deadline_s=self.round_deadline_s,
            round_energy_j=self.round_energy_j,
            seed=self.seed,
        )

    def configure_fit(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        drawn = self._selection.draw(round_, clients, self._known)
        self._fitting = (round_, frozenset(client.device for client in drawn))
        return [
            Assignment(client.device, self._fit_config(round_, client), self._fit_deadline_s(client))
            for client in drawn
        ]

    def configure_evaluate(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        if not self.evaluate:
            return []
        return [
            Assignment(client.device, self._common_config(round_), self.fit_timeout_s)
            for client in self._evaluating(round_, clients)
        ]

    def _evaluating(self, round_: int, clients: Sequence[ClientInfo]) -> list[ClientInfo]:
        """Those who fitted in this round: a new draw would know of what they took in it."""
        fitted_round, devices = self._fitting
        if fitted_round != round_:
            return self._selection.draw(round_, clients, self._known)
        return sorted((client for client in clients if client.device in devices), key=lambda client: client.device)

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator:
        return self.mean(parameters)

    def mean(self, parameters: Parameters) -> WeightedMean:
        """The weighted mean that strategies derived from this one start from."""
        return WeightedMean(parameters, processed_batch=self.batch_size if self.weigh_by == "processed" else None)

    def observe(self, round_: int, calls: Sequence[Experience]) -> None:
        self._known.update((call.device, call) for call in calls)

    def state(self) -> list[Array]:
        return []

    def restore(self, state: Sequence[Array]) -> None:
        if state:
            raise UsageError(f"strategy {self.name!r} keeps no state, but the checkpoint holds {len(state)} tensors.")

    def _cutoff_s(self, client: ClientInfo) -> float:
        """0: no cutoff."""
        return float(self.cutoffs.get(client.processor, 0.0))

    def _fit_deadline_s(self, client: ClientInfo) -> float:
        return fit_deadline_s(self._cutoff_s(client), self.fit_timeout_s)

    def _fit_config(self, round_: int, client: ClientInfo) -> dict[str, Scalar]:
        return self._common_config(round_) | {
            "epochs": self.epochs,
            "lr": float(self.lr),
            "cutoff_s": self._cutoff_s(client),
        }

    def _common_config(self, round_: int) -> dict[str, Scalar]:
        return {"round": round_, "batch_size": self.batch_size, "seed": self.seed, "telemetry": self.telemetry}


def fit_deadline_s(cutoff_s: float, fit_timeout_s: float) -> float:
    """When the server gives up on a client with that cutoff (0: none): see `FedAvg`."""
    return max(fit_timeout_s, 3 * cutoff_s + 30.0) if cutoff_s else fit_timeout_s


def require_cutoffs(cutoffs: Mapping[str, float]) -> None:
    for processor, cutoff_s in cutoffs.items():
        if not (math.isfinite(cutoff_s) and cutoff_s >= 0):
            raise UsageError(f"cutoff of {processor!r} = {cutoff_s}: it is a finite number of seconds, 0 for none.")


def require_telemetry(level: str) -> None:
    if level not in TELEMETRY_LEVELS:
        raise UsageError(f"telemetry = {level!r}: it is one of {', '.join(TELEMETRY_LEVELS)}.")


def require_positive(option: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{option} = {value}: it must be a finite number above 0.")


def require_fraction(option: str, value: float) -> None:
    """From 0 to below 1."""
    if not 0 <= value < 1:
        raise UsageError(f"{option} = {value}: it must be from 0 to below 1.")

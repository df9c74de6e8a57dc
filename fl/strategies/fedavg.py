"""Federated averaging.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, Algorithm 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fl.aggregate import WeightedMean
from fl.messages import Parameters, Scalar
from fl.proxy import ClientInfo
from fl.strategy import Aggregator, Assignment
from profiler.errors import UsageError

TELEMETRY_LEVELS = ("full", "flat")


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Chosen clients train `epochs` local epochs; the new model is their mean, weighted by number of examples.

    `clients` of those that are ready take part in a round, drawn by `seed` and round; None means all. `telemetry` is
    `full` where clients shall send their whole measurement beside the flat keys, else `flat`. The same draw evaluates
    where `evaluate` is set. Raises UsageError for options outside their range.
    """

    clients: int | None = None
    epochs: int
    batch_size: int
    lr: float
    seed: int = 0
    telemetry: str = "full"
    fit_timeout_s: float = 600.0
    evaluate: bool = True

    name = "fedavg"

    def __post_init__(self) -> None:
        for option, least in (("clients", 1), ("epochs", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, option)
            if value is not None and value < least:
                raise UsageError(f"{option} = {value}: it must be at least {least}.")
        for option in ("lr", "fit_timeout_s"):
            value = getattr(self, option)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{option} = {value}: it must be a finite number above 0.")
        if self.telemetry not in TELEMETRY_LEVELS:
            raise UsageError(f"telemetry = {self.telemetry!r}: it is one of {', '.join(TELEMETRY_LEVELS)}.")

    def configure_fit(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        return [
            Assignment(client.device, self._fit_config(round_, client), self._fit_deadline_s(client))
            for client in self._draw(round_, clients)
        ]

    def configure_evaluate(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        if not self.evaluate:
            return []
        return [
            Assignment(client.device, self._common_config(round_), self.fit_timeout_s)
            for client in self._draw(round_, clients)
        ]

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator:
        return WeightedMean(parameters)

    def _cutoff_s(self, client: ClientInfo) -> float:
        """0: no cutoff."""
        return 0.0

    def _fit_deadline_s(self, client: ClientInfo) -> float:
        return self.fit_timeout_s

    def _fit_config(self, round_: int, client: ClientInfo) -> dict[str, Scalar]:
        return self._common_config(round_) | {
            "epochs": self.epochs,
            "lr": float(self.lr),
            "cutoff_s": self._cutoff_s(client),
        }

    def _common_config(self, round_: int) -> dict[str, Scalar]:
        return {"round": round_, "batch_size": self.batch_size, "seed": self.seed, "telemetry": self.telemetry}

    def _draw(self, round_: int, clients: Sequence[ClientInfo]) -> list[ClientInfo]:
        """The clients of a round, by id. Each has its own place in the draw, so one that is lost shifts no other."""
        chosen = sorted(clients, key=lambda client: client.device)
        if self.clients is not None and self.clients < len(chosen):
            ranked = sorted(chosen, key=lambda client: _place(self.seed, round_, client.device))
            chosen = sorted(ranked[: self.clients], key=lambda client: client.device)
        return chosen


def _place(seed: int, round_: int, device: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{round_}/{device}".encode(), digest_size=16).digest()

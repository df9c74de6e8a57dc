"""FedAvg with a processor-specific cutoff: Mathur et al., "On-device Federated Learning with Flower", 2021, Table 3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fl.proxy import ClientInfo
from fl.strategies.fedavg import FedAvg
from profiler.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Cutoff(FedAvg):
    """FedAvg that sends each client the cutoff (s) of its processor and takes partial work at full weight.

    `cutoffs` maps processor labels to seconds; 0, or no entry, means no cutoff. A partial update weighs as much as a
    whole one of the same data: weighing by examples processed pulls the model away from slow devices twice, once for
    their fewer steps and once for their smaller weight.

    The server's deadline of a client with a cutoff is max(fit_timeout_s, 3 cutoff + 30 s): never before the cutoff,
    with room for one overlong step, a slow clock and the transfer. It only ends the wait for a client that is lost.
    """

    cutoffs: Mapping[str, float] = field(default_factory=dict)

    name = "cutoff"

    def __post_init__(self) -> None:
        super().__post_init__()
        for processor, cutoff_s in self.cutoffs.items():
            if not (math.isfinite(cutoff_s) and cutoff_s >= 0):
                raise UsageError(f"cutoff of {processor!r} = {cutoff_s}: it is a finite number of seconds, 0 for none.")

    def _cutoff_s(self, client: ClientInfo) -> float:
        return float(self.cutoffs.get(client.processor, 0.0))

    def _fit_deadline_s(self, client: ClientInfo) -> float:
        cutoff_s = self._cutoff_s(client)
        usual_s = super()._fit_deadline_s(client)
        return max(usual_s, 3 * cutoff_s + 30.0) if cutoff_s else usual_s

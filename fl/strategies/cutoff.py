"""FedAvg with a processor-specific cutoff: Mathur et al., "On-device Federated Learning with Flower", 2021, Table 3."""

from __future__ import annotations

from dataclasses import dataclass

from fl.strategies.fedavg import FedAvg


@dataclass(kw_only=True)
class Cutoff(FedAvg):
    """FedAvg by the name that plans and results give it where cutoffs apply."""

    name = "cutoff"

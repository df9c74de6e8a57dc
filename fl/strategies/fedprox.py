"""FedProx: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass

from fl.messages import Scalar
from fl.proxy import ClientInfo
from fl.strategies.fedavg import FedAvg, require_positive


@dataclass(kw_only=True)
class FedProx(FedAvg):
    """Clients minimise their loss plus `proximal_mu` / 2 · ‖w − w_global‖², which keeps partial work near the others.

    The term is the client's work: the workload adds it, told by the config key `proximal_mu`, as in Flower. The paper
    tries 0.001 to 1.
    """

    proximal_mu: float = 0.01

    name = "fedprox"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("proximal_mu", self.proximal_mu)

    def _fit_config(self, round_: int, client: ClientInfo) -> dict[str, Scalar]:
        return super()._fit_config(round_, client) | {"proximal_mu": float(self.proximal_mu)}

"""What a script written for Flower's grpc-bidi API needs beside `start_server` and `start_client`.

    from fl import FedAvg, NumPyClient, ServerConfig, ndarrays_to_parameters, start_client, start_server

Names, arguments and their meaning are those of Flower (flwr/server/strategy/fedavg.py, flwr/client/numpy_client.py,
flwr/common/parameter.py). What has no counterpart here is refused, with what to use instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from fl.aggregate import WeightedMean
from fl.messages import Array, Config, Parameters, Scalar
from fl.proxy import ClientInfo, TensorEncoding
from fl.selection import Selection
from fl.strategy import Aggregator, Assignment, Experience
from profiler.errors import UsageError

Told = list[tuple[int, dict[str, Scalar]]]
MetricsFn = Callable[[Told], Mapping[str, Scalar]]
ConfigFn = Callable[[int], Mapping[str, Scalar]]
EvaluateFn = Callable[[int, list[Array], dict[str, Scalar]], "tuple[float, Mapping[str, Scalar]] | None"]


class NumPyClient:
    """A base for clients that leave some calls out, as Flower's is: those then tell, or do, nothing."""

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return {}

    def get_parameters(self, config: Config) -> list[Array]:
        return []

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        return [], 0, {}

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        return 0.0, 0, {}

    def to_client(self) -> NumPyClient:
        """Itself: `fl.start_client` takes a NumPyClient as it is."""
        return self


def ndarrays_to_parameters(ndarrays: Sequence[Array]) -> Parameters:
    return Parameters(tuple(ndarrays))


def parameters_to_ndarrays(parameters: Parameters) -> list[Array]:
    """Copies, which may be changed."""
    return parameters.copy()


@dataclass(kw_only=True)
class FedAvg:
    """FedAvg (McMahan et al. 2017, Algorithm 1) with Flower's arguments; `fl.FedAvg`.

    A round draws max(int(fraction * available), min_*_clients) clients, by `seed`. What `on_*_config_fn` gives is sent
    as it is, beside `round` and `telemetry`, the level that our clients measure by. `evaluate_fn` gives the loss and
    metrics of a global model, or None; the initial model is round 0. The strategies of `fl.strategies` know more:
    cutoffs, deadlines, energy budgets.

    Raises UsageError for arguments outside their range, and for `accept_failures=False`.
    """

    fraction_fit: float = 1.0
    fraction_evaluate: float = 1.0
    min_fit_clients: int = 2
    min_evaluate_clients: int = 2
    min_available_clients: int = 2
    evaluate_fn: EvaluateFn | None = None
    on_fit_config_fn: ConfigFn | None = None
    on_evaluate_config_fn: ConfigFn | None = None
    accept_failures: bool = True
    initial_parameters: Parameters | None = None
    fit_metrics_aggregation_fn: MetricsFn | None = None
    evaluate_metrics_aggregation_fn: MetricsFn | None = None
    inplace: bool = True  # where Flower keeps its sum; ours is always one
    seed: int = 0
    telemetry: str = "full"

    name = "fedavg"
    foreign_tensors: ClassVar[TensorEncoding] = "npy"

    def __post_init__(self) -> None:
        for option in ("fraction_fit", "fraction_evaluate"):
            if not 0 <= getattr(self, option) <= 1:
                raise UsageError(f"{option} = {getattr(self, option)}: it must be from 0 to 1.")
        for option in ("min_fit_clients", "min_evaluate_clients", "min_available_clients"):
            if getattr(self, option) < 1:
                raise UsageError(f"{option} = {getattr(self, option)}: it must be at least 1.")
        if not self.accept_failures:
            raise UsageError(
                "accept_failures=False is not supported: a failed client costs its own update, not the round.",
                remedy="Look at History.rounds[i].n_failures, and leave the argument out.",
            )
        if self.initial_parameters is not None and not isinstance(self.initial_parameters, Parameters):
            raise UsageError(
                f"initial_parameters of type {type(self.initial_parameters).__name__}.",
                remedy="Make them with fl.ndarrays_to_parameters.",
            )

    @property
    def least_clients(self) -> int:
        """How many a round waits for: as many as it draws at the least."""
        return max(self.min_available_clients, self.min_fit_clients)

    @cached_property
    def _drawing(self) -> tuple[Callable[..., list[ClientInfo]], Callable[..., list[ClientInfo]]]:
        return (
            _drawer(self.fraction_fit, self.min_fit_clients, 2 * self.seed),
            _drawer(self.fraction_evaluate, self.min_evaluate_clients, 2 * self.seed + 1),
        )

    def configure_fit(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        return self._assign(round_, self._drawing[0](round_, clients), self.on_fit_config_fn)

    def configure_evaluate(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        if self.fraction_evaluate == 0:
            return []
        return self._assign(round_, self._drawing[1](round_, clients), self.on_evaluate_config_fn)

    def _assign(self, round_: int, clients: Sequence[ClientInfo], config_fn: ConfigFn | None) -> list[Assignment]:
        theirs = {} if config_fn is None else dict(config_fn(round_))
        config: Config = {"round": round_, "telemetry": self.telemetry, **theirs}
        return [Assignment(client.device, config) for client in clients]

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator:
        return WeightedMean(parameters)

    def observe(self, round_: int, calls: Sequence[Experience]) -> None:
        pass

    def state(self) -> list[Array]:
        return []

    def restore(self, state: Sequence[Array]) -> None:
        if state:
            raise UsageError(f"strategy {self.name!r} keeps no state, but the checkpoint holds {len(state)} tensors.")

    def central(self, round_: int, parameters: Parameters) -> tuple[float, Mapping[str, Scalar]] | None:
        return None if self.evaluate_fn is None else self.evaluate_fn(round_, parameters.copy(), {})

    def fit_metrics(self, told: Told) -> Mapping[str, Scalar]:
        return _aggregated(self.fit_metrics_aggregation_fn, told)

    def evaluate_metrics(self, told: Told) -> Mapping[str, Scalar]:
        return _aggregated(self.evaluate_metrics_aggregation_fn, told)


@dataclass(kw_only=True)
class FedAvgAndroid(FedAvg):
    """The same for phones whose clients speak raw float32 tensors; `fl.FedAvgAndroid`.

    Clients that name their device are ours, or speak for themselves, and get NPY: fleets may be mixed in one round.
    Needs `initial_parameters`: the shapes are lost on the wire, and are known from the model only.
    """

    foreign_tensors: ClassVar[TensorEncoding] = "float32"

    def __post_init__(self) -> None:
        FedAvg.__post_init__(self)
        if self.initial_parameters is None:
            raise UsageError("FedAvgAndroid needs initial_parameters: raw tensors do not tell their shapes.")


def _drawer(fraction: float, least: int, seed: int) -> Callable[..., list[ClientInfo]]:
    def draw(round_: int, clients: Sequence[ClientInfo]) -> list[ClientInfo]:
        wanted = max(int(fraction * len(clients)), least)
        return Selection(clients=wanted, seed=seed).draw(round_, clients, {})

    return draw


def _aggregated(function: MetricsFn | None, told: Told) -> Mapping[str, Scalar]:
    return {} if function is None or not told else function(told)

"""Optimizers on the server: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2; and FedAvgM.

Δ is the mean update less the model before the round. FedAvgM is after Hsu, Qi and Brown, "Measuring the Effects of
Non-Identical Data Distribution for Federated Visual Classification", 2019. Moments are float64, one or two models of
memory; tensors that are no floats are averaged as in FedAvg.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fl.aggregate import WeightedMean
from fl.messages import Array, FitRes, Parameters
from fl.strategies.fedavg import FedAvg, require_fraction, require_positive
from fl.strategy import Aggregator
from profiler.errors import UsageError

Moment = npt.NDArray[np.float64]


@dataclass(kw_only=True)
class ServerOptimizer(FedAvg, ABC):
    """What the four have in common: moments that live as long as the task, and go into its checkpoint."""

    server_lr: float
    _moments: list[list[Moment]] = field(init=False, repr=False, compare=False, default_factory=list)

    n_moments = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("server_lr", self.server_lr)

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator:
        return _Optimized(self, parameters, self.mean(parameters))

    def state(self) -> list[Array]:
        return [moment for moments in self._moments for moment in moments]

    def restore(self, state: Sequence[Array]) -> None:
        n_tensors, left = divmod(len(state), self.n_moments)
        if left or any(moment.dtype != np.float64 for moment in state):
            raise UsageError(f"strategy {self.name!r}: the checkpoint holds the state of another strategy.")
        self._moments = [
            [np.array(moment) for moment in state[n * self.n_moments : (n + 1) * self.n_moments]]
            for n in range(n_tensors)
        ]

    def step(self, before: Sequence[Array], mean: Sequence[Array]) -> list[Array]:
        """The model after this round, from that before it and the mean of the updates. Moves the moments on."""
        if not self._moments:
            self._moments = [self._first_moments(array.shape) for array in before]
        if [moments[0].shape for moments in self._moments] != [array.shape for array in before]:
            raise UsageError(f"strategy {self.name!r}: the checkpoint holds the state of another model.")
        return [self._moved(moments, old, new) for moments, old, new in zip(self._moments, before, mean, strict=True)]

    def _moved(self, moments: list[Moment], before: Array, mean: Array) -> Array:
        if before.dtype.kind != "f":
            return mean
        start = before.astype(np.float64)
        return np.asarray(start + self._direction(moments, mean - start)).astype(before.dtype)

    def _first_moments(self, shape: tuple[int, ...]) -> list[Moment]:
        return [np.zeros(shape)]

    @abstractmethod
    def _direction(self, moments: list[Moment], delta: Moment) -> Moment:
        """What is added to the model. Moves the moments on."""


class _Optimized:
    """A mean whose result is handed to the server's optimizer."""

    def __init__(self, optimizer: ServerOptimizer, parameters: Parameters, mean: WeightedMean) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._mean = mean

    def fold(self, device: str, update: FitRes) -> None:
        self._mean.fold(device, update)

    def result(self) -> Parameters | None:
        mean = self._mean.result()
        if mean is None:
            return None
        return Parameters(tuple(self._optimizer.step(self._parameters.arrays, mean.arrays)))


@dataclass(kw_only=True)
class FedAvgM(ServerOptimizer):
    """v ← βv + Δ, w ← w + ηv, with β = `server_momentum` and η = `server_lr`."""

    server_lr: float = 1.0
    server_momentum: float = 0.9

    name = "fedavgm"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction("server_momentum", self.server_momentum)

    def _direction(self, moments: list[Moment], delta: Moment) -> Moment:
        moments[0] *= self.server_momentum
        moments[0] += delta
        return self.server_lr * moments[0]


@dataclass(kw_only=True)
class _Adaptive(ServerOptimizer):
    """m ← β₁m + (1 − β₁)Δ, w ← w + η m / (√v + τ); v begins at τ². η = `server_lr`, `tau` is the adaptivity."""

    server_lr: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    n_moments = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction("beta_1", self.beta_1)
        require_fraction("beta_2", self.beta_2)
        require_positive("tau", self.tau)

    def _first_moments(self, shape: tuple[int, ...]) -> list[Moment]:
        return [np.zeros(shape), np.full(shape, self.tau**2)]

    def _direction(self, moments: list[Moment], delta: Moment) -> Moment:
        mean, square = moments
        mean *= self.beta_1
        mean += (1 - self.beta_1) * delta
        self._accumulate(square, delta**2)
        return self.server_lr * mean / (np.sqrt(square) + self.tau)

    @abstractmethod
    def _accumulate(self, square: Moment, squared_delta: Moment) -> None:
        """Move the second moment on, in place."""


@dataclass(kw_only=True)
class FedAdagrad(_Adaptive):
    """v ← v + Δ². The paper's β₁ is 0 here."""

    beta_1: float = 0.0

    name = "fedadagrad"

    def _accumulate(self, square: Moment, squared_delta: Moment) -> None:
        square += squared_delta


@dataclass(kw_only=True)
class FedYogi(_Adaptive):
    """v ← v − (1 − β₂) Δ² sign(v − Δ²)."""

    name = "fedyogi"

    def _accumulate(self, square: Moment, squared_delta: Moment) -> None:
        square -= (1 - self.beta_2) * squared_delta * np.sign(square - squared_delta)


@dataclass(kw_only=True)
class FedAdam(_Adaptive):
    """v ← β₂v + (1 − β₂)Δ²."""

    name = "fedadam"

    def _accumulate(self, square: Moment, squared_delta: Moment) -> None:
        square *= self.beta_2
        square += (1 - self.beta_2) * squared_delta

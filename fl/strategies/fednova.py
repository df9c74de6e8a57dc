"""FedNova.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", NeurIPS 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fl.aggregate import WeightedMean, steps_done
from fl.messages import Array, FitRes, Parameters
from fl.strategies.fedavg import FedAvg, require_fraction
from fl.strategy import Aggregator
from profiler.errors import UsageError


@dataclass(kw_only=True)
class FedNova(FedAvg):
    """Updates are averaged per local step, so that devices with fewer steps, slow or cut off, count as much as others.

    With p_i the shares of the examples, d_i = w_global − w_i and a_i the effective steps,
    w ← w − (Σ p_i a_i) · Σ p_i d_i / a_i  (their equations 8 and 9). `momentum` is that of the clients' SGD: k steps
    then count as (k − ρ(1 − ρ^k)/(1 − ρ)) / (1 − ρ), their section 3.3. Clients must tell `fit.steps_done`. Integer
    tensors are averaged as in FedAvg.
    """

    momentum: float = 0.0

    name = "fednova"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction("momentum", self.momentum)
        if self.weigh_by != "examples":
            raise UsageError("strategy 'fednova' weighs by examples: weigh_by does not apply.")

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator:
        return NormalisedMean(parameters, self.momentum)


class NormalisedMean:
    """Streams: sums of w_i n_i / a_i, n_i / a_i and n_i a_i, and a plain mean for tensors that are no floats."""

    def __init__(self, parameters: Parameters, momentum: float) -> None:
        self._parameters = parameters
        self._momentum = momentum
        self._mean = WeightedMean(parameters)
        self._sums: list[npt.NDArray[np.float64]] = []
        self._per_step = 0.0  # Σ n_i / a_i
        self._steps = 0.0  # Σ n_i a_i
        self._examples = 0

    def fold(self, device: str, update: FitRes) -> None:
        """Raises ClientFailure, and stays as it was, where the update is none of this model or tells no steps."""
        effective = effective_steps(steps_done(device, update), self._momentum)
        self._mean.fold(device, update)  # checks all of it
        weight = update.num_examples / effective
        if not self._sums:
            self._sums = [np.zeros(array.shape, dtype=np.float64) for array in self._parameters.arrays]
        for total, array in zip(self._sums, update.parameters.arrays, strict=True):
            if array.dtype.kind == "f":
                total += weight * array.astype(np.float64)
        self._per_step += weight
        self._steps += update.num_examples * effective
        self._examples += update.num_examples

    def result(self) -> Parameters | None:
        """The new model, or None where nothing was folded in."""
        mean = self._mean.result()
        if mean is None:
            return None
        scale = self._steps / self._examples / self._examples  # (Σ p a) and the 1/Σ n of the other sum
        triples = zip(self._parameters.arrays, self._sums, mean.arrays, strict=True)
        return Parameters(
            tuple(
                self._moved(before, total, scale) if before.dtype.kind == "f" else plain
                for before, total, plain in triples
            )
        )

    def _moved(self, before: Array, total: npt.NDArray[np.float64], scale: float) -> Array:
        start = before.astype(np.float64)
        return np.asarray(start - scale * (self._per_step * start - total)).astype(before.dtype)


def effective_steps(steps: int, momentum: float) -> float:
    """‖a_i‖₁ of `steps` steps of SGD with momentum ρ: the sum of what each gradient is weighed by in the end."""
    if momentum == 0:
        return float(steps)
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)

"""Aggregation that bears some lying clients. Every update of a round is held until it ends: N models of memory.

Coordinate-wise median and trimmed mean: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018. Krum: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient
Descent", NIPS 2017. None of them weighs by examples: a client says itself how many it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fl.aggregate import as_type, check_update
from fl.messages import Array, FitRes, Parameters
from fl.strategies.fedavg import FedAvg
from fl.strategy import Aggregator
from profiler.errors import UsageError

_PIECE = 1 << 18  # elements of a tensor that are sorted at a time, N of them in memory beside the updates

# Updates of one round, in the order of their device ids, to the new model.
Combine = Callable[[Sequence[tuple[Array, ...]]], tuple[Array, ...]]
# float64[N, piece] to float64[piece].
Statistic = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


class Collected:
    """Holds the updates of a round, checked, and combines them at its end."""

    def __init__(self, template: Parameters, combine: Combine) -> None:
        self._template = template.arrays
        self._combine = combine
        self._updates: dict[str, tuple[Array, ...]] = {}

    def fold(self, device: str, update: FitRes) -> None:
        """Raises ClientFailure, and stays as it was, where the update is no update of this model."""
        check_update(device, self._template, update)
        self._updates[device] = tuple(update.parameters.arrays)

    def result(self) -> Parameters | None:
        """The new model, or None where nothing was folded in."""
        if not self._updates:
            return None
        return Parameters(self._combine([self._updates[device] for device in sorted(self._updates)]))


def by_coordinate(updates: Sequence[tuple[Array, ...]], statistic: Statistic) -> tuple[Array, ...]:
    """A statistic of each coordinate over the updates, in the updates' own dtypes."""
    combined = []
    for tensors in zip(*updates, strict=True):
        flat = [tensor.reshape(-1) for tensor in tensors]
        result = np.empty(flat[0].size, dtype=np.float64)
        for start in range(0, result.size, _PIECE):
            piece = np.stack([values[start : start + _PIECE] for values in flat]).astype(np.float64)
            result[start : start + _PIECE] = statistic(piece)
        combined.append(as_type(result.reshape(tensors[0].shape), tensors[0].dtype))
    return tuple(combined)


@dataclass(kw_only=True)
class _Robust(FedAvg, ABC):
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weigh_by != "examples":
            raise UsageError(f"strategy {self.name!r} weighs no update: weigh_by does not apply.")

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator:
        return Collected(parameters, self._combine)

    @abstractmethod
    def _combine(self, updates: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        """The new model from a round's updates, in the order of their device ids."""


@dataclass(kw_only=True)
class FedMedian(_Robust):
    """The median of each coordinate."""

    name = "fedmedian"

    def _combine(self, updates: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        return by_coordinate(updates, lambda piece: np.median(piece, axis=0))


@dataclass(kw_only=True)
class TrimmedMean(_Robust):
    """The mean of each coordinate without the ⌊βN⌋ largest and smallest, β = `trim` below 0.5."""

    trim: float = 0.1

    name = "trimmedmean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.trim < 0.5:
            raise UsageError(f"trim = {self.trim}: it must be from 0 to below 0.5.")

    def _combine(self, updates: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        n_cut = int(self.trim * len(updates))
        return by_coordinate(updates, lambda piece: np.sort(piece, axis=0)[n_cut : len(piece) - n_cut].mean(axis=0))


@dataclass(kw_only=True)
class Krum(_Robust):
    """The update nearest to its N − f − 2 nearest others, f = `byzantine`; the mean of the `keep` best (Multi-Krum).

    Where N < f + 3, fewer others than the paper asks for are looked at, but at least one. Ties go to the first device
    id.
    """

    byzantine: int = 0
    keep: int = 1

    name = "krum"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, least in (("byzantine", 0), ("keep", 1)):
            if getattr(self, option) < least:
                raise UsageError(f"{option} = {getattr(self, option)}: it must be at least {least}.")

    def _combine(self, updates: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        distances = _squared_distances(updates)
        n_near = max(1, len(updates) - self.byzantine - 2)
        scores = [float(np.sort(np.delete(row, n))[:n_near].sum()) for n, row in enumerate(distances)]
        best = sorted(range(len(updates)), key=lambda n: (scores[n], n))[: self.keep]
        return by_coordinate([updates[n] for n in best], lambda piece: piece.mean(axis=0))


def _squared_distances(updates: Sequence[tuple[Array, ...]]) -> npt.NDArray[np.float64]:
    """float64[N, N], over the floating point tensors."""
    distances = np.zeros((len(updates), len(updates)))
    for first, ours in enumerate(updates):
        for second in range(first + 1, len(updates)):
            squared = 0.0
            for a, b in zip(ours, updates[second], strict=True):
                if a.dtype.kind == "f":
                    squared += float(np.sum((a.astype(np.float64) - b) ** 2))
            distances[first, second] = distances[second, first] = squared
    return distances

"""Pure geometry of fronts: who is dominated and by whom, hypervolume, knee.

Senses are explicit: `maximise` has one flag an objective. Points are rows, objectives columns; NaN is an error, for a
missing objective is neither good nor bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def as_matrix(values: Sequence[Sequence[float]]) -> Matrix:
    """float64[n_points, n_objectives]. Raises ValueError where a value is not finite."""
    matrix = np.array(values, dtype=np.float64, ndmin=2)
    if not np.isfinite(matrix).all():
        raise ValueError("every objective of every point must be a finite number")
    return matrix


def on_front(values: Sequence[Sequence[float]], maximise: Sequence[bool]) -> list[bool]:
    """Whether each point is non-dominated. Equal points are ties: all of them stay."""
    if not values:
        return []
    flags = moocore.is_nondominated(as_matrix(values), maximise=list(maximise), keep_weakly=True)
    return [bool(flag) for flag in flags]


def dominators(values: Sequence[Sequence[float]], maximise: Sequence[bool]) -> list[int | None]:
    """For each point the index of the first point of the front that dominates it, None for points of the front."""
    if not values:
        return []
    costs = np.where(list(maximise), -as_matrix(values), as_matrix(values))
    front = np.flatnonzero(on_front(values, maximise))
    return [_first_dominator(costs, front, index) for index in range(len(costs))]


def _first_dominator(costs: Matrix, front: npt.NDArray[np.intp], index: int) -> int | None:
    better = (costs[front] <= costs[index]).all(axis=1) & (costs[front] < costs[index]).any(axis=1)
    return int(front[np.argmax(better)]) if better.any() else None


def hypervolume(values: Sequence[Sequence[float]], reference: Sequence[float], maximise: Sequence[bool]) -> float:
    """Volume that the points dominate within the reference point; its unit is the product of the objectives' units.

    Fonseca, Paquete, López-Ibáñez, 2006, as implemented by moocore. Points beyond the reference add nothing.
    """
    if not values:
        return 0.0
    return float(moocore.hypervolume(as_matrix(values), ref=list(reference), maximise=list(maximise)))


@dataclass(frozen=True, slots=True)
class Knee:
    """`index` of the knee, or None and the `reason`. `height` above the chord, both axes scaled to 0..1."""

    index: int | None
    height: float | None
    reason: str = ""


def knee(costs: Sequence[float], gains: Sequence[float]) -> Knee:
    """The point of a front that lies highest above the chord between its ends, both axes min-max scaled.

    The height is y - x, which is the distance to the chord times the square root of 2 (Kneedle: Satopää et al., 2011,
    without its smoothing). No knee for fewer than 3 distinct points, nor where none lies above the chord.

    >>> found = knee([17.63, 36.83, 80.32], [0.48, 0.64, 0.67])
    >>> found.index, round(found.height, 4)
    (1, 0.5358)
    """
    n_distinct = len(set(zip(costs, gains, strict=True)))
    if n_distinct < 3:
        return Knee(None, None, f"no knee: the front has {n_distinct} distinct points, a knee needs 3")
    x, y = _scaled(np.asarray(costs, dtype=np.float64)), _scaled(np.asarray(gains, dtype=np.float64))
    inner = np.flatnonzero((x > 0) & (x < 1))
    if not inner.size:
        return Knee(None, None, "no knee: the front has nothing between its ends")
    best = int(inner[np.argmax((y - x)[inner])])
    height = float(y[best] - x[best])
    if height <= 0:
        return Knee(None, height, f"no knee: no point lies above the chord (height {height:.4f})")
    return Knee(best, height)


def _scaled(values: Matrix) -> Matrix:
    span = float(np.ptp(values))
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)

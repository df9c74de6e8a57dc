"""Pure geometry of fronts: who is dominated and by whom, hypervolume, knee.

Senses are explicit: `maximise` has one flag an objective. Points are rows, objectives columns; NaN is an error, for a
missing objective is neither good nor bad. A million points of three objectives take about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Rows = Sequence[Sequence[float]] | Matrix
_MAX_COMPARED = 4_000_000  # pairs of points at a time: a few times 4 MB


def as_matrix(values: Rows) -> Matrix:
    """float64[n_points, n_objectives]. Raises ValueError where a value is not finite."""
    matrix = np.asarray(values, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise ValueError("every objective of every point must be a finite number")
    return matrix


def on_front(values: Rows, maximise: Sequence[bool]) -> list[bool]:
    """Whether each point is non-dominated. Equal points are ties: all of them stay."""
    if not len(values):
        return []
    flags = moocore.is_nondominated(as_matrix(values), maximise=list(maximise), keep_weakly=True)
    return [bool(flag) for flag in flags.tolist()]


def dominators(values: Rows, maximise: Sequence[bool]) -> list[int | None]:
    """For each point the index of the first point of the front that dominates it, None for points of the front."""
    if not len(values):
        return []
    costs = np.where(list(maximise), -as_matrix(values), as_matrix(values))
    flags = np.array(on_front(values, maximise))
    front, left = np.flatnonzero(flags), np.flatnonzero(~flags)
    found = np.full(len(costs), -1)
    first = 0
    while left.size:  # the first points of the front dominate most: later ones have few left to look at
        block = front[first : first + max(1, _MAX_COMPARED // left.size)]
        by = _first_no_worse(costs[block], costs[left])
        found[left[by >= 0]] = block[by[by >= 0]]
        left, first = left[by < 0], first + block.size
    return [None if index < 0 else index for index in found.tolist()]


def _first_no_worse(front: Matrix, costs: Matrix) -> npt.NDArray[np.intp]:
    """For each point the first of the front that is no worse in anything, or -1.

    For a point off the front that means dominated: a point equal to one of the front would be on it.
    """
    no_worse = np.ones((len(costs), len(front)), dtype=bool)
    for mine, theirs in zip(costs.T, front.T, strict=True):
        no_worse &= theirs[None, :] <= mine[:, None]
    return np.asarray(np.where(no_worse.any(axis=1), no_worse.argmax(axis=1), -1))


def hypervolume(values: Rows, reference: Sequence[float], maximise: Sequence[bool]) -> float:
    """Volume that the points dominate within the reference point; its unit is the product of the objectives' units.

    Fonseca, Paquete, López-Ibáñez, 2006, as implemented by moocore. Points beyond the reference add nothing.
    """
    if not len(values):
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

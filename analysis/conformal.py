"""Prediction intervals that hold whatever the model: conformal ones, which ask only that points are exchangeable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.stats import LEVEL, Values

Model = Callable[[Values, Values, Values], Values]
"""What is fitted to float64[n, p] and float64[n], and then predicts float64[m] for float64[m, p]."""

SPLIT_POINTS = 60
"""From so many points on, a third is kept for calibration; below, too few would be left to fit on."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """float64[m] each: the model's own value, and the ends of the interval."""

    value: Values
    low: Values
    high: Values


def least_points(level: float = LEVEL) -> int:
    """Fewer points than this cannot bound anything at that level: 9 for 90 %."""
    return math.ceil(level / (1 - level) - 1e-9)


def conformal(model: Model, x: Values, y: Values, targets: Values, *, level: float = LEVEL, seed: int = 0) -> Predicted:
    """Jackknife+, or split conformal from `SPLIT_POINTS` points on. Raises ValueError below `least_points`."""
    if y.size < least_points(level):
        raise ValueError(f"{y.size} points cannot give a {level:.0%} interval: {least_points(level)} are needed")
    return (
        split(model, x, y, targets, level, seed)
        if y.size >= SPLIT_POINTS
        else jackknife_plus(model, x, y, targets, level)
    )


def jackknife_plus(model: Model, x: Values, y: Values, targets: Values, level: float) -> Predicted:
    """Barber, Candès, Ramdas and Tibshirani, Annals of Statistics 49 (2021), 2.3: each point is left out once.

    Covers at least 2 · level - 1 by their theorem 1, and about `level` as a rule.
    """
    n = y.size
    lows, highs = np.empty((n, len(targets))), np.empty((n, len(targets)))
    for i in range(n):
        others = np.arange(n) != i
        predicted = model(x[others], y[others], np.vstack([x[i : i + 1], targets]))
        residual = abs(y[i] - predicted[0])
        lows[i], highs[i] = predicted[1:] - residual, predicted[1:] + residual
    rank = math.ceil(level * (n + 1) - 1e-9)
    low, high = np.sort(lows, axis=0)[n - rank], np.sort(highs, axis=0)[rank - 1]
    value = model(x, y, targets)
    return Predicted(value, np.minimum(low, value), np.maximum(high, value))


def split(model: Model, x: Values, y: Values, targets: Values, level: float, seed: int) -> Predicted:
    """Split conformal (Lei et al., Journal of the American Statistical Association 113, 2018): covers `level`.

    The model is fitted to two thirds, and the interval is as wide as the residuals of the last third say.
    """
    order = np.random.default_rng(seed).permutation(y.size)
    kept, fitted = order[: y.size // 3], order[y.size // 3 :]
    predicted = model(x[fitted], y[fitted], np.vstack([x[kept], targets]))
    residuals = np.sort(np.abs(y[kept] - predicted[: kept.size]))
    half = residuals[math.ceil(level * (kept.size + 1) - 1e-9) - 1]
    value = predicted[kept.size :]
    return Predicted(value, value - half, value + half)

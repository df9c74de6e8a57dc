"""Means, spreads, quantiles and intervals. Fewer than two values have no spread: None, never 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import t

Values = npt.NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.90
MEAN_LEVEL = 0.95


def mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def sd(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1)."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def mean_interval(values: Sequence[float], *, level: float = MEAN_LEVEL) -> Interval | None:
    """Confidence interval of the mean of independent values, mean ± t · sd / √n; None for fewer than 2.

    Student's t with n - 1 degrees of freedom (Student, Biometrika 6, 1908): exact where the values are normal.
    """
    spread = sd(values)
    if spread is None:
        return None
    n, centre = len(values), float(np.mean(values))
    half = float(t.ppf((1 + level) / 2, n - 1)) * spread / n**0.5
    return centre - half, centre + half


def weighted_quantile(values: Values, weights: Values, level: float) -> Values:
    """The quantile of ascending `values` float64[n] under each row of `weights` float64[b, n]; float64[b].

    The inverse of the weighted distribution function, the mean of both neighbours where it is flat (definition 2 of
    Hyndman and Fan, The American Statistician 50, 1996): equal weights at 0.5 give the usual median.
    """
    reached = np.cumsum(weights, axis=1)
    wanted = level * reached[:, -1:]
    slack = 1e-9 * reached[:, -1:]
    low = np.argmax(reached >= wanted - slack, axis=1)
    beyond = reached > wanted + slack
    high = np.where(beyond[:, -1], np.argmax(beyond, axis=1), low)
    return np.asarray((values[low] + values[high]) / 2)


def lag1_autocorrelation(values: Sequence[float] | Values) -> float:
    """Of a series with its next value, -1..1; 0 where it is shorter than 3 or does not vary."""
    array = np.asarray(values, dtype=np.float64)
    centred = array - array.mean() if array.size else array
    square = float(centred @ centred)
    if array.size < 3 or square <= 1e-24 * float(array @ array):
        return 0.0
    return float(centred[:-1] @ centred[1:]) / square


def block_length(values: Sequence[float] | Values) -> int:
    """Length of the blocks that a bootstrap of a series draws: 1 where its values look independent.

    For an autoregressive series of first order the length (2 r / (1 - r²))^(2/3) n^(1/3) minimises the mean squared
    error of the variance of its mean, r the autocorrelation at lag 1 (Carlstein, Annals of Statistics 14, 1986). r
    within two standard errors of 0, 2/√n, counts as 0. At most a quarter of the series.
    """
    n = len(values)
    r = lag1_autocorrelation(values)
    if n < 8 or r <= 2 / n**0.5:
        return 1
    r = min(r, 0.99)
    best: float = (2 * r / (1 - r * r)) ** (2 / 3) * float(n) ** (1 / 3)
    return max(1, min(n // 4, round(best)))


def resample_blocks(values: Values, n_series: int, random: np.random.Generator) -> Values:
    """Series float64[n_series, n] of blocks drawn from one: the circular block bootstrap (Politis and Romano, 1992)."""
    n, length = values.size, block_length(values)
    starts = random.integers(0, n, (n_series, -(-n // length)))
    places = (starts[:, :, None] + np.arange(length)) % n
    return np.asarray(values[places.reshape(n_series, -1)[:, :n]])


def studentised_interval(
    estimate: float, error: float, draws: Values, errors: Values, *, level: float = LEVEL
) -> Interval | None:
    """The bootstrap-t interval: `estimate` less the quantiles of (draw - estimate) / its own error, times `error`.

    `draws` are the estimates of resamples and `errors` their standard errors, found as `error` was (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, 12.5). Draws that are NaN, where the estimate does not exist,
    are left out; None where more than half are. A draw without any error says nothing of the ratio: left out too.
    """
    known = np.isfinite(draws) & np.isfinite(errors)
    if not known.any() or known.mean() < 0.5 or not np.isfinite(error):
        return None
    if error <= 1e-12 * abs(estimate):
        return estimate, estimate
    known &= errors > 1e-3 * error
    ratios = (draws[known] - estimate) / errors[known]
    if ratios.size < 2:
        return None
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return estimate - float(high) * error, estimate - float(low) * error


def t_interval(estimate: float, error: float, n: int, *, level: float = LEVEL) -> Interval | None:
    """`estimate` ± t · `error`, for a mean-like estimate of `n` units; None for fewer than 2."""
    if n < 2 or not np.isfinite(error):
        return None
    half = float(t.ppf((1 + level) / 2, n - 1)) * error * (n / (n - 1)) ** 0.5
    return estimate - half, estimate + half

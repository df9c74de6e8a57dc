"""Means, spreads and intervals. Fewer than two values have no spread: None, never 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap, t

Values = npt.NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.90
MEAN_LEVEL = 0.95
N_RESAMPLES = 2000
_MAX_DRAWN = 4_000_000  # values drawn at a time: 32 MB


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


def bootstrap_interval(
    samples: Sequence[Sequence[float]],
    statistic: Callable[..., Values],
    *,
    seed: int = 0,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
) -> Interval | None:
    """Percentile bootstrap interval of a statistic of independent samples; None where one has fewer than 2 values.

    `statistic` takes one array a sample and an `axis`, as `scipy.stats.bootstrap` calls it (Efron and Tibshirani,
    An Introduction to the Bootstrap, 1993, 13.3). The same seed gives the same interval.
    """
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    if any(array.size < 2 for array in arrays):
        return None
    drawn = bootstrap(
        arrays,
        statistic,
        n_resamples=n_resamples,
        batch=max(1, _MAX_DRAWN // max(array.size for array in arrays)),
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)

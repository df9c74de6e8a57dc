"""Is a device steady? The statistics of step times that a calibration stops by and writes down. Pure.

Steps in a row are not independent: a slow one is followed by slow ones. The interval of their mean counts only as many
as `effective_n`, by the integrated autocorrelation time (Geyer, Practical Markov Chain Monte Carlo, 1992, 3.3), and
curves are fitted anew to residuals that were resampled in blocks (Künsch, Annals of Statistics 17, 1989).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import f as f_distribution
from scipy.stats import t as student
from scipy.stats import theilslopes

from profiler.calibrations import StepCurve

Floats = npt.NDArray[np.float64]

MEAN_TARGET = 0.02
"""A run is steady only where the 95 % interval of the mean step is no wider than this part of it, each way ..."""
DRIFT_TARGET = 0.05
"""... and where step time changes by no more than this part of itself in `DRIFT_S`, by 90 % of what the data allow."""
DRIFT_S = 300.0
MIN_STEPS = 30
N_BINS = 120
N_REPLICATES = 100
_BLOCK_BINS = 5
_MAX_LAG = 2000
_N_CONSTANTS = 40
_LEAST_CONSTANT = 1 / 30  # of the time seen: heat that comes faster looks like warm-up
_MOST_CONSTANT, _MOST_CONSTANT_S = 2.0, 600.0  # slower cannot be told; the greater counts, for heat may yet come
_N_FITTED = 3
_CHANCE = 1e-3  # stricter than usual, for the constant is searched as well


@dataclass(frozen=True, slots=True)
class Course:
    """Step times after warm-up: float64[n] seconds since training began in the middle of each, and of each step."""

    at_s: Floats
    steps_s: Floats


@dataclass(frozen=True, slots=True)
class Bins:
    """A course in equal stretches of time, empty ones left out: float64[n_bins] each."""

    at_s: Floats
    mean_s: Floats
    weight: Floats


@dataclass(frozen=True, slots=True)
class Steadiness:
    """What `judge` finds; the fields of `profiler.calibrations.Point` of the same names."""

    step_s: float
    step_err_s: float
    effective_n: float
    drift: float
    drift_err: float

    @property
    def is_steady(self) -> bool:
        return self.step_err_s <= MEAN_TARGET * self.step_s and abs(self.drift) + self.drift_err <= DRIFT_TARGET


@dataclass(frozen=True, slots=True)
class Throttling:
    """The course continued: `curve` with its `replicates`; `is_found` where it rises by more than chance."""

    curve: StepCurve
    replicates: tuple[StepCurve, ...]
    is_found: bool


def effective_n(values: Floats) -> float:
    """How many independent values say as much about the mean: n / tau, tau = 1 + 2 Σ rho_k.

    The sum ends at the first pair of lags whose correlations add up to less than 0 (Geyer's initial positive sequence).
    Never more than n, never less than 1.
    """
    n = values.size
    centred = values - values.mean()
    variance = float(centred @ centred)
    if n < 4 or variance <= 0:
        return float(n)
    padded = np.fft.rfft(centred, 2 * n)
    correlations = np.fft.irfft(padded * np.conj(padded))[: min(n, _MAX_LAG)] / variance
    pairs = correlations[1 : 1 + 2 * ((correlations.size - 1) // 2)].reshape(-1, 2).sum(axis=1)
    ended = np.flatnonzero(pairs <= 0)
    tau = 1 + 2 * float(pairs[: ended[0] if ended.size else pairs.size].sum())
    return float(min(n, max(1.0, n / max(1.0, tau))))


def binned(course: Course, n_bins: int = N_BINS) -> Bins:
    span_s = float(course.at_s[-1])
    index = np.minimum((course.at_s / span_s * n_bins).astype(np.int64), n_bins - 1)
    weight = np.bincount(index, minlength=n_bins).astype(np.float64)
    kept = weight > 0
    sums = [np.bincount(index, values, n_bins)[kept] for values in (course.at_s, course.steps_s)]
    return Bins(sums[0] / weight[kept], sums[1] / weight[kept], weight[kept])


def judge(course: Course) -> Steadiness:
    """At least two steps. The interval of the mean is Student's, of the effective number of steps.

    The drift is the Theil-Sen slope of the last half, for a few odd steps must not make it; its interval is Sen's
    (Journal of the American Statistical Association 63, 1968).
    """
    steps_s = course.steps_s
    # What heat does slowly is drift, not noise: it is told apart by taking the line out first.
    line = np.polynomial.Polynomial.fit(course.at_s, steps_s, 1)(course.at_s) if steps_s.size > 3 else steps_s.mean()
    n = effective_n(steps_s - line)
    mean_s, sd_s = float(steps_s.mean()), float(steps_s.std(ddof=1))
    err_s = float(student.ppf(0.975, max(1.0, n - 1))) * sd_s / math.sqrt(n)
    drift, drift_err = _drift(course)
    return Steadiness(mean_s, err_s, n, drift, drift_err)


def _drift(course: Course) -> tuple[float, float]:
    bins = binned(course)
    half = bins.at_s >= bins.at_s[-1] / 2
    if np.count_nonzero(half) < 4:
        return 0.0, 1.0  # as good as unknown
    slope = theilslopes(bins.mean_s[half], bins.at_s[half], alpha=0.9)
    per_s = DRIFT_S / float(np.median(bins.mean_s))
    return float(slope.slope) * per_s, float(slope.high_slope - slope.low_slope) / 2 * per_s


def fit_curve(course: Course, *, is_steady: bool, seed: int = 0) -> Throttling:
    """a + b (1 - exp(-t/k)); a constant where the device is steady and an F test finds no more than chance in the rest.

    Least squares over bins, a and b in closed form for each of `_N_CONSTANTS` values of k (variable projection: Golub
    and Pereyra, SIAM Journal on Numerical Analysis 10, 1973). The replicates are never constants: between them they
    carry what the data leave open, a slow rise included, to whatever horizon they are asked for.
    """
    bins = binned(course)
    best, squares = _least_squares(bins, bins.mean_s[None, :])
    fitted_s = _values(best[0], bins.at_s)
    replicates, _ = _least_squares(bins, _resampled(bins, fitted_s, np.random.default_rng(seed)))
    mean_s = float(np.average(bins.mean_s, weights=bins.weight))
    plain = float(bins.weight @ (bins.mean_s - mean_s) ** 2)
    spare = effective_n(bins.mean_s - fitted_s) - _N_FITTED
    is_found = bool(spare > 0 and best[0, 1] > 0 and _is_better(plain, float(squares[0]), spare))
    curve = StepCurve(mean_s) if is_steady and not is_found else _curve(best[0])
    return Throttling(curve, tuple(_curve(row) for row in replicates), is_found)


def _is_better(plain: float, curved: float, spare: float) -> bool:
    """`spare` are the degrees of freedom that are left, of as many bins as are independent."""
    if curved <= 0:
        return plain > 0
    ratio = (plain - curved) / 2 / (curved / spare)
    return float(f_distribution.sf(ratio, 2, spare)) < _CHANCE


def _least_squares(bins: Bins, courses_s: Floats) -> tuple[Floats, Floats]:
    """The best (a, b, k) of each of float64[m, n_bins], as float64[m, 3], and its weighted sum of squares. b >= 0."""
    last_s, weight = float(bins.at_s[-1]), bins.weight
    best, squares = np.zeros((len(courses_s), 3)), np.full(len(courses_s), np.inf)
    means_s = courses_s @ weight / weight.sum()
    most_s = max(_MOST_CONSTANT * last_s, _MOST_CONSTANT_S)
    for constant_s in np.geomspace(_LEAST_CONSTANT * last_s, most_s, _N_CONSTANTS):
        risen = -np.expm1(-bins.at_s / constant_s)
        mean_risen = float(weight @ risen / weight.sum())
        centred = risen - mean_risen
        added_s = np.maximum(0.0, courses_s @ (weight * centred) / float(weight @ centred**2))
        first_s = np.maximum(means_s - added_s * mean_risen, means_s / 10)  # no device gets ten times slower by heat
        rests = ((courses_s - first_s[:, None] - added_s[:, None] * risen) ** 2) @ weight
        better = rests < squares
        squares[better] = rests[better]
        best[better] = np.column_stack([first_s, added_s, np.full(len(first_s), constant_s)])[better]
    return best, squares


def _values(row: Floats, at_s: Floats) -> Floats:
    return np.asarray(row[0] - row[1] * np.expm1(-at_s / row[2]))


def _curve(row: Floats) -> StepCurve:
    return StepCurve(float(row[0]), float(row[1]), float(row[2]))


def _resampled(bins: Bins, fitted_s: Floats, rng: np.random.Generator) -> Floats:
    """float64[N_REPLICATES, n_bins]: the fit plus blocks of its residuals, as wide as they are for what was fitted."""
    n = bins.at_s.size
    scaled = (bins.mean_s - fitted_s) * np.sqrt(bins.weight)
    spread = math.sqrt(n / max(1, n - _N_FITTED))
    length = min(n, max(_BLOCK_BINS, math.ceil(n / effective_n(scaled))))
    starts = rng.integers(0, n, (N_REPLICATES, -(-n // length)))
    chosen = ((starts[:, :, None] + np.arange(length)) % n).reshape(N_REPLICATES, -1)[:, :n]
    return np.asarray(fitted_s + scaled[chosen] * spread / np.sqrt(bins.weight))

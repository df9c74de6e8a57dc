"""Is a device steady? The statistics of step times that a calibration stops by and writes down. Pure.

Steps in a row are not independent: a slow one is followed by slow ones. How uncertain their mean is, and a curve
through them, is told by the slowest waves in what is left beside it, with Student's t of so few degrees of freedom
(equal-weighted cosines: Lazarus, Lewis, Stock and Watson, HAR inference, Journal of Business & Economic Statistics 36,
2018). Blocks of residuals tell too little of it: the fit has taken most of what is slow out of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import f as f_distribution
from scipy.stats import norm as normal
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
N_WAVES = 4
"""More would be surer of white noise, and blind to noise that lasts: it must be even up to N_WAVES half turns."""
N_REPLICATES = 200
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
class SlowNoise:
    """`variance_s2` is that of one step if all were independent and slow means as uncertain as they are.

    It is an estimate of `freedom` degrees of freedom.
    """

    variance_s2: float
    freedom: int

    def deviations(self, level: float) -> float:
        """Student's quantile: how many standard errors an interval reaches each way, `level` below its upper end."""
        return float(student.ppf(level, self.freedom))


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
    """From the first step to the last: two steps are never in one bin alone, however long the warm-up was."""
    since_s = course.at_s - course.at_s[0]
    index = np.minimum((since_s / max(float(since_s[-1]), 1e-9) * n_bins).astype(np.int64), n_bins - 1)
    weight = np.bincount(index, minlength=n_bins).astype(np.float64)
    kept = weight > 0
    sums = [np.bincount(index, values, n_bins)[kept] for values in (course.at_s, course.steps_s)]
    return Bins(sums[0] / weight[kept], sums[1] / weight[kept], weight[kept])


def slow_noise(bins: Bins, design: Floats) -> SlowNoise:
    """Beside the least-squares fit of float64[n_bins, n_fitted]: the mean square of the slowest waves orthogonal to it.

    Of independent steps every wave tells the same variance, and Student's interval is exact; of correlated ones only
    the slowest tell what a mean does. Where the fit leaves no wave, the spread of the bins stands in.
    """
    n, n_fitted = design.shape
    n_waves = min(N_WAVES, n - n_fitted)
    if n_waves < 1:
        return SlowNoise(float(np.var(bins.mean_s, ddof=min(1, n - 1)) * bins.weight.mean()), 1)
    root = np.sqrt(bins.weight)
    waves = np.cos(np.pi * np.outer((np.arange(n) + 0.5) / n, np.arange(1, n_waves + 1)))
    basis = np.linalg.qr(np.hstack([design, waves]) * root[:, None])[0][:, n_fitted:]
    return SlowNoise(float(np.mean((basis.T @ (root * bins.mean_s)) ** 2)), n_waves)


def judge(course: Course) -> Steadiness:
    """At least two steps. The interval of the mean is Student's, by the slow noise beside a line.

    What heat does slowly is drift, not noise: it is told apart by taking the line out. The drift is the Theil-Sen slope
    of the last half, for a few odd steps must not make it.
    """
    steps_s, bins = course.steps_s, binned(course)
    noise = slow_noise(bins, _line(bins))
    err_s = noise.deviations(0.975) * math.sqrt(noise.variance_s2 / steps_s.size)
    fitted = np.polynomial.Polynomial.fit(course.at_s, steps_s, 1)(course.at_s) if steps_s.size > 3 else steps_s.mean()
    drift, drift_err = _drift(bins)
    return Steadiness(float(steps_s.mean()), err_s, effective_n(steps_s - fitted), drift, drift_err)


def _line(bins: Bins) -> Floats:
    return np.column_stack([np.ones(bins.at_s.size), bins.at_s - bins.at_s.mean()])


def _drift(bins: Bins) -> tuple[float, float]:
    """And half of its interval: Sen's of independent bins (Journal of the American Statistical Association 63, 1968),
    by how much wider slow noise makes the interval of a slope.
    """
    half = bins.at_s >= bins.at_s[-1] / 2
    if np.count_nonzero(half) < 4:
        return 0.0, 1.0  # as good as unknown
    late = Bins(bins.at_s[half], bins.mean_s[half], bins.weight[half])
    slope = theilslopes(late.mean_s, late.at_s, alpha=0.9)
    per_s = DRIFT_S / float(np.median(bins.mean_s))
    err_s = float(slope.high_slope - slope.low_slope) / 2 * _widening(late)
    return float(slope.slope) * per_s, err_s * per_s


def _widening(bins: Bins, level: float = 0.95) -> float:
    """The interval of a slope by slow noise, as a multiple of the normal one of as many independent bins."""
    noise = slow_noise(bins, _line(bins))
    rest_s = bins.mean_s - np.polynomial.Polynomial.fit(bins.at_s, bins.mean_s, 1, w=np.sqrt(bins.weight))(bins.at_s)
    plain_s2 = float(bins.weight @ rest_s**2) / max(1, rest_s.size - 2)
    widening = noise.deviations(level) / float(normal.ppf(level))
    return widening * math.sqrt(noise.variance_s2 / plain_s2) if plain_s2 > 0 else widening


def fit_curve(course: Course, *, is_steady: bool, seed: int = 0) -> Throttling:
    """a + b (1 - exp(-t/k)); a constant where the device is steady and an F test finds no more than chance in the rest.

    Least squares over bins, a and b in closed form for each of `_N_CONSTANTS` values of k (variable projection: Golub
    and Pereyra, SIAM Journal on Numerical Analysis 10, 1973). The replicates carry what the data leave open, a slow
    rise included, to whatever horizon they are asked for.
    """
    bins = binned(course)
    best, squares = _least_squares(bins, bins.mean_s[None, :])
    mean_s = float(np.average(bins.mean_s, weights=bins.weight))
    plain = float(bins.weight @ (bins.mean_s - mean_s) ** 2)
    spare = effective_n(bins.mean_s - _values(best[0], bins.at_s)) - _N_FITTED
    is_found = bool(spare > 0 and best[0, 1] > 0 and _is_better(plain, float(squares[0]), spare))
    curve = StepCurve(mean_s) if is_steady and not is_found else _curve(best[0])
    replicates = _replicates(bins, np.random.default_rng(seed), is_found=is_found)
    return Throttling(curve, tuple(_curve(row) for row in replicates), is_found)


def _replicates(bins: Bins, rng: np.random.Generator, *, is_found: bool) -> Floats:
    """float64[N_REPLICATES, 3]: (a, b, k), fitted to noise about the best curve, be it one that falls.

    About the best curve that does not fall they would all lie too high: one that is even rises by noise half the time,
    and is carried up from there to the horizon. Where no rise is found, every other replicate is even for that reason.
    """
    free, _ = _least_squares(bins, bins.mean_s[None, :], least_added_s=-np.inf)
    courses_s = _redrawn(bins, free[0], rng)
    replicates, _ = _least_squares(bins, courses_s)
    if not is_found:
        replicates[::2, 0] = courses_s[::2] @ bins.weight / bins.weight.sum()
        replicates[::2, 1] = 0.0
    return replicates


def _is_better(plain: float, curved: float, spare: float) -> bool:
    """`spare` are the degrees of freedom that are left, of as many bins as are independent."""
    if curved <= 0:
        return plain > 0
    ratio = (plain - curved) / 2 / (curved / spare)
    return float(f_distribution.sf(ratio, 2, spare)) < _CHANCE


def _least_squares(bins: Bins, courses_s: Floats, least_added_s: float = 0.0) -> tuple[Floats, Floats]:
    """The best (a, b, k) of each of float64[m, n_bins], as float64[m, 3], and its weighted sum of squares."""
    last_s, weight = float(bins.at_s[-1]), bins.weight
    best, squares = np.zeros((len(courses_s), 3)), np.full(len(courses_s), np.inf)
    means_s = courses_s @ weight / weight.sum()
    most_s = max(_MOST_CONSTANT * last_s, _MOST_CONSTANT_S)
    for constant_s in np.geomspace(_LEAST_CONSTANT * last_s, most_s, _N_CONSTANTS):
        risen = -np.expm1(-bins.at_s / constant_s)
        mean_risen = float(weight @ risen / weight.sum())
        centred = risen - mean_risen
        added_s = np.maximum(least_added_s, courses_s @ (weight * centred) / float(weight @ centred**2))
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


def _redrawn(bins: Bins, row: Floats, rng: np.random.Generator) -> Floats:
    """float64[N_REPLICATES, n_bins]: the curve plus noise as strong as slow noise, and as unsure as what tells of it.

    Each has a variance of its own, by chi squared: that makes of normal noise Student's. Taken out of the noise is what
    a, b and k fit, to first order in k.
    """
    turns = bins.at_s / row[2]
    noise = slow_noise(bins, np.column_stack([np.ones(turns.size), np.exp(-turns), turns * np.exp(-turns)]))
    variances_s2 = noise.variance_s2 * noise.freedom / rng.chisquare(noise.freedom, (N_REPLICATES, 1))
    drawn = rng.standard_normal((N_REPLICATES, turns.size)) * np.sqrt(variances_s2 / bins.weight)
    return np.asarray(_values(row, bins.at_s) + drawn)

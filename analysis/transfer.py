"""From known devices to a new one: what took so long there takes how long here? Pure.

Logarithms of times, for errors are in proportion. The new device's is the mean of the known devices' plus what a
Bayesian ridge (MacKay, Neural Computation 4, 1992) learns of the difference from the points that were measured on it:
with few points little, with more its own leaning towards one known device or another. Nothing is tuned by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student
from sklearn.linear_model import BayesianRidge

from analysis.conformal import Predicted, conformal
from analysis.stats import LEVEL, Values
from profiler.errors import ResultsError

MIN_POINTS = 10
"""Measured on the new device: below, intervals are unbounded or useless."""
MAX_REACH = 2.0
"""A target may lie outside the measured points' range, on the known devices, by this factor of time and no more."""
MAX_RANGE = 6.0
"""An interval whose upper end is more than so many times the lower says nothing that a cutoff could rest on."""
_MIN_SPREAD = float(np.log(2.0))  # of one device to the next where one or two tell nothing of it: our judgement
_MIN_DEVICES = 3


@dataclass(frozen=True, slots=True)
class Points:
    """Work measured on known devices: `known_s` float64[n, n_devices] seconds, `features` float64[n, n_features].

    Features are of the work, as logarithms of sizes; with none of them, what the known devices took says it all.
    """

    known_s: Values
    features: Values

    @classmethod
    def of(cls, known_s: Values, features: Values | None = None) -> Points:
        return cls(known_s, np.zeros((len(known_s), 0)) if features is None else features)

    def design(self) -> Values:
        """float64[n, 1 + n_devices + n_features]: the mean logarithm, each device's distance from it, the features."""
        logs = np.log(self.known_s)
        mean = logs.mean(axis=1, keepdims=True)
        return np.hstack([mean, logs - mean, self.features])


def ridge(x: Values, y: Values, targets: Values) -> Values:
    """A `conformal.Model`: the first column, plus what the rest and it tell of the difference."""
    centre, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    # One scale for what is measured in logarithms of seconds, or a device that differs by noise counts as much.
    fitted = BayesianRidge().fit((x - centre) / np.maximum(scale, scale[0]), y - x[:, 0])
    return np.asarray(targets[:, 0] + fitted.predict((targets - centre) / np.maximum(scale, scale[0])))


def transfer(points: Points, measured_s: Values, targets: Points, *, level: float = LEVEL) -> Predicted:
    """Seconds of the targets on a new device where the points took `measured_s`, float64[n].

    Raises ResultsError where there are too few points.
    """
    if measured_s.size < MIN_POINTS:
        raise ResultsError(
            f"{measured_s.size} points are measured on the new device; a transfer needs {MIN_POINTS}.",
            remedy="Calibrate more batch sizes or options, or the workload itself.",
        )
    found = conformal(ridge, points.design(), np.log(measured_s), targets.design(), level=level)
    return Predicted(np.exp(found.value), np.exp(found.low), np.exp(found.high))


def reach(points: Points, targets: Points) -> Values:
    """float64[m]: by what factor each target lies outside the points' range, mean of the known devices; 1 inside."""
    mean, target = (np.log(one.known_s).mean(axis=1) for one in (points, targets))
    return np.asarray(np.exp(np.maximum(0.0, np.maximum(mean.min() - target, target - mean.max()))))


def common_level(values: Values, n_targets: int, *, level: float = LEVEL) -> Predicted:
    """Power of whatever else the device does: the geometric mean of what it drew at the points. Jackknife+."""

    def mean(_: Values, y: Values, targets: Values) -> Values:
        return np.full(len(targets), y.mean())

    found = conformal(mean, np.zeros((values.size, 0)), np.log(values), np.zeros((n_targets, 0)), level=level)
    return Predicted(np.exp(found.value), np.exp(found.low), np.exp(found.high))


def estimate(known_s: Values, known_speed: Values, speed: float, *, level: float = LEVEL) -> Predicted:
    """From specifications alone, with nothing measured on the new device: time goes with 1 / speed.

    `known_s` is float64[m, n_devices], `known_speed` float64[n_devices] in the unit of `speed` (peak FLOP/s, say).
    The interval is Student's for one more device (Snedecor and Cochran, Statistical Methods, 1989, 4.12), and at least
    as wide as if devices differed by a factor of two.
    """
    work = np.log(known_s) + np.log(known_speed)
    n = work.shape[1]
    spread = work.std(axis=1, ddof=1) if n >= _MIN_DEVICES else np.zeros(len(work))
    spread = np.maximum(spread, _MIN_SPREAD) * np.sqrt(1 + 1 / n)
    half = spread * float(student.ppf((1 + level) / 2, max(n - 1, 2)))
    value = work.mean(axis=1) - np.log(speed)
    return Predicted(np.exp(value), np.exp(value - half), np.exp(value + half))

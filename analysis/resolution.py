"""By how much results must differ before one is called better: dominance beyond the measurement's resolution.

Values are compared after rounding, accuracies to multiples of their resolution, times and energies to powers of
1 + theirs, so that values which round alike are ties. This is the box (epsilon) archive of Laumanns, Thiele, Deb and
Zitzler, "Combining Convergence and Diversity in Evolutionary Multiobjective Optimization", 2002, with all points of a
box kept. Dominance between boxes is transitive and does not depend on the order of rows; comparing pairs of points with
a tolerance is not transitive and can leave no front at all. Values less than one resolution apart may still round
differently, as with any rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from analysis import cli
from analysis.fronts import Matrix, Rows, as_matrix
from profiler.errors import UsageError

MAX_RELATIVE = 1.0
_DEFAULT_ACCURACY = 0.005  # one binomial standard error of an accuracy near 0.5 on a test set of 10,000


@dataclass(frozen=True, slots=True)
class Resolution:
    """Smallest difference that counts: of accuracy absolute, of time and energy relative. 0 tells all apart."""

    accuracy: float = 0.0
    time_s: float = 0.0
    energy_j: float = 0.0

    def of(self, objective: str) -> float:
        return {"accuracy": self.accuracy, "time_s": self.time_s, "energy_j": self.energy_j}[objective]


EXACT = Resolution()
MEASURED = Resolution(_DEFAULT_ACCURACY, 0.01, 0.02)
"""What the command line takes: a clock's jitter and a meter's repeatability are about 1 and 2 per cent."""


def binomial_se(accuracy: float, n_examples: int) -> float:
    """Standard error of an accuracy measured on so many examples.

    At accuracies near 0 or 1 it counts one example, for a finer one cannot be told apart.
    """
    return max(math.sqrt(accuracy * (1 - accuracy) / n_examples), 1 / n_examples)


def parse(text: str | None, default: Resolution = MEASURED) -> Resolution:
    """`accuracy=0.005,time_s=0.01`; what is not named keeps its default. Raises UsageError."""
    chosen = default
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, _, given = (piece.strip() for piece in part.partition("="))
        cli.choose("--resolution", name, [field.name for field in fields(Resolution)])
        chosen = replace(chosen, **{name: _number(name, given)})
    return chosen


def _number(name: str, given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 <= value < MAX_RELATIVE:
        raise UsageError(
            f"--resolution {name}={given}: must be a number of at least 0 and less than 1.",
            remedy="Give a fraction: accuracy=0.005,time_s=0.01,energy_j=0.02. 0 tells all values apart.",
        )
    return value


def boxes(values: Rows, objectives: Sequence[str], resolution: Resolution) -> Matrix:
    """float64[n_points, n_objectives]: values as dominance compares them. Raises ValueError where one is not finite."""
    matrix = as_matrix(values).reshape(len(values), len(objectives))
    columns = [_box(matrix[:, i], name, resolution.of(name)) for i, name in enumerate(objectives)]
    return np.column_stack(columns)


def _box(values: Matrix, objective: str, step: float) -> Matrix:
    if step == 0:
        return values
    return np.rint(values / step) if objective == "accuracy" else _logarithmic_box(values, step)


def _logarithmic_box(values: Matrix, step: float) -> Matrix:
    """Powers of 1 + step, mirrored for values below 0, as net energies can be."""
    known = values != 0
    exponents = np.rint(np.log(np.abs(values), where=known, out=np.zeros_like(values)) / math.log1p(step))
    above_zero = exponents - exponents.min(initial=0.0) + 1  # from the smallest magnitude on, never 0
    return np.asarray(np.sign(values) * above_zero)

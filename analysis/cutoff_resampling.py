"""Bootstrap intervals of cutoffs: runs or devices are drawn first, then what is within them.

Fits of one run are alike: the same hour, the same heat. Drawn one by one as if they were independent they would make an
interval far too narrow. So the units that are drawn are the runs (task by task); where there is one run only its
devices, else its fits, else the steps of its only fit in blocks. Then the fits within each unit drawn are drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.stats import Interval, Values, block_length, resample_blocks, studentised_interval, t_interval
from analysis.windows import FitWindow, Windows, spread_evenly

ENOUGH_UNITS = 10
"""With fewer runs an interval is too narrow to trust."""
N_DRAWS = 1000
N_INNER = 25
"""Draws within each draw, for its standard error: 25 are enough (Efron and Tibshirani, 1993, 6.4)."""
_N_ERROR = 200
_MIN_STUDENTISED = 5
_MAX_WINDOWS = 200
_MAX_UNITS = 1000
_N_COPIES = 64


@dataclass(frozen=True, slots=True)
class Pool:
    """Elements in units. `unit` int[n] is each element's unit; `level` says in a word what the units are.

    `n_independent` is how many values, or steps, its spread is known from: 1 where there is none, 0 where none is
    claimed (a single accuracy is taken as it is). `copies`: the elements are copies of one, of which one is drawn.
    """

    unit: npt.NDArray[np.intp]
    level: str
    n_independent: int
    copies: bool = False

    @property
    def n_elements(self) -> int:
        return self.unit.size

    @property
    def n_units(self) -> int:
        return int(self.unit[-1]) + 1

    def draw_units(self, random: np.random.Generator, n_draws: int) -> Values:
        """How often each unit is drawn: float64[n_draws, n_units]."""
        n = self.n_units
        return random.multinomial(n, np.full(n, 1 / n), size=n_draws).astype(np.float64)

    def draw_within(self, random: np.random.Generator, counts: Values) -> Values:
        """Weights float64[n_draws, n_elements] once each drawn unit's elements are drawn anew."""
        weights = np.empty((counts.shape[0], self.n_elements))
        for unit in range(self.n_units):
            places = np.flatnonzero(self.unit == unit)
            n_drawn = 1 if self.copies else places.size
            drawn = random.multinomial(
                (counts[:, unit] * n_drawn).astype(np.int64), np.full(places.size, 1 / places.size)
            )
            weights[:, places] = drawn
        return weights

    def redraw_units(self, random: np.random.Generator, counts: Values) -> Values:
        """Factors float64[n_draws, n_elements]: the units of each draw drawn once more among themselves."""
        again = random.multinomial(self.n_units, counts / self.n_units)
        factors = np.divide(again, counts, out=np.zeros_like(counts), where=counts > 0)
        return np.asarray(factors[:, self.unit])


def pool_of_values(n: int) -> Pool:
    """Values of independent runs, each a unit."""
    return Pool(np.arange(n), "runs", n if n > 1 else 0)


def pool_of_windows(windows: Windows, random: np.random.Generator) -> tuple[tuple[FitWindow, ...], Pool]:
    """The fits to draw from, and their units. Of more than 200 some are taken, evenly by length within each unit.

    Of more than 1,000 units at most 1,000 count, evenly through their names: the interval is then wider than need be.
    """
    fits = windows.windows
    if len(fits) == 1 and fits[0].step_ends_s is not None:
        copies = tuple(_copies(fits[0], fits[0].step_ends_s, random))
        n_blocks = fits[0].step_ends_s.size // block_length(np.diff(fits[0].step_ends_s, prepend=0.0))
        return copies, Pool(np.zeros(len(copies), dtype=np.intp), "steps", n_blocks, copies=True)
    level, members = _units(fits)
    members = members[:: -(-len(members) // _MAX_UNITS)]
    kept = [spread_evenly(unit, max(1, _MAX_WINDOWS // len(members))) for unit in members]
    unit_of = np.repeat(np.arange(len(kept)), [len(unit) for unit in kept])
    return tuple(window for unit in kept for window in unit), Pool(unit_of, level, len(kept))


def _units(fits: Sequence[FitWindow]) -> tuple[str, list[list[FitWindow]]]:
    for level, names in (("runs", [fit.run for fit in fits]), ("devices", [fit.device for fit in fits])):
        if len(set(names)) > 1:
            members: dict[str, list[FitWindow]] = {name: [] for name in sorted(set(names))}
            for name, fit in zip(names, fits, strict=True):
                members[name].append(fit)
            return level, list(members.values())
    return "fits", [[fit] for fit in sorted(fits, key=lambda fit: (fit.round, fit.window_s))]


def _copies(fit: FitWindow, ends_s: Values, random: np.random.Generator) -> list[FitWindow]:
    """The only fit, its steps drawn anew in blocks as long as their autocorrelation asks for."""
    rest_s = fit.window_s - float(ends_s[-1])
    drawn_s = np.cumsum(resample_blocks(np.diff(ends_s, prepend=0.0), _N_COPIES, random), axis=1)
    return [replace(fit, window_s=float(ends[-1]) + rest_s, step_ends_s=ends) for ends in drawn_s]


Weights = Mapping[str, Values]
"""Pool's name -> float64[n_draws, n_elements]."""
Estimator = Callable[[Weights], Mapping[str, Values]]
"""Weights -> rule's name -> τ of each draw, float64[n_draws]; NaN where there is none."""


def bootstrap_intervals(
    pools: Mapping[str, Pool], estimator: Estimator, needs: Mapping[str, Sequence[str]], *, seed: int = 0
) -> dict[str, Interval | None]:
    """The 90 % interval of every rule, by its name. `needs` are the pools that a rule looks at. Same seed, same result.

    Studentised; where one of the pools has fewer than 5 units by Student's t, for their draws have no spread of their
    own. None where the rule has no τ, or one of its pools no spread.
    """
    estimates = estimator({name: np.ones((1, pool.n_elements)) for name, pool in pools.items()})
    weakest = {rule: weakest_pool(pools, needs[rule]) for rule, (tau_s,) in estimates.items() if np.isfinite(tau_s)}
    sure = {rule: pool for rule, pool in weakest.items() if pool.n_independent > 1}
    studentised = [rule for rule, pool in sure.items() if pool.n_independent >= _MIN_STUDENTISED and not pool.copies]
    found: dict[str, Interval | None] = dict.fromkeys(estimates)
    if not sure:
        return found
    random = np.random.default_rng(seed)
    of_units = estimator(_of_units(pools, random))
    errors = {rule: float(_spread(of_units[rule])) for rule in sure}
    found |= {
        rule: t_interval(float(estimates[rule][0]), errors[rule], pool.n_independent) for rule, pool in sure.items()
    }
    if studentised:
        draws, drawn_errors = _draws(pools, estimator, random)
        found |= {
            rule: studentised_interval(float(estimates[rule][0]), errors[rule], draws[rule], drawn_errors[rule])
            for rule in studentised
        }
    return found


def _draws(
    pools: Mapping[str, Pool], estimator: Estimator, random: np.random.Generator
) -> tuple[Mapping[str, Values], dict[str, Values]]:
    """τ of every draw, and its standard error, which draws within the draw tell."""
    counts = {name: pool.draw_units(random, N_DRAWS) for name, pool in pools.items()}
    weights = {name: pool.draw_within(random, counts[name]) for name, pool in pools.items()}
    draws = estimator(weights)
    inner = [
        estimator({name: weights[name] * pool.redraw_units(random, counts[name]) for name, pool in pools.items()})
        for _ in range(N_INNER)
    ]
    return draws, {rule: _spread(np.array([one[rule] for one in inner])) for rule in draws}


def weakest_pool(pools: Mapping[str, Pool], names: Sequence[str]) -> Pool:
    """The one of some pools that is known from the fewest independent values, of those that claim any."""
    claiming = [pools[name] for name in names if pools[name].n_independent]
    return min(claiming, key=lambda pool: (pool.n_independent, pool.level != "steps", pool.level))


def _of_units(pools: Mapping[str, Pool], random: np.random.Generator) -> dict[str, Values]:
    """Draws of whole units; of copies, of which there is only one unit, of single ones."""
    weights = {}
    for name, pool in pools.items():
        counts = pool.draw_units(random, _N_ERROR)
        weights[name] = pool.draw_within(random, counts) if pool.copies else counts[:, pool.unit]
    return weights


def _spread(taus_s: Values) -> Values:
    """Standard deviation along the first axis, of the draws that have a τ; NaN where those are fewer than half."""
    known = np.isfinite(taus_s)
    counts = known.sum(axis=0)
    few = counts < max(2.0, taus_s.shape[0] / 2)
    means_s = np.where(known, taus_s, 0.0).sum(axis=0) / np.maximum(counts, 1)
    squares = np.where(known, (taus_s - means_s) ** 2, 0.0).sum(axis=0)
    return np.asarray(np.where(few, np.nan, np.sqrt(squares / np.maximum(counts - 1, 1))))

"""What each rule makes of the fits of one group: τ for the runs as they are, and for every draw of a bootstrap.

Pure: fits, accuracies and limits in, seconds out. NaN is "no τ by this rule", in a draw as in the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from analysis.cutoff_curves import AccuracyModel, Candidate, Curve, interpolate_rows, isotonic_rows
from analysis.cutoff_resampling import Pool, Weights, pool_of_values, pool_of_windows
from analysis.stats import Values, weighted_quantile
from analysis.windows import FitWindow, Group, Windows, shares, work_fractions

KINDS = ("parity", "time", "energy", "joint", "accuracy", "knee", "recommended")
MAX_DROP = 0.01
BETA = 0.95
CAP_LEVEL = 0.99
_N_GRID = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """What a cutoff may cost. None is no limit.

    `max_drop` of accuracy (0..1); `max_slowdown` of a round, over the reference's; `max_energy_j` of a client's round;
    `beta` is the probability with which all clients of a round keep a deadline.
    """

    max_drop: float = MAX_DROP
    max_slowdown: float | None = None
    max_energy_j: float | None = None
    beta: float = BETA


class Column:
    """One quantity of some fits, for weighted quantiles. Fits that lack it are left out."""

    def __init__(self, values: Sequence[float | None], default: float = np.nan) -> None:
        known = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        self._order: npt.NDArray[np.intp] = np.argsort(known, kind="stable")[: int(np.isfinite(known).sum())]
        self._values = known[self._order]
        self._default = default

    def quantile(self, weights: Values, level: float) -> Values:
        """float64[b] for weights float64[b, n]; the default where no fit has the quantity."""
        if not self._values.size:
            return np.full(weights.shape[0], self._default)
        return weighted_quantile(self._values, weights[:, self._order], level)

    def expected_maximum(self, weights: Values, n: int) -> Values:
        """Of n independent values of this distribution: the sum of x ΔF(x)^n; float64[b]."""
        reached = np.cumsum(weights[:, self._order], axis=1)
        powers = np.diff((reached / reached[:, -1:]) ** n, axis=1, prepend=0.0)
        return np.asarray(powers @ self._values)


class Fits:
    """The fits of one processor, column by column."""

    def __init__(self, windows: Windows, fits: Sequence[FitWindow], taus_s: Values) -> None:
        self.windows = windows
        self.window_s = Column([fit.window_s for fit in fits])
        self.comm_s = Column([fit.comm_s for fit in fits], default=0.0)
        self.call_s = Column([fit.window_s + (fit.comm_s or 0.0) for fit in fits])
        self.power_w = Column([None if fit.fit_j is None else fit.fit_j / fit.window_s for fit in fits])
        self.beside_j = Column([fit.beside_j for fit in fits])
        self.fractions = work_fractions(fits, taus_s)

    @property
    def n_clients(self) -> int:
        """All clients of a round: they share the deadline."""
        return sum(self.windows.clients.values())

    def work(self, weights: Values) -> Values:
        """Completed work along the grid of τ; float64[b, n_grid]."""
        return np.asarray(weights @ self.fractions / weights.sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Problem:
    """One group, and what its cutoffs are asked to keep to."""

    group: Group
    by_processor: Mapping[str, Windows]
    reference: str
    model: AccuracyModel
    limits: Limits = Limits()
    candidates: Mapping[str, Sequence[Candidate]] = field(default_factory=dict)

    @property
    def sweep(self) -> AccuracyModel:
        return self.model.up_to(self.group.epochs)

    def source(self, processor: str, kind: str) -> str | None:
        """Where accuracy by τ is known from: `runs` with cutoffs, the `sweep` of E, or None where from neither."""
        needed = 2 if kind in ("accuracy", "recommended") else 3
        if len(self.candidates.get(processor, ())) >= needed:
            return "runs"
        if self.uncut(processor):
            return "runs"
        sweep = self.sweep
        enough = sweep.epochs.size >= needed and sweep.epochs[-1] == self.group.epochs
        return "sweep" if enough else None

    def uncut(self, processor: str) -> bool:
        """Whether it takes part in runs with cutoffs, but was never itself cut."""
        return [one.tau_s for one in self.candidates.get(processor, ())] == [0.0]


class Rules:
    """Every rule for every processor of a problem. `estimate` takes weights of the fits and runs it was made of."""

    def __init__(self, problem: Problem, fits: Mapping[str, Sequence[FitWindow]]) -> None:
        self.problem = problem
        longest_s = max(fit.window_s for some in fits.values() for fit in some)
        self._grid_s: Values = np.linspace(longest_s / _N_GRID, longest_s, _N_GRID)
        self.fits = {name: Fits(problem.by_processor[name], some, self._grid_s) for name, some in fits.items()}

    @classmethod
    def of_all(cls, problem: Problem) -> Rules:
        """Over every fit on record."""
        return cls(problem, {name: windows.windows for name, windows in problem.by_processor.items()})

    def weights(self) -> dict[str, Values]:
        """All alike: the estimate itself."""
        return {name: np.ones((1, pool.n_elements)) for name, pool in self._score_pools().items()} | {
            name: np.ones((1, fits.fractions.shape[0])) for name, fits in self.fits.items()
        }

    @classmethod
    def to_resample(cls, problem: Problem, random: np.random.Generator) -> tuple[Rules, dict[str, Pool]]:
        """Over fits few enough to draw a thousand times, with the pools that they are drawn from."""
        pooled = {name: pool_of_windows(windows, random) for name, windows in problem.by_processor.items()}
        rules = cls(problem, {name: fits for name, (fits, _) in pooled.items()})
        return rules, {name: pool for name, (_, pool) in pooled.items()} | rules._score_pools()

    def _score_pools(self) -> dict[str, Pool]:
        sweep = {_of_epochs(e): pool_of_values(len(runs)) for e, runs in self.problem.sweep.runs.items()}
        runs = {
            _of_candidate(processor, n): pool_of_values(len(one.accuracies))
            for processor, some in self.problem.candidates.items()
            for n, one in enumerate(some)
        }
        return sweep | runs

    def needs(self) -> dict[str, list[str]]:
        """Rule's name -> the pools that it looks at."""
        found: dict[str, list[str]] = {}
        for processor in self.fits:
            reference = self.problem.reference
            scores = {kind: self._scores(processor, kind) for kind in ("accuracy", "knee")}
            plain = {"parity": [reference, processor], "time": [reference, processor]}
            plain |= {"energy": [processor], "joint": [processor], **scores}
            plain["recommended"] = sorted({*scores["accuracy"], *scores["knee"], *self._limiting(processor)})
            found |= {rule_name(kind, processor): pools for kind, pools in plain.items()}
        return found

    def _limiting(self, processor: str) -> list[str]:
        timed = [self.problem.reference, processor] if self.problem.limits.max_slowdown is not None else []
        return timed + ([processor] if self.problem.limits.max_energy_j is not None else [])

    def _scores(self, processor: str, kind: str) -> list[str]:
        source = self.problem.source(processor, kind)
        if source == "runs":
            return [processor, *(_of_candidate(processor, n) for n in range(len(self.problem.candidates[processor])))]
        return [*self.fits, *(_of_epochs(e) for e in self.problem.sweep.runs)] if source else []

    def estimate(self, weights: Weights) -> dict[str, Values]:
        """τ by rule's name, float64[b] each."""
        found: dict[str, Values] = {}
        curves = self.curves(weights)
        for processor in self.fits:
            taus_s = {
                "parity": self.parity(weights, processor),
                "time": self.time(weights, processor),
                "energy": self.energy(weights, processor),
                "joint": self.joint(weights, processor),
                "accuracy": self.accuracy(weights, processor, curves[processor, "accuracy"]),
                "knee": self.knee(weights, processor, curves[processor, "knee"]),
            }
            taus_s["recommended"] = recommended(taus_s, self.longest_allowed(taus_s))
            found |= {rule_name(kind, processor): some_s for kind, some_s in taus_s.items()}
        return found

    # From times and joules

    def parity(self, weights: Weights, processor: str) -> Values:
        """median W_ref - max(0, median c_p - median c_ref)."""
        own, reference = self.fits[processor], self.fits[self.problem.reference]
        later_s = own.comm_s.quantile(weights[processor], 0.5) - reference.comm_s.quantile(
            weights[self.problem.reference], 0.5
        )
        return reference.window_s.quantile(weights[self.problem.reference], 0.5) - np.maximum(0.0, later_s)

    def reference_round_s(self, weights: Weights) -> Values:
        """T_ref: the expected longest fit call of the reference's clients, and what a round takes beside it."""
        reference = self.fits[self.problem.reference]
        n = reference.windows.clients.get(self.problem.reference, 1)
        longest_s = reference.call_s.expected_maximum(weights[self.problem.reference], n)
        return np.asarray(longest_s + reference.windows.overhead_s)

    def time(self, weights: Weights, processor: str) -> Values:
        """y T_ref - q(c_p) - o; q at β^(1/C), so that all C clients keep it together with probability β."""
        slowdown = self.problem.limits.max_slowdown
        if slowdown is None:
            return np.full(weights[processor].shape[0], np.nan)
        return np.asarray(slowdown * self.reference_round_s(weights) - self.beside_time_s(weights, processor))

    def beside_time_s(self, weights: Weights, processor: str) -> Values:
        """q(c_p) + o."""
        own = self.fits[processor]
        return np.asarray(own.comm_s.quantile(weights[processor], self.joint_level(processor)) + own.windows.overhead_s)

    def joint_level(self, processor: str) -> float:
        """β^(1/C): the quantile of each client where all C together are to keep a deadline with probability β."""
        return float(self.problem.limits.beta ** (1 / self.fits[processor].n_clients))

    def joint(self, weights: Weights, processor: str) -> Values:
        """The time by which all clients of a round are through with probability β."""
        return self.fits[processor].window_s.quantile(weights[processor], self.joint_level(processor))

    def energy(self, weights: Weights, processor: str) -> Values:
        """(J - E_beside) / P_p: what of a client's round the budget leaves for training, over its power."""
        budget_j = self.problem.limits.max_energy_j
        if budget_j is None:
            return np.full(weights[processor].shape[0], np.nan)
        return np.asarray((budget_j - self.beside_j(weights, processor)) / self.power_w(weights, processor))

    def power_w(self, weights: Weights, processor: str) -> Values:
        return self.fits[processor].power_w.quantile(weights[processor], 0.5)

    def beside_j(self, weights: Weights, processor: str) -> Values:
        return self.fits[processor].beside_j.quantile(weights[processor], 0.5)

    # From accuracy

    def accuracy(self, weights: Weights, processor: str, curve: Curve | None) -> Values:
        """min{τ : A(τ) >= A without τ - max_drop}."""
        if curve is None:
            return np.full(weights[processor].shape[0], np.nan)
        return curve.reaching(curve.accuracies[:, -1] - self.problem.limits.max_drop)

    def knee(self, weights: Weights, processor: str, curve: Curve | None) -> Values:
        if curve is None:
            return np.full(weights[processor].shape[0], np.nan)
        return curve.taus_s[:, -1] if self.problem.uncut(processor) else curve.knee()[0]

    def curves(self, weights: Weights) -> dict[tuple[str, str], Curve | None]:
        """Accuracy and round time by τ, by processor and kind of rule, as far as each kind knows them."""
        kinds = ("accuracy", "knee", "recommended")
        sources = {(name, kind): self.problem.source(name, kind) for name in self.fits for kind in kinds}
        of_sweep = self._curve_of_sweep(weights) if "sweep" in sources.values() else None
        of_runs = {
            name: self._curve_of_runs(weights, name) for (name, _), source in sources.items() if source == "runs"
        }
        return {
            key: {"sweep": of_sweep, "runs": of_runs.get(key[0])}.get(source or "") for key, source in sources.items()
        }

    def cap_s(self, weights: Weights, processor: str) -> Values:
        """q99(W): a longer τ has no effect."""
        return self.fits[processor].window_s.quantile(weights[processor], CAP_LEVEL)

    def _curve_of_runs(self, weights: Weights, processor: str) -> Curve:
        some = self.problem.candidates[processor]
        of_runs = [weights[_of_candidate(processor, n)] for n in range(len(some))]
        means = np.stack([_mean(w, one.accuracies) for w, one in zip(of_runs, some, strict=True)], axis=1)
        rounds_s = np.stack([_mean(w, one.rounds_s) for w, one in zip(of_runs, some, strict=True)], axis=1)
        uncut_s = self.cap_s(weights, processor)
        taus_s = np.stack([np.full_like(uncut_s, one.tau_s) if one.tau_s else uncut_s for one in some], axis=1)
        taus_s = np.minimum(taus_s, uncut_s[:, None])
        fitted = isotonic_rows(means, np.array([len(one.accuracies) for one in some], dtype=np.float64))
        return Curve(taus_s, fitted, rounds_s, np.ones_like(taus_s, dtype=bool))

    def _curve_of_sweep(self, weights: Weights) -> Curve:
        """One τ for all: completed work by τ, accuracy by completed work. Corners of both are points of the curve."""
        sweep, parts = self.problem.sweep, shares(self.problem.by_processor)
        work = self.problem.group.epochs * sum(
            (parts[name] * fits.work(weights[name]) for name, fits in self.fits.items()), np.zeros(1)
        )
        ends_s = {name: fits.window_s.quantile(weights[name], 0.5) for name, fits in self.fits.items()}
        corners = [*(_crossing(work, self._grid_s, e) for e in sweep.epochs[1:-1]), *ends_s.values()]
        n_draws = work.shape[0]
        taus_s = np.sort(np.column_stack([np.broadcast_to(self._grid_s, work.shape), *corners]), axis=1)
        done = interpolate_rows(taus_s, self._grid_s, work)
        if sweep.runs:
            means = np.stack([_mean(weights[_of_epochs(e)], runs) for e, runs in sweep.runs.items()], axis=1)
            levels = isotonic_rows(means, np.array([len(runs) for runs in sweep.runs.values()], dtype=np.float64))
        else:
            levels = np.broadcast_to(sweep.accuracies, (n_draws, sweep.accuracies.size))
        rounds_s = [
            np.minimum(taus_s, ends_s[name][:, None]) + fits.comm_s.quantile(weights[name], 0.5)[:, None]
            for name, fits in self.fits.items()
        ]
        known = done >= sweep.epochs[0] - 1e-9
        return Curve(taus_s, interpolate_rows(done, sweep.epochs, levels), np.max(rounds_s, axis=0), known)

    # Together

    def longest_allowed(self, taus_s: Mapping[str, Values]) -> Values:
        """min(τ_time, τ_energy) of the limits that were given; infinite without any, NaN where one cannot be known."""
        longest_s = np.full_like(taus_s["parity"], np.inf)
        if self.problem.limits.max_slowdown is not None:
            longest_s = np.minimum(longest_s, taus_s["time"])
        if self.problem.limits.max_energy_j is not None:
            longest_s = np.minimum(longest_s, taus_s["energy"])
        return longest_s


def recommended(taus_s: Mapping[str, Values], longest_s: Values) -> Values:
    """The knee, clipped to [τ of accuracy, `longest_s`]; the shortest that accuracy allows where there is no knee.

    Where nothing lies between these it is `longest_s`: whether that `is_feasible` is asked of the estimate alone, for
    draws that were left out would bend its interval.
    """
    shortest_s = taus_s["accuracy"]
    wanted_s = np.where(np.isfinite(taus_s["knee"]), taus_s["knee"], shortest_s)
    return np.minimum(np.maximum(wanted_s, shortest_s), longest_s)


def is_feasible(taus_s: Mapping[str, Values], longest_s: Values) -> npt.NDArray[np.bool_]:
    """Whether some τ is long enough for accuracy and short enough for time and energy; bool[b]."""
    return np.asarray((taus_s["accuracy"] <= longest_s * (1 + 1e-9)) & (longest_s > 0))


def rule_name(kind: str, processor: str) -> str:
    """How estimates and intervals call the rule of one processor."""
    return f"{kind} {processor}"


def _of_epochs(epochs: float) -> str:
    return f"\0accuracy at E={epochs:g}"  # no processor is called so: names are printable


def _of_candidate(processor: str, number: int) -> str:
    return f"\0candidate {number} of {processor}"


def _mean(weights: Values, values: Sequence[float]) -> Values:
    return np.asarray(weights @ np.asarray(values, dtype=np.float64) / weights.sum(axis=1))


def _crossing(work: Values, grid_s: Values, wanted: float) -> Values:
    """The τ at which each row's work first reaches `wanted`, linear between the grid; float64[b]."""
    at = np.argmax(work >= wanted - 1e-9, axis=1)
    before = np.maximum(at - 1, 0)
    rows = np.arange(at.size)
    low, high = work[rows, before], work[rows, at]
    part = np.divide(wanted - low, high - low, out=np.ones_like(low), where=high > low)
    return np.asarray(grid_s[before] + np.clip(part, 0.0, 1.0) * (grid_s[at] - grid_s[before]))


def expected_round_s(
    by_processor: Mapping[str, Windows], taus_s: Mapping[str, float], clients: Mapping[str, int]
) -> float:
    """The expected longest fit call of some clients under their cutoffs (0: none), exact for the fits on record.

    E[max] = c + integral from 0 to τ of (1 - product of F_i(t)) dt for independent clients (order statistics); here
    over min(W, τ) + c of every fit, so that communication may vary too. What a round takes beside is added.
    """
    calls = {name: _cut_calls(by_processor[name], taus_s.get(name, 0.0)) for name in clients if name in by_processor}
    times_s = np.unique(np.concatenate(list(calls.values())))
    all_through = np.ones(times_s.size)
    for name, calls_s in calls.items():
        all_through *= (np.searchsorted(calls_s, times_s, side="right") / calls_s.size) ** clients[name]
    longest_s = times_s[0] + float(np.diff(times_s) @ (1 - all_through[:-1]))
    return float(longest_s) + max(by_processor[name].overhead_s for name in calls)


def _cut_calls(windows: Windows, tau_s: float) -> Values:
    trained_s = np.minimum(windows.windows_s, tau_s) if tau_s else windows.windows_s
    return np.sort(trained_s + (windows.calls_s - windows.windows_s))

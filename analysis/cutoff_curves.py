"""Accuracy and round time as functions of a cutoff τ, from the sweep of E or from runs with cutoffs.

Every curve has a row for each draw of a bootstrap; a single row of equal weights is the estimate itself.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from analysis.configurations import PARAMETERS, grouped, has_cutoff, without_repeats
from analysis.stats import Values
from analysis.windows import Group
from profiler.records import Row

_SLACK = 1e-12


@dataclass(frozen=True, slots=True)
class AccuracyModel:
    """Accuracy as a function of completed epochs: isotonic over the sweep of E, linear between.

    Isotonic, since more work does not lower accuracy in expectation while noise in a few runs may (Barlow et al.,
    Statistical Inference under Order Restrictions, 1972). Says nothing below the smallest E of the sweep. `runs` are
    the accuracies themselves, by E.
    """

    epochs: Values
    accuracies: Values
    runs: Mapping[float, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def fit(cls, accuracies_by_epochs: Mapping[int, Sequence[float]]) -> AccuracyModel:
        epochs = sorted(accuracies_by_epochs)
        means = [float(np.mean(accuracies_by_epochs[e])) for e in epochs]
        weights = [len(accuracies_by_epochs[e]) for e in epochs]
        fitted = isotonic_regression(means, weights=weights).x if means else []
        runs = {float(e): tuple(sorted(accuracies_by_epochs[e])) for e in epochs}
        return cls(np.array(epochs, dtype=np.float64), np.asarray(fitted, dtype=np.float64), runs)

    def up_to(self, epochs: int) -> AccuracyModel:
        """Only the E of the sweep that are no larger, fitted anew: what is known of a run of so many epochs."""
        if not self.runs:
            kept = self.epochs <= epochs
            return AccuracyModel(self.epochs[kept], self.accuracies[kept])
        return AccuracyModel.fit({int(e): runs for e, runs in self.runs.items() if e <= epochs})

    def predict(self, work_epochs: Values) -> Values:
        return np.asarray(np.interp(work_epochs, self.epochs, self.accuracies))


def accuracy_models(runs: Iterable[Row]) -> dict[tuple[str, int], AccuracyModel]:
    """One model for each workload and batch size, from finished runs without a cutoff. Repeats count once."""
    seen: defaultdict[tuple[str, int], defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for members in grouped(runs).values():
        for run in without_repeats(members):
            if run["accuracy"] is not None:
                seen[run["workload"], run["batch_size"]][run["epochs"]].append(run["accuracy"])
    return {key: AccuracyModel.fit(by_epochs) for key, by_epochs in seen.items()}


@dataclass(frozen=True, slots=True)
class Candidate:
    """Runs with one τ of one processor: what they reached, and took a round. τ 0: the ones without a cutoff."""

    tau_s: float
    accuracies: tuple[float, ...]
    rounds_s: tuple[float, ...]


def candidates(runs: Iterable[Row]) -> dict[Group, dict[str, list[Candidate]]]:
    """Runs of one configuration that differ in one processor's τ alone, with the ones without; by group and processor.

    Where several configurations have such runs, the one with the most values of τ counts, then the one with the most
    runs. Other processors of its fleet, which were never cut, have the one candidate τ 0.
    """
    families: defaultdict[str, list[Row]] = defaultdict(list)
    for run in runs:
        if run["accuracy"] is not None and run["time_s"] is not None:
            families[_family(run)].append(run)
    found: defaultdict[Group, dict[str, list[Candidate]]] = defaultdict(dict)
    ranks: dict[tuple[Group, str], tuple[int, int]] = {}
    for _, members in sorted(families.items()):
        cases = list(grouped(members).values())
        cut = {p for case in cases for p, c in case[0]["cutoffs"].items() if c["tau_s"]}
        if len(cut) != 1 or all(has_cutoff(case[0]["cutoffs"]) for case in cases):
            continue
        first = members[0]
        group = Group(first["workload"], first["epochs"], first["batch_size"], first["clock"])
        for processor in first["processors"]:
            made = _candidates(cases, processor if processor in cut else None)
            rank = len(made), sum(len(one.accuracies) for one in made)
            if rank > ranks.get((group, processor), (0, 0)):
                found[group][processor], ranks[group, processor] = made, rank
    return dict(found)


def _family(run: Row) -> str:
    known = {name: run.get(name) for name in PARAMETERS if name != "cutoffs"}
    if known["strategy"] == "cutoff":  # how a plan calls FedAvg with cutoffs
        known["strategy"] = "fedavg"
    return json.dumps(known, sort_keys=True, default=str)


def _candidates(cases: Sequence[Sequence[Row]], processor: str | None) -> list[Candidate]:
    made = []
    for case in cases:
        distinct = without_repeats(case)
        tau_s = float(np.mean([run["cutoffs"].get(processor, {"tau_s": 0.0})["tau_s"] for run in distinct]))
        outcomes = sorted((run["accuracy"], run["time_s"] / run["n_rounds"]) for run in distinct)
        if processor is not None or not has_cutoff(case[0]["cutoffs"]):
            made.append(Candidate(tau_s, tuple(a for a, _ in outcomes), tuple(t for _, t in outcomes)))
    return sorted(made, key=lambda one: (one.tau_s == 0, one.tau_s))


def isotonic_rows(means: Values, weights: Values) -> Values:
    """Isotonic regression of every row of float64[b, m] under the same weights float64[m].

    max over i <= k of min over j >= k of the weighted mean of i..j (Barlow et al., 1972, 1.4): for the few values of a
    sweep this is quicker, over many rows, than pooling one row after the other.
    """
    m = means.shape[1]
    sums = np.concatenate([np.zeros((means.shape[0], 1)), np.cumsum(means * weights, axis=1)], axis=1)
    totals = np.concatenate([[0.0], np.cumsum(weights)])
    fitted = np.empty_like(means)
    for k in range(m):
        lows = [
            np.min([(sums[:, j + 1] - sums[:, i]) / (totals[j + 1] - totals[i]) for j in range(k, m)], axis=0)
            for i in range(k + 1)
        ]
        fitted[:, k] = np.max(lows, axis=0)
    return fitted


def interpolate_rows(x: Values, knots: Values, values: Values) -> Values:
    """Row by row linear interpolation: x float64[b, k], ascending knots float64[m], values float64[b, m]; clamped."""
    if knots.size == 1:
        return np.asarray(np.broadcast_to(values, x.shape))
    right = np.clip(np.searchsorted(knots, x, side="right"), 1, knots.size - 1)
    part = np.clip((x - knots[right - 1]) / (knots[right] - knots[right - 1]), 0.0, 1.0)
    left_values = np.take_along_axis(values, right - 1, axis=1)
    return np.asarray(left_values + part * (np.take_along_axis(values, right, axis=1) - left_values))


@dataclass(frozen=True, slots=True)
class Curve:
    """Along ascending τ: accuracies that do not fall and round times, float64[b, k] each. Known only where `known`."""

    taus_s: Values
    accuracies: Values
    rounds_s: Values
    known: npt.NDArray[np.bool_]

    def reaching(self, wanted: Values) -> Values:
        """The smallest known τ with A(τ) >= wanted, linear between points; float64[b]. NaN where none has it."""
        enough = (self.accuracies >= wanted[:, None] - _SLACK) & self.known
        at = np.argmax(enough, axis=1)
        before = np.maximum(at - 1, 0)
        rows = np.arange(at.size)
        low, high = self.accuracies[rows, before], self.accuracies[rows, at]
        between = self.known[rows, before] & (high > low) & (at > 0)
        part = np.divide(wanted - low, high - low, out=np.ones_like(low), where=between)
        taus_s = self.taus_s[rows, before] + np.clip(part, 0.0, 1.0) * (
            self.taus_s[rows, at] - self.taus_s[rows, before]
        )
        return np.asarray(np.where(enough.any(axis=1), np.where(between, taus_s, self.taus_s[rows, at]), np.nan))

    def knee(self) -> tuple[Values, Values]:
        """τ of the point highest above the chord of (T, A), and that height; float64[b], NaN where there is no knee.

        The rule of `fronts.knee`, for many curves at once.
        """
        x, y = self._scaled(self.rounds_s), self._scaled(self.accuracies)
        inner = self.known & (x > 0) & (x < 1)
        heights = np.where(inner, y - x, -np.inf)
        at = np.argmax(heights, axis=1)
        rows = np.arange(at.size)
        best = heights[rows, at]
        return np.where(best > 0, self.taus_s[rows, at], np.nan), np.where(best > 0, best, np.nan)

    def _scaled(self, values: Values) -> Values:
        low = np.min(values, axis=1, keepdims=True, initial=np.inf, where=self.known)
        high = np.max(values, axis=1, keepdims=True, initial=-np.inf, where=self.known)
        span = np.where(high > low, high - low, 1.0)
        return np.asarray(np.where(self.known, (values - low) / span, 0.0))

    def accuracy_at(self, taus_s: Values) -> Values:
        """Of each row at its own τ, linear between points; NaN below the first known point. float64[b]."""
        found = [
            np.interp(tau_s, self.taus_s[row][self.known[row]], self.accuracies[row][self.known[row]], left=np.nan)
            for row, tau_s in enumerate(taus_s)
        ]
        return np.array(found)

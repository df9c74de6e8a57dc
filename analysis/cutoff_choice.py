"""The cutoffs of every group and processor: each rule's τ with its interval, the work it leaves, and what it costs.

Pure: fit windows, accuracies and limits in, `Cutoff`s out. They do not depend on the order of either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import fronts
from analysis.cutoff_curves import AccuracyModel, Candidate, Curve
from analysis.cutoff_intervals import rule_intervals
from analysis.cutoff_resampling import ENOUGH_UNITS, Pool, Weights, weakest_pool
from analysis.cutoff_rules import KINDS, Limits, Problem, Rules, expected_round_s, is_feasible, rule_name
from analysis.stats import Interval, Values
from analysis.windows import Group, Windows
from analysis.words import PROVENANCE_TEXT, TIME_PROVENANCE
from profiler.quantities import Provenance
from profiler.records import Row


@dataclass(frozen=True, slots=True)
class Cutoff:
    """τ of one processor. `tau_s` 0 means none; None means not available, and `note` says why.

    `interval` holds τ with 90 % confidence; `interval_from` says from what, and unless `interval_trusted` it is too
    narrow to trust. `work_fraction` is the expected part of the steps done by τ. `round_ratio` is the predicted round
    time under τ over the reference's without, `round_ratio_uncut` the same without τ; `expected_round_s` is that of the
    processor's whole fleet, all of it under this kind of cutoff. `time_provenance` is measured or simulated, of all its
    times. `inputs` are all that the formula was given. `infeasible`: no τ keeps to all the limits.
    """

    workload: str
    processor: str
    epochs: int
    batch_size: int
    kind: str
    reference: str
    tau_s: float | None
    interval: Interval | None
    work_fraction: float | None
    round_ratio: float | None
    round_ratio_uncut: float
    time_provenance: str
    inputs: Mapping[str, object]
    note: str = ""
    expected_round_s: float | None = None
    interval_from: str | None = None
    interval_trusted: bool = False
    infeasible: bool = False


Candidates = Mapping[Group, Mapping[str, Sequence[Candidate]]]


def cutoffs(
    groups: Mapping[Group, Mapping[str, Windows]],
    models: Mapping[tuple[str, int], AccuracyModel],
    *,
    reference: str | None = None,
    limits: Limits | None = None,
    candidates: Candidates | None = None,
) -> list[Cutoff]:
    """Every kind of cutoff for every processor of every group. `models` are by workload and batch size.

    `candidates` are runs with cutoffs; where they tell accuracy as a function of τ they count before the sweep of E.
    """
    made = []
    for group, by_processor in groups.items():
        if reference is not None and reference not in by_processor:
            continue
        chosen = reference or fastest(by_processor)
        model = models.get((group.workload, group.batch_size), AccuracyModel.fit({}))
        some = {name: runs for name, runs in (candidates or {}).get(group, {}).items() if name in by_processor}
        made += _Group(Problem(group, by_processor, chosen, model, limits or Limits(), some)).cutoffs()
    return made


def fastest(by_processor: Mapping[str, Windows]) -> str:
    """The processor with the shortest median fit window."""
    return min(by_processor, key=lambda name: (by_processor[name].median_window_s, name))


class _Group:
    """The rows of one group: every rule's estimate, made a `Cutoff`."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._limits = problem.limits
        self._rules = Rules.of_all(problem)
        self._weights: Weights = self._rules.weights()
        self._curves = self._rules.curves(self._weights)
        estimates = self._rules.estimate(self._weights)
        self._taus_s = {name: float(tau_s[0]) for name, tau_s in estimates.items()}
        for processor in problem.by_processor:
            of_kind = {kind: estimates[rule_name(kind, processor)] for kind in KINDS}
            if not is_feasible(of_kind, self._rules.longest_allowed(of_kind))[0]:
                self._taus_s[rule_name("recommended", processor)] = np.nan

    def cutoffs(self) -> list[Cutoff]:
        asked = [kind for kind in KINDS if not self._unasked(kind)]
        made = [self._cutoff(kind, processor) for kind in asked for processor in self._problem.by_processor]
        intervals, pools = rule_intervals(self._problem, self._taus_s)
        return [self._with_expectation(self._with_interval(one, intervals, pools), made) for one in made]

    def _unasked(self, kind: str) -> bool:
        limit = {"time": self._limits.max_slowdown, "energy": self._limits.max_energy_j}
        return kind in limit and limit[kind] is None

    def _cutoff(self, kind: str, processor: str) -> Cutoff:
        blank = replace(self._blank(processor), kind=kind)
        if kind == "parity" and processor == self._problem.reference:
            return self._given(blank, 0.0, "the reference: needs no cutoff")
        blank = replace(blank, inputs={**blank.inputs, **self._inputs(kind, processor)})
        tau_s = self._taus_s[rule_name(kind, processor)]
        if not np.isfinite(tau_s) or tau_s <= 0:  # 0 would mean no cutoff at all, the opposite of what is wanted
            return self._lacking(blank, tau_s)
        cap_s = _one(self._rules.cap_s(self._weights, processor))
        if kind not in ("parity", "joint") and tau_s >= cap_s * (1 - 1e-9):
            return self._given(blank, 0.0, f"ends before {tau_s:.4g} s by itself")
        return self._given(blank, tau_s, self._doubt(kind, processor))

    def _blank(self, processor: str) -> Cutoff:
        """The row of a processor before any rule has spoken."""
        group, windows = self._problem.group, self._problem.by_processor[processor]
        reference = self._problem.by_processor[self._problem.reference]
        return Cutoff(
            *(group.workload, processor, group.epochs, group.batch_size, "", reference.processor),
            tau_s=None,
            interval=None,
            work_fraction=None,
            round_ratio=None,
            round_ratio_uncut=_round_s(windows, None) / _round_s(reference, None),
            time_provenance=TIME_PROVENANCE[group.clock],
            inputs={
                "median_window_ref_s": reference.median_window_s,
                "n_ref": len(reference.windows),
                "median_window_s": windows.median_window_s,
                "n": len(windows.windows),
                "median_comm_ref_s": reference.median_comm_s,
                "median_comm_s": windows.median_comm_s,
                "n_without_comm": len(windows.windows) - windows.comms_s.size,
                "n_without_steps": windows.n_without_steps,
            },
            note=_doubts(windows),
        )

    def _given(self, blank: Cutoff, tau_s: float, note: str = "") -> Cutoff:
        windows = self._problem.by_processor[blank.processor]
        reference = self._problem.by_processor[blank.reference]
        return replace(
            blank,
            tau_s=tau_s,
            work_fraction=float(windows.work_fraction(np.array([tau_s]))[0]) if tau_s else 1.0,
            round_ratio=_round_s(windows, tau_s) / _round_s(reference, None),
            note="; ".join(part for part in (note, blank.note) if part),
        )

    # What a rule was given

    def _inputs(self, kind: str, processor: str) -> Row:
        rules, weights = self._rules, self._weights
        if kind == "time":
            return {
                "max_slowdown": self._limits.max_slowdown,
                "round_ref_s": _one(rules.reference_round_s(weights)),
                "beside_s": _one(rules.beside_time_s(weights, processor)),
                "quantile": rules.joint_level(processor),
            }
        if kind == "energy":
            windows = self._problem.by_processor[processor]
            return {
                "max_energy_j": self._limits.max_energy_j,
                "power_w": _known(_one(rules.power_w(weights, processor))),
                "beside_j": _known(_one(rules.beside_j(weights, processor))),
                "energy_provenance": windows.energy_provenance.value,
            }
        if kind == "joint":
            n = rules.fits[processor].n_clients
            return {"beta": self._limits.beta, "clients": n, "quantile": rules.joint_level(processor)}
        return self._inputs_of_accuracy(kind, processor) if kind in ("accuracy", "knee", "recommended") else {}

    def _inputs_of_accuracy(self, kind: str, processor: str) -> Row:
        curve, source = self._curves[processor, kind], self._problem.source(processor, kind)
        sweep = self._problem.sweep
        inputs: Row = {"accuracy_from": source}
        if source == "sweep" or source is None:
            inputs["accuracy_by_epochs"] = {
                f"{e:g}": float(a) for e, a in zip(sweep.epochs, sweep.accuracies, strict=True)
            }
        if curve is None:
            return inputs
        if source == "runs":
            points = zip(curve.taus_s[0], curve.accuracies[0], curve.rounds_s[0], strict=True)
            inputs["candidates"] = [
                {"tau_s": float(x), "accuracy": float(a), "round_s": float(r)} for x, a, r in points
            ]
        if kind != "knee":
            inputs["max_drop"] = self._limits.max_drop
        tau_s = self._taus_s[rule_name(kind, processor)]
        if np.isfinite(tau_s):
            inputs["predicted_accuracy"] = _known(_one(curve.accuracy_at(np.array([tau_s]))))
        if kind == "knee":
            inputs["height"] = _known(_one(curve.knee()[1]))
        return inputs

    def _doubt(self, kind: str, processor: str) -> str:
        """What a reader must know of a τ beside its inputs."""
        if kind == "joint":
            return self._joint_doubt(processor)
        provenance = self._problem.by_processor[processor].energy_provenance
        limited = kind == "energy" or (kind == "recommended" and self._limits.max_energy_j is not None)
        modelled = provenance in (Provenance.ESTIMATED, Provenance.SIMULATED)
        return f"its joules are {PROVENANCE_TEXT[provenance]}" if limited and modelled else ""

    def _joint_doubt(self, processor: str) -> str:
        level = self._rules.joint_level(processor)
        n = len(self._problem.by_processor[processor].windows)
        return f"the {level:.4g} quantile of {n} fits is the longest seen" if n * (1 - level) < 1 else ""

    # Why there is none

    def _lacking(self, blank: Cutoff, tau_s: float) -> Cutoff:
        processor = blank.processor
        if blank.kind == "parity":
            note = f"not available: its communication alone is {-tau_s:.3g} s longer than the reference's whole call"
            return replace(blank, note=note)
        if blank.kind == "time":
            allowed = f"{self._limits.max_slowdown:g} times the reference's round"
            note = f"infeasible: what its round takes beside training is {-tau_s:.4g} s longer than {allowed}"
            return replace(blank, note=note, infeasible=True)
        if blank.kind == "energy":
            return self._lacking_energy(blank)
        if blank.kind == "recommended" and self._problem.source(processor, blank.kind) is not None:
            return self._infeasible(blank)
        return replace(blank, note=self._why_no_accuracy(blank.kind, processor))

    def _lacking_energy(self, blank: Cutoff) -> Cutoff:
        beside_j = blank.inputs["beside_j"]
        if beside_j is None or blank.inputs["power_w"] is None:
            return replace(blank, note="not available: no energy on record of its training, or of its waiting")
        note = f"infeasible: communication and waiting alone take {beside_j:.4g} J of {self._limits.max_energy_j:g} J"
        return replace(blank, note=note, infeasible=True)

    def _why_no_accuracy(self, kind: str, processor: str) -> str:
        curve = self._curves[processor, kind]
        if curve is None:
            needed, epochs = 3 if kind == "knee" else 2, self._problem.group.epochs
            have = ", ".join(f"{e:g}" for e in self._problem.sweep.epochs) or "none"
            return (
                f"not available: needs runs with accuracy at {needed} values of E up to {epochs}, has {have}; "
                f"or at {needed} values of tau"
            )
        known = curve.known[0]
        found = fronts.knee(curve.rounds_s[0][known].tolist(), curve.accuracies[0][known].tolist())
        return f"not available: {found.reason}"

    def _infeasible(self, blank: Cutoff) -> Cutoff:
        taus_s = {kind: self._taus_s[rule_name(kind, blank.processor)] for kind in ("accuracy", "time", "energy")}
        limiting = {kind: taus_s[kind] for kind in ("time", "energy") if not self._unasked(kind)}
        unknown = [kind for kind, tau_s in limiting.items() if not np.isfinite(tau_s)]
        if unknown:
            return replace(blank, note=f"not available: its limit by {unknown[0]} is not known")
        allowed = ", ".join(f"{kind} allows {max(0.0, tau_s):.4g} s" for kind, tau_s in limiting.items())
        wanted = f"a drop of at most {self._limits.max_drop:g} needs {taus_s['accuracy']:.4g} s"
        relaxed = self._relaxations(blank.processor, taus_s["accuracy"], limiting)
        return replace(
            blank,
            note=f"infeasible: {wanted}, {allowed}. Smallest relaxation: {relaxed}",
            inputs={**blank.inputs, "tau_by_limit_s": {kind: _known(tau_s) for kind, tau_s in taus_s.items()}},
            infeasible=True,
        )

    def _relaxations(self, processor: str, tau_s: float, limiting: Mapping[str, float]) -> str:
        """Either what binds gives way to the accuracy wanted, or accuracy to what binds."""
        rules, weights = self._rules, self._weights
        costs = []
        if limiting.get("time", np.inf) < tau_s:
            round_s = tau_s + _one(rules.beside_time_s(weights, processor))
            costs.append(f"--max-slowdown {_up(round_s / _one(rules.reference_round_s(weights)))}")
        if limiting.get("energy", np.inf) < tau_s:
            beside_j = _one(rules.beside_j(weights, processor))
            costs.append(f"--max-energy-j {_up(tau_s * _one(rules.power_w(weights, processor)) + beside_j)}")
        curve = self._curves[processor, "accuracy"]
        if curve is None:
            return " and ".join(costs)
        drop = self._drop(curve, min(limiting.values()))
        if np.isfinite(drop):
            return f"{' and '.join(costs)}, or --max-drop {_up(drop)}"
        first = int(np.argmax(curve.known[0]))
        shortest_s = float(curve.taus_s[0, first])
        lost = float(curve.accuracies[0, -1] - curve.accuracies[0, first])
        return f"{' and '.join(costs)} (no run tells accuracy below {shortest_s:.4g} s, where the drop is {lost:.3g})"

    def _drop(self, curve: Curve, tau_s: float) -> float:
        return float(curve.accuracies[0, -1]) - _one(curve.accuracy_at(np.array([tau_s])))

    # How sure, and what a round takes

    def _with_interval(
        self, one: Cutoff, intervals: Mapping[str, Interval | None], pools: Mapping[str, Pool]
    ) -> Cutoff:
        name = rule_name(one.kind, one.processor)
        if not one.tau_s or intervals[name] is None or (one.kind == "joint" and self._joint_doubt(one.processor)):
            return one
        needed = self._rules.needs()[name]
        pool = weakest_pool(pools, needed)
        single = any(pools[part].n_independent == 0 for part in needed)  # accuracies whose spread nobody knows
        return replace(
            one,
            interval=intervals[name],
            interval_from="single accuracies" if single else f"{pool.n_independent} {pool.level}",
            interval_trusted=not single and pool.level == "runs" and pool.n_independent >= ENOUGH_UNITS,
        )

    def _with_expectation(self, one: Cutoff, made: Sequence[Cutoff]) -> Cutoff:
        taus_s = {other.processor: other.tau_s for other in made if other.kind == one.kind}
        by_processor = self._problem.by_processor
        clients = {name: n for name, n in by_processor[one.processor].clients.items() if name in by_processor}
        clients.setdefault(one.processor, 1)
        known = {name: tau_s for name in clients if (tau_s := taus_s[name]) is not None}
        if known.keys() != clients.keys():
            return one
        return replace(one, expected_round_s=expected_round_s(by_processor, known, clients))


def _doubts(windows: Windows) -> str:
    doubts = []
    if windows.n_without_steps:
        doubts.append(f"work from tau/W: {windows.n_without_steps} windows have no step times")
    if not windows.comms_s.size:
        doubts.append("communication is not on record and taken as 0")
    return "; ".join(doubts)


def _round_s(windows: Windows, tau_s: float | None) -> float:
    window_s = windows.median_window_s
    return (min(tau_s, window_s) if tau_s else window_s) + windows.median_comm_s


def _one(values: Values) -> float:
    """Of the estimate's only row."""
    return float(values[0])


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _up(value: float) -> str:
    """Four significant digits, rounded up: as an option it then suffices."""
    digits = 10.0 ** (3 - np.floor(np.log10(value))) if value > 0 else 1.0
    return f"{np.ceil(value * digits - 1e-6) / digits:.6g}"

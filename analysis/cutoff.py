"""A cutoff τ for every processor, learnt from runs without one.

python -m analysis.cutoff results/ [-o cutoffs.json] [--kind parity|knee|accuracy] [--reference PROCESSOR]
    [--calibration new-board.json]

parity     τ_p = median W_ref - max(0, median c_p - median c_ref): p's round ends with the reference's
accuracy   the smallest τ, the same for all, whose predicted accuracy is within --max-drop of the uncut one
knee       the τ, the same for all, at the knee of predicted accuracy against predicted round time

W is the fit window on the device, c the communication of the fit call (download + receive + send + upload).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from scipy.optimize import isotonic_regression

from analysis import cli, fronts
from analysis.calibrated import Told, add_calibration, entry, recommend
from analysis.cutoff_table import table
from analysis.files import write_atomically
from analysis.load import SIMULATED, Results, load, rows
from analysis.new_hardware import Recommendation, Wish
from analysis.new_hardware_table import table as new_hardware_table
from analysis.runs import runs_table
from analysis.spans import FIT_CALLS
from analysis.stats import Interval, Values, bootstrap_interval
from analysis.windows import Group, Windows, completed_work, fit_windows, uncut_tasks
from analysis.words import TIME_PROVENANCE
from profiler.errors import ResultsError, UsageError
from profiler.records import Row

SCHEMA_VERSION = 1
KINDS = ("parity", "accuracy", "knee")
MAX_DROP = 0.01
_N_GRID = 400


@dataclass(frozen=True, slots=True)
class Cutoff:
    """τ of one processor. `tau_s` 0 means none; None means not available, and `note` says why.

    `work_fraction` is the expected part of the steps done by τ. `round_ratio` is the predicted round time under τ over
    the reference's without, `round_ratio_uncut` the same without τ. `time_provenance` is measured or simulated, of all
    its times. `inputs` are all that the formula was given.
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


@dataclass(frozen=True, slots=True)
class AccuracyModel:
    """Accuracy as a function of completed epochs: isotonic over the sweep of E, linear between.

    Isotonic, since more work does not lower accuracy in expectation while noise in a few runs may (Barlow et al.,
    Statistical Inference under Order Restrictions, 1972). Says nothing below the smallest E of the sweep.
    """

    epochs: Values
    accuracies: Values

    @classmethod
    def fit(cls, accuracies_by_epochs: Mapping[int, Sequence[float]]) -> AccuracyModel:
        epochs = sorted(accuracies_by_epochs)
        means = [float(np.mean(accuracies_by_epochs[e])) for e in epochs]
        weights = [len(accuracies_by_epochs[e]) for e in epochs]
        fitted = isotonic_regression(means, weights=weights).x if means else []
        return cls(np.array(epochs, dtype=np.float64), np.asarray(fitted, dtype=np.float64))

    def up_to(self, epochs: int) -> AccuracyModel:
        kept = self.epochs <= epochs
        return AccuracyModel(self.epochs[kept], self.accuracies[kept])

    def predict(self, work_epochs: Values) -> Values:
        return np.asarray(np.interp(work_epochs, self.epochs, self.accuracies))


def cutoffs(
    groups: Mapping[Group, Mapping[str, Windows]],
    models: Mapping[tuple[str, int], AccuracyModel],
    *,
    reference: str | None = None,
    max_drop: float = MAX_DROP,
) -> list[Cutoff]:
    """Every kind of cutoff for every processor of every group. `models` are by workload and batch size."""
    made = []
    for group, by_processor in groups.items():
        if reference is not None and reference not in by_processor:
            continue
        chosen = reference or fastest(by_processor)
        blank = [_blank(group, by_processor[chosen], windows) for windows in by_processor.values()]
        model = models.get((group.workload, group.batch_size), AccuracyModel.fit({}))
        for cutoff in blank:
            made.append(_parity(cutoff, by_processor[chosen], by_processor[cutoff.processor]))
        made += _common(blank, "accuracy", group, by_processor, model, max_drop)
        made += _common(blank, "knee", group, by_processor, model, max_drop)
    return made


def fastest(by_processor: Mapping[str, Windows]) -> str:
    """The processor with the shortest median fit window."""
    return min(by_processor, key=lambda name: (by_processor[name].median_window_s, name))


def _blank(group: Group, reference: Windows, windows: Windows) -> Cutoff:
    """The row of a processor before any rule has spoken."""
    return Cutoff(
        *(group.workload, windows.processor, group.epochs, group.batch_size, "", reference.processor),
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


def _with_tau(blank: Cutoff, kind: str, tau_s: float, reference: Windows, windows: Windows, note: str = "") -> Cutoff:
    fraction = float(windows.work_fraction(np.array([tau_s]))[0]) if tau_s else 1.0
    return replace(
        blank,
        kind=kind,
        tau_s=tau_s,
        work_fraction=fraction,
        round_ratio=_round_s(windows, tau_s) / _round_s(reference, None),
        note="; ".join(part for part in (note, blank.note) if part),
    )


# Parity


def parity_statistic(window_ref_s: Values, comm_ref_s: Values, comm_s: Values, axis: int = -1) -> Values:
    """median W_ref - max(0, median c_p - median c_ref), along an axis."""
    later_s = np.median(comm_s, axis=axis) - np.median(comm_ref_s, axis=axis)
    return np.asarray(np.median(window_ref_s, axis=axis) - np.maximum(0.0, later_s))


def _parity(blank: Cutoff, reference: Windows, windows: Windows) -> Cutoff:
    if windows.processor == reference.processor:
        return _with_tau(blank, "parity", 0.0, reference, windows, "the reference: needs no cutoff")
    samples = [reference.windows_s, *(s if s.size else np.zeros(1) for s in (reference.comms_s, windows.comms_s))]
    tau_s = float(parity_statistic(samples[0], samples[1], samples[2]))
    if tau_s <= 0:  # 0 would mean no cutoff at all, the opposite of what is wanted
        note = f"not available: its communication alone is {-tau_s:.3g} s longer than the reference's whole call"
        return replace(blank, kind="parity", note=note)
    return replace(
        _with_tau(blank, "parity", tau_s, reference, windows),
        interval=bootstrap_interval([sample.tolist() for sample in samples], parity_statistic),
    )


# Accuracy-constrained and knee: one τ for all clients, from the sweep of E


def _common(
    blanks: Sequence[Cutoff],
    kind: str,
    group: Group,
    by_processor: Mapping[str, Windows],
    model: AccuracyModel,
    max_drop: float,
) -> list[Cutoff]:
    """The rows of a rule that gives all clients the same τ. A τ that no window reaches is written as none (0)."""
    sweep = model.up_to(group.epochs)
    needed = 2 if kind == "accuracy" else 3
    if sweep.epochs.size < needed or sweep.epochs[-1] != group.epochs:
        have = ", ".join(f"{epochs:g}" for epochs in sweep.epochs) or "none"
        why = f"not available: needs runs with accuracy at {needed} values of E up to {group.epochs}, has {have}"
        return [replace(blank, kind=kind, note=why) for blank in blanks]
    grid = _Grid.over(group, by_processor, sweep)
    tau_s, inputs, why = grid.smallest(max_drop) if kind == "accuracy" else grid.knee()
    if tau_s is None:
        return [replace(blank, kind=kind, inputs={**blank.inputs, **inputs}, note=why) for blank in blanks]
    return [_applied(blank, kind, tau_s, by_processor, inputs) for blank in blanks]


def _applied(
    blank: Cutoff, kind: str, tau_s: float, by_processor: Mapping[str, Windows], inputs: Mapping[str, object]
) -> Cutoff:
    windows, reference = by_processor[blank.processor], by_processor[blank.reference]
    reached = tau_s < float(windows.windows_s.max())
    note = "" if reached else f"ends before {tau_s:.4g} s by itself"
    made = _with_tau(blank, kind, tau_s if reached else 0.0, reference, windows, note)
    return replace(made, inputs={**blank.inputs, **inputs})


@dataclass(frozen=True, slots=True)
class _Grid:
    """Predictions along τ: float64[n] each. Only where the completed work lies within the sweep of E."""

    taus_s: Values
    accuracies: Values
    rounds_s: Values
    sweep: AccuracyModel

    @classmethod
    def over(cls, group: Group, by_processor: Mapping[str, Windows], sweep: AccuracyModel) -> _Grid:
        longest_s = max(float(windows.windows_s.max()) for windows in by_processor.values())
        taus_s = np.linspace(longest_s / _N_GRID, longest_s, _N_GRID)
        work = completed_work(group.epochs, by_processor, taus_s)
        known = work >= sweep.epochs[0] - 1e-9
        rounds_s = np.max(
            [np.minimum(taus_s, windows.median_window_s) + windows.median_comm_s for windows in by_processor.values()],
            axis=0,
        )
        return cls(taus_s[known], sweep.predict(work[known]), rounds_s[known], sweep)

    def _inputs(self) -> Row:
        return {
            "accuracy_by_epochs": {
                f"{epochs:g}": float(accuracy)
                for epochs, accuracy in zip(self.sweep.epochs, self.sweep.accuracies, strict=True)
            }
        }

    def smallest(self, max_drop: float) -> tuple[float | None, Row, str]:
        """min{τ : A(τ) >= A_ref - max_drop}. The longest τ always does."""
        wanted = float(self.sweep.accuracies[-1]) - max_drop
        index = int(np.argmax(self.accuracies >= wanted - 1e-12))
        inputs = {**self._inputs(), "max_drop": max_drop, "predicted_accuracy": float(self.accuracies[index])}
        return float(self.taus_s[index]), inputs, ""

    def knee(self) -> tuple[float | None, Row, str]:
        found = fronts.knee(self.rounds_s.tolist(), self.accuracies.tolist())
        if found.index is None:
            return None, self._inputs(), f"not available: {found.reason}"
        accuracy = float(self.accuracies[found.index])
        inputs = {**self._inputs(), "height": found.height, "predicted_accuracy": accuracy}
        return float(self.taus_s[found.index]), inputs, ""


def accuracy_models(runs: Iterable[Row]) -> dict[tuple[str, int], AccuracyModel]:
    """One model for each workload and batch size, from finished runs without a cutoff."""
    seen: defaultdict[tuple[str, int], defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run["accuracy"] is not None:
            seen[run["workload"], run["batch_size"]][run["epochs"]].append(run["accuracy"])
    return {key: AccuracyModel.fit(by_epochs) for key, by_epochs in seen.items()}


# The main


def main(argv: Sequence[str] | None = None) -> int:
    made = cli.parser("analysis.cutoff", "Recommend a cutoff for each processor, from runs without one.")
    made.add_argument("-o", "--output", type=Path, help="write the entries of --kind there, for harness.run --cutoffs")
    made.add_argument("--kind", choices=KINDS, default="parity", help="which kind -o writes (default parity)")
    made.add_argument("--reference", help="processor to be level with (default the one with the shortest fit)")
    made.add_argument(
        "--max-drop", type=float, default=MAX_DROP, help="accuracy to give up at most, 0..1 (%(default)s)"
    )
    add_calibration(made)
    return cli.run(made, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.max_drop < 1:
        raise UsageError(f"--max-drop {arguments.max_drop}: must be at least 0 and less than 1.")
    results = load(arguments.results, FIT_CALLS)
    groups, left_out = fit_windows(results)
    cli.say(*(f"note: {warning}" for warning in (*results.warnings, *left_out)))
    _require_windows(results, groups)
    if arguments.reference is not None:
        cli.choose("--reference", arguments.reference, {name for by in groups.values() for name in by})
    uncut = uncut_tasks(results)
    runs = [run for run in rows(runs_table(results)) if (run["run_id"], run["task"]) in uncut]
    models = accuracy_models(runs)
    made = cutoffs(groups, models, reference=arguments.reference, max_drop=arguments.max_drop)
    new: list[Recommendation] = []
    if arguments.calibration:
        new = recommend(
            results, groups, models, Told(arguments.calibration), Wish(arguments.reference, arguments.max_drop)
        )
    cli.say(*(f"note: {line}" for line in _remarks(groups, arguments.reference)))
    document = _document(arguments.kind, made, results, len(uncut))
    everything = {**document, "cutoffs": [*(_entry(cutoff) for cutoff in made), *map(entry, new)]}
    try:  # the file first, for a reader of the table may leave early (`| head`)
        if arguments.output is not None:
            _write(arguments.output, document, made, arguments.kind, new)
    finally:
        text = "\n\n".join([table(made), *([new_hardware_table(new)] if new else [])])
        print(json.dumps(everything, indent=2, allow_nan=False) if arguments.json else text, flush=True)
    return 0


def _require_windows(results: Results, groups: Mapping[Group, Mapping[str, Windows]]) -> None:
    if groups:
        return
    n_uncut = len(uncut_tasks(results))
    raise ResultsError(
        f"nothing to learn a cutoff from: {n_uncut} of {int(results.tasks['finished'].sum())} finished tasks ran "
        "without a cutoff, and none of them has a whole fit span with its processor.",
        remedy="Run the experiment once without --cutoffs.",
    )


def _remarks(groups: Mapping[Group, Mapping[str, Windows]], reference: str | None) -> list[str]:
    remarks = []
    for group, by_processor in groups.items():
        name = cli.printable(f"{group.workload}, E={group.epochs}, batch {group.batch_size}")
        name += ", simulated" if group.clock == SIMULATED else ""
        if reference is not None and reference not in by_processor:
            remarks.append(f"{name}: left out, the reference {reference} has no runs without a cutoff there.")
        elif len(by_processor) == 1:
            remarks.append(f"{name}: only one processor, {next(iter(by_processor))}: parity is trivially none.")
    return remarks


def _document(kind: str, made: Sequence[Cutoff], results: Results, n_tasks: int) -> Row:
    references = {cutoff.reference for cutoff in made}
    return {
        "schema": SCHEMA_VERSION,
        "wall_time": datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "kind": kind,
        "reference": references.pop() if len(references) == 1 else None,  # else it differs, see the entries
        "inputs": {"runs": sorted(run.run_id for run in results.runs), "n_tasks": n_tasks},
    }


def _entry(cutoff: Cutoff) -> Row:
    entry = asdict(cutoff)
    entry["interval"] = None if cutoff.interval is None else list(cutoff.interval)
    return entry


def _write(path: Path, document: Row, made: Sequence[Cutoff], kind: str, new: Sequence[Recommendation] = ()) -> None:
    chosen, doubled = _measured_first([cutoff for cutoff in made if cutoff.kind == kind])
    available = [cutoff for cutoff in chosen if cutoff.tau_s is not None]
    lacking = [f"{c.workload}, {c.processor}, E={c.epochs}: {c.note}" for c in chosen if c.tau_s is None]
    if not available:
        raise ResultsError(
            f"no {kind} cutoff can be given, {path} is not written: {'; '.join(lacking) or 'no groups'}.",
            remedy="Choose another --kind or --reference, or run the missing E without a cutoff.",
        )
    entries = [*map(_entry, available), *(entry(one) for one in new if one.kind == kind and one.tau_s is not None)]
    write_atomically(path, json.dumps({**document, "cutoffs": entries}, indent=2) + "\n")
    cli.say(*(f"note: not in {path}: {cli.printable(line)}" for line in [*lacking, *doubled]))
    n_simulated = sum(cutoff.time_provenance == "simulated" for cutoff in available)
    cli.say(f"wrote {path}: {len(available)} {kind} cutoffs" + (f", {n_simulated} simulated" if n_simulated else ""))


def _measured_first(chosen: Sequence[Cutoff]) -> tuple[list[Cutoff], list[str]]:
    """One cutoff for each task and processor, the measured one where there are two; and sentences on the others."""

    def applies_to(cutoff: Cutoff) -> tuple[object, ...]:
        return cutoff.workload, cutoff.processor, cutoff.epochs, cutoff.batch_size

    measured = {applies_to(c) for c in chosen if c.time_provenance == "measured" and c.tau_s is not None}
    doubled = [c for c in chosen if c.time_provenance == "simulated" and applies_to(c) in measured]
    said = [
        f"{c.workload}, {c.processor}, E={c.epochs}: the simulated one, for there is a measured one" for c in doubled
    ]
    return [c for c in chosen if c not in doubled], said


if __name__ == "__main__":
    raise SystemExit(main())

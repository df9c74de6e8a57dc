"""A cutoff τ for every processor, learnt from runs without one, and from runs with cutoffs what those cost in accuracy.

python -m analysis.cutoff results/ [-o cutoffs.json] [--kind KIND] [--reference PROCESSOR]
    [--max-drop X] [--max-slowdown Y] [--max-energy-j J] [--beta B] [--calibration new-board.json]

parity       τ_p = median W_ref - max(0, median c_p - median c_ref): p's round ends with the reference's
accuracy     the smallest τ whose accuracy is within --max-drop of that without
knee         the τ at the knee of accuracy against round time
time         the longest τ whose round takes at most --max-slowdown times the reference's
energy       the longest τ for which a client's round takes at most --max-energy-j joules
joint        the time by which all clients of a round are through with probability --beta
recommended  the knee, clipped to what accuracy, time and energy allow; exit code 1 where they allow nothing

W is the fit window on the device, c the communication of the fit call (download + receive + send + upload).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from analysis import cli
from analysis.calibrated import Told, add_calibration, entry, recommend
from analysis.cutoff_choice import Cutoff, cutoffs
from analysis.cutoff_curves import AccuracyModel, accuracy_models, candidates
from analysis.cutoff_evaluations import evaluations
from analysis.cutoff_rules import BETA, KINDS, MAX_DROP, Limits
from analysis.cutoff_table import blocks
from analysis.files import write_atomically
from analysis.formats import add_format, format_of, rendered
from analysis.load import SIMULATED, Results, load, rows
from analysis.new_hardware import Recommendation, Wish
from analysis.new_hardware_table import blocks as new_hardware_blocks
from analysis.runs import runs_table
from analysis.spans import FIT_CALLS
from analysis.windows import Group, Windows, fit_windows, uncut_tasks
from profiler.errors import ResultsError, UsageError
from profiler.records import Row

__all__ = [
    "KINDS",
    "MAX_DROP",
    "SCHEMA_VERSION",
    "AccuracyModel",
    "Cutoff",
    "Limits",
    "accuracy_models",
    "cutoffs",
    "main",
]

SCHEMA_VERSION = 1
INFEASIBLE = 1


def main(argv: Sequence[str] | None = None) -> int:
    made = cli.parser("analysis.cutoff", "Recommend a cutoff for each processor.")
    made.add_argument("-o", "--output", type=Path, help="write the entries of --kind there, for harness.run --cutoffs")
    made.add_argument("--kind", choices=KINDS, default="parity", help="which kind -o writes (default parity)")
    made.add_argument("--reference", help="processor to be level with (default the one with the shortest fit)")
    made.add_argument(
        "--max-drop", type=float, default=MAX_DROP, help="accuracy to give up at most, 0..1 (%(default)s)"
    )
    made.add_argument("--max-slowdown", type=float, help="a round may take so many times the reference's")
    made.add_argument("--max-energy-j", type=float, help="joules that a client's round may take")
    made.add_argument(
        "--beta", type=float, default=BETA, help="probability that all clients keep a deadline, 0..1 (%(default)s)"
    )
    add_calibration(made)
    add_format(made)
    return cli.run(made, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    limits, how = _limits(arguments), format_of(arguments)
    results = load(arguments.results, FIT_CALLS)
    groups, left_out = fit_windows(results)
    cli.say(*(f"note: {warning}" for warning in (*results.warnings, *left_out)))
    _require_windows(results, groups)
    if arguments.reference is not None:
        cli.choose("--reference", arguments.reference, {name for by in groups.values() for name in by})
    uncut = uncut_tasks(results)
    runs = rows(runs_table(results))
    models = accuracy_models(run for run in runs if (run["run_id"], run["task"]) in uncut)
    made = cutoffs(groups, models, reference=arguments.reference, limits=limits, candidates=candidates(runs))
    new: list[Recommendation] = []
    if arguments.calibration:
        wish = Wish(arguments.reference, limits.max_drop)
        new = recommend(results, groups, models, Told(arguments.calibration), wish)
    evaluated = evaluations(results, runs)
    cli.say(*(f"note: {line}" for line in _remarks(groups, arguments.reference)))
    document = _document(arguments.kind, made, results, len(uncut), limits)
    try:  # the file first, for a reader of the table may leave early (`| head`)
        if arguments.output is not None:
            _write(arguments.output, document, made, arguments.kind, new)
    finally:
        told = [*blocks(made, evaluated), *(new_hardware_blocks(new) if new else [])]
        entries = [*map(_entry, made), *map(entry, new)]
        everything = {**document, "cutoffs": entries, "evaluations": [asdict(one) for one in evaluated]}
        print(rendered(how, told, lambda: entries, everything), end="", flush=True)
    return INFEASIBLE if any(cutoff.infeasible for cutoff in made) else 0


def _limits(arguments: argparse.Namespace) -> Limits:
    if not 0 <= arguments.max_drop < 1:
        raise UsageError(f"--max-drop {arguments.max_drop}: must be at least 0 and less than 1.")
    if not 0 < arguments.beta < 1:
        raise UsageError(f"--beta {arguments.beta}: must be more than 0 and less than 1.")
    for option, value in (("--max-slowdown", arguments.max_slowdown), ("--max-energy-j", arguments.max_energy_j)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{option} {value}: must be more than 0 and finite.")
    return Limits(arguments.max_drop, arguments.max_slowdown, arguments.max_energy_j, arguments.beta)


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


def _document(kind: str, made: Sequence[Cutoff], results: Results, n_tasks: int, limits: Limits) -> Row:
    references = {cutoff.reference for cutoff in made}
    return {
        "schema": SCHEMA_VERSION,
        "wall_time": datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "kind": kind,
        "reference": references.pop() if len(references) == 1 else None,  # else it differs, see the entries
        "inputs": {"runs": sorted(run.run_id for run in results.runs), "n_tasks": n_tasks, "limits": asdict(limits)},
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
            f"no {kind} cutoff can be given, {path} is not written: {'; '.join(lacking) or _unasked(kind)}.",
            remedy="Choose another --kind or --reference, or run the missing E without a cutoff.",
        )
    entries = [*map(_entry, available), *(entry(one) for one in new if one.kind == kind and one.tau_s is not None)]
    write_atomically(path, json.dumps({**document, "cutoffs": entries}, indent=2) + "\n")
    cli.say(*(f"note: not in {path}: {cli.printable(line)}" for line in [*lacking, *doubled]))
    n_simulated = sum(cutoff.time_provenance == "simulated" for cutoff in available)
    cli.say(f"wrote {path}: {len(available)} {kind} cutoffs" + (f", {n_simulated} simulated" if n_simulated else ""))


def _unasked(kind: str) -> str:
    option = {"time": "--max-slowdown", "energy": "--max-energy-j"}.get(kind)
    return f"{option} is not given" if option else "no groups"


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

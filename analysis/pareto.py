"""Accuracy, time and energy of every configuration: fronts, who dominates whom, knees, hypervolume, one choice.

python -m analysis.pareto results/ [--objectives accuracy,time_s,energy_j] [--energy gross|net|fit] [--where K=V]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import cli, fronts, pareto_table
from analysis.configurations import ENERGY_COLUMNS, EnergyKind, Point, points
from analysis.files import write_atomically
from analysis.load import load, rows
from analysis.runs import runs_table
from analysis.where import add_where, refuse_mixed_workloads, where
from profiler.errors import ResultsError, UsageError
from profiler.records import Row

OBJECTIVES: Mapping[str, bool] = {"accuracy": True, "time_s": False, "energy_j": False}
"""Objective -> whether more is better."""
_REFERENCE_MARGIN = 0.1
_ACCURACY_SLACK = 0.01


@dataclass(frozen=True, slots=True)
class Front:
    """The front over some objectives: labels of its points, and the knee where there are two objectives."""

    objectives: tuple[str, ...]
    labels: tuple[str, ...]
    knee_label: str | None = None
    knee_height: float | None = None
    no_knee: str = ""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that table, JSON, report and figure say. `dominated_by` has an entry for each complete point."""

    objectives: tuple[str, ...]
    energy: EnergyKind
    points: tuple[Point, ...]
    dominated_by: Mapping[str, str | None]
    front: Front
    pairs: tuple[Front, ...]
    reference: tuple[float, ...]
    hypervolume: float
    n_beyond_reference: int
    notes: tuple[str, ...]
    recommendation: str


def analyse(
    runs: Iterable[Row],
    *,
    objectives: Sequence[str] = tuple(OBJECTIVES),
    energy: EnergyKind = "gross",
    reference: Sequence[float] | None = None,
) -> Analysis:
    """Fronts of some rows of `runs_table`. Raises UsageError where they are of several workloads."""
    made = points(runs, objectives, energy)
    refuse_mixed_workloads(point.workload for point in made)
    complete = [point for point in made if point.has(objectives)]
    values = [_values(point, objectives) for point in complete]
    maximise = [OBJECTIVES[name] for name in objectives]
    by = fronts.dominators(values, maximise)
    chosen = tuple(reference) if reference is not None else _default_reference(values, objectives)
    pairs = tuple(_pair(made, cost) for cost in ("time_s", "energy_j") if {"accuracy", cost} <= set(objectives))
    return Analysis(
        objectives=tuple(objectives),
        energy=energy,
        points=tuple(made),
        dominated_by={p.label: None if i is None else complete[i].label for p, i in zip(complete, by, strict=True)},
        front=Front(tuple(objectives), tuple(p.label for p, i in zip(complete, by, strict=True) if i is None)),
        pairs=pairs,
        reference=chosen,
        hypervolume=fronts.hypervolume(values, chosen, maximise),
        n_beyond_reference=sum(not _within(value, chosen, maximise) for value in values),
        notes=tuple(pareto_table.notes(made, objectives)),
        recommendation=_recommendation(complete or [p for p in made if p.has(("accuracy", "time_s"))], pairs),
    )


def _values(point: Point, objectives: Sequence[str]) -> list[float]:
    values = [point.value(name) for name in objectives]
    return [value for value in values if value is not None]


def _default_reference(values: Sequence[Sequence[float]], objectives: Sequence[str]) -> tuple[float, ...]:
    """The worst value of each objective with a margin of a tenth; accuracy 0."""
    if not values:
        return ()
    worst = [max(column) for column in zip(*values, strict=True)]
    return tuple(
        0.0 if OBJECTIVES[name] else value + _REFERENCE_MARGIN * abs(value)
        for name, value in zip(objectives, worst, strict=True)
    )


def _within(value: Sequence[float], reference: Sequence[float], maximise: Sequence[bool]) -> bool:
    return all(v > r if more else v < r for v, r, more in zip(value, reference, maximise, strict=True))


def _pair(made: Sequence[Point], cost: str) -> Front:
    """The front of accuracy against one cost, over all points that have these two, by growing cost."""
    objectives = ("accuracy", cost)
    complete = [point for point in made if point.has(objectives)]
    flags = fronts.on_front([_values(point, objectives) for point in complete], [True, False])
    kept = sorted(
        ((_values(p, objectives), p.label) for p, flag in zip(complete, flags, strict=True) if flag),
        key=lambda item: (item[0][1], item[1]),
    )
    found = fronts.knee([value[1] for value, _ in kept], [value[0] for value, _ in kept])
    label = None if found.index is None else kept[found.index][1]
    return Front(objectives, tuple(label for _, label in kept), label, found.height, found.reason)


def _recommendation(complete: Sequence[Point], pairs: Sequence[Front]) -> str:
    if not complete:
        return "No recommendation: no configuration has accuracy and time."
    labels: dict[str | None, Point] = {point.label: point for point in complete}
    knees = {front.objectives[1]: front.knee_label for front in pairs if front.knee_label in labels}
    if knees:
        return "Recommended: " + "; ".join(
            f"{label} (knee of accuracy against {' and '.join(_cost_name(c) for c in knees if knees[c] == label)})"
            + _simulated(labels[label])
            for label in dict.fromkeys(knees.values())
        )
    return _cheapest_good(complete)


def _simulated(point: Point) -> str:
    return ", by simulated times" if point.time_provenance == "simulated" else ""


def _cost_name(objective: str) -> str:
    return {"time_s": "time", "energy_j": "energy"}[objective]


def _cheapest_good(complete: Sequence[Point]) -> str:
    """Without a knee: the cheapest of those that are as good as the best, within a point of accuracy."""
    best = max((point.accuracy for point in complete if point.accuracy is not None), default=None)
    cost = "energy_j" if complete[0].energy_j is not None else "time_s"
    if best is None:
        good = list(complete)
    else:
        good = [p for p in complete if p.accuracy is not None and p.accuracy >= best - _ACCURACY_SLACK]
    choice = min(good, key=lambda point: (point.value(cost) or 0.0, point.label))
    within = "" if best is None else f" within {_ACCURACY_SLACK} of the best accuracy {best:.4g}"
    return f"Recommended: {choice.label} (least {_cost_name(cost)}{within}; no knee){_simulated(choice)}"


# The main


def main(argv: Sequence[str] | None = None) -> int:
    made = cli.parser("analysis.pareto", "Fronts of accuracy, time and energy over the configurations in results.")
    made.add_argument("--objectives", default=",".join(OBJECTIVES), help="some of %(default)s")
    made.add_argument("--energy", choices=list(ENERGY_COLUMNS), default="gross", help="which energy (default gross)")
    made.add_argument("--ref", help="reference point of the hypervolume, in the units shown: 0,6000,120000")
    add_where(made)
    made.add_argument("-o", "--output", type=Path, help="folder for the files (default RESULTS/analysis)")
    return cli.run(made, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    objectives = _objectives(arguments.objectives)
    reference = _reference(arguments.ref, objectives)
    results = load(arguments.results)
    cli.say(*(f"note: {warning}" for warning in results.warnings))
    runs = where(rows(runs_table(results)), arguments.where)
    analysis = analyse(runs, objectives=objectives, energy=arguments.energy, reference=reference)
    if not analysis.front.labels and not any(front.labels for front in analysis.pairs):
        raise _nothing_comparable(analysis)
    text = pareto_table.text(analysis)
    document = json.dumps(pareto_table.document(analysis), indent=2, ensure_ascii=False, allow_nan=False)
    try:  # files first, for a reader of the table may leave early (`| head`)
        written = _write(analysis, document, arguments.output or arguments.results[0] / "analysis")
    finally:  # and the table even where the folder cannot be written
        print(document if arguments.json else text, flush=True)
    cli.say(*(f"{what}: {path}" for what, path in written.items()))
    return 0


def _nothing_comparable(analysis: Analysis) -> ResultsError:
    if "accuracy" in analysis.objectives and not any(point.parameters["training"] for point in analysis.points):
        return ResultsError(
            f"no accuracy: all {len(analysis.points)} configurations are of cost-only runs, which train nothing.",
            remedy="Compare their costs with --objectives time_s,energy_j, or add runs that train.",
        )
    return ResultsError("no configuration has the objectives: " + " ".join(pareto_table.missing_lines(analysis.points)))


def _objectives(given: str) -> tuple[str, ...]:
    names = tuple(cli.choose("--objectives", name.strip(), OBJECTIVES) for name in given.split(","))
    if len(set(names)) != len(names) or len(names) < 2:
        raise UsageError(f"--objectives {given}: two or three different ones are needed.")
    return names


def _reference(given: str | None, objectives: Sequence[str]) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        values = tuple(float(part) for part in given.split(","))
    except ValueError:
        values = ()
    if len(values) != len(objectives) or not all(math.isfinite(value) for value in values):
        raise UsageError(f"--ref {given}: needs {len(objectives)} numbers, for {', '.join(objectives)}.")
    return values


def _write(analysis: Analysis, document: str, folder: Path) -> dict[str, str]:
    """CSV, JSON, report and figure, each of them whole or not at all; what is where."""
    from analysis.figures.pareto import save  # which stands on this module, and loads matplotlib

    figures = [folder / "pareto.png", folder / "pareto.svg"]
    save(analysis, figures)
    texts = {"pareto.csv": pareto_table.csv_text(analysis), "pareto.json": document + "\n"}
    texts["pareto.md"] = pareto_table.markdown(analysis, figures[0].name)
    for name, content in texts.items():
        write_atomically(folder / name, content)
    return {
        "table": f"{folder / 'pareto.csv'}, {folder / 'pareto.json'}",
        "figure": ", ".join(str(path) for path in figures),
        "report": str(folder / "pareto.md"),
    }


if __name__ == "__main__":
    raise SystemExit(main())

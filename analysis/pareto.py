"""Accuracy, time and energy of every configuration: fronts, who dominates whom, knees, hypervolume, one choice.

python -m analysis.pareto results/ [--objectives accuracy,time_s,energy_j] [--energy gross|net|fit] [--where K=V]
    [--resolution accuracy=0.005,time_s=0.01,energy_j=0.02] [--trajectories | --stop-after ROUND...] [--target ACCURACY]
    [--max-energy-kj X] [--max-time-min X] [--min-accuracy X]    exit 1 where nothing keeps them
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis import cli, fronts, pareto_table
from analysis.choice import Choice, Limit, choose
from analysis.configurations import OBJECTIVES, EnergyKind, Point, points
from analysis.files import write_atomically
from analysis.formats import add_format, csv_text, format_of, rendered
from analysis.load import Results, load, rows
from analysis.pareto_options import Options, add_options, options
from analysis.replication import Attainment, attainment, front_probabilities
from analysis.resolution import EXACT, Resolution, boxes
from analysis.runs import EVERY_ROUND, runs_table
from analysis.spans import FIT_WORK
from analysis.targets import ToTarget, to_target
from analysis.where import add_where, refuse_mixed_workloads, where
from profiler.errors import ResultsError
from profiler.records import Row

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
    """Everything that table, JSON, report and figure say. `dominated_by` has an entry for each complete point.

    `probabilities` has an entry for each complete point of several runs. `choice` is None where no limits were given.
    """

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
    resolution: Resolution
    probabilities: Mapping[str, float]
    attainment: Attainment
    choice: Choice | None = None
    target: float | None = None
    to_target: tuple[ToTarget, ...] = ()


def analyse(
    runs: Iterable[Row],
    *,
    objectives: Sequence[str] = tuple(OBJECTIVES),
    energy: EnergyKind = "gross",
    reference: Sequence[float] | None = None,
    resolution: Resolution = EXACT,
    limits: Sequence[Limit] = (),
) -> Analysis:
    """Fronts of some rows of `runs_table`. Raises UsageError where they are of several workloads.

    Dominance counts from `resolution` on; hypervolumes and knees are of the values as they are.
    """
    made = points(runs, objectives, energy)
    refuse_mixed_workloads(point.workload for point in made)
    complete = [point for point in made if point.has(objectives)]
    values = [_values(point, objectives) for point in complete]
    maximise = [OBJECTIVES[name] for name in objectives]
    by = fronts.dominators(boxes(values, objectives, resolution), maximise)
    chosen = tuple(reference) if reference is not None else _default_reference(values, objectives)
    pairs = tuple(
        _pair(made, cost, resolution) for cost in ("time_s", "energy_j") if {"accuracy", cost} <= set(objectives)
    )
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
        resolution=resolution,
        probabilities=front_probabilities(complete, objectives, maximise, resolution),
        attainment=attainment(complete, objectives, maximise, chosen),
        choice=choose(made, limits, resolution) if limits else None,
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


def _pair(made: Sequence[Point], cost: str, resolution: Resolution) -> Front:
    """The front of accuracy against one cost, over all points that have these two, by growing cost."""
    objectives = ("accuracy", cost)
    complete = [point for point in made if point.has(objectives)]
    values = [_values(point, objectives) for point in complete]
    flags = fronts.on_front(boxes(values, objectives, resolution), [True, False])
    kept = sorted(
        ((value, point.label) for value, point, flag in zip(values, complete, flags, strict=True) if flag),
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
    add_options(made)
    add_where(made)
    made.add_argument("-o", "--output", type=Path, help="folder for the files (default RESULTS/analysis)")
    add_format(made)
    return cli.run(made, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    asked, how = options(arguments), format_of(arguments)
    results = load(arguments.results, FIT_WORK)
    cli.say(*(f"note: {warning}" for warning in results.warnings))
    analysis = _answer(asked, results, arguments.where)
    if not analysis.front.labels and not any(front.labels for front in analysis.pairs):
        raise _nothing_comparable(analysis)
    document = pareto_table.document(analysis)
    try:  # files first, for a reader of the table may leave early (`| head`)
        written = _write(analysis, document, arguments.output or arguments.results[0] / "analysis")
    finally:  # and the table even where the folder cannot be written
        told = pareto_table.blocks(analysis)
        print(rendered(how, told, lambda: pareto_table.rows(analysis), document), end="", flush=True)
    cli.say(*(f"{what}: {path}" for what, path in written.items()))
    return 0 if _answered(analysis) else 1


def _answer(asked: Options, results: Results, filters: Sequence[str]) -> Analysis:
    stop_after = EVERY_ROUND if asked.target is not None else asked.stop_after
    every = rows(runs_table(results, stop_after))
    runs = where([run for run in every if run["whole"] or run["rounds"] in asked.stop_after], filters)
    analysis = analyse(
        runs,
        objectives=asked.objectives,
        energy=asked.energy,
        reference=asked.reference,
        resolution=asked.resolution_for([run["accuracy"] for run in runs if run["accuracy"] is not None]),
        limits=asked.limits,
    )
    if asked.target is None:
        return analysis
    return replace(
        analysis, target=asked.target, to_target=to_target(where(every, filters), asked.target, asked.energy)
    )


def _answered(analysis: Analysis) -> bool:
    """Whether limits leave a choice and the target is reached, where there are any."""
    chosen = analysis.choice is None or analysis.choice.label is not None
    return chosen and (analysis.target is None or any(one.time_s is not None for one in analysis.to_target))


def _nothing_comparable(analysis: Analysis) -> ResultsError:
    if "accuracy" in analysis.objectives and not any(point.parameters["training"] for point in analysis.points):
        return ResultsError(
            f"no accuracy: all {len(analysis.points)} configurations are of cost-only runs, which train nothing.",
            remedy="Compare their costs with --objectives time_s,energy_j, or add runs that train.",
        )
    return ResultsError("no configuration has the objectives: " + " ".join(pareto_table.missing_lines(analysis.points)))


def _write(analysis: Analysis, document: Row, folder: Path) -> dict[str, str]:
    """CSV, JSON, report and figure, each of them whole or not at all; what is where."""
    from analysis.figures.pareto import save  # which stands on this module, and loads matplotlib

    figures = [folder / "pareto.png", folder / "pareto.svg"]
    save(replace(analysis, points=tuple(pareto_table.shown(analysis))), figures)
    texts = {"pareto.csv": csv_text(pareto_table.rows(analysis)), "pareto.json": rendered("json", [], list, document)}
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

"""Configurations and fronts in words and columns: for the formats, and a Markdown report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from analysis import formats, markup, pareto_sentences, words
from analysis.formats import Block, Grid
from analysis.words import ENERGY_TEXT, number
from profiler.quantities import BELOW_RESOLUTION
from profiler.records import Row

if TYPE_CHECKING:
    from analysis.configurations import Point
    from analysis.pareto import Analysis, Front

SCHEMA_VERSION = 1
_UNITS = {"accuracy": "1", "time_s": "s", "energy_j": "J"}
_MAX_SHOWN = 60


def blocks(analysis: Analysis) -> list[Block]:
    """All of it for people."""
    return [Grid(_cells(analysis)), "\n".join(_sentences(analysis))]


def markdown(analysis: Analysis, figure_name: str) -> str:
    """A short report that stands by itself beside its figure."""
    workloads = ", ".join(sorted({point.workload for point in analysis.points}))
    heading = f"# Accuracy, time and energy: {markup.markdown(workloads)}"
    runs = [markup.markdown(run) for run in sorted({run for point in analysis.points for run in point.runs})]
    figure = f"![Accuracy against time and energy]({figure_name})"
    return (
        f"{heading}\n\n{formats.markdown(blocks(analysis))}\n\n{figure}\n\nFrom {len(runs)} runs: {', '.join(runs)}.\n"
    )


def shown(analysis: Analysis) -> list[Point]:
    """All points; of very many those on a front, and the chosen one."""
    if len(analysis.points) <= _MAX_SHOWN:
        return list(analysis.points)
    labels = {label for front in (analysis.front, *analysis.pairs) for label in front.labels}
    if analysis.choice is not None and analysis.choice.label is not None:
        labels.add(analysis.choice.label)
    return [point for point in analysis.points if point.label in labels]


def _cells(analysis: Analysis) -> list[dict[str, str]]:
    return [
        {
            "configuration": point.label,
            "n": str(point.n),
            "accuracy ± sd": number(point.accuracy, point.accuracy_sd, decimals=4),
            "time (s) ± sd": number(point.time_s, point.time_sd_s),
            "time is": point.time_provenance,
            "energy (J) ± err": number(point.energy_j, point.energy_err_j),
            "energy is": point.provenance.value,
            "on front": _on_front_text(analysis, point),
            **({"P(front)": _probability_text(analysis, point)} if analysis.probabilities else {}),
            "dominated by": analysis.dominated_by.get(point.label) or "",
        }
        for point in shown(analysis)
    ]


def _probability_text(analysis: Analysis, point: Point) -> str:
    probability = analysis.probabilities.get(point.label)
    return "" if probability is None else f"{probability:.2f}"


def _on_front_text(analysis: Analysis, point: Point) -> str:
    if point.label not in analysis.dominated_by:
        return "incomplete"
    return "no" if analysis.dominated_by[point.label] else "yes"


def _sentences(analysis: Analysis) -> list[str]:
    energy = f"Energy is {ENERGY_TEXT[analysis.energy]}; its ± is the expanded uncertainty, k = 2."
    lines = [energy] if "energy_j" in analysis.objectives else []
    lines += [*analysis.notes, *missing_lines(analysis.points), *_left_out(analysis.points)]
    n_hidden = len(analysis.points) - len(shown(analysis))
    if n_hidden:
        lines.append(f"{n_hidden} more points are on no front and not shown here; pareto.csv and pareto.json have all.")
    lines += pareto_sentences.of_resolution(analysis)
    lines += [_front_line(front) for front in (analysis.front, *_others(analysis))]
    lines += pareto_sentences.of_replicates(analysis)
    lines += [_knee_line(front) for front in analysis.pairs]
    if analysis.reference:
        lines += [_hypervolume_line(analysis), *pareto_sentences.of_attainment(analysis)]
    lines += pareto_sentences.of_target(analysis)
    return [*lines, analysis.recommendation, *pareto_sentences.of_choice(analysis)]


def _others(analysis: Analysis) -> list[Front]:
    return [front for front in analysis.pairs if front.objectives != analysis.front.objectives]


def _front_line(front: Front) -> str:
    return f"Front of {', '.join(front.objectives)}: {' | '.join(front.labels) or 'empty'}"


def _knee_line(front: Front) -> str:
    axes = f"{front.objectives[0]} against {front.objectives[1]}"
    if front.knee_label is None:
        return f"Knee of {axes}: {front.no_knee}"
    return f"Knee of {axes}: {front.knee_label} (height {front.knee_height:.4f} above the chord, axes scaled to 0..1)"


def _hypervolume_line(analysis: Analysis) -> str:
    where = ", ".join(
        f"{name} {value:.6g}{'' if _UNITS[name] == '1' else ' ' + _UNITS[name]}"
        for name, value in zip(analysis.objectives, analysis.reference, strict=True)
    )
    beyond = f"; {analysis.n_beyond_reference} points lie beyond it" if analysis.n_beyond_reference else ""
    return f"Hypervolume {analysis.hypervolume:.10g} {_volume_unit(analysis)}, reference point {where}{beyond}"


def _volume_unit(analysis: Analysis) -> str:
    return "·".join(_UNITS[name] for name in analysis.objectives if _UNITS[name] != "1")


def missing_lines(points: Iterable[Point]) -> list[str]:
    """Configurations that cannot be compared, and why."""
    return [
        f"Not in the front of all objectives: {point.label}: {'; '.join(point.missing.values())}."
        for point in points
        if point.missing
    ]


def _left_out(points: Iterable[Point]) -> list[str]:
    lacking = [
        f"{point.label}: {point.n_left_out} replicates lack an objective and are left out of its means."
        for point in points
        if point.n_left_out
    ]
    return [*lacking, *words.repeats({point.label: point.n_repeats for point in points})]


def notes(points: Sequence[Point], objectives: Sequence[str]) -> list[str]:
    """What a reader must know of the numbers before comparing them: provenance, scope, failures."""
    told = words.origins_of_times(point.time_provenance for point in points if "time_s" in objectives)
    if "energy_j" in objectives:
        told += words.origins_of_energies(point.provenance for point in points if point.energy_j is not None)
    scopes = sorted({point.energy_scope for point in points if point.energy_scope})
    if "energy_j" in objectives and len(scopes) > 1:
        told.append(f"MIXED SCOPE: energies cover different things ({', '.join(scopes)}).")
    if "energy_j" in objectives:
        told += [
            f"{point.label}: {point.n_rounds_below_resolution} of {point.n_rounds} rounds are shorter than the energy "
            f"sensor resolves ({BELOW_RESOLUTION}): use longer rounds or a faster sensor."
            for point in points
            if point.n_rounds_below_resolution
        ]
    failures = [f"{point.label}: {point.n_failures}" for point in points if point.n_failures]
    return [*told, *([f"Failures on record: {'; '.join(failures)}."] if failures else [])]


def document(analysis: Analysis) -> Row:
    """The same as one JSON object."""
    both = (analysis.front, *_others(analysis))
    return {
        "schema": SCHEMA_VERSION,
        "objectives": list(analysis.objectives),
        "senses": {name: "max" if name == "accuracy" else "min" for name in analysis.objectives},
        "units": {name: _UNITS[name] for name in analysis.objectives},
        "energy": analysis.energy,
        "reference": dict(zip(analysis.objectives, analysis.reference, strict=False)) if analysis.reference else None,
        "points": [_point(analysis, point) for point in analysis.points],
        "fronts": {",".join(front.objectives): list(front.labels) for front in both},
        "knees": {
            ",".join(front.objectives): {
                "label": front.knee_label,
                "height": front.knee_height,
                "reason": front.no_knee or None,
            }
            for front in analysis.pairs
        },
        "hypervolume": analysis.hypervolume if analysis.reference else None,
        "hypervolume_unit": _volume_unit(analysis),
        "n_beyond_reference": analysis.n_beyond_reference,
        "notes": list(analysis.notes),
        "recommendation": analysis.recommendation,
        "resolution": {name: analysis.resolution.of(name) for name in analysis.objectives},
        "attainment": asdict(analysis.attainment),
        "choice": None if analysis.choice is None else asdict(analysis.choice),
        "target": analysis.target,
        "to_target": [asdict(one) for one in analysis.to_target],
    }


def _point(analysis: Analysis, point: Point) -> Row:
    complete = point.label in analysis.dominated_by
    dominator = analysis.dominated_by.get(point.label)
    return {
        "label": point.label,
        "workload": point.workload,
        "epochs": point.epochs,
        "clients": point.clients,
        "cutoff": point.cutoff,
        "taus_s": {processor: list(values) for processor, values in point.taus_s.items()},
        "accuracy": point.accuracy,
        "accuracy_sd": point.accuracy_sd,
        "time_s": point.time_s,
        "time_sd_s": point.time_sd_s,
        "time_provenance": point.time_provenance,
        "energy_j": point.energy_j,
        "energy_sd_j": point.energy_sd_j,
        "energy_err_j": point.energy_err_j,
        "provenance": point.provenance.value,
        "energy_scope": point.energy_scope,
        "work_done": point.work_done,
        "n": point.n,
        "n_left_out": point.n_left_out,
        "n_repeats": point.n_repeats,
        "n_failures": point.n_failures,
        "n_rounds": point.n_rounds,
        "n_rounds_below_resolution": point.n_rounds_below_resolution,
        "on_front": dominator is None if complete else None,
        "dominated_by": dominator,
        "front_probability": analysis.probabilities.get(point.label),
        "missing": dict(point.missing),
        "tasks": list(point.tasks),
        "runs": list(point.runs),
        "parameters": dict(point.parameters),
        "replicates": [asdict(replicate) for replicate in point.replicates],
    }


_CSV_COLUMNS = (
    "label",
    "workload",
    "epochs",
    "clients",
    "cutoff",
    "n",
    "accuracy",
    "accuracy_sd",
    "time_s",
    "time_sd_s",
    "time_provenance",
    "energy_j",
    "energy_sd_j",
    "energy_err_j",
    "provenance",
    "energy_scope",
    "work_done",
    "n_failures",
    "n_rounds",
    "n_rounds_below_resolution",
    "on_front",
    "dominated_by",
    "front_probability",
)


def rows(analysis: Analysis) -> list[Row]:
    """One a configuration, for CSV."""
    points = (_point(analysis, point) for point in analysis.points)
    return [{name: point[name] for name in _CSV_COLUMNS} for point in points]

"""What a report says, before it is a page: sentences, tables and figures of results. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis import pareto_table, report_record, words
from analysis.configurations import Point
from analysis.cutoff import Cutoff, cutoffs
from analysis.figures import choice
from analysis.figures.drawing import Material, Picture, drawn, names
from analysis.figures.tradeoff import learnt
from analysis.load import Results
from analysis.pareto import Analysis, analyse
from analysis.pareto_sentences import of_resolution
from analysis.report_record import HOST, MAX_TABLE_ROWS, Cell, Origin, Table
from analysis.resolution import MEASURED
from profiler.quantities import Provenance
from profiler.records import Row

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Workload:
    """What to choose for one workload, why, and the table behind it."""

    name: str
    recommendation: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    table: Table


@dataclass(frozen=True, slots=True)
class Report:
    """Everything on the page, in its order."""

    summary: tuple[str, ...]
    warnings: tuple[str, ...]
    workloads: tuple[Workload, ...]
    cutoffs: Table
    no_cutoffs: tuple[str, ...]
    pictures: tuple[Picture, ...]
    not_drawn: Mapping[str, str]
    runs: Table
    failures: Table
    devices: Table
    sensors: Table
    origins: tuple[Origin, ...]


def report(material: Material) -> Report:
    """All of it. Raises ResultsError where a record is damaged."""
    results = material.results
    pictures, not_drawn = drawn(material, names())
    tasks = choice.finished(results)
    learnt_cutoffs = cutoffs(*learnt(material.fits))
    return Report(
        summary=tuple(_summary(results, tasks)),
        warnings=tuple(material.fits.warnings),
        workloads=tuple(_workload(name, number, shown) for number, (name, shown) in enumerate(tasks.items())),
        cutoffs=_cutoffs(learnt_cutoffs),
        no_cutoffs=_no_cutoffs(learnt_cutoffs),
        pictures=tuple(sorted(pictures, key=lambda picture: _order(picture.name))),
        not_drawn=not_drawn,
        runs=report_record.runs(results),
        failures=report_record.failures(results),
        devices=report_record.devices(results, material.spans),
        sensors=report_record.sensors(results),
        origins=tuple(report_record.origin(run) for run in results.runs[:MAX_TABLE_ROWS]),
    )


def _order(name: str) -> tuple[int, str]:
    """Decisions first, then what explains them."""
    kinds = ("pareto", "learning", "energy", "timeline", "tradeoff", "power", "calibration")
    kind = name.split("-", 1)[0]
    return kinds.index(kind) if kind in kinds else len(kinds), name


def _summary(results: Results, tasks: Mapping[str, Sequence[choice.Shown]]) -> list[str]:
    n_finished = sum(len(shown) for shown in tasks.values())
    devices = {device for by_id in results.devices.values() for device in by_id if device != HOST}
    rows_ = [shown.task for members in tasks.values() for shown in members]
    lines = [
        f"{_count(len(results.runs), 'run')}, {n_finished} of {_count(len(results.tasks), 'task')} finished, "
        f"{_count(len(results.rounds), 'round')}, {_count(len(devices), 'device')}; workloads: {', '.join(tasks)}.",
        *words.origins_of_times(words.TIME_PROVENANCE[task["clock"]] for task in rows_),
        *words.origins_of_energies(Provenance(task["provenance"]) for task in rows_),
    ]
    n_failures = len(results.failures)
    return [*lines, f"{_count(n_failures, 'failure')} on record." if n_failures else "No failure is on record."]


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


# What to choose


def _workload(name: str, number: int, shown: Sequence[choice.Shown]) -> Workload:
    analysis = analyse([one.task for one in shown], resolution=MEASURED)
    rows = [_configuration(analysis, point) for point in analysis.points]
    columns = tuple(rows[0]) if rows else ()
    return Workload(
        name,
        analysis.recommendation,
        tuple(_reasons(analysis)),
        (
            f"Energy is {words.ENERGY_TEXT[analysis.energy]}; ± err is its expanded uncertainty, k = 2.",
            *analysis.notes,
            *of_resolution(analysis),
            *pareto_table.missing_lines(analysis.points),
        ),
        Table.of(
            f"configurations-{number}", f"Configurations of {name}", columns, [tuple(row.values()) for row in rows]
        ),
    )


def _configuration(analysis: Analysis, point: Point) -> dict[str, Cell]:
    """Its row, by the headings of the columns."""
    return {
        "configuration": point.label,
        "on front": _standing(analysis, point),
        "n": point.n,
        "accuracy": point.accuracy,
        "± sd": point.accuracy_sd,
        "time (s)": point.time_s,
        "± sd (s)": point.time_sd_s,
        "time is": point.time_provenance,
        "energy (J)": point.energy_j,
        "± err (J)": point.energy_err_j,
        "energy is": point.provenance.value,
        "work done": point.work_done,
        "failures": point.n_failures,
        "dominated by": analysis.dominated_by.get(point.label),
    }


def _standing(analysis: Analysis, point: Point) -> str:
    if point.label not in analysis.dominated_by:
        return "incomplete"
    return "no" if analysis.dominated_by[point.label] else "yes"


def _reasons(analysis: Analysis) -> list[str]:
    """Each choice beside the most accurate configuration whose times are of the same kind: what it saves and loses."""
    known = [point for point in analysis.points if point.accuracy is not None and point.time_s]
    chosen = [point for point in known if f"{point.label} (" in analysis.recommendation]
    return [
        _beside(point, max((p for p in known if p.time_provenance == point.time_provenance), key=_accuracy_then_speed))
        for point in chosen
    ]


def _accuracy_then_speed(point: Point) -> tuple[float, float]:
    return point.accuracy or 0.0, -(point.time_s or 0.0)


def _beside(point: Point, best: Point) -> str:
    if point.label == best.label:
        return f"{point.label} is also the most accurate."
    parts = []
    if point.time_s and best.time_s:
        parts.append(f"{100 * point.time_s / best.time_s:.0f} % of the time")
    if point.energy_j and best.energy_j and best.energy_j > 0 and point.provenance is best.provenance:
        parts.append(f"{100 * point.energy_j / best.energy_j:.0f} % of the energy ({point.provenance.value})")
    given_up = (best.accuracy or 0.0) - (point.accuracy or 0.0)
    return (
        f"Beside the most accurate, {best.label} (accuracy {best.accuracy:.4f}), {point.label} takes "
        f"{' and '.join(parts)} and gives up {given_up:.4f} of accuracy."
    )


def _cutoffs(made: Sequence[Cutoff]) -> Table:
    columns = (
        *("workload", "E", "batch", "kind", "processor", "τ (s)", "90 % from (s)", "to (s)", "work done"),
        *("round / reference", "reference", "times are", "note"),
    )
    return Table.of(
        "cutoffs", "Cutoffs from runs without one", columns, [_cutoff(one) for one in made if one.tau_s is not None]
    )


def _no_cutoffs(made: Sequence[Cutoff]) -> tuple[str, ...]:
    """What has none, and why, each once."""
    lacking = [one for one in made if one.tau_s is None]
    return tuple(
        dict.fromkeys(
            f"{one.workload}, E={one.epochs}, batch {one.batch_size}, {one.kind}: {one.note}" for one in lacking
        )
    )


def _cutoff(cutoff: Cutoff) -> tuple[Cell, ...]:
    low_s, high_s = cutoff.interval or (None, None)
    return (
        *(cutoff.workload, cutoff.epochs, cutoff.batch_size, cutoff.kind, cutoff.processor),
        "none" if cutoff.tau_s == 0 else cutoff.tau_s,
        *(low_s, high_s, cutoff.work_fraction, cutoff.round_ratio, cutoff.reference, cutoff.time_provenance),
        cutoff.note,
    )


def document(made: Report) -> Row:
    """The same as one JSON object; figures by name."""
    tables = (made.cutoffs, made.runs, made.failures, made.devices, made.sensors)
    return {
        "schema": SCHEMA_VERSION,
        "summary": list(made.summary),
        "warnings": list(made.warnings),
        "workloads": [
            {
                "workload": one.name,
                "recommendation": one.recommendation,
                "reasons": list(one.reasons),
                "notes": list(one.notes),
                "configurations": _records(one.table),
            }
            for one in made.workloads
        ],
        "no_cutoffs": list(made.no_cutoffs),
        **{table.key: _records(table) for table in tables},
        "figures": [
            {"name": picture.name, "title": picture.title, "caption": picture.caption} for picture in made.pictures
        ],
        "not_drawn": dict(made.not_drawn),
        "origins": [
            {"run": one.run_id, "command": one.command, **one.facts, "texts": dict(one.texts)} for one in made.origins
        ],
    }


def _records(table: Table) -> list[Row]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]

"""What a report says, before it is a page: sentences, tables and figures of results. Writes nothing."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis import pareto_table, words
from analysis.cli import printable
from analysis.configurations import Point
from analysis.cutoff import Cutoff, cutoffs
from analysis.figures import choice
from analysis.figures.drawing import Material, Picture, drawn, names
from analysis.figures.tradeoff import learnt
from analysis.load import Results, Run, rows
from analysis.pareto import Analysis, analyse
from profiler.quantities import Provenance
from profiler.records import Row

SCHEMA_VERSION = 1
MAX_TABLE_ROWS = 1000
MAX_TEXT = 65_536
_HOST = "host"

Cell = str | float | int | None
"""A number is shown to four digits and sorted as a number; None is an empty cell, sorted last."""


@dataclass(frozen=True, slots=True)
class Table:
    """`key` is its id on the page. `n_left_out` rows were too many."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    n_left_out: int = 0

    @classmethod
    def of(cls, key: str, title: str, columns: Sequence[str], cells: Iterable[Sequence[Cell]]) -> Table:
        found = [tuple(row) for row in cells]
        return cls(key, title, tuple(columns), tuple(found[:MAX_TABLE_ROWS]), max(0, len(found) - MAX_TABLE_ROWS))


@dataclass(frozen=True, slots=True)
class Workload:
    """What to choose for one workload, why, and the table behind it."""

    name: str
    recommendation: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    table: Table


@dataclass(frozen=True, slots=True)
class Origin:
    """How one run can be had again."""

    run_id: str
    command: str
    facts: Mapping[str, str]
    texts: Mapping[str, str]


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
    learnt_cutoffs = cutoffs(*learnt(results))
    return Report(
        summary=tuple(_summary(results, tasks)),
        warnings=tuple(results.warnings),
        workloads=tuple(_workload(name, number, shown) for number, (name, shown) in enumerate(tasks.items())),
        cutoffs=_cutoffs(learnt_cutoffs),
        no_cutoffs=_no_cutoffs(learnt_cutoffs),
        pictures=tuple(sorted(pictures, key=lambda picture: _order(picture.name))),
        not_drawn=not_drawn,
        runs=_runs(results),
        failures=_failures(results),
        devices=_devices(results),
        sensors=_sensors(results),
        origins=tuple(_origin(run) for run in results.runs[:MAX_TABLE_ROWS]),
    )


def _order(name: str) -> tuple[int, str]:
    """Decisions first, then what explains them."""
    kinds = ("pareto", "learning", "energy", "timeline", "tradeoff", "power", "calibration")
    kind = name.split("-", 1)[0]
    return kinds.index(kind) if kind in kinds else len(kinds), name


def _summary(results: Results, tasks: Mapping[str, Sequence[choice.Shown]]) -> list[str]:
    n_finished = sum(len(shown) for shown in tasks.values())
    devices = {(run_id, device) for run_id, by_id in results.devices.items() for device in by_id if device != _HOST}
    rows_ = [shown.task for members in tasks.values() for shown in members]
    lines = [
        f"{len(results.runs)} runs, {n_finished} of {len(results.tasks)} tasks finished, {len(results.rounds)} rounds, "
        f"{len({device for _, device in devices})} devices; workloads: {', '.join(tasks)}.",
        *words.origins_of_times(words.TIME_PROVENANCE[task["clock"]] for task in rows_),
        *words.origins_of_energies(Provenance(task["provenance"]) for task in rows_),
    ]
    n_failures = len(results.failures)
    return [*lines, f"{n_failures} failures are on record." if n_failures else "No failure is on record."]


# What to choose


def _workload(name: str, number: int, shown: Sequence[choice.Shown]) -> Workload:
    analysis = analyse([one.task for one in shown])
    cells = [
        (
            point.label,
            _standing(analysis, point),
            point.n,
            point.accuracy,
            point.accuracy_sd,
            point.time_s,
            point.time_sd_s,
            point.time_provenance,
            point.energy_j,
            point.energy_err_j,
            point.provenance.value,
            point.work_done,
            point.n_failures,
            analysis.dominated_by.get(point.label),
        )
        for point in analysis.points
    ]
    columns = (
        *(
            "configuration",
            "on front",
            "n",
            "accuracy",
            "± sd",
            "time (s)",
            "± sd (s)",
            "time is",
            "energy (J)",
            "± err (J)",
        ),
        *("energy is", "work done", "failures", "dominated by"),
    )
    return Workload(
        name,
        analysis.recommendation,
        tuple(_reasons(analysis)),
        (
            f"Energy is {words.ENERGY_TEXT[analysis.energy]}; ± err is its expanded uncertainty, k = 2.",
            *analysis.notes,
            *pareto_table.missing_lines(analysis.points),
        ),
        Table.of(f"configurations-{number}", f"Configurations of {name}", columns, cells),
    )


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


# What was run, and what was measured


def _runs(results: Results) -> Table:
    due: Counter[str] = Counter(results.tasks["run_id"].tolist())
    done: Counter[str] = Counter(results.tasks[results.tasks["finished"].fillna(False)]["run_id"].tolist())
    cells = [
        (
            run.run_id,
            str(run.info.get("wall_time", ""))[:19],
            str(run.info.get("fleet", "")),
            str(run.info.get("experiment", "")),
            words.TIME_PROVENANCE[run.clock],
            f"{done[run.run_id]} of {due[run.run_id]}",
            "interrupted" if run.interrupted else "ended",
        )
        for run in results.runs
    ]
    columns = ("run", "began (UTC)", "fleet", "experiment", "times are", "tasks finished", "state")
    return Table.of("runs", "Runs", columns, cells)


def _failures(results: Results) -> Table:
    columns = ("run", "task", "round", "device", "phase", "reason")
    cells = [
        (row["run_id"], row["task"], row["round"], row["device"] or "", row["phase"], row["reason"][:400])
        for row in rows(results.failures)
    ]
    return Table.of("failures", "Failures", columns, cells)


def _devices(results: Results) -> Table:
    energies = _energies_by_device(results)
    cells = []
    for run_id, by_id in results.devices.items():
        for device, info in sorted(by_id.items()):
            machine = info.get("machine") if isinstance(info.get("machine"), dict) else info
            cells.append(
                (
                    *(run_id, device, _word(info.get("processor")), _word(info.get("launcher"))),
                    _machine(machine or {}),
                    _word(info.get("meter")) or energies.get((run_id, device), "no energy"),
                    _idle_w(info),
                )
            )
    columns = ("run", "device", "processor", "launcher", "machine", "energy is", "idle power (W)")
    return Table.of("devices", "What each device measured", columns, cells)


def _energies_by_device(results: Results) -> dict[tuple[str, str], str]:
    """(run, device) -> `estimated (process)`: all kinds and scopes of the energies of its spans."""
    spans = results.spans
    known = spans[spans["energy_j"].notna() & spans["device"].notna()]
    seen: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    columns = ["run_id", "device", "provenance", "energy_scope"]
    for row in rows(known[columns].drop_duplicates()):
        seen[row["run_id"], row["device"]].add(f"{row['provenance']} ({row['energy_scope']})")
    return {key: ", ".join(sorted(kinds)) for key, kinds in seen.items()}


def _machine(machine: Mapping[str, Any]) -> str:
    told = [_word(machine.get(name)) for name in ("model", "board", "cpu_model", "os", "virtual_machine")]
    return ", ".join(dict.fromkeys(word for word in told if word and word != "unknown"))


def _idle_w(info: Mapping[str, Any]) -> float | None:
    idle = info.get("idle")
    powers = [one.get("power_w") for one in idle if isinstance(one, dict)] if isinstance(idle, list) else []
    known = [float(power) for power in powers if isinstance(power, (int, float)) and not isinstance(power, bool)]
    return sum(known) / len(known) if known else None


def _word(value: object, limit: int = 120) -> str:
    return "" if value is None else printable(str(value))[:limit]


def _sensors(results: Results) -> Table:
    """Sensors of every meter, what is alike in several runs once."""
    counts: Counter[tuple[str, ...]] = Counter()
    for by_id in results.devices.values():
        for device, info in by_id.items():
            listed = info.get("sensors") if isinstance(info.get("sensors"), list) else []
            counts.update(
                _sensor(device, one, _word(info.get("meter"))) for one in listed or [] if isinstance(one, dict)
            )
    columns = ("device", "sensor", "state", "kind", "scope", "why, and what to do", "runs")
    order = {"in use": 0, "available": 1, "refused": 2, "not here": 3}
    found = sorted(counts.items(), key=lambda item: (item[0][0], order[item[0][2]], item[0]))
    return Table.of("sensors", "Sensors: used, refused, absent", columns, [(*key, count) for key, count in found])


def _sensor(device: str, info: Mapping[str, Any], meter: str) -> tuple[str, ...]:
    name = _word(info.get("name"))
    if info.get("available") is True:
        in_use = name in meter.replace("+", " ").split()
        state, why = "in use" if in_use else "available", _word(info.get("notes"), 400)
    else:
        state = "not here" if info.get("absent") is True else "refused"
        why = ". ".join(part for part in (_word(info.get("reason"), 400), _word(info.get("remedy"), 400)) if part)
    return device, name, state, _word(info.get("provenance")), _word(info.get("scope")), why


# How to have it again


def _origin(run: Run) -> Origin:
    info = run.info
    argv = info.get("argv")
    known = isinstance(argv, list) and all(isinstance(word, str) for word in argv)
    command = shlex.join(["python", "-m", "harness.run", *argv]) if known and argv is not None else "not on record"
    texts = {"fleet.toml": _text_of(run), "experiment": _word_text(info.get("experiment_text"))}
    return Origin(run.run_id, command, _facts(info), {name: text for name, text in texts.items() if text})


def _facts(info: Mapping[str, Any]) -> dict[str, str]:
    git = info.get("git") if isinstance(info.get("git"), dict) else {}
    versions = info.get("versions") if isinstance(info.get("versions"), dict) else {}
    host = info.get("host") if isinstance(info.get("host"), dict) else {}
    state = ""
    if git and git.get("commit"):
        state = f"{_word(git['commit'])}{', with changes that are not committed' if git.get('dirty') else ''}"
    return {
        "fedmeter": _word(info.get("fedmeter")) or _word((versions or {}).get("fedmeter")),
        "git": state or "not on record",
        "versions": ", ".join(f"{_word(name)} {_word(value)}" for name, value in sorted((versions or {}).items()))
        or "not on record",
        "host": _machine(host or {}) or "not on record",
    }


def _text_of(run: Run) -> str:
    path = run.path / "fleet.toml"
    try:
        with path.open("rb") as file:
            return _word_text(file.read(MAX_TEXT + 1).decode(errors="replace"))
    except OSError:
        return ""


def _word_text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "\n[cut off here: it is longer]"


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

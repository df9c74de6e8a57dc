"""Our results in the form of one of the paper's tables, each figure beside the paper's own. Pure.

The paper is Mathur et al., "On-device Federated Learning with Flower", 2021 (arXiv 2104.03042), Tables 2a, 2b and 3.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.cli import printable
from analysis.configurations import (
    ENERGY_COLUMNS,
    PARAMETERS,
    EnergyKind,
    grouped,
    has_cutoff,
    why_missing,
    without_repeats,
)
from analysis.paper_forms import FORMS, NO_CUTOFF, Form, Key
from analysis.stats import Interval, mean, mean_interval
from analysis.where import refuse_mixed_workloads, values
from analysis.words import TIME_PROVENANCE
from profiler.errors import ResultsError, UsageError
from profiler.published import Published, paper_table
from profiler.quantities import Provenance, weakest
from profiler.records import Row

_ACROSS = ("training",)  # what may differ within a row: accuracy from runs that train, cost from those that do not


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean over `n` runs and its 95 % interval, None for one run.

    `err` is the mean of the runs' own expanded uncertainties (k = 2), which energies have: it is common to all runs of
    one meter, and no part of the interval.
    """

    mean: float
    interval: Interval | None
    n: int
    err: float | None = None

    @property
    def half_width(self) -> float | None:
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2


@dataclass(frozen=True, slots=True)
class Compared:
    """One quantity of one row: ours and the paper's, None where there is none. `missing` says why ours is."""

    ours: Estimate | None
    paper: float | None
    missing: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the paper's."""
        return None if self.ours is None or self.paper is None else self.ours.mean / self.paper


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row. `runs` are ours, none where the row has not been run; `in_paper` is false for one of ours alone.

    Times and energies are scaled to the paper's number of rounds, each run's own number being in `rounds`.
    """

    key: Key
    in_paper: bool
    runs: tuple[Row, ...]
    accuracy: Compared
    time_s: Compared
    energy_j: Compared
    n_repeats: int

    @property
    def time_provenance(self) -> str:
        """`measured` or `simulated`, empty without runs: runs of one row have one clock."""
        return TIME_PROVENANCE[str(self.runs[0]["clock"])] if self.runs else ""

    @property
    def energy_provenance(self) -> Provenance:
        """The weakest of the runs that have an energy."""
        known = [Provenance(run["provenance"]) for run in self.runs]
        return weakest(kind for kind in known if kind is not Provenance.MISSING)

    @property
    def is_uncut(self) -> bool:
        return self.key[-1] == NO_CUTOFF

    @property
    def rounds(self) -> tuple[int, ...]:
        return tuple(sorted({run["n_rounds"] for run in self.runs}))

    @property
    def taus_s(self) -> tuple[float, ...]:
        """The different τ of its runs, those of none (0) left out."""
        return tuple(sorted({cutoff["tau_s"] for cutoff in self._cutoffs() if cutoff["tau_s"]}))

    @property
    def is_parity(self) -> bool:
        return any(cutoff["kind"] == "parity" for cutoff in self._cutoffs() if cutoff["tau_s"])

    def _cutoffs(self) -> list[Row]:
        """Those of processors that took part."""
        return [run["cutoffs"][name] for run in self.runs for name in run["processors"] if name in run["cutoffs"]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One table. `lines` are the paper's, `energy` the kind of ours or None for none; `n_with_cutoff` were left out."""

    form: Form
    lines: tuple[Published, ...]
    energy: EnergyKind | None
    rows: tuple[TableRow, ...]
    n_with_cutoff: int

    @property
    def rounds(self) -> int:
        """The paper's, to which ours are scaled."""
        return _rounds(self.lines)

    def to_reference(self, row: TableRow) -> float | None:
        """Our time of a row over that of the reference: the fastest without a cutoff, of those the paper has if any."""
        timed = [(other, other.time_s.ours.mean) for other in self.rows if other.time_s.ours is not None]
        for kind in (lambda r: r.in_paper and r.is_uncut, lambda r: r.is_uncut, lambda r: True):
            times_s = [time_s for other, time_s in timed if kind(other)]
            if times_s and row.time_s.ours is not None:
                return row.time_s.ours.mean / min(times_s)
        return None

    def paper_to_reference(self, row: TableRow) -> float | None:
        """The same of the paper."""
        times_s = [other.time_s.paper for other in self.rows if other.is_uncut and other.time_s.paper is not None]
        return row.time_s.paper / min(times_s) if times_s and row.time_s.paper is not None else None


def compare(runs: Sequence[Row], like: str, energy: EnergyKind | None = None) -> Comparison:
    """Some rows of `runs_table` in the form of a table of `FORMS`. `energy` None is the form's own.

    The paper's rows come first, in its order, then what only we have. Raises UsageError where several workloads or
    several configurations of one row are among them, ResultsError where none can be laid out so.
    """
    form = FORMS[like]
    lines = paper_table(form.table)
    refuse_mixed_workloads(printable(run["workload"]) for run in runs)
    fitting = [run for run in runs if form.has_cutoffs or not has_cutoff(run["cutoffs"])]
    if not fitting:
        raise ResultsError(
            f"nothing to lay out like Table {form.table}, which has no cutoff: all {len(runs)} runs have one.",
            remedy="Run the experiment without --cutoffs, or choose --like table3.",
        )
    kind = energy or form.energy
    ours = _by_key(form, fitting, lines)
    paper = {form.paper_key_of(line): line for line in lines}
    extra = sorted((key for key in ours if key not in paper), key=_in_numbers)
    return Comparison(
        form=form,
        lines=lines,
        energy=kind,
        rows=tuple(_row(key, ours.get(key, []), paper.get(key), kind, _rounds(lines)) for key in [*paper, *extra]),
        n_with_cutoff=len(runs) - len(fitting),
    )


def _rounds(lines: Sequence[Published]) -> int:
    """All rows of a table of the paper have as many."""
    (rounds,) = {line.rounds for line in lines if line.rounds is not None}
    return rounds


def _in_numbers(key: Key) -> tuple[tuple[float, str], ...]:
    return tuple((float(cell), "") if re.fullmatch(r"[0-9.]+", cell) else (float("inf"), cell) for cell in key)


def _by_key(form: Form, runs: Sequence[Row], lines: Sequence[Published]) -> dict[Key, list[Row]]:
    """The runs of each row. Raises UsageError where they are of several configurations."""
    found: defaultdict[Key, dict[str, list[Row]]] = defaultdict(dict)
    for label, members in grouped(runs, ignoring=_ACROSS).items():
        found[form.key_of(members[0], lines)][label] = members
    for key, configurations in found.items():
        if len(configurations) > 1:
            raise UsageError(
                f"{len(configurations)} configurations fit the row {form.named(key)} of Table {form.table}: "
                f"{'; '.join(configurations)}.",
                remedy=f"Choose one with {_choices([members[0] for members in configurations.values()])}.",
            )
    return {key: next(iter(configurations.values())) for key, configurations in found.items()}


def _choices(runs: Sequence[Row]) -> str:
    """The filters that tell some configurations apart: by the first parameter that does."""
    names = {"processors": "processor", "cutoffs": "cutoff"}
    for name in PARAMETERS:
        texts = sorted({text for run in runs for text in values(run, name)})
        if name not in _ACROSS and len({tuple(values(run, name)) for run in runs}) > 1:
            return " or ".join(f"--where {names.get(name, name)}={shlex.quote(text)}" for text in texts)
    return "--where"


# One row


def _row(key: Key, members: Sequence[Row], line: Published | None, energy: EnergyKind | None, rounds: int) -> TableRow:
    energy_column, err_column = ENERGY_COLUMNS[energy] if energy is not None else ("", "")
    accuracy, time_s, energy_j = (None, None, None) if line is None else (line.accuracy, line.time_s, line.energy_j)
    return TableRow(
        key=key,
        in_paper=line is not None,
        runs=tuple(members),
        accuracy=_compared(members, "accuracy", accuracy, lambda run: 1.0),
        time_s=_compared(members, "time_s", time_s, lambda run: rounds / run["n_rounds"]),
        energy_j=_compared(members, energy_column, energy_j, lambda run: rounds / run["n_rounds"], err_column)
        if energy is not None
        else Compared(None, energy_j),
        n_repeats=len(members) - len(without_repeats(members, ("time_s", energy_column or "time_s"))),
    )


def _compared(
    members: Sequence[Row], column: str, paper: float | None, scale: Callable[[Row], float], err_column: str = ""
) -> Compared:
    """The mean over the runs that have a value, simulations that repeat one another counted once."""
    known = without_repeats([run for run in members if run[column] is not None], (column,))
    if not known:
        objective = column if column in ("accuracy", "time_s") else "energy_j"
        return Compared(None, paper, why_missing(members, objective, column) if members else "not run")
    scaled = [run[column] * scale(run) for run in known]
    errs = [run[err_column] * scale(run) for run in known if err_column and run[err_column] is not None]
    err = mean(errs) if len(errs) == len(known) else None
    return Compared(Estimate(sum(scaled) / len(scaled), mean_interval(scaled), len(scaled), err), paper)

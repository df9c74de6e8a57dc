"""What a reader must know of a comparison with the paper before comparing: sentences that go with every format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from analysis import words
from analysis.cli import printable
from analysis.paper import Comparison
from analysis.paper_forms import KJ, MIN_S
from analysis.words import ENERGY_TEXT, number


def caption(found: Comparison) -> str:
    """One line: which table, which energy, whose figures."""
    energy = "" if found.energy is None else f" Energy is {ENERGY_TEXT[found.energy]}."
    source, _, _ = found.lines[0].source.rpartition(", Table")
    return f"Like Table {found.form.table}: {found.form.title}, of {found.rounds} rounds.{energy} Paper: {source}."


def notes(found: Comparison) -> list[str]:
    """Statistics, provenance, what differs, what is missing: sentences with no line breaks in them."""
    return [
        "± is the 95 % interval of the mean over n runs (Student's t), which a single run does not have. "
        "Ratios are ours over the paper's.",
        *_provenance(found),
        *_rounds(found),
        _setups(found),
        *_unlike(found),
        *_rows_apart(found),
        *_missing(found),
        *_per_row(found),
    ]


def _provenance(found: Comparison) -> list[str]:
    with_time = [row for row in found.rows if row.time_s.ours is not None]
    with_energy = [row for row in found.rows if row.energy_j.ours is not None]
    told = words.origins_of_times((row.time_provenance for row in with_time), "our ")
    told += words.origins_of_energies((row.energy_provenance for row in with_energy), "our ")
    if any(row.time_provenance == "simulated" for row in with_time):
        told.append(
            "A simulated device whose figures were fitted to the paper's tables agrees with them by construction: see "
            "the sources of its profile."
        )
    told.append("The paper's figures were measured by its authors.")
    if found.energy is not None and found.form.energy_note:
        told.append(f"The paper does not say what its energies cover; {found.form.energy_note}.")
    errs = [
        f"{found.form.named(row.key)} {number(row.energy_j.ours.err / KJ)} kJ"
        for row in with_energy
        if row.energy_j.ours is not None and row.energy_j.ours.err
    ]
    if errs:
        told.append(
            "Beside its ±, each of our energies has an uncertainty of its own (k = 2), which all runs of one meter "
            f"share: {'; '.join(errs)}."
        )
    return told


def _rounds(found: Comparison) -> list[str]:
    ours = sorted({rounds for row in found.rows for rounds in row.rounds})
    if ours in ([], [found.rounds]):
        return []
    return [
        f"Ours ran {_either(ours)} rounds, the paper {found.rounds}: our times and energies are per round, times "
        f"{found.rounds}. Accuracy is not scaled: it is what our rounds gave."
    ]


def _setups(found: Comparison) -> str:
    """What was run, ours and theirs: whatever the table does not show."""
    runs = [run for row in found.rows for run in row.runs]
    line, fixed = found.lines[0], _fixed(found)
    ours = [
        _either({run["workload"] for run in runs}),
        *(f"{sign}={_either({run[name] for run in runs})}" for name, sign in fixed.items()),
        f"batch size {_either({run['batch_size'] for run in runs})}",
        f"on {_either({name for run in runs for name in run['processors']})}",
    ]
    theirs = [
        f"{line.model} on {line.dataset}",
        *(f"{sign}={getattr(line, name)}" for name, sign in fixed.items()),
        f"on {line.device} ({_either({line.processor for line in found.lines})})",
    ]
    return printable(f"Ours: {', '.join(ours)}. The paper's: {', '.join(theirs)}.")


def _unlike(found: Comparison) -> list[str]:
    """E or C that the table does not show and that differ from the paper's."""
    runs = [run for row in found.rows for run in row.runs]
    return [
        f"{sign} is not the paper's, and nothing is scaled for that: time and energy are of {sign}={_either(ours)}."
        for name, sign in _fixed(found).items()
        if (ours := {run[name] for run in runs}) != {getattr(found.lines[0], name)}
    ]


def _fixed(found: Comparison) -> Mapping[str, str]:
    """What all rows of the table have in common, with its sign."""
    return {name: sign for name, sign in (("epochs", "E"), ("clients", "C")) if sign not in found.form.headers}


def _either(values: Iterable[object]) -> str:
    return " or ".join(str(value) for value in sorted(values, key=lambda value: (str(type(value)), value)))


def _rows_apart(found: Comparison) -> list[str]:
    missing = [found.form.named(row.key) for row in found.rows if not row.runs]
    extra = [found.form.named(row.key) for row in found.rows if not row.in_paper]
    told = [f"Missing, in the paper but not run: {'; '.join(missing)}."] if missing else []
    told += [f"Ours alone, not in the paper: {'; '.join(extra)}."] if extra else []
    if found.n_with_cutoff:
        told.append(f"{found.n_with_cutoff} runs with a cutoff are left out: this table has none.")
    return told


def _missing(found: Comparison) -> list[str]:
    """Why a row that was run lacks a quantity."""
    return [
        f"{found.form.named(row.key)}: {compared.missing}."
        for row in found.rows
        for compared in (row.accuracy, row.time_s, row.energy_j)
        if row.runs and compared.missing
    ]


def _per_row(found: Comparison) -> list[str]:
    told = []
    for row in found.rows:
        name = found.form.named(row.key)
        if row.n_repeats:
            told.append(
                f"{name}: {row.n_repeats} simulated runs repeat the seed and the costs of another, which count once."
            )
        if row.in_paper and row.taus_s and row.is_parity:
            minutes = " to ".join(f"{tau_s / MIN_S:.4g}" for tau_s in dict.fromkeys((row.taus_s[0], row.taus_s[-1])))
            told.append(f"{name}: ours is the τ of parity, {minutes} min.")
        n_failures = sum(run["n_failures"] for run in row.runs)
        if n_failures:
            told.append(f"{name}: {n_failures} failures on record.")
    return told

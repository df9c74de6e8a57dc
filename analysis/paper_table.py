"""A comparison with the paper as text, Markdown, LaTeX, CSV and JSON, all from the same `Comparison`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from analysis import markup
from analysis.formats import csv_text
from analysis.paper import Compared, Comparison, TableRow
from analysis.paper_forms import KJ, MIN_S
from analysis.paper_notes import caption, notes
from analysis.stats import MEAN_LEVEL
from analysis.words import number
from profiler.records import Row

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Sheet:
    """The cells of a table as text. `groups` are headings above `headers`: a name, and over how many columns."""

    groups: tuple[tuple[str, int], ...]
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _sheet(found: Comparison) -> _Sheet:
    has_energy = found.energy is not None
    groups = (
        *((name, 1) for name in found.form.headers),
        ("accuracy", 3),
        ("time (min)", 3),
        *([("energy (kJ)", 3)] if has_energy else []),
        *((name, 1) for name in ("n", "time is", *(["energy is"] if has_energy else []))),
    )
    headers = [header for name, n in groups for header in ((name, "paper", "ratio") if n > 1 else (name,))]
    return _Sheet(groups, tuple(headers), tuple(_cells(found, row) for row in found.rows))


def _cells(found: Comparison, row: TableRow) -> tuple[str, ...]:
    times = [
        _ours(row.time_s, MIN_S) + _factor(found.to_reference(row), found),
        _paper(row.time_s, MIN_S) + _factor(found.paper_to_reference(row), found),
        _ratio(row.time_s),
    ]
    energies = [_ours(row.energy_j, KJ), _paper(row.energy_j, KJ), _ratio(row.energy_j)]
    has_energy = found.energy is not None
    return (
        *row.key,
        _ours(row.accuracy, 1.0, decimals=4),
        "" if row.accuracy.paper is None else f"{row.accuracy.paper:.2f}",
        _ratio(row.accuracy),
        *times,
        *(energies if has_energy else []),
        _n_text(row, has_energy=has_energy),
        row.time_provenance,
        *([row.energy_provenance.value if row.runs else ""] if has_energy else []),
    )


def _ours(compared: Compared, unit: float, *, decimals: int | None = None) -> str:
    if compared.ours is None:
        return "missing"
    half = compared.ours.half_width
    spread = None if half is None else half / unit
    return number(compared.ours.mean / unit, spread, decimals=decimals, at_least=2)


def _paper(compared: Compared, unit: float) -> str:
    """As the paper prints it: five significant digits hold all that it has."""
    return "" if compared.paper is None else f"{compared.paper / unit:.5g}"


def _ratio(compared: Compared) -> str:
    if compared.ratio is None:
        return ""
    return f"{compared.ratio:.3f}" if abs(compared.ratio) >= 0.001 else f"{compared.ratio:.1e}"


def _factor(ratio: float | None, found: Comparison) -> str:
    """` (1.27x)`: to the fastest row without a cutoff, in the table of cutoffs."""
    return f" ({ratio:.2f}x)" if ratio is not None and found.form.has_cutoffs else ""


def _n_text(row: TableRow, *, has_energy: bool) -> str:
    """`3`, or `3/20/20` where accuracy, time and energy are of different numbers of runs."""
    compared = (row.accuracy, row.time_s, *([row.energy_j] if has_energy else []))
    counts = [0 if one.ours is None else one.ours.n for one in compared]
    return str(counts[0]) if len(set(counts)) == 1 else "/".join(map(str, counts))


# The formats


def text(found: Comparison) -> str:
    """For a terminal."""
    sheet = _sheet(found)
    table = tabulate(sheet.rows, headers=sheet.headers, disable_numparse=True, tablefmt="simple")
    return "\n".join([caption(found), "", table, "", *notes(found)]) + "\n"


def markdown(found: Comparison) -> str:
    """A pipe table (GitHub's) between its caption and its notes."""
    sheet = _sheet(found)
    rows = [[markup.markdown(cell) for cell in row] for row in sheet.rows]
    headers = [markup.markdown(header) for header in sheet.headers]
    table = tabulate(rows, headers=headers, disable_numparse=True, tablefmt="pipe")
    told = "\n".join(f"- {markup.markdown(note)}" for note in notes(found))
    return f"{markup.markdown(caption(found))}\n\n{table}\n\n{told}\n"


def latex(found: Comparison) -> str:
    """A `table` with a booktabs `tabular`, its caption, and its notes below."""
    sheet = _sheet(found)
    n_labels, n_origins = len(found.form.headers), 1 if found.energy is None else 2
    columns = "@{}" + "l" * n_labels + "r" * (sum(n for _, n in sheet.groups if n > 1) + 1) + "l" * n_origins + "@{}"
    heads = [rf"\multicolumn{{{n}}}{{c}}{{{markup.latex(name) if n > 1 else ''}}}" for name, n in sheet.groups]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{markup.latex(caption(found))}}}",
        r"\footnotesize\setlength{\tabcolsep}{2.5pt}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        " ".join(_rules(sheet)),
        " & ".join(_latex_headers(sheet)) + r" \\",
        r"\midrule",
        *(" & ".join(markup.latex(cell) for cell in row) + r" \\" for row in sheet.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\medskip",
        r"\begin{minipage}{\linewidth}",
        *(markup.latex(note) + r"\par" for note in notes(found)),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_headers(sheet: _Sheet) -> list[str]:
    inner = [own for name, n in sheet.groups for own in (("ours", "paper", "ratio") if n > 1 else (name,))]
    return [markup.latex(name) for name in inner]


def _rules(sheet: _Sheet) -> list[str]:
    rules, first = [], 1
    for _, n in sheet.groups:
        if n > 1:
            rules.append(rf"\cmidrule(lr){{{first}-{first + n - 1}}}")
        first += n
    return rules


def json_text(found: Comparison) -> str:
    return json.dumps(document(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def document(found: Comparison) -> Row:
    """One JSON object, in SI units."""
    return {
        "schema": SCHEMA_VERSION,
        "table": found.form.table,
        "caption": caption(found),
        "source": found.lines[0].source,
        "energy": found.energy,
        "rounds": found.rounds,
        "level": MEAN_LEVEL,
        "units": {"accuracy": "1", "time_s": "s", "energy_j": "J"},
        "row_headers": list(found.form.headers),
        "rows": [_row(found, row) for row in found.rows],
        "missing": [list(row.key) for row in found.rows if not row.runs],
        "extra": [list(row.key) for row in found.rows if not row.in_paper],
        "notes": notes(found),
    }


def csv_table(found: Comparison) -> str:
    """One line a row; `accuracy.ours`, `accuracy.paper`, ..., in SI units."""
    return csv_text([_flat(_row(found, row), found.form.headers) for row in found.rows])


def _flat(row: Row, headers: Sequence[str]) -> Row:
    flat: Row = dict(zip(headers, row.pop("row"), strict=True))
    for name, value in row.items():
        flat |= {f"{name}.{part}": one for part, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _row(found: Comparison, row: TableRow) -> Row:
    energy: Row = {}
    if found.energy is not None:
        energy["energy_j"] = _compared(row.energy_j) | {
            "err": None if row.energy_j.ours is None else row.energy_j.ours.err
        }
        energy["energy_provenance"] = row.energy_provenance.value if row.runs else None
    reference = {"to_reference": found.to_reference(row), "paper_to_reference": found.paper_to_reference(row)}
    return {
        "row": list(row.key),
        "in_paper": row.in_paper,
        "accuracy": _compared(row.accuracy),
        "time_s": _compared(row.time_s) | (reference if found.form.has_cutoffs else {}),
        "time_provenance": row.time_provenance or None,
        **energy,
        "taus_s": list(row.taus_s),
        "rounds": list(row.rounds),
        "n_repeats": row.n_repeats,
        "tasks": sorted({run["task"] for run in row.runs}),
        "runs": sorted({run["run_id"] for run in row.runs}),
    }


def _compared(compared: Compared) -> Row:
    ours = compared.ours
    return {
        "ours": None if ours is None else ours.mean,
        "interval": None if ours is None or ours.interval is None else list(ours.interval),
        "n": 0 if ours is None else ours.n,
        "paper": compared.paper,
        "ratio": compared.ratio,
        "missing": compared.missing or None,
    }


FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": csv_table,
    "json": json_text,
}

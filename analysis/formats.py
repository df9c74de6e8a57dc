"""Tables as people cite them: as text for a terminal, Markdown, LaTeX, CSV, or JSON."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from analysis import markup
from profiler.errors import UsageError

FORMATS = ("text", "markdown", "latex", "csv", "json")


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: a row is a mapping from header to cell, and all have the same headers."""

    rows: Sequence[Mapping[str, str]]


Block = str | Grid
"""A paragraph of one line or several, or a table."""


def add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=FORMATS, help="how to print it (default text); --json is for json")


def format_of(arguments: argparse.Namespace) -> str:
    """Raises UsageError where --json and --format contradict each other."""
    if arguments.json and arguments.format not in (None, "json"):
        raise UsageError(f"--json and --format {arguments.format} contradict each other.", remedy="Give one of them.")
    return "json" if arguments.json else arguments.format or "text"


def text(blocks: Sequence[Block]) -> str:
    """For a terminal."""
    return _rendered(blocks, lambda grid: _tabulated(grid, "simple", str), "\n".join)


def markdown(blocks: Sequence[Block]) -> str:
    """Pipe tables (GitHub's); a paragraph of several lines is a list."""

    def lines(some: Sequence[str]) -> str:
        bullet = "- " if len(some) > 1 else ""
        return "\n".join(f"{bullet}{markup.markdown(line)}" for line in some)

    return _rendered(blocks, lambda grid: _tabulated(grid, "pipe", markup.markdown), lines)


def latex(blocks: Sequence[Block]) -> str:
    """Booktabs `tabular`s between paragraphs."""
    told = _rendered(blocks, _latex_grid, lambda lines: "\n".join(f"{markup.latex(line)}\\par" for line in lines))
    return f"% needs \\usepackage{{booktabs}}\n{told}"


def _rendered(blocks: Sequence[Block], grid: Callable[[Grid], str], lines: Callable[[Sequence[str]], str]) -> str:
    parts = [
        grid(block) if isinstance(block, Grid) else lines([line for line in block.splitlines() if line])
        for block in blocks
    ]
    return "\n\n".join(part for part in parts if part)


def _tabulated(grid: Grid, form: str, escaped: Callable[[str], str]) -> str:
    rows = [{escaped(name): escaped(cell) for name, cell in row.items()} for row in grid.rows]
    return tabulate(rows, headers="keys", disable_numparse=True, tablefmt=form)


def _latex_grid(grid: Grid) -> str:
    headers = list(grid.rows[0]) if grid.rows else []
    cells = [headers, *([row[name] for name in headers] for row in grid.rows)]
    head, *body = (" & ".join(map(markup.latex, line)) + r" \\" for line in cells)
    columns = f"@{{}}{'l' * len(headers)}@{{}}"
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    )


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a row, in SI units and full precision; an empty cell is a missing value, what is nested is JSON."""
    sink = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sink, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return sink.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, allow_nan=False) if value else None
    return value


def rendered(
    how: str, blocks: Sequence[Block], rows: Callable[[], Sequence[Mapping[str, Any]]], document: object
) -> str:
    """In one of `FORMATS`: `blocks` for people, `rows` for CSV, `document` for JSON. Ends with a newline."""
    if how == "csv":
        return csv_text(rows())
    if how == "json":
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return {"text": text, "markdown": markdown, "latex": latex}[how](blocks) + "\n"

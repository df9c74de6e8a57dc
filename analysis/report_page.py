"""A report as one HTML page that needs nothing else: no network, no other file, no library.

The page's own script and style are named by their hashes in its Content-Security-Policy, so that nothing else on it
runs, not even markup that slipped through the escaping; figures are images in data URIs, in which scripts never run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from analysis import words
from analysis.figures.drawing import Picture
from analysis.hypertext import Html, element, join, lines
from analysis.report_content import Report, Workload
from analysis.report_record import Cell, Origin, Table

MAX_SVG_BYTES = 400_000
"""A larger figure goes in as PNG, whose size its pixels bound."""
_FILTER_FROM_ROWS = 4
_LONG = 40  # letters: such a cell gets lines of its own, all others stay on one
_CSP = (
    "default-src 'none'; img-src data:; script-src 'sha256-{script}'; style-src 'sha256-{style}'; "
    "base-uri 'none'; form-action 'none'"
)
_PARTS = re.compile(r"<!-- (csp|title|body) -->")


def page(report: Report, title: str) -> str:
    """The whole page."""
    template = files("analysis").joinpath("report.html").read_text(encoding="utf-8")
    parts = {
        "csp": element("meta", http_equiv="Content-Security-Policy", content=_policy(template)),
        "title": element("title", title),
        "body": _body(report, title),
    }
    return _PARTS.sub(lambda found: parts[found[1]], template)


def _policy(template: str) -> str:
    return _CSP.format(script=_hash(template, "script"), style=_hash(template, "style"))


def _hash(template: str, tag: str) -> str:
    """As CSP level 3 wants it (W3C, 8.4): base64 of SHA-256 of the text between the tags."""
    inner = template.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()


def _body(report: Report, title: str) -> Html:
    sections = [
        _section(
            "choose",
            "What to choose",
            *map(_workload, report.workloads),
            _table(report.cutoffs),
            _list(report.no_cutoffs, "notes"),
        ),
        _section("figures", "Figures", *map(_figure, report.pictures), _list(_not_drawn(report.not_drawn), "notes")),
        _section("ran", "What was run", _table(report.runs), _list(report.warnings)),
        _section("failures", "Failures", _table(report.failures, "No failure is on record.")),
        _section(
            "measured",
            "What was measured, and what was not",
            _table(report.devices),
            _table(report.sensors, "No sensor of a meter is on record."),
        ),
        _section("reproduce", "How to have it again", *map(_origin, report.origins)),
    ]
    links = [("choose", "Choose"), ("figures", "Figures"), ("ran", "Runs"), ("failures", "Failures")]
    links += [("measured", "Measured"), ("reproduce", "Reproduce")]
    header = element(
        "header",
        element("h1", title),
        _list(report.summary, class_="summary"),
        element("nav", *(element("a", name, href=f"#{key}") for key, name in links)),
    )
    return join([header, element("main", *sections)])


def _section(key: str, title: str, *children: str) -> Html:
    return element("section", element("h2", title), *children, id=key)


def _list(sentences: Iterable[str], class_: str | None = None) -> Html:
    items = [element("li", sentence) for sentence in sentences]
    return element("ul", *items, class_=class_) if items else Html("")


def _workload(one: Workload) -> Html:
    choice = element("p", one.recommendation, class_="choice")
    return join([element("h3", one.name), choice, _list(one.reasons), _table(one.table), _list(one.notes, "notes")])


def _table(table: Table, if_empty: str = "") -> Html:
    """A table whose headings sort and whose field filters, where there is something to sort."""
    if not table.rows:
        return element("p", if_empty or f"{table.title}: none.")
    used = [
        column for column, cells in enumerate(zip(*table.rows, strict=True)) if any(c not in (None, "") for c in cells)
    ]
    head = element("tr", *(_heading(table, column) for column in used))
    body = [element("tr", *(_cell(row[column]) for column in used)) for row in table.rows]
    children: list[str] = [element("h3", table.title)]
    if len(body) >= _FILTER_FROM_ROWS:
        children.append(_filter(table))
    grid = element("table", element("thead", head), element("tbody", *body), id=table.key)
    children.append(element("div", grid, class_="wide", tabindex="0", role="region", aria_label=table.title))
    if table.n_left_out:
        children.append(element("p", f"{table.n_left_out} more rows are left out here.", class_="notes"))
    return join(children)


def _heading(table: Table, column: int) -> Html:
    button = element("button", table.columns[column], type="button")
    kind = "number" if any(isinstance(row[column], (int, float)) for row in table.rows) else None
    return element("th", button, scope="col", class_=kind)


def _filter(table: Table) -> Html:
    field = element("input", type="search", aria_label=f"Filter: {table.title}", placeholder="filter rows")
    count = element("output", f"{len(table.rows)} rows", aria_live="polite")
    return element("p", field, " ", count, class_="filter", data_table=table.key)


def _cell(cell: Cell) -> Html:
    if isinstance(cell, str):
        return element("td", cell, class_="long" if len(cell) > _LONG else None)
    if cell is None:
        return element("td", data_sort="")
    shown = str(cell) if isinstance(cell, int) else words.number(cell)
    return element("td", shown, class_="number", data_sort=repr(cell))


def _figure(picture: Picture) -> Html:
    svg = picture.encoded("svg")
    kind, data = ("svg+xml", svg) if len(svg) <= MAX_SVG_BYTES else ("png", picture.encoded("png"))
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    image = element("img", src=source, alt=f"{picture.title}. {picture.caption}")
    frame = element("div", image, class_="wide paper", tabindex="0", role="region", aria_label=picture.title)
    return element(
        "figure", element("h3", picture.title), frame, element("figcaption", picture.caption), id=picture.name
    )


def _not_drawn(reasons: Mapping[str, str]) -> Sequence[str]:
    return [f"{name}: {reason}" for name, reason in reasons.items()]


def _origin(one: Origin) -> Html:
    facts = [child for name, fact in one.facts.items() for child in (element("dt", name), element("dd", fact))]
    texts = [
        element("details", element("summary", name), element("pre", lines(content)))
        for name, content in one.texts.items()
    ]
    return join([element("h3", one.run_id), element("pre", lines(one.command)), element("dl", *facts), *texts])

"""The same comparison in four formats: each is whole, parses, and shows hostile labels as they are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis import markup, pareto
from analysis.load import load, rows
from analysis.paper import Comparison, compare
from analysis.paper_notes import caption, notes
from analysis.paper_table import FORMATS
from analysis.runs import runs_table
from tests.fixtures import markdown, paper_tables
from tests.fixtures.results_folder import RunFolder, Task

HOSTILE = "a_b&c%$#{}~^<script>|\"`'\\end{tabular}\\input{x}[3cm]*--?`é中±\x1b[2J\n"
SHOWN = HOSTILE.replace("\x1b", "?").replace("\n", "?")
OTHERS = ("[3cm]", "*", "-")
LIKE = {"table2a": paper_tables.table_2a, "table2b": paper_tables.table_2b, "table3": paper_tables.table_3}


def papers(root: Path, like: str) -> Comparison:
    return compare(rows(runs_table(load([LIKE[like](root)]))), like)


def hostile(root: Path) -> Comparison:
    """Rows whose first cell is each of the hostile labels, and a workload of that name."""
    tasks = [
        Task(f"t{n}", epochs=10, clients=10, workload=HOSTILE, processors={label: 10})
        for n, label in enumerate((HOSTILE, *OTHERS))
    ]
    RunFolder(root, clock="simulated").write(tasks)
    return compare(rows(runs_table(load([root]))), "table3", "gross")


def cells_of(latex: str) -> list[list[str]]:
    body = latex.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    return [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in body.strip().splitlines()]


@pytest.mark.parametrize("like", list(LIKE))
def test_all_formats_have_the_same_cells(tmp_path: Path, like: str) -> None:
    found = papers(tmp_path, like)
    [table] = markdown.read(FORMATS["markdown"](found)).tables
    text = FORMATS["text"](found).splitlines()
    assert [re.split(r"\s{2,}", line.strip()) for line in text[4 : 4 + len(found.rows)]] == table[1:]
    assert re.split(r"\s{2,}", text[2].strip()) == table[0]
    latex = FORMATS["latex"](found)
    assert [[cell.strip() for cell in row] for row in cells_of(latex)] == [
        [markup.latex(cell) for cell in row] for row in table[1:]
    ]
    content = json.loads(FORMATS["json"](found))
    assert len(content["rows"]) == len(table) - 1
    assert [row["row"] for row in content["rows"]] == [row[: len(content["row_headers"])] for row in table[1:]]
    assert all(row.count("1.000") == (2 if like == "table3" else 3) for row in table[1:])


@pytest.mark.parametrize("like", list(LIKE))
def test_every_format_says_the_same_sentences(tmp_path: Path, like: str) -> None:
    found = papers(tmp_path, like)
    told = [caption(found), *notes(found)]
    assert told == [line for line in FORMATS["text"](found).splitlines() if line in told]
    content = json.loads(FORMATS["json"](found))
    assert [content["caption"], *content["notes"]] == told
    assert markdown.read(FORMATS["markdown"](found)).items == told[1:]
    assert all(markup.latex(line) in FORMATS["latex"](found) for line in told)


@pytest.mark.parametrize("like", list(LIKE))
def test_latex_has_as_many_cells_as_columns(tmp_path: Path, like: str) -> None:
    latex = FORMATS["latex"](papers(tmp_path, like))
    columns = re.search(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", latex)
    assert columns is not None
    assert {len(row) for row in cells_of(latex)} == {len(columns[1])}
    above = latex.partition(r"\toprule")[2].partition(r"\cmidrule")[0]
    assert sum(int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", above)) == len(columns[1])
    assert re.findall(r"\\(?:begin|end)\{\w+\}", latex) == [
        r"\begin{table}",
        r"\begin{tabular}",
        r"\end{tabular}",
        r"\begin{minipage}",
        r"\end{minipage}",
        r"\end{table}",
    ]


def test_hostile_labels_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    found = hostile(tmp_path)
    for name, form in FORMATS.items():
        assert "\x1b" not in form(found), name
    page = markdown.read(FORMATS["markdown"](found))
    [table] = page.tables
    assert {row[0] for row in table[1:]} == {"GPU", "CPU", SHOWN, *OTHERS}
    assert {len(row) for row in table} == {14}
    assert page.elements <= {"p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert any(SHOWN in item for item in page.items)
    labels = [row["row"][0] for row in json.loads(FORMATS["json"](found))["rows"]]
    assert SHOWN in labels
    latex = FORMATS["latex"](found)
    assert latex.count(r"\end{tabular}") == 1
    assert r"\input" not in latex
    assert {len(row) for row in cells_of(latex)} == {14}


def test_hostile_labels_in_the_report_of_pareto(tmp_path: Path) -> None:
    label = HOSTILE.replace("中", "$")  # the figure's font has no such letter, and $ begins mathematics
    RunFolder(tmp_path).write(
        [Task("a", workload=label, processors={label: 2}), Task("b", workload=label, processors={"x": 2})]
    )
    assert pareto.main([str(tmp_path)]) == 0
    page = markdown.read((tmp_path / "analysis" / "pareto.md").read_text())
    [table] = page.tables
    assert {len(row) for row in table} == {9}
    assert any(SHOWN.replace("中", "$") in row[0] for row in table)
    assert page.elements <= {"h1", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "img"}


@pytest.mark.parametrize("which", [*LIKE, "hostile"])
def test_latex_compiles(tmp_path: Path, which: str) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    found = hostile(tmp_path / "r") if which == "hostile" else papers(tmp_path / "r", which)
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "page.tex").write_text(f"{head}\n{FORMATS['latex'](found)}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout
    if which != "hostile":
        assert "Overfull" not in done.stdout

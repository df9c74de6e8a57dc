"""Every command prints what it found in each format, and says the same in all of them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from analysis import cutoff, formats, pareto, recommend, tables
from analysis.formats import Grid
from tests.fixtures import markdown
from tests.fixtures.calibrations import calibration
from tests.fixtures.timed_rounds import e_tasks, write_timed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_timed(tmp_path / "results", e_tasks())
    return tmp_path / "results"


def printed(capsys: pytest.CaptureFixture[str], root: Path, command: str, *options: str) -> str:
    mains = {"pareto": pareto.main, "cutoff": cutoff.main, "recommend": recommend.main, "tables": tables.main}
    own = {"recommend": ["--calibration", str(root.parent / "new.json")], "tables": ["--like", "table2a"]}
    (root.parent / "new.json").write_text(calibration().as_json())
    mains[command]([str(root), *own.get(command, []), *options])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["pareto", "cutoff", "recommend", "tables"])
def test_each_command_prints_each_format(capsys: pytest.CaptureFixture[str], root: Path, command: str) -> None:
    text = printed(capsys, root, command)
    assert printed(capsys, root, command, "--format", "text") == text
    assert markdown.read(printed(capsys, root, command, "--format", "markdown")).tables
    assert r"\toprule" in printed(capsys, root, command, "--format", "latex")
    rows = list(csv.DictReader(io.StringIO(printed(capsys, root, command, "--format", "csv"))))
    content = json.loads(printed(capsys, root, command, "--json"))
    content.pop("wall_time", None)
    again = json.loads(printed(capsys, root, command, "--format", "json"))
    again.pop("wall_time", None)
    assert content == again
    lines = next(content[name] for name in ("points", "cutoffs", "rows") if name in content)
    assert len(rows) == len(lines) > 0
    assert printed(capsys, root, command, "--json", "--format", "csv") == ""


GRID = Grid([{"a_b": "1 % | x", "c": "<i>"}, {"a_b": "ä", "c": ""}])
BLOCKS = ["one *line*", GRID, "", "first\nsecond $5"]


def test_text_shows_everything_as_it_is() -> None:
    assert formats.text(BLOCKS).splitlines()[0] == "one *line*"
    assert "1 % | x  <i>" in formats.text(BLOCKS)
    assert formats.text(BLOCKS).endswith("first\nsecond $5")


def test_markdown_obeys_nothing_of_what_it_shows() -> None:
    page = markdown.read(formats.markdown(BLOCKS))
    assert page.tables == [[["a_b", "c"], ["1 % | x", "<i>"], ["ä", ""]]]
    assert page.items == ["first", "second $5"]
    assert "em" not in page.elements


def test_latex_escapes_what_it_shows() -> None:
    told = formats.latex(BLOCKS)
    assert r"1 \% \textbar{} x & \textless{}i\textgreater{} \\" in told
    assert r"second \$5\par" in told
    assert r"a\_b & c \\" in told


def test_csv_keeps_what_is_missing_and_nested() -> None:
    rows = [{"a": 0.1 + 0.2, "b": None, "c": [1, 2]}, {"a": 1, "d": {"x": 'he said "hi"'}}]
    read = list(csv.DictReader(io.StringIO(formats.csv_text(rows))))
    assert float(read[0]["a"]) == 0.1 + 0.2
    assert (read[0]["b"], json.loads(read[0]["c"]), read[0]["d"]) == ("", [1, 2], "")
    assert json.loads(read[1]["d"]) == {"x": 'he said "hi"'}

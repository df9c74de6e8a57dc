"""The published figures that ship are those of their sources, and a file of such figures is read strictly."""

from __future__ import annotations

import csv
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import profiler
from profiler.errors import SpecError
from profiler.published import COLUMNS, MAX_CHARS, Published, paper_table, published, read_published
from profiler.spec import parse_toml
from tests.fixtures.data import device_data

# Of no device: the page that gives it does not say on what it ran.
_OF_NO_DEVICE = {"stm32-mnist"}
_PREFIXES = {"seed": "mathur-", "FLASH": "flash-", "FedZero code": "fedzero-", "abstract": "mei-"}
CELLS = {
    "id": "a",
    "source": "its datasheet",
    "quantity_kind": "measured",
    "device": "Board",
    "step_time_s": "0.5",
    "power_w": "3",
}


def file_of(*rows: dict[str, str]) -> str:
    return "\n".join([",".join(COLUMNS), *(",".join(row.get(name, "") for name in COLUMNS) for row in rows)]) + "\n"


def collected() -> list[dict[str, str]]:
    with (device_data() / "published_measurements.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["id"] not in _OF_NO_DEVICE]


def number(cell: str, factor: float = 1.0) -> float | None:
    return float(cell) * factor if cell else None


def test_every_line_has_a_source_and_a_figure() -> None:
    lines = published()
    assert len({line.id for line in lines}) == len(lines)
    assert all(len(line.source) > 30 for line in lines)


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("2a", [(1, 17.63, 10.21, 0.48), (5, 36.83, 50.54, 0.64), (10, 80.32, 100.95, 0.67)]),
        ("2b", [(5, 30.7, 10.4, 0.84), (5, 31.3, 19.72, 0.85), (5, 31.8, 28.0, 0.87)]),
        ("3", [(10, 80.32, None, 0.67), (10, 102, None, 0.67), (10, 89.15, None, 0.66), (10, 80.34, None, 0.63)]),
    ],
)
def test_the_papers_tables(table: str, rows: list[tuple[int, float, float | None, float]]) -> None:
    lines = paper_table(table)
    found = [(line.epochs, line.time_s, line.energy_j, line.accuracy) for line in lines]
    assert found == [
        (epochs, pytest.approx(minutes * 60), None if kj is None else pytest.approx(kj * 1000), accuracy)
        for epochs, minutes, kj, accuracy in rows
    ]
    assert [line.clients for line in lines] == ([4, 7, 10] if table == "2b" else [10] * len(rows))
    assert {line.rounds for line in lines} == {20 if table == "2b" else 40}
    if table == "3":
        taus = [(line.processor, line.tau_s) for line in lines]
        assert taus == [("GPU", 0), ("CPU", 0), ("CPU", pytest.approx(2.23 * 60)), ("CPU", pytest.approx(1.99 * 60))]


def test_they_are_the_collected_ones_in_si_units() -> None:
    """The same lines in the same order, each figure times its unit."""
    ours, theirs = published(), collected()
    assert len(ours) == len(theirs)
    for line, row in zip(ours, theirs, strict=True):
        assert line.id.startswith(_PREFIXES[row["source"]])
        assert (line.table, line.quantity_kind) == (row["table"], row["quantity_kind"])
        figures = (line.accuracy, line.tau_s, line.time_s, line.energy_j, line.step_time_s, line.step_time_sd_s)
        expected = (
            number(row["accuracy"]),
            number(row["tau_min"], 60),
            number(row["total_time_min"], 60),
            number(row["total_energy_kJ"], 1000),
            number(row["time_per_unit_s"]),
            number(row["time_sd_s"]),
        )
        assert [figure is None for figure in figures] == [figure is None for figure in expected], line.id
        known = [(a, b) for a, b in zip(figures, expected, strict=True) if a is not None and b is not None]
        assert [a for a, _ in known] == pytest.approx([b for _, b in known], rel=1e-12), line.id
        counts = (line.clients, line.epochs, line.rounds)
        assert counts == tuple(int(row[name]) if row[name] else None for name in ("clients", "local_epochs", "rounds"))
        assert line.power_w == number(row["power_w"])
        if line.power_w is not None and line.step_time_s is not None:
            assert line.power_w * line.step_time_s == pytest.approx(float(row["energy_per_unit_J"]), rel=1e-3)
        assert row["processor"].startswith(line.processor)
        assert row["dataset"] == line.dataset


def test_steps_whose_size_the_source_does_not_give_have_none() -> None:
    """FLASH's code names the batch of Shakespeare alone."""
    sizes = {line.id: line.examples_per_step for line in published() if line.id.startswith("flash-")}
    assert {name for name, size in sizes.items() if size is not None} == {
        name for name in sizes if "shakespeare" in name
    }
    assert set(sizes.values()) == {None, 100}


def test_a_line_becomes_what_it_says() -> None:
    (line,) = read_published(file_of(CELLS), "figures.csv")
    assert (line.id, line.step_time_s, line.power_w, line.time_s, line.note) == ("a", 0.5, 3.0, None, "")


WHOLE_TABLE = {"processor": "GPU", "clients": "10", "epochs": "1", "rounds": "40", "tau_s": "0", "accuracy": "0.5"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": ""}, "'source' is '': is needed"),
        ({"id": ""}, "'id'"),
        ({"device": " Board"}, "'device'"),
        ({"device": "\x1b[2J"}, "'device'"),
        ({"quantity_kind": "hearsay"}, "must be one of measured, datasheet, ratio"),
        ({"step_time_s": "fast"}, "'step_time_s' is 'fast': must be a plain decimal number"),
        ({"step_time_s": "nan"}, "'step_time_s'"),
        ({"step_time_s": "-1"}, "'step_time_s'"),
        ({"step_time_s": "1e3"}, "'step_time_s'"),
        ({"step_time_s": "1_0"}, "'step_time_s'"),
        ({"step_time_s": "1" * 13}, "'step_time_s'"),
        ({"step_time_s": "0"}, "'step_time_s' is '0': must be more than 0"),
        ({"step_time_s": "٣"}, "'step_time_s'"),
        ({"accuracy": "1.5"}, "'accuracy' is '1.5': must be at most 1"),
        ({"clients": "2.5"}, "'clients'"),
        ({"clients": "0"}, "'clients'"),
        ({"step_time_s": "", "power_w": ""}, "no figure"),
        ({"quantity_kind": "ratio"}, "'quantity_kind' ratio goes with"),
        ({"time_ratio": "3"}, "'quantity_kind' ratio goes with"),
        ({"quantity_kind": "ratio", "time_ratio": "3"}, "'ratio_to'"),
        ({"table": "2a", **WHOLE_TABLE}, "'time_s' is missing from a line of the paper's Table 2a"),
        ({"note": "x" * 401}, "longer than 400 characters"),
    ],
)
def test_every_mistake_is_told_by_file_line_and_column(changes: dict[str, str], said: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_published(file_of({**CELLS, "id": "good"}, {**CELLS, **changes}), "boards/figures.csv")
    assert str(raised.value).startswith("boards/figures.csv, line 3: ")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: not the columns"),
        (file_of().replace("time_s", "time_min", 1), "line 1: unknown column 'time_min'. Did you mean 'time_s'?"),
        (file_of().replace("id,source", "source,id"), "line 1: not the columns"),
        (file_of(CELLS, CELLS), "line 3: 'id' a is there twice"),
        (file_of() + "a,b\n", "line 2: 2 cells for"),
        (file_of() + '"a"b\n', "line 2: "),
        ("x" * (MAX_CHARS + 1), "more than"),
    ],
)
def test_what_is_no_such_file(text: str, said: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_published(text, "figures.csv")
    assert said in str(raised.value)


@given(st.text(max_size=300))
def test_whatever_the_text_it_is_read_or_refused(text: str) -> None:
    for head in ("", file_of(CELLS)):
        try:
            lines = read_published(head + text, "figures.csv")
        except SpecError:
            continue
        assert all(isinstance(line, Published) for line in lines)


def test_it_ships() -> None:
    """As package data: a pattern of pyproject.toml takes every file in devices/ into a wheel."""
    package = Path(profiler.__file__).parent
    project = parse_toml((package.parent / "pyproject.toml").read_text(), "pyproject.toml").rest()
    patterns = project["tool"]["setuptools"]["package-data"]["profiler"]
    names = [f"devices/{path.name}" for path in (package / "devices").iterdir()]
    assert "devices/published.csv" in names
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []

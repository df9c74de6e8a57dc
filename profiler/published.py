"""Published figures of devices, with their sources: `devices/published.csv`, the tables of the paper among them.

The paper is Mathur et al., "On-device Federated Learning with Flower", 2021 (arXiv 2104.03042). An empty cell is a
figure that the source does not give. Nothing here was measured by us; `quantity_kind` says how a figure came about.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

from profiler.errors import SpecError, nearest

KINDS = ("measured", "datasheet", "ratio")
MAX_CHARS = 1 << 20
_MAX_CELL_CHARS = 400
_FIGURES = ("accuracy", "time_s", "energy_j", "step_time_s", "power_w", "time_ratio", "energy_ratio")
_OF_A_TABLE = ("processor", "clients", "epochs", "rounds", "tau_s", "accuracy", "time_s")
_REMEDY = "Every line has a source and a figure; units are those of the column's name."


@dataclass(frozen=True, slots=True)
class Published:
    """One line. `table` is that of the paper, or empty; `tau_s` 0 means no cutoff.

    `time_s` and `energy_j` are of all rounds. A step is a batch of `examples_per_step`, None where the source does not
    say of how many. Ratios are to the device `ratio_to`.
    """

    id: str
    source: str
    quantity_kind: str
    device: str
    table: str
    processor: str
    framework: str
    model: str
    dataset: str
    clients: int | None
    epochs: int | None
    rounds: int | None
    tau_s: float | None
    accuracy: float | None
    time_s: float | None
    energy_j: float | None
    step_time_s: float | None
    step_time_sd_s: float | None
    examples_per_step: int | None
    power_w: float | None
    time_ratio: float | None
    energy_ratio: float | None
    ratio_to: str
    note: str


COLUMNS = tuple(field.name for field in fields(Published))


def published() -> tuple[Published, ...]:
    """Those that ship. Raises SpecError where the file is wrong."""
    entry = files("profiler") / "devices" / "published.csv"
    return read_published(entry.read_text(encoding="utf-8"), "devices/published.csv")


def paper_table(table: str) -> tuple[Published, ...]:
    """The lines of one table of the paper: 2a, 2b or 3. Each has all columns but energy, which Table 3 lacks."""
    return tuple(line for line in published() if line.table == table)


def read_published(text: str, where: str) -> tuple[Published, ...]:
    """Every line of such a file. Raises SpecError that names `where`, the line and the column."""
    if len(text) > MAX_CHARS:
        raise SpecError(f"{where}: more than {MAX_CHARS} characters.")
    reader = csv.reader(io.StringIO(text), strict=True)
    found: dict[str, Published] = {}
    try:
        _check_header(next(reader, []), where)
        for cells in reader:
            line = _line(cells)
            if line.id in found:
                raise ValueError(f"'id' {line.id} is there twice")
            found[line.id] = line
    except (ValueError, csv.Error) as error:
        raise SpecError(f"{where}, line {reader.line_num}: {error}.", remedy=_REMEDY) from None
    return tuple(found.values())


def _check_header(header: Sequence[str], where: str) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        raise SpecError(f"{where}, line 1: unknown column {unknown[0]!r:.60}.", remedy=nearest(unknown[0], COLUMNS))
    if tuple(header) != COLUMNS:
        raise SpecError(
            f"{where}, line 1: not the columns of published figures.", remedy=f"They are {','.join(COLUMNS)}."
        )


def _line(cells: Sequence[str]) -> Published:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} cells for {len(COLUMNS)} columns")
    values = {name: _parsed(name, cell) for name, cell in zip(COLUMNS, cells, strict=True)}
    _check_whole(values)
    return Published(**values)


def _parsed(name: str, cell: str) -> Any:
    try:
        if len(cell) > _MAX_CELL_CHARS:
            raise ValueError(f"longer than {_MAX_CELL_CHARS} characters")
        return _PARSERS[name](cell)
    except ValueError as error:
        raise ValueError(f"'{name}' is {cell!r:.60}: {error}") from None


def _check_whole(values: Mapping[str, object]) -> None:
    needed = _OF_A_TABLE if values["table"] else ()
    lacking = [name for name in needed if values[name] in (None, "")]
    if lacking:
        raise ValueError(f"'{lacking[0]}' is missing from a line of the paper's Table {values['table']}")
    if all(values[name] is None for name in _FIGURES):
        raise ValueError(f"no figure: one of {', '.join(_FIGURES)} is needed")
    ratios = [name for name in ("time_ratio", "energy_ratio") if values[name] is not None]
    is_ratio = values["quantity_kind"] == "ratio"
    if bool(ratios) != is_ratio or bool(values["ratio_to"]) != is_ratio:
        raise ValueError("'quantity_kind' ratio goes with time_ratio or energy_ratio, and with 'ratio_to'")


# Cells


def _text(cell: str) -> str:
    if cell != cell.strip() or not cell.isprintable():
        raise ValueError("must be printable, without blanks around it")
    return cell


def _said(cell: str) -> str:
    if not _text(cell):
        raise ValueError("is needed")
    return cell


def _kind(cell: str) -> str:
    if cell not in KINDS:
        raise ValueError(f"must be one of {', '.join(KINDS)}")
    return cell


def _quantity(cell: str) -> float | None:
    if cell and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", cell) is None:
        raise ValueError("must be a plain decimal number from 0")
    return float(cell) if cell else None


def _positive(cell: str) -> float | None:
    value = _quantity(cell)
    if value == 0:
        raise ValueError("must be more than 0")
    return value


def _fraction(cell: str) -> float | None:
    value = _quantity(cell)
    if value is not None and value > 1:
        raise ValueError("must be at most 1")
    return value


def _count(cell: str) -> int | None:
    if cell and re.fullmatch(r"[1-9][0-9]{0,8}", cell) is None:
        raise ValueError("must be a whole number from 1")
    return int(cell) if cell else None


_PARSERS: Mapping[str, Callable[[str], object]] = {
    **dict.fromkeys(COLUMNS, _positive),
    **dict.fromkeys(("table", "processor", "framework", "model", "dataset", "ratio_to", "note"), _text),
    **dict.fromkeys(("id", "source", "device"), _said),
    **dict.fromkeys(("clients", "epochs", "rounds", "examples_per_step"), _count),
    "quantity_kind": _kind,
    "tau_s": _quantity,
    "accuracy": _fraction,
}

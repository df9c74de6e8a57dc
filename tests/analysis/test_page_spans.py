"""What the report shows of spans is the same whether they are read at once, in parts, or from tables."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.figures import choice
from analysis.figures.drawing import MAX_ROWS, Material, drawn
from analysis.figures.power import MAX_ROUNDS
from analysis.load import each_batch, load, rows, write_tables
from analysis.page_spans import PageSpans
from analysis.spans import FIT_CALLS, PAGE_SPANS
from tests.fixtures.large_results import Size, write_large
from tests.fixtures.results_folder import RunFolder, Task
from tests.fixtures.timed_rounds import Timed, e_tasks, timed_rows, write_samples, write_timed

SMALL = Size(tasks=4, rounds=6, clients=4)


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """All spans of a folder, a tenth of them without an energy."""
    whole = load([write_large(tmp_path_factory.mktemp("results"), SMALL).path], PAGE_SPANS).spans
    lost = np.random.default_rng(0).random(len(whole)) < 0.1
    return whole.assign(energy_j=whole["energy_j"].where(~lost), provenance=whole["provenance"].where(~lost))


def in_parts(spans: pd.DataFrame, n: int) -> Iterator[pd.DataFrame]:
    return (spans.iloc[start : start + n] for start in range(0, len(spans), n))


@pytest.mark.parametrize("n", [1, 7, 100, 10**6])
def test_sums_do_not_depend_on_the_parts(spans: pd.DataFrame, n: int) -> None:
    few = spans.iloc[:60] if n == 1 else spans
    made = PageSpans.of(in_parts(few, n), {}).energies
    for keys, own in few.groupby(["task", "device", "name"], observed=True):
        of_keys = made[(made["task"] == keys[0]) & (made["device"] == keys[1]) & (made["name"] == keys[2])]
        assert of_keys["energy_j"].sum() == pytest.approx(own["energy_j"].sum(), rel=1e-12)
        assert of_keys["n_known"].sum() == own["energy_j"].notna().sum()
        assert of_keys["n_missing"].sum() == own["energy_j"].isna().sum()
    assert made[["n_known", "n_missing"]].to_numpy().sum() == len(few)


def test_spans_that_are_drawn_are_those_of_the_round_and_the_calls(spans: pd.DataFrame) -> None:
    chosen = {("large", "t1"): 3, ("large", "t2"): 5}
    for n in (7, 10**6):
        made = PageSpans.of(in_parts(spans, n), chosen).drawn
        assert set(made["task"]) == {"t1", "t2"}
        assert set(made.loc[made["name"] != "call", "round"]) == {3, 5}
        assert (made["name"] == "call").sum() == 2 * SMALL.rounds * SMALL.clients
        assert len(made) == 2 * SMALL.clients * (SMALL.rounds + 7)
    assert len(choice.of_task(made, ("large", "t1"))) == SMALL.clients * (SMALL.rounds + 7)
    assert len(choice.of_task(made, ("another", "t1"))) == 0


def test_batches_hold_what_is_loaded_at_once_from_records_and_from_tables(tmp_path: Path) -> None:
    write_large(tmp_path, SMALL)
    write_timed(tmp_path, e_tasks())
    results = load([tmp_path])
    whole = rows(load([tmp_path], PAGE_SPANS).spans)
    assert list(itertools.chain.from_iterable(map(rows, each_batch(results, PAGE_SPANS)))) == whole
    write_tables([tmp_path])
    assert list(itertools.chain.from_iterable(map(rows, each_batch(results, PAGE_SPANS)))) == whole


def test_the_report_says_the_same_of_tables_as_of_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_large(tmp_path, SMALL)
    write_timed(tmp_path, e_tasks())
    said = []
    for _ in range(2):
        assert report.main([str(tmp_path), "--json", "-o", str(tmp_path / "r.html")]) == 0
        said.append((capsys.readouterr().out, (tmp_path / "r.html").read_text()))
        write_tables([tmp_path])
    assert said[0] == said[1]


def test_of_very_many_rounds_and_devices_some_calls_are_drawn_and_that_is_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    task = Task("t", rounds=2 * MAX_ROUNDS + 1)
    folder.write([task])
    n_devices = MAX_ROWS + 2
    for round_ in range(1, task.rounds + 1):
        for number in range(n_devices if round_ == 3 else 1):
            call = Timed(f"d-{number:02}", 20.0 * round_)
            folder.append(*(row for row in timed_rows(task, round_, call) if row["name"] == "call"))
    write_samples(folder.path / "samples" / task.task / "host.parquet", task)
    ((picture,), _) = drawn(Material.of([tmp_path]), ["power"])
    assert "each client's calls of one round in 3, on the same clock. 2 more devices took part" in picture.caption
    pieces = [len(bars.get_paths()) for bars in picture.figure.axes[0].collections]
    assert sum(pieces) == task.rounds // 3 + MAX_ROWS - 1


def test_a_part_of_the_fits_is_loaded_from_tables_as_from_records(tmp_path: Path) -> None:
    write_large(tmp_path, SMALL)
    some = dataclasses.replace(FIT_CALLS, max_calls=30)
    of_records = load([tmp_path], some)
    write_tables([tmp_path])
    of_tables = load([tmp_path], some)
    assert of_records.warnings == of_tables.warnings != []
    assert rows(of_records.spans) == rows(of_tables.spans)

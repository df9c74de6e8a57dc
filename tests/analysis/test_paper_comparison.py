"""Which of our runs is of which row of a table of the paper, and the means, intervals and ratios of a row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import ttest_1samp

from analysis.paper import compare
from analysis.paper_notes import notes
from analysis.paper_table import FORMATS, document
from analysis.tables import main
from profiler.errors import ResultsError, UsageError
from profiler.records import Row
from tests.fixtures import paper_tables
from tests.fixtures.paper_tables import CPU, GPU, compared, like_2a, row_of, runs
from tests.fixtures.results_folder import RunFolder

# The paper's own


@pytest.mark.parametrize(
    ("table", "like", "n_rows"),
    [
        (paper_tables.table_2a, "table2a", 3),
        (paper_tables.table_2b, "table2b", 3),
        (paper_tables.table_3, "table3", 4),
    ],
)
def test_the_papers_tables_are_the_papers_tables(tmp_path: Path, table: object, like: str, n_rows: int) -> None:
    assert callable(table)
    found = compare(runs(table(tmp_path)), like)
    assert len(found.rows) == n_rows
    for row in found.rows:
        ratios = [row.accuracy.ratio, row.time_s.ratio, *([] if like == "table3" else [row.energy_j.ratio])]
        assert ratios == pytest.approx([1.0] * len(ratios), abs=1e-12), row.key
        assert row.in_paper
    assert found.energy == {"table2a": "net", "table2b": "gross", "table3": None}[like]
    told = " ".join(notes(found))
    for absent in ("Missing", "Ours alone", "scaled", "left out"):
        assert absent not in told


def test_ratios_to_the_reference_of_table_3(tmp_path: Path) -> None:
    found = compare(runs(paper_tables.table_3(tmp_path)), "table3")
    expected = {("GPU", "none"): 1.0, ("CPU", "none"): 1.26992, ("CPU", "2.23"): 1.10994, ("CPU", "1.99"): 1.00025}
    for row in found.rows:
        assert found.to_reference(row) == pytest.approx(expected[row.key], abs=5e-6)
        assert found.paper_to_reference(row) == pytest.approx(expected[row.key], abs=5e-6)
    for written in ("102.00 (1.27x)  102 (1.27x)", "89.15 (1.11x)   89.15 (1.11x)", "80.34 (1.00x)   80.34 (1.00x)"):
        assert written in FORMATS["text"](found)


# Replicates


def test_intervals_are_those_of_the_t_test(tmp_path: Path) -> None:
    times_s, accuracies = [18.0, 20.0, 25.0], [0.5, 0.6, 0.8]
    tasks = [
        like_2a(f"t{n}", seed=n, time_s=time_s, accuracy=accuracy, energy_j=100.0 * n + 100)
        for n, (time_s, accuracy) in enumerate(zip(times_s, accuracies, strict=True))
    ]
    row = row_of(compared(tmp_path, tasks), "1")
    for one, values in ((row.time_s, [40 * s for s in times_s]), (row.accuracy, accuracies)):
        assert one.ours is not None
        expected = ttest_1samp(values, 0).confidence_interval(0.95)
        assert one.ours.mean == pytest.approx(sum(values) / 3)
        assert one.ours.interval == pytest.approx((expected.low, expected.high))
        assert one.ours.n == 3
    assert row.energy_j.ours is not None
    assert row.energy_j.ours.mean == pytest.approx(40 * 200 / 2), "net is half of gross in these folders"


def test_one_run_has_no_interval(tmp_path: Path) -> None:
    row = row_of(compared(tmp_path, [like_2a()]), "1")
    for one in (row.accuracy, row.time_s, row.energy_j):
        assert one.ours is not None
        assert (one.ours.interval, one.ours.half_width, one.ours.n) == (None, None, 1)


def test_accuracy_of_trained_runs_and_cost_of_all(tmp_path: Path) -> None:
    """Seeds 1 and 2 train, 3 to 6 only cost; another configuration's accuracy is not borrowed."""
    trained = [like_2a(f"t{n}", seed=n, accuracy=0.5 + 0.1 * n, time_s=20.0 + n) for n in (1, 2)]
    cost_only = [like_2a(f"c{n}", seed=n, training=False, accuracy=None, time_s=20.0 + n) for n in (3, 4, 5, 6)]
    found = compared(tmp_path, [*trained, *cost_only, like_2a("e5", epochs=5, training=False, accuracy=None)])
    row, costs = row_of(found, "1"), row_of(found, "5")
    assert row.accuracy.ours is not None
    assert row.time_s.ours is not None
    assert (row.accuracy.ours.n, row.accuracy.ours.mean) == (2, pytest.approx(0.65))
    assert (row.time_s.ours.n, row.time_s.ours.mean) == (6, pytest.approx(40 * 23.5))
    assert "  2/6/6  " in FORMATS["text"](found)
    assert (costs.accuracy.ours, costs.accuracy.missing) == (None, "a cost-only run has no accuracy")


def test_a_simulation_and_its_cost_only_copy_count_once(tmp_path: Path) -> None:
    """The same seed costs the same with training or without: one draw, not two."""
    for clock, n in (("simulated", 2), (None, 4)):
        seeds = [like_2a(f"t{n}", seed=n, time_s=20.0 + n) for n in (1, 2)]
        copies = [replace(task, task=f"c{task.seed}", training=False, accuracy=None) for task in seeds]
        found = compared(tmp_path / str(clock), [*seeds, *copies], clock=clock)
        row = row_of(found, "1")
        assert row.time_s.ours is not None
        assert (row.time_s.ours.n, row.n_repeats) == (n, 4 - n)
        said = any("2 simulated runs repeat the seed and the costs of another" in note for note in notes(found))
        assert said == (clock == "simulated")


def test_the_uncertainty_of_the_energy_itself_is_kept_apart(tmp_path: Path) -> None:
    found = compared(tmp_path, [like_2a(f"t{n}", seed=n, energy_j=100.0, energy_err_j=10.0) for n in (1, 2)])
    row = row_of(found, "1")
    assert row.energy_j.ours is not None
    assert row.energy_j.ours.err == pytest.approx(400.0)
    assert row.energy_j.ours.interval == pytest.approx((2000.0, 2000.0))
    assert any("an uncertainty of its own (k = 2)" in note and ": E=1 0.4000 kJ." in note for note in notes(found))


# Rounds


@pytest.mark.parametrize(("like", "scale"), [("table2a", 20), ("table2b", 10), ("table3", 20)])
def test_time_and_energy_are_scaled_to_the_papers_rounds(tmp_path: Path, like: str, scale: float) -> None:
    RunFolder(tmp_path).write([like_2a(epochs=10, time_s=20.0, energy_j=100.0, accuracy=0.5)])
    found = compare(runs(tmp_path), like, "gross")
    (row,) = (row for row in found.rows if row.runs)
    assert row.time_s.ours is not None
    assert row.energy_j.ours is not None
    assert row.accuracy.ours is not None
    assert (row.time_s.ours.mean, row.energy_j.ours.mean) == (pytest.approx(40 * scale), pytest.approx(200 * scale))
    assert row.accuracy.ours.mean == 0.5
    assert any(note.startswith("Ours ran 2 rounds, the paper") for note in notes(found))


def test_the_papers_own_number_of_rounds_is_not_scaled(tmp_path: Path) -> None:
    found = compared(tmp_path, [like_2a(rounds=40)])
    assert not any("Ours ran" in note for note in notes(found))


# Which row


def test_rows_that_were_not_run_and_rows_of_ours_alone(tmp_path: Path) -> None:
    found = compared(tmp_path, [like_2a(f"e{e}", epochs=e) for e in (20, 5, 3)])
    assert [row.key for row in found.rows] == [("1",), ("5",), ("10",), ("3",), ("20",)]
    missing, extra = row_of(found, "1"), row_of(found, "20")
    assert (missing.time_s.ours, missing.time_s.paper, missing.time_s.ratio) == (None, pytest.approx(1057.8), None)
    assert (extra.in_paper, extra.time_s.paper, extra.time_s.ratio) == (False, None, None)
    told = notes(found)
    assert "Missing, in the paper but not run: E=1; E=10." in told
    assert "Ours alone, not in the paper: E=3; E=20." in told
    content = document(found)
    assert (content["missing"], content["extra"]) == ([["1"], ["10"]], [["3"], ["20"]])


def test_several_configurations_of_one_row_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write([like_2a("g"), like_2a("c", processors={CPU: 10}), like_2a("e", epochs=5)])
    assert main([str(tmp_path), "--like", "table2a"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 configurations fit the row E=1 of Table 2a: E=1, C=10, tau=none, on=tx2-gpu; E=1, C=10" in err
    assert "Choose one with --where processor=tx2-cpu or --where processor=tx2-gpu." in err
    assert main([str(tmp_path), "--like", "table2a", "--where", "processor=tx2-gpu", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["time_s"]["n"] for row in content["rows"]] == [1, 1, 0]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"clients": 5}, "--where clients=10 or --where clients=5"),
        ({"rounds": 4}, "--where rounds=2 or --where rounds=4"),
        ({"extra": {"strategy": "fed prox"}}, "--where strategy='fed prox' or --where strategy=fedavg"),
    ],
)
def test_the_remedy_names_what_differs(tmp_path: Path, change: Row, remedy: str) -> None:
    RunFolder(tmp_path).write([like_2a("a"), like_2a("b", **change)])
    with pytest.raises(UsageError) as raised:
        compare(runs(tmp_path), "table2a")
    assert f"Choose one with {remedy}." in str(raised.value)


def test_measured_and_simulated_replicates_are_two_configurations(tmp_path: Path) -> None:
    RunFolder(tmp_path, "measured").write([like_2a()])
    with pytest.raises(UsageError, match="--where clock=simulated or --where clock=system"):
        compared(tmp_path, [like_2a()], clock="simulated")


def test_several_workloads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 workloads cannot be compared: cifar, digits"):
        compared(tmp_path, [like_2a("a"), like_2a("b", epochs=5, workload="cifar")])


def test_runs_with_a_cutoff_are_no_part_of_table_2(tmp_path: Path) -> None:
    cut = like_2a("b", cutoffs={GPU: {"tau_s": 5.0, "kind": "fixed"}})
    found = compared(tmp_path, [like_2a("a"), cut])
    assert [run["task"] for row in found.rows for run in row.runs] == ["a"]
    assert "1 runs with a cutoff are left out: this table has none." in notes(found)
    with pytest.raises(ResultsError, match="all 1 runs have one"):
        compare([run for run in runs(tmp_path) if run["task"] == "b"], "table2a")


@pytest.mark.parametrize(
    ("processors", "cutoffs", "key"),
    [
        ({"tx2-gpu": 10}, None, ("GPU", "none")),
        ({"GPU": 10}, {"GPU": {"tau_s": 0.0, "kind": "parity"}}, ("GPU", "none")),
        ({"cpu@0.4": 10}, None, ("CPU", "none")),
        ({"orin_cpu": 10}, {"orin_cpu": {"tau_s": 133.8, "kind": "fixed"}}, ("CPU", "2.23")),
        ({"cpu": 10}, {"cpu": {"tau_s": 134.0, "kind": "fixed"}}, ("CPU", "2.23")),
        ({"cpu": 10}, {"cpu": {"tau_s": 134.2, "kind": "fixed"}}, ("cpu", "2.237")),
        ({"cpu": 10}, {"cpu": {"tau_s": 119.4, "kind": "fixed"}}, ("CPU", "1.99")),
        ({"cpu": 10}, {"cpu": {"tau_s": 7.0, "kind": "parity"}}, ("CPU", "1.99")),
        ({"cpu": 10}, {"cpu": {"tau_s": 119.4, "kind": "knee"}}, ("CPU", "1.99")),
        ({"cpu": 10}, {"cpu": {"tau_s": 7.0, "kind": "knee"}}, ("cpu", "knee")),
        ({"cpu": 10}, {"gpu": {"tau_s": 7.0, "kind": "fixed"}}, ("CPU", "none")),
        ({"gpu": 10}, {"gpu": {"tau_s": 119.4, "kind": "fixed"}}, ("gpu", "1.99")),
        ({"orin": 10}, None, ("orin", "none")),
        ({"cpugpu": 10}, None, ("cpugpu", "none")),
        ({"cpu-gpu": 10}, None, ("cpu-gpu", "none")),
        ({"cpu": 5, "gpu": 5}, {"cpu": {"tau_s": 90.0, "kind": "fixed"}}, ("cpu+gpu", "90 s")),
    ],
)
def test_which_row_of_table_3(tmp_path: Path, processors: dict[str, int], cutoffs: Row | None, key: object) -> None:
    found = compared(tmp_path, [like_2a(epochs=10, processors=processors, cutoffs=cutoffs)], "table3")
    assert [row.key for row in found.rows if row.runs] == [key]

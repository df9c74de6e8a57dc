"""Seeds are kept, and say how sure a front is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis import formats, pareto_table
from analysis.pareto import Analysis, analyse
from analysis.replication import attainment, front_probabilities
from analysis.resolution import EXACT
from tests.fixtures.paper_tables import runs
from tests.fixtures.results_folder import RunFolder, Task

ALL = ("accuracy", "time_s", "energy_j")
SENSES = (True, False, False)


def sweep(root: Path, accuracies: dict[int, list[float]], first_seeds: dict[int, int] | None = None) -> Analysis:
    """E -> one accuracy a seed. Times and energies grow with E."""
    RunFolder(root).write(
        [
            Task(f"e{e}s{s}", epochs=e, seed=s, accuracy=accuracy, time_s=e, energy_j=10 * e)
            for e, values in accuracies.items()
            for s, accuracy in enumerate(values, start=(first_seeds or {}).get(e, 1))
        ]
    )
    return analyse(runs(root))


def by_epochs(found: Analysis) -> dict[int, float | None]:
    return {point.epochs: found.probabilities.get(point.label) for point in found.points}


def test_each_seed_is_kept(tmp_path: Path) -> None:
    found = sweep(tmp_path, {1: [0.7, 0.8], 5: [0.9, 0.85]})
    first, second = pareto_table.document(found)["points"]
    assert [(one["seed"], one["accuracy"]) for one in first["replicates"]] == [(1, 0.7), (2, 0.8)]
    assert [one["time_s"] for one in second["replicates"]] == [10.0, 10.0]
    assert first["accuracy"] == pytest.approx(np.mean([one["accuracy"] for one in first["replicates"]]))


def test_a_clear_front_is_sure_and_a_close_one_is_not(tmp_path: Path) -> None:
    found = sweep(tmp_path, {1: [0.70, 0.72, 0.71], 5: [0.90, 0.91, 0.92], 10: [0.93, 0.89, 0.91]})
    parts = by_epochs(found)
    assert parts[1] == parts[5] == 1.0
    assert parts[10] is not None
    assert 0.2 < parts[10] < 0.8
    assert "P(front)" in formats.text(pareto_table.blocks(found))
    assert "rough for 3 configurations" in formats.text(pareto_table.blocks(found))


def test_a_seed_that_is_lucky_is_lucky_for_all(tmp_path: Path) -> None:
    """Ten epochs are worse by 0.01 with every seed. Drawn apart, seeds that differ by 0.2 would hide it."""
    luck = [0.0, 0.1, 0.2]
    paired = sweep(tmp_path / "paired", {5: [0.7 + x for x in luck], 10: [0.69 + x for x in luck]})
    assert by_epochs(paired) == {5: 1.0, 10: 0.0}
    apart = by_epochs(sweep(tmp_path / "apart", {5: [0.7 + x for x in luck], 10: [0.69 + x for x in luck]}, {10: 7}))
    assert apart[10] is not None
    assert apart[10] > 0.2


def test_the_bootstrap_agrees_with_what_can_be_counted(tmp_path: Path) -> None:
    """Of the four equally likely samples of two seeds, one averages ten epochs above the 0.8 of five."""
    RunFolder(tmp_path).write(
        [
            Task("a", epochs=5, seed=3, accuracy=0.8, time_s=1),
            Task("b", epochs=5, seed=4, accuracy=0.8, time_s=1),
            Task("c", epochs=10, seed=1, accuracy=0.7, time_s=2),
            Task("d", epochs=10, seed=2, accuracy=0.85, time_s=2),
        ]
    )
    found = analyse(runs(tmp_path), objectives=("accuracy", "time_s"))
    parts = front_probabilities(found.points, ("accuracy", "time_s"), (True, False), EXACT, n_resamples=4000)
    assert parts[found.points[1].label] == pytest.approx(0.25, abs=0.03)


def test_one_run_a_configuration_says_that_nothing_is_sure(tmp_path: Path) -> None:
    found = sweep(tmp_path, {1: [0.7], 5: [0.9]})
    assert found.probabilities == {}
    assert "How sure the front is cannot be said: each configuration has one run only." in formats.text(
        pareto_table.blocks(found)
    )
    assert "P(front)" not in formats.text(pareto_table.blocks(found))
    assert found.attainment.reason == "no attainment: the configurations share 1 seeds, it needs 2"


def test_one_configuration_with_one_run_has_no_probability(tmp_path: Path) -> None:
    found = sweep(tmp_path, {1: [0.7, 0.75], 5: [0.9]})
    assert by_epochs(found)[5] is None
    assert "1 configurations have one run only" in formats.text(pareto_table.blocks(found))


def test_the_same_results_give_the_same_probabilities_in_any_order(tmp_path: Path) -> None:
    sweep(tmp_path, {1: [0.70, 0.9, 0.71], 5: [0.90, 0.7, 0.92], 10: [0.93, 0.89, 0.91]})
    table = runs(tmp_path)
    assert analyse(table).probabilities == analyse(table[::-1]).probabilities


def test_attainment_of_two_seeds(tmp_path: Path) -> None:
    """What a quarter of two seeds attain, at least one of them does; what three quarters attain, both do."""
    found = sweep(tmp_path, {1: [0.48, 0.50], 5: [0.64, 0.63]}).attainment
    assert found.seeds == (1, 2)
    assert found.surfaces is not None
    best, worst = found.surfaces[25], found.surfaces[75]
    assert [row[0] for row in best] == [0.50, 0.64]
    assert [row[0] for row in worst] == [0.48, 0.63]
    assert len(found.hypervolumes) == 2


def test_only_seeds_of_all_configurations_make_attainment(tmp_path: Path) -> None:
    found = sweep(tmp_path, {1: [0.48, 0.50, 0.49], 5: [0.64, 0.63]}, {5: 2})
    assert found.attainment.seeds == (2, 3)
    assert attainment([], ALL, SENSES, ()).surfaces is None

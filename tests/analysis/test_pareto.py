"""The main job's last step: table, JSON, files and what is said of the numbers."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import analysis
from analysis import formats, pareto_table
from analysis.configurations import EnergyKind
from analysis.figures.pareto import save
from analysis.load import load, rows
from analysis.pareto import Analysis, analyse, main
from analysis.runs import runs_table
from profiler.errors import UsageError
from tests.fixtures.results_folder import RunFolder, Task

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PARITY = {"slow": {"tau_s": 1.0, "kind": "parity"}}


def demo_tasks(**more: object) -> list[Task]:
    """E = 1, 5, 10 without a cutoff, and E = 10 with one that does not pay."""
    common = {"processors": {"fast": 2, "slow": 1}, "clients": 3, **more}
    return [
        Task("e1", epochs=1, accuracy=0.70, time_s=1, energy_j=10, **common),
        Task("e5", epochs=5, accuracy=0.90, time_s=4, energy_j=40, **common),
        Task("e10", epochs=10, accuracy=0.92, time_s=9, energy_j=90, **common),
        Task("p10", epochs=10, accuracy=0.89, time_s=5, energy_j=60, cutoffs=PARITY, **common),
    ]


def analysed(root: Path, tasks: list[Task]) -> Analysis:
    RunFolder(root).write(tasks)
    return analyse(rows(runs_table(load([root]))))


def test_table_json_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write(demo_tasks())
    assert main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "E=10, C=3, tau=parity" in out
    assert "Knee of accuracy against time_s: E=5, C=3, tau=none (height" in out
    assert "reference point accuracy 0, time_s 19.8 s, energy_j 198 J" in out
    folder = tmp_path / "analysis"
    assert sorted(path.name for path in folder.iterdir()) == [
        "pareto.csv",
        "pareto.json",
        "pareto.md",
        "pareto.png",
        "pareto.svg",
    ]
    assert all(str(path) in err for path in folder.iterdir())
    assert (folder / "pareto.png").read_bytes().startswith(PNG_SIGNATURE)
    assert (folder / "pareto.png").stat().st_size < 200_000
    words = "".join(ET.parse(folder / "pareto.svg").getroot().itertext())
    for needed in ("time of all rounds (s)", "energy of all rounds (J)", "E=5, C=3, tau=none", "knee", "measured"):
        assert needed in words
    report = (folder / "pareto.md").read_text()
    assert "(pareto.png)" in report
    assert "measured by hardware counters" in report
    [_, e5, *_] = csv.DictReader((folder / "pareto.csv").read_text().splitlines())
    assert (e5["label"], float(e5["energy_j"]), e5["on_front"]) == ("E=5, C=3, tau=none", 80.0, "True")


def test_json_is_one_object_and_the_same_as_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write(demo_tasks())
    assert main([str(tmp_path), "--json", "-o", str(tmp_path / "out")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "out" / "pareto.json").read_text())
    points = {point["label"]: point for point in document["points"]}
    dominated = points["E=10, C=3, tau=parity"]
    assert (dominated["on_front"], dominated["dominated_by"]) == (False, "E=5, C=3, tau=none")
    assert (dominated["taus_s"], dominated["cutoff"]) == ({"slow": [1.0]}, "parity")
    assert {point["provenance"] for point in points.values()} == {"counter"}
    assert document["units"] == {"accuracy": "1", "time_s": "s", "energy_j": "J"}
    assert document["knees"]["accuracy,energy_j"]["label"] == "E=5, C=3, tau=none"
    assert set(document["fronts"]) == {"accuracy,time_s,energy_j", "accuracy,time_s", "accuracy,energy_j"}


def test_the_figure_is_the_same_for_the_same_results(tmp_path: Path) -> None:
    found = analysed(tmp_path, demo_tasks())
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    save(found, [first])
    save(found, [second])
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("energy", "joules"), [("gross", 80.0), ("net", 40.0), ("fit", 20.0)])
def test_energy_is_chosen_and_said(tmp_path: Path, energy: EnergyKind, joules: float) -> None:
    RunFolder(tmp_path).write(demo_tasks())
    found = analyse(rows(runs_table(load([tmp_path]))), energy=energy)
    assert found.points[1].energy_j == pytest.approx(joules)
    assert pareto_table.document(found)["energy"] == energy
    assert f"Energy is {energy}" in formats.text(pareto_table.blocks(found))


def test_where_filters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write(demo_tasks())
    filters = ["--where", "epochs=10", "--where", "processor=slow", "--where", "cutoff=none"]
    assert main([str(tmp_path), "--json", *filters]) == 0
    assert [point["label"] for point in json.loads(capsys.readouterr().out)["points"]] == ["E=10, C=3, tau=none"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--where", "epochs=7"], "There is epochs=1, 10, 5"),
        (["--where", "epoch=1"], "Did you mean 'epochs'"),
        (["--where", "epochs"], "KEY=VALUE"),
        (["--objectives", "accuracy,time"], "Did you mean 'time_s'"),
        (["--objectives", "accuracy"], "two or three"),
        (["--objectives", "accuracy,accuracy"], "two or three"),
        (["--ref", "0,1"], "needs 3 numbers"),
        (["--ref", "0,1,x"], "needs 3 numbers"),
        (["--ref", "0,1,nan"], "needs 3 numbers"),
        (["--energy", "free"], "invalid choice"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    RunFolder(tmp_path).write(demo_tasks())
    assert main([str(tmp_path), *arguments]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
    assert not (tmp_path / "analysis").exists()


def test_mixed_workloads_are_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cifar, digits"):
        analysed(tmp_path, [Task("a"), Task("b", workload="cifar")])


def test_mixed_provenance_is_said(tmp_path: Path) -> None:
    found = analysed(tmp_path, [Task("a"), Task("b", epochs=5, provenance="estimated")])
    assert any("MIXED PROVENANCE" in note and "estimated" in note for note in found.notes)
    same = analysed(tmp_path / "same", [Task("a", provenance="estimated")])
    assert same.notes == (
        "All times are measured.",
        "All energies are estimated by a model of this machine, not measured.",
    )


def test_mixed_scope_is_said(tmp_path: Path) -> None:
    runs = [Task("a"), Task("b", epochs=5)]
    RunFolder(tmp_path).write(runs)
    table = rows(runs_table(load([tmp_path])))
    table[0]["energy_scope"] = "wall"
    assert any("MIXED SCOPE" in note and "package, wall" in note for note in analyse(table).notes)


def test_the_table_is_shown_even_where_no_file_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RunFolder(tmp_path).write(demo_tasks())
    (tmp_path / "blocked").write_text("a file, not a folder")
    assert main([str(tmp_path), "-o", str(tmp_path / "blocked")]) == 3
    out, err = capsys.readouterr()
    assert "E=10, C=3, tau=parity" in out
    assert "blocked" in err


def test_the_default_reference_is_worse_than_every_point(tmp_path: Path) -> None:
    RunFolder(tmp_path).write(demo_tasks())
    table = rows(runs_table(load([tmp_path])))
    for run in table:
        run["energy_j"] -= 1000  # a net energy can be negative
    assert analyse(table).n_beyond_reference == 0


def test_a_configuration_without_energy_is_listed_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write([*demo_tasks(), Task("x", epochs=20, clients=3, energy_j=None, accuracy=0.99)])
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Not in the front of all objectives: E=20" in out
    assert "no sensor" in out
    time_front = next(line for line in out.splitlines() if line.startswith("Front of accuracy, time_s:"))
    assert "E=20" in time_front, "what is known of it still counts"


def test_nothing_comparable_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write([Task("a", accuracy=None)])
    assert main([str(tmp_path)]) == 3
    assert "no configuration has the objectives" in capsys.readouterr().err


def test_points_beyond_the_reference_are_counted(tmp_path: Path) -> None:
    RunFolder(tmp_path).write(demo_tasks())
    found = analyse(rows(runs_table(load([tmp_path]))), reference=(0.0, 10.0, 100.0))
    assert found.n_beyond_reference == 2
    assert found.hypervolume == pytest.approx(0.7 * 8 * 80 + 0.2 * 2 * 20)


def test_as_a_command_with_a_reader_that_leaves(tmp_path: Path) -> None:
    RunFolder(tmp_path).write(demo_tasks())
    root = Path(analysis.__file__).parent.parent
    command = [sys.executable, "-W", "error", "-m", "analysis.pareto", str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert b"Traceback" not in process.stderr.read()
    assert (tmp_path / "analysis" / "pareto.md").exists()

"""What is said beside a table of the paper, and the main."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.paper import compare
from analysis.paper_notes import caption, notes
from analysis.paper_table import FORMATS, document
from analysis.tables import main
from profiler.quantities import Provenance
from tests.fixtures.paper_tables import CPU, GPU, compared, like_2a, row_of, runs
from tests.fixtures.results_folder import RunFolder, Task

MIN_S = 60.0

GOLDEN = """\
Like Table 3: processors and cutoffs τ, of 40 rounds. Paper: Mathur et al., On-device Federated Learning with Flower, 2021, arXiv 2104.03042.

processor    τ (min)    accuracy         paper    ratio    time (min)             paper          ratio    n    time is
-----------  ---------  ---------------  -------  -------  ---------------------  -------------  -------  ---  ---------
GPU          none       0.6800 ± 0.0248  0.67     1.015    80.00 ± 24.84 (1.00x)  80.32 (1.00x)  0.996    3    simulated
CPU          none       missing          0.67              104.00 (1.30x)         102 (1.27x)    1.020    0/1  simulated
CPU          2.23       missing          0.66              missing                89.15 (1.11x)           0
CPU          1.99       0.6000           0.63     0.952    80.00 (1.00x)          80.34 (1.00x)  0.996    1    simulated
tx2-npu      none       0.5000                             40.00 (0.50x)                                  1    simulated

± is the 95 % interval of the mean over n runs (Student's t), which a single run does not have. Ratios are ours over the paper's.
All our times are simulated by a model of another machine, not measured.
A simulated device whose figures were fitted to the paper's tables agrees with them by construction: see the sources of its profile.
The paper's figures were measured by its authors.
Ours ran 4 rounds, the paper 40: our times and energies are per round, times 40. Accuracy is not scaled: it is what our rounds gave.
Ours: cifar10-resnet18, E=10, C=10, batch size 16, on tx2-cpu or tx2-gpu or tx2-npu. The paper's: ResNet-18 on CIFAR-10, E=10, C=10, on Jetson TX2 (CPU or GPU).
Missing, in the paper but not run: processor=CPU, τ (min)=2.23.
Ours alone, not in the paper: processor=tx2-npu, τ (min)=none.
processor=CPU, τ (min)=none: a cost-only run has no accuracy.
processor=CPU, τ (min)=1.99: ours is the τ of parity, 1.967 min.
"""  # noqa: E501


def test_the_whole_text_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three replicates of the GPU, a cost-only CPU, parity, and a processor that the paper does not have."""

    def task(name: str, processor: str, minutes: float, **more: object) -> Task:
        of_a_round_s = minutes * MIN_S / 40
        common = Task(name, epochs=10, clients=10, rounds=4, time_s=of_a_round_s, processors={processor: 10})
        return replace(common, workload="cifar10-resnet18", provenance="simulated", **more)

    parity = {CPU: {"tau_s": 118.0, "kind": "parity"}}
    gpus = [task(f"g{n}", GPU, 70 + 10 * n, seed=n, accuracy=0.67 + 0.01 * n) for n in (0, 1, 2)]
    others = [
        task("c", CPU, 104, training=False, accuracy=None),
        task("p", CPU, 80, cutoffs=parity, accuracy=0.6),
        task("n", "tx2-npu", 40, accuracy=0.5),
    ]
    RunFolder(tmp_path, clock="simulated").write([*gpus, *others])
    assert main([str(tmp_path), "--like", "table3"]) == 0
    assert capsys.readouterr().out == GOLDEN


# What is said


def test_energy_is_the_forms_own_unless_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write([like_2a(energy_j=100.0)])
    for arguments, kind, joules in ((["table2a"], "net", 2000.0), (["table2a", "--energy", "gross"], "gross", 4000.0)):
        assert main([str(tmp_path), "--json", "--like", *arguments]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["energy"] == kind
        assert f"Energy is {kind}: " in content["caption"]
        assert content["rows"][0]["energy_j"]["ours"] == pytest.approx(joules)
    assert main([str(tmp_path), "--like", "table3", "--energy", "fit"]) == 0
    out = capsys.readouterr().out
    assert "Energy is fit: local training alone, gross." in out
    assert "energy (kJ)" in out
    assert main([str(tmp_path), "--like", "table3"]) == 0
    assert "nergy is" not in capsys.readouterr().out


def test_a_missing_energy_says_why(tmp_path: Path) -> None:
    found = compared(tmp_path, [like_2a(energy_j=None)])
    row = row_of(found, "1")
    assert row.energy_j.ours is None
    assert row.energy_provenance is Provenance.MISSING
    assert any("E=1: energy_net_j is missing in 1 of 1 runs" in note and "no sensor" in note for note in notes(found))


def test_provenance_is_in_the_table_and_in_words(tmp_path: Path) -> None:
    RunFolder(tmp_path, "measured").write([like_2a(provenance="estimated")])
    found = compared(tmp_path, [like_2a(epochs=5, provenance="simulated")], clock="simulated")
    told = " ".join(notes(found))
    assert "MIXED TIMES: our times are of different kinds (1 measured, 1 simulated by a model" in told
    assert "MIXED PROVENANCE: our energies are of different kinds (1 estimated by a model of this machine" in told
    lines = FORMATS["text"](found).splitlines()
    assert [line.split()[-2:] for line in lines if line.startswith(("1 ", "5 "))] == [
        ["measured", "estimated"],
        ["simulated", "simulated"],
    ]
    content = document(found)["rows"]
    assert [(row["time_provenance"], row["energy_provenance"]) for row in content] == [
        ("measured", "estimated"),
        ("simulated", "simulated"),
        (None, None),
    ]


def test_a_setup_that_is_not_the_papers_is_said(tmp_path: Path) -> None:
    found = compared(tmp_path, [like_2a(clients=3, processors={"fast": 3})])
    told = notes(found)
    assert "Ours: digits, C=3, batch size 16, on fast. The paper's: ResNet-18 on CIFAR-10, C=10, on Jetson TX2" in (
        " ".join(told)
    )
    assert "C is not the paper's, and nothing is scaled for that: time and energy are of C=3." in told
    assert not any("is not the paper's" in note for note in notes(compared(tmp_path / "same", [like_2a()])))


def test_failures_on_record_are_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([like_2a()])
    folder.append({"kind": "failure", "task": "t", "attempt": 1, "round": 1, "phase": "fit", "reason": "gone"})
    assert "E=1: 1 failures on record." in notes(compare(runs(tmp_path), "table2a"))


def test_the_caption_names_table_rounds_energy_and_source(tmp_path: Path) -> None:
    assert caption(compared(tmp_path, [like_2a()])) == (
        "Like Table 2a: local epochs E, of 40 rounds. Energy is net: gross less idle power times the time. Paper: "
        "Mathur et al., On-device Federated Learning with Flower, 2021, arXiv 2104.03042."
    )


def test_a_ratio_too_small_for_three_decimals(tmp_path: Path) -> None:
    found = compared(tmp_path, [like_2a(energy_j=0.01)])
    assert " 2.0e-05 " in FORMATS["text"](found)


# The main


def test_the_file_is_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path / "r").write([like_2a()])
    path = tmp_path / "new" / "table.tex"
    assert main([str(tmp_path / "r"), "--like", "table2a", "--format", "latex", "-o", str(path)]) == 0
    out, err = capsys.readouterr()
    assert path.read_text() == out
    assert f"wrote {path}" in err


def test_runs_of_the_tables_own_experiment_are_taken_before_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder of many runs the newest experiment that is made after the table is meant."""
    for day, experiment, accuracy in ((1, "paper-table2a", 0.1), (2, "paper-table2a-small", 0.2), (3, "demo", 0.3)):
        folder = RunFolder(tmp_path, f"2026112{day}T000000-aaaa", experiment=experiment)
        folder.write([like_2a(accuracy=accuracy)])

    def accuracy_of_e1(*arguments: str) -> tuple[float, str]:
        assert main([str(tmp_path), "--like", "table2a", "--json", *arguments]) == 0
        out, err = capsys.readouterr()
        return json.loads(out)["rows"][0]["accuracy"]["ours"], err

    newest, said = accuracy_of_e1()
    assert newest == pytest.approx(0.2)
    assert "of experiment paper-table2a-small alone; 2 runs of demo, paper-table2a are left out" in said
    assert accuracy_of_e1("--where", "experiment=paper-table2a") == (pytest.approx(0.1), "")
    assert accuracy_of_e1("--where", "experiment=demo") == (pytest.approx(0.3), "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--like"),
        (["--like", "table4"], "invalid choice"),
        (["--like", "table2a", "--json", "--format", "latex"], "contradict each other"),
        (["--like", "table2a", "--where", "epochs=7"], "There is epochs=1"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    RunFolder(tmp_path).write([like_2a()])
    assert main([str(tmp_path), *arguments]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""


def test_json_and_format_json_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write([like_2a()])
    texts = []
    for flags in (["--json"], ["--format", "json"], ["--json", "--format", "json"]):
        assert main([str(tmp_path), "--like", "table2a", *flags]) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 1

"""Every installed figure over one folder: files, words on them, provenance, and the command that draws them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb

from analysis.figures import choice, drawing, energy, learning
from analysis.figures.__main__ import main
from analysis.figures.drawing import PHASE_STYLE, Material, Picture, drawn, figure, names
from profiler.errors import ResultsError
from tests.fixtures.documented import install
from tests.fixtures.results_folder import RunFolder, Task
from tests.fixtures.timed_rounds import e_tasks, write_timed

ROOT = Path(drawing.__file__).parents[2]
DRAWN = ("energy", "learning", "pareto", "power", "timeline", "tradeoff")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    root = tmp_path_factory.mktemp("results")
    write_timed(root, e_tasks())
    return Material.of([root])


@pytest.fixture(scope="module")
def pictures(material: Material) -> dict[str, Picture]:
    made, absent = drawn(material, names())
    assert list(absent) == ["calibration"]
    return {picture.name.split("-")[0]: picture for picture in made}


def words_on(picture: Picture) -> str:
    return " ".join(ET.fromstring(picture.encoded("svg")).itertext())


def test_all_are_there(pictures: dict[str, Picture]) -> None:
    assert sorted(pictures) == sorted(DRAWN)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("energy", ["energy of all rounds (J), measured (counter)", "2 × fast", "E=5, C=2, tau=parity", "wait"]),
        ("learning", ["accuracy (fraction)", "time (s)", "energy (J), measured (counter)", "rounds"]),
        ("pareto", ["accuracy of the last round (fraction)", "time of all rounds (s)"]),
        ("power", ["power (W)", "rapl (counter)", "package-0", "fast-1", "fit"]),
        ("timeline", ["time since the round's first instruction (s), server's clock", "straggler wait", "upload"]),
        ("tradeoff", ["cutoff τ (s)", "work done (fraction of the steps)", "predicted accuracy (fraction)"]),
    ],
)
def test_axes_carry_units_and_marks_are_explained(pictures: dict[str, Picture], name: str, said: list[str]) -> None:
    words = words_on(pictures[name])
    assert [text for text in said if text not in words] == []
    assert "simulated" not in words


@pytest.mark.parametrize("name", ["energy", "learning", "pareto", "timeline", "tradeoff"])
def test_what_is_simulated_says_so(tmp_path: Path, name: str) -> None:
    write_timed(tmp_path, e_tasks(provenance="simulated"), clock="simulated")
    (picture,) = figure(name)(Material.of([tmp_path]))
    assert "simulated" in words_on(picture)


def test_measured_and_simulated_never_share_a_picture(tmp_path: Path) -> None:
    write_timed(tmp_path, e_tasks())
    write_timed(tmp_path, e_tasks(provenance="simulated"), "20261124T000000-bbbb", "simulated")
    made, _ = drawn(Material.of([tmp_path]), ["energy", "learning", "pareto", "timeline", "tradeoff"])
    assert len(made) == 10
    assert sorted("simulated" in words_on(picture) for picture in made) == [False] * 5 + [True] * 5


def test_the_same_results_give_the_same_bytes(material: Material, pictures: dict[str, Picture]) -> None:
    again, _ = drawn(material, names())
    assert {one.name: one.encoded("svg") for one in again} == {
        one.name: one.encoded("svg") for one in pictures.values()
    }


def test_figures_are_small(pictures: dict[str, Picture]) -> None:
    for picture in pictures.values():
        assert len(picture.encoded("svg")) < 200_000
        assert picture.encoded("png").startswith(b"\x89PNG\r\n\x1a\n")


def test_phases_differ_in_grey_print_too() -> None:
    def grey(phase: str) -> float:
        red, green, blue = to_rgb(PHASE_STYLE[phase]["facecolor"])
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue  # ITU-R BT.709

    for one, other in itertools.combinations(drawing.PHASES, 2):
        hatched = PHASE_STYLE[one]["hatch"] != PHASE_STYLE[other]["hatch"]
        assert hatched or abs(grey(one) - grey(other)) > 0.1, (one, other)


def test_no_two_lines_look_alike() -> None:
    styles = [drawing.line_style(number) for number in range(drawing.MAX_LINES)]
    assert len({(str(style["linestyle"]), style["marker"]) for style in styles}) == len(styles)


# What is chosen and summed


def test_energy_is_summed_by_phase_over_rounds_and_devices(material: Material) -> None:
    (tasks,) = choice.finished(material.results).values()
    made = energy.bars(tasks, energy.by_task(material.spans.energies))
    assert [bar.configuration for bar in made] == ["E=1, C=2, tau=none", "E=5, C=2, tau=none", "E=5, C=2, tau=parity"]
    assert made[0].joules == pytest.approx({"receive": 4.0, "fit": 80.0, "send": 4.0, "wait": 12.0})
    assert (made[0].n_devices, made[0].n_runs, made[0].n_missing) == (2, 1, 0)


def test_the_telling_tasks_are_the_longest_and_its_like_with_a_cutoff(material: Material) -> None:
    (tasks,) = choice.finished(material.results).values()
    assert [shown.task["task"] for shown in choice.telling(tasks)] == ["e5", "p5"]


def test_the_median_round_is_no_outlier() -> None:
    times_s = [60.0, 10.0, 12.0, 11.0]
    rounds = [{"round": number, "time_s": time_s} for number, time_s in enumerate(times_s, start=1)]
    assert choice.median_round(rounds) == 4


def test_replicates_are_averaged_and_simulated_copies_count_once(tmp_path: Path) -> None:
    write_timed(tmp_path, [Task("a", accuracy=0.8, time_s=10.0), Task("b", seed=2, accuracy=0.6, time_s=20.0)])
    (picture,) = learning.draw(Material.of([tmp_path]))
    axes = picture.figure.axes[0]
    (line,) = axes.lines
    assert line.get_xdata() == pytest.approx([15.0, 30.0])
    assert line.get_ydata() == pytest.approx([0.35, 0.7])


def test_devices_are_ordered_by_their_numbers() -> None:
    names_ = ["10", "2", "02", "a", "pi-10", "pi-2", "pi-2b", "tx2-1", ""]
    assert sorted(names_, key=drawing.by_number) == ["", "02", "2", "10", "a", "pi-2", "pi-2b", "pi-10", "tx2-1"]


def test_thinning_keeps_both_ends() -> None:
    kept = drawing.thinned(range(10_000), 60)
    assert (len(kept), kept[0], kept[-1]) == (60, 0, 9999)
    assert drawing.thinned([1, 2, 3], 60) == [0, 1, 2]


# The command


def test_the_command_writes_png_and_svg_and_says_what_is_not_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_timed(tmp_path / "results", e_tasks())
    assert main([str(tmp_path / "results"), "--only", "timeline", "calibration", "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [Path(path).name for path in told["figures"]["timeline-digits"]] == [
        "timeline-digits.png",
        "timeline-digits.svg",
    ]
    assert all(Path(path).is_file() for path in told["figures"]["timeline-digits"])
    assert "no file of harness.calibrate" in told["not_drawn"]["calibration"]
    assert "no file of harness.calibrate" in err


def test_wrong_names_and_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write([Task("t")])
    assert main([str(tmp_path), "--only", "timelin"]) == 2
    assert "Did you mean 'timeline'" in capsys.readouterr().err
    assert main([str(tmp_path), "--only", "timeline"]) == 3
    assert "there is nothing to draw" in capsys.readouterr().err
    with pytest.raises(ResultsError, match="'pie'"):
        figure("pie")


def test_a_hostile_workload_names_no_file_elsewhere(tmp_path: Path) -> None:
    names_ = ("../../etc/x", "..\\..\\etc\\x", "$math$ <b>\x1b[31m", "....")
    write_timed(tmp_path / "results", [Task(f"t{number}", workload=name) for number, name in enumerate(names_)])
    made, _ = drawn(Material.of([tmp_path / "results"]), ["learning"])
    written = [path for picture in made for path in picture.write(tmp_path / "out")]
    assert len(set(written)) == 2 * len(names_)
    assert {path.resolve().parent for path in written} == {(tmp_path / "out").resolve()}
    assert b"\x1b" not in b"".join(path.read_bytes() for path in written if path.suffix == ".svg")


FOREIGN = """
from analysis.figures.drawing import Picture, canvas

def draw(material):
    figure = canvas(4, 3)
    figure.subplots().set_xlabel(f"{len(material.results.rounds)} rounds")
    return [Picture("mine", "Mine", "A figure of somebody else.", figure)]
"""


def test_a_foreign_figure_is_drawn_by_its_entry_point(tmp_path: Path) -> None:
    install(tmp_path, "mine", FOREIGN, "[fedmeter.figures]\nmine = mine:draw\n")
    RunFolder(tmp_path / "results").write([Task("t", rounds=3)])
    command = [sys.executable, "-W", "error", "-m", "analysis.figures", str(tmp_path / "results"), "--only", "mine"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 rounds" in (tmp_path / "results" / "analysis" / "mine.svg").read_text()

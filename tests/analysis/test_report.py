"""The report as text: what it says, that hostile text stays text, and what bounds it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import pareto
from analysis.figures.drawing import Material
from analysis.hypertext import Html, element, lines, text
from analysis.report import main
from analysis.report_content import Report, report
from analysis.report_page import page
from analysis.report_record import MAX_TABLE_ROWS, Table
from profiler.records import Row
from tests.fixtures.results_folder import WALL, RunFolder, Task
from tests.fixtures.timed_rounds import e_tasks, write_timed

HOSTILE = '</td></script><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m\u202egnp'


class Tags(HTMLParser):
    """Every tag with its attributes, and the text outside of scripts."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(root: Path) -> Report:
    return report(Material.of([root]))


def parsed(root: Path) -> Tags:
    return Tags(page(made(root), "title"))


def failure(task: str, reason: str) -> Row:
    return {
        "kind": "failure",
        "task": task,
        "attempt": 1,
        "wall_time": WALL,
        "round": 1,
        "device": "fast-0",
        "phase": "fit",
        "reason": reason,
    }


def failing(root: Path, reason: str, n: int = 1) -> Path:
    folder = RunFolder(root)
    path = folder.write([Task("t")])
    folder.append(*(failure("t", f"{reason} {number}") for number in range(n)))
    return path


def test_the_command_writes_one_page_and_says_the_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_timed(tmp_path, e_tasks())
    assert main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "All times are measured." in out
    assert "digits: Recommended: E=5, C=2, tau=parity" in out
    assert str(tmp_path / "analysis" / "report.html") in err
    words = Tags((tmp_path / "analysis" / "report.html").read_text()).words
    for said in (
        "Beside the most accurate, E=5, C=2, tau=none (accuracy 0.9000), E=5, C=2, tau=parity takes 56 % of the time",
        "44 % of the energy (counter)",
        "No failure is on record.",
        "python -m harness.run",
        "not permitted. Ask for it.",
    ):
        assert said in words


def test_json_is_one_object_with_what_the_page_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_timed(tmp_path, e_tasks())
    assert main([str(tmp_path), "--json", "-o", str(tmp_path / "r.html")]) == 0
    told = json.loads(capsys.readouterr().out)
    (workload,) = told["workloads"]
    assert [row["accuracy"] for row in workload["configurations"]] == [0.7, 0.9, 0.88]
    assert workload["configurations"][1]["on front"] == "yes"
    assert {(row["sensor"], row["state"]) for row in told["sensors"]} == {
        ("rapl", "in use"),
        ("perf", "refused"),
        ("jetson", "not here"),
    }
    host = next(row for row in told["devices"] if row["device"] == "host")
    assert (host["energy is"], host["idle power (W)"]) == ("rapl (counter)", 3.0)
    assert {figure["name"].split("-")[0] for figure in told["figures"]} >= {"pareto", "timeline", "power"}
    assert (tmp_path / "r.html").is_file()


def test_its_front_is_that_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousandth of accuracy is no gain on twice the cost, there and here."""
    tasks = [Task("a", 5, accuracy=0.901), Task("b", 10, accuracy=0.902, time_s=20.0, energy_j=200.0)]
    RunFolder(tmp_path).write(tasks)
    assert pareto.main([str(tmp_path), "--json", "-o", str(tmp_path / "analysis")]) == 0
    front = set(json.loads(capsys.readouterr().out)["fronts"]["accuracy,time_s,energy_j"])
    (found,) = made(tmp_path).workloads
    assert {row[0] for row in found.table.rows if row[1] == "yes"} == front == {"E=5, C=2, tau=none"}
    assert any(note.startswith("Compared after rounding") for note in found.notes)


def test_no_choice_is_set_beside_one_of_the_other_clock(tmp_path: Path) -> None:
    write_timed(tmp_path, e_tasks())
    write_timed(tmp_path, e_tasks(provenance="simulated"), "20261124T000000-bbbb", "simulated")
    found = made(tmp_path)
    assert [one.name for one in found.workloads] == ["digits", "digits (simulated)"]
    assert any("MIXED TIMES" in line for line in found.summary)
    for one in found.workloads:
        assert len({row[one.table.columns.index("time is")] for row in one.table.rows}) == 1


def test_failures_are_listed_with_their_reasons(tmp_path: Path) -> None:
    failing(tmp_path, "connection lost")
    found = made(tmp_path)
    assert found.failures.rows == (("20261123T000000-aaaa", "t", 1, "fast-0", "fit", "connection lost 0"),)
    assert "1 failure on record." in found.summary


def test_how_to_have_it_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t")])
    info = folder.run_json(1) | {
        "argv": ["fleet.toml", "--rounds", "4; rm -rf /"],
        "git": {"commit": "abc123", "dirty": True},
        "versions": {"numpy": "2.0", "torch": "2.5"},
        "experiment_text": "rounds = 4\n",
    }
    folder.write_json("run.json", info)
    (folder.path / "fleet.toml").write_text('name = "lab"\n')
    (origin,) = made(tmp_path).origins
    assert origin.command == "python -m harness.run fleet.toml --rounds '4; rm -rf /'"
    assert origin.facts["git"] == "abc123, with changes that are not committed"
    assert origin.facts["versions"] == "numpy 2.0, torch 2.5"
    assert origin.texts == {"fleet.toml": 'name = "lab"\n', "experiment": "rounds = 4\n"}


@pytest.mark.parametrize(
    "damage",
    [
        {"argv": "all", "git": [], "versions": 7, "host": None},
        {"argv": [1, 2], "experiment_text": {"a": 1}},
        {"fleet": ["x"], "experiment": None, "wall_time": 5},
    ],
)
def test_a_run_json_of_another_shape_is_not_on_record(tmp_path: Path, damage: Row) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t")])
    folder.write_json("run.json", folder.run_json(1) | damage)
    assert "not on record" in Tags(page(made(tmp_path), "t")).words


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    hostile_task = Task("t", workload=HOSTILE, processors={HOSTILE: 2}, extra={"strategy": HOSTILE})
    folder.write([hostile_task, Task("u", epochs=5, workload=HOSTILE)])
    folder.write_json(
        "run.json", folder.run_json(2) | {"fleet": HOSTILE, "argv": [HOSTILE], "experiment_text": HOSTILE}
    )
    folder.write_json("devices/x.json", {"processor": HOSTILE, "machine": {"model": HOSTILE}, "meter": HOSTILE})
    sensor = {"name": HOSTILE, "available": False, "reason": HOSTILE, "remedy": HOSTILE}
    folder.write_json("devices/host.json", {"sensors": [sensor, "none", 3]})
    folder.append(failure("t", HOSTILE))
    (folder.path / "fleet.toml").write_text(HOSTILE)
    found = parsed(tmp_path)
    assert [name for name, _ in found.tags].count("script") == 1
    assert all(source["src"].startswith("data:image/") for source in found.attributes("img") if source["src"])
    assert not [key for _, attributes in found.tags for key in attributes if key.startswith("on")]
    assert "alert(1)" in found.words
    assert not {"\x1b", "\u202e"} & set(found.words)


def test_the_policy_names_the_only_script_and_style_by_hash(tmp_path: Path) -> None:
    RunFolder(tmp_path).write([Task("t")])
    content = page(made(tmp_path), "t")
    policy = next(meta["content"] for meta in Tags(content).attributes("meta") if "http-equiv" in meta) or ""
    for tag in ("script", "style"):
        (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", content, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert content.index("Content-Security-Policy") < content.index("<style>")


def test_the_page_is_bounded(tmp_path: Path) -> None:
    failing(tmp_path, "again and again", n=MAX_TABLE_ROWS + 5)
    (next(tmp_path.iterdir()) / "fleet.toml").write_text("x" * 1_000_000)
    found = made(tmp_path)
    assert (len(found.failures.rows), found.failures.n_left_out) == (MAX_TABLE_ROWS, 5)
    content = page(found, "t")
    assert "5 more rows are left out here." in content
    assert len(content.encode()) < 1_000_000
    assert "[cut off here: it is longer]" in content


def test_a_table_keeps_what_fits() -> None:
    table = Table.of("k", "K", ("a",), ([number] for number in range(MAX_TABLE_ROWS + 1)))
    assert (len(table.rows), table.n_left_out) == (MAX_TABLE_ROWS, 1)


def test_only_our_own_markup_is_markup() -> None:
    assert element("p", "<b>", Html("<i>")) == "<p>&lt;b&gt;<i></p>"
    assert element("a", "x", href='"><script>', class_=None) == '<a href="&quot;&gt;&lt;script&gt;">x</a>'
    assert text("a\nb\x00") == "a?b?"
    assert lines("a\tb\r\n<c>\u2028d") == "a   b\n&lt;c&gt;\nd"
    assert element("input", data_sort="1") == '<input data-sort="1">'

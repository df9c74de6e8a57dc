"""`python -m profiler` where things go wrong around it: streams, disks, trees, terminals and typing errors."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from profiler.__main__ import main
from profiler.commands.watch import Screen
from profiler.integrate import total
from profiler.quantities import EnergyReading, Provenance, Scope
from tests.fixtures.faults import forbid_root, in_thread
from tests.fixtures.power_supply import supply
from tests.fixtures.powercap import Tree, build_tree
from tests.profiler.commands.running import command, environment

_DISK = "No space left on device"


def shell(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command with a shell's redirection, such as `2>&-`."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command(*arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def strict_json(text: str) -> dict[str, object]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    value: dict[str, object] = json.loads(text, parse_constant=refuse)
    return value


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return build_tree(tmp_path / "root")


@pytest.mark.serial
@pytest.mark.parametrize(
    ("redirection", "verb", "status"),
    [
        (">&-", ("list",), 0),
        ("<&-", ("watch", "--seconds", "0.2"), 0),
        (">&-", ("watch", "--seconds", "0.2"), 0),
        ("2>&-", ("measure", "--", "sh", "-c", "exit 5"), 5),
        ("<&- >&- 2>&-", ("measure", "--", "sh", "-c", "echo said; exit 5"), 5),
    ],
)
def test_closed_streams(tree: Tree, redirection: str, verb: tuple[str, ...], status: int) -> None:
    """Nothing takes their place: neither the figures another stream's, nor a sensor's file a closed one's."""
    done = shell(redirection, verb[0], "--sysfs-root", tree.root, *verb[1:])
    assert done.returncode == status
    assert done.stderr == ""
    if "2>&-" in redirection:
        assert done.stdout == ""


@pytest.mark.serial
@pytest.mark.parametrize(
    ("redirection", "verb", "status"),
    [
        (">/dev/full", ("list",), 1),
        ("2>/dev/full", ("measure", "--", "true"), 1),
        ("2>/dev/full", ("measure", "--", "sh", "-c", "exit 5"), 5),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_no_traceback(tree: Tree, redirection: str, verb: tuple[str, ...], status: int) -> None:
    done = shell(redirection, verb[0], "--sysfs-root", tree.root, *verb[1:])
    assert done.returncode == status
    assert (_DISK in done.stderr) == redirection.startswith(">")
    assert "Traceback" not in done.stderr


@pytest.mark.serial
def test_the_status_is_the_commands_though_nobody_reads_the_figures(tree: Tree) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = command("measure", "--sysfs-root", tree.root, "--", "sh", "-c", "exit 7")
    done = subprocess.run(arguments, env=environment(), stderr=writer, timeout=60, check=False)
    os.close(writer)
    assert done.returncode == 7


def _nothing(root: Path) -> None:
    root.mkdir()


def _files_where_folders_are_due(root: Path) -> None:
    (root / "sys/class").mkdir(parents=True)
    for name in ("powercap", "power_supply", "hwmon"):
        (root / "sys/class" / name).write_text("no folder\n")


def _folders_where_files_are_due(root: Path) -> None:
    for name in ("proc/stat", "etc/fedmeter/external.json", "proc/device-tree/model"):
        (root / name).mkdir(parents=True)
    tree = build_tree(root)
    for zone in tree.zones.values():
        zone.energy_path.unlink()
        zone.energy_path.mkdir()


def _links_in_circles(root: Path) -> None:
    (root / "sys/class").mkdir(parents=True)
    for name, target in (("powercap", "hwmon"), ("hwmon", "power_supply"), ("power_supply", "powercap")):
        (root / "sys/class" / name).symlink_to(target)


def _garbage(root: Path) -> None:
    tree = build_tree(root)
    for path in tree.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(bytes(range(256)) * 64)
    (root / "proc").mkdir()
    (root / "proc/stat").write_bytes(b"\xff" * 10_000)


@pytest.mark.parametrize(
    "build", [_nothing, _files_where_folders_are_due, _folders_where_files_are_due, _links_in_circles, _garbage]
)
@pytest.mark.parametrize("verb", ["list", "doctor"])
def test_trees_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], build: Callable[[Path], None], verb: str
) -> None:
    build(tmp_path / "root")
    status = main([verb, "--sysfs-root", str(tmp_path / "root"), "--json"])
    rows = strict_json(capsys.readouterr().out)["sensors"]
    assert isinstance(rows, list)
    assert status == (0 if any(row["available"] for row in rows) else 3)  # some sensors do not look at the tree
    rows = [row for row in rows if row["sensor"] in ("battery", "cpu_model", "external", "jetson", "rapl")]
    assert len(rows) == 5
    assert all(row["reason"] and row["remedy"] for row in rows)
    assert main([verb, "--sysfs-root", str(tmp_path / "root")]) == status


@pytest.mark.parametrize("part", ["root", "root/sys", "root/sys/class"])
def test_trees_that_may_not_be_read(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user to whom the root, its sys folder, or what lies in it is closed."""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies below a folder that only its owner may enter
        Path(folder).chmod(0o755)
        build_tree(Path(folder) / "root")
        (Path(folder) / part).chmod(0)

        def listed() -> int:
            forbid_root()
            return main(["list", "--sysfs-root", f"{folder}/root"])

        assert in_thread(listed) in (0, 3)
        (Path(folder) / part).chmod(0o755)
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "readable by root only" in rows["rapl"]
    assert "chmod" in rows["rapl"]
    for name in ("battery", "jetson"):
        assert "Permission denied" in rows[name]


def test_names_from_a_tree_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    supply(tmp_path, "BAT\x1b[2J", type="Battery", status="Discharging", power_now=5_000_000)
    main(["list", "--sysfs-root", str(tmp_path)])
    main(["doctor", "--sysfs-root", str(tmp_path)])
    out, err = capsys.readouterr()
    assert "BAT?[2J" in out
    assert "\x1b" not in out + err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["measure", "sleep", "1"], "a command comes after --"),
        (["measure", "--ratte", "5", "--", "true"], "does not know --ratte"),
        (["doctor", "--", "true"], "takes no command"),
        (["lits"], "invalid choice"),
        ([], "required"),
    ],
)
def test_typing_errors_say_what_to_do(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "lines"), [(1, 1), (5, 2), (20, 3), (500, 100)])
def test_a_view_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, lines: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    reading = EnergyReading("package-0", 5.0, 0.1, Provenance.COUNTER, Scope.PACKAGE, reason="a long reason " * 20)
    stream = io.StringIO()
    screen = Screen("rapl", stream)
    for _ in range(2):
        screen.show(1.0, [5.0, 5.0], [reading, total([reading], ["package-0"], Scope.HOST)])
    shown = stream.getvalue().split("\x1b[J")
    assert len(shown) == 3
    for view in shown[1:]:
        rows = view.split("\x1b")[0].splitlines()
        assert len(rows) < lines or lines == 1
        assert all(len(row) < columns or columns == 1 for row in rows)

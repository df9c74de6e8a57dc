from __future__ import annotations

import re
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from tests.fixtures.powercap import Driver, Tree, build_tree
from tests.profiler.commands.running import Terminal, command, environment, finish, started

pytestmark = pytest.mark.serial


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return build_tree(tmp_path / "root")


def test_lines_into_a_pipe_and_the_totals(tree: Tree) -> None:
    with Driver(tree, 20.0, dram_w=3.0):
        done = finish("watch", "--sysfs-root", tree.root, "--seconds", "2.5", stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if re.match(r"\d\.\d s  ", line)]
    assert len(lines) == 3  # after 1, 2 and 2.5 s
    match = re.search(r"(\S+) ± (\S+) J counter  total (\S+) W  package-0 (\S+) W", lines[1])
    assert match is not None, lines
    energy_j, error_j, total_w, package_w = map(float, match.groups())
    assert 0.7 * 46 < energy_j < 1.2 * 46
    assert 0 < error_j < 0.1 * energy_j
    assert total_w == pytest.approx(23, rel=0.15)
    assert package_w == pytest.approx(20, rel=0.15)
    assert re.search(r"^  total +\d+\.\d+ ± ", done.stdout, re.MULTILINE)


def test_a_terminal_is_redrawn_until_q(tree: Tree) -> None:
    with Driver(tree, 20.0), Terminal("watch", "--sysfs-root", tree.root) as terminal:
        terminal.wait_for(b"\x1b[J", count=3)
        assert not termios.tcgetattr(terminal.slave)[3] & termios.ICANON
        terminal.press(b"xq")
        assert terminal.end() == 0
        assert termios.tcgetattr(terminal.slave)[3] & termios.ICANON
        assert termios.tcgetattr(terminal.slave)[3] & termios.ECHO
    shown = terminal.shown
    assert shown.startswith(b"\x1b[?25l")
    first, second = shown.split(b"\x1b[J")[1:3]
    assert second.startswith(b"rapl ")
    assert first.endswith(b"\n\x1b[6F")  # back over the title, the heads, three rails and the total
    assert first.count(b"\n") == 6
    after = shown.split(b"\x1b[?25h")[1]
    assert b"\x1b" not in after
    assert re.search(rb"  total +\S+ \xc2\xb1 ", after)
    screen = shown.split(b"\x1b[J")[2]
    assert re.search(rb"package-0 .*#{5}.* \xc2\xb1 .*counter", screen)
    assert re.search(rb"total .*#{20}.* \xc2\xb1 .*counter +host", screen)


def test_ctrl_c_ends_it_with_the_totals(tree: Tree) -> None:
    with Driver(tree, 20.0), Terminal("watch", "--sysfs-root", tree.root) as terminal:
        terminal.wait_for(b"\x1b[J", count=1)
        terminal.press(b"\x03")
        assert terminal.end() == 0
        assert termios.tcgetattr(terminal.slave)[3] & termios.ICANON
    after = terminal.shown.split(b"\x1b[?25h")[1]
    assert b"elapsed" in after
    assert b"Traceback" not in terminal.shown


def test_sigterm_ends_it_with_the_totals(tree: Tree) -> None:
    with Driver(tree, 20.0), started("watch", "--sysfs-root", tree.root) as process:
        assert process.stdout is not None
        assert " counter " in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "elapsed" in stdout
    assert stderr == ""


def test_a_reader_that_leaves_is_no_error(tree: Tree) -> None:
    process = subprocess.Popen(
        command("watch", "--sysfs-root", tree.root, "--seconds", "20"),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_sensor_that_vanishes_is_seen(tree: Tree) -> None:
    with Driver(tree, 20.0), started("watch", "--sysfs-root", tree.root) as process:
        assert process.stdout is not None
        assert "package-0 2" in process.stdout.readline()
        for zone in tree.zones.values():
            zone.energy_path.unlink()
        lines = [process.stdout.readline() for _ in range(2)]
        assert "total - W  package-0 - W" in lines[1]
        assert process.poll() is None

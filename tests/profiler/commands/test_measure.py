from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from profiler.__main__ import main
from tests.fixtures.powercap import Driver, Tree, build_tree
from tests.fixtures.throttling import cooler, jetson_gpu
from tests.profiler.commands.running import Terminal, command, environment, finish, started

pytestmark = pytest.mark.serial


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return build_tree(tmp_path / "root", range_uj=262_143_328_850)


def counted_j(driver: Driver, start_ns: int, end_ns: int) -> float:
    """What stood in the counters at two moments: the value of the last tick before each."""
    before, after = (max(uj for t_ns, uj in driver.log if t_ns <= edge_ns) for edge_ns in (start_ns, end_ns))
    return (after - before) / 1e6


def figures(stderr: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(stderr.splitlines()[-1])
    return value


def test_joules_of_a_sleep_are_the_drivers(tree: Tree) -> None:
    with Driver(tree, 20.0, dram_w=3.0) as driver:
        time.sleep(0.1)
        done = finish("measure", "--sysfs-root", tree.root, "--json", "--", "sleep", "1")
        time.sleep(0.1)
    assert done.returncode == 0
    assert done.stdout == ""
    got = figures(done.stderr)
    total = got["total"]
    assert total["energy_j"] == pytest.approx(counted_j(driver, got["start_ns"], got["end_ns"]), rel=0.01)
    assert total["energy_j"] == pytest.approx(23.0 * got["duration_s"], rel=0.1)
    assert total["provenance"] == "counter"
    assert total["scope"] == "host"
    assert total["total_of"] == ["package-0", "dram-0"]
    assert total["coverage"] == pytest.approx(1.0)
    assert total["n_samples"] >= 6
    assert 0 < total["energy_err_j"] < 0.1 * total["energy_j"]
    assert total["mean_power_w"] * (got["end_ns"] - got["start_ns"]) / 1e9 == pytest.approx(total["energy_j"])
    assert total["mean_power_w"] <= total["peak_power_w"] < 2.5 * 23
    assert [rail["rail"] for rail in got["rails"]] == ["package-0", "core-0", "dram-0"]
    assert 1.0 <= got["duration_s"] < 3
    assert got["user_s"] + got["system_s"] < 0.2
    assert 0 < got["sampler_cpu_s"] < 0.2
    assert got["exit_status"] == 0


def test_peak_power_shows_a_burst_that_the_mean_hides(tree: Tree) -> None:
    """The burst is within the command, however long the program takes to start."""
    watts = [10.0]
    arguments = ("measure", "--sysfs-root", tree.root, "--rate", "50", "--json", "--", "sh", "-c", "echo on; sleep 2")
    with Driver(tree, lambda t_s: watts[0], dram_w=0.0), started(*arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        time.sleep(0.5)
        watts[0] = 80.0
        time.sleep(0.5)
        watts[0] = 10.0
        _, stderr = process.communicate(timeout=60)
    total = figures(stderr)["total"]
    assert total["mean_power_w"] < 40
    assert total["peak_power_w"] > 60


def test_what_slowed_the_machine_down_is_told(tree: Tree) -> None:
    cooler(tree.root, 0, "thermal-cpufreq-0", 2)
    jetson_gpu(tree.root, "gpu.0/load", per_mille=250)
    done = finish("measure", "--sysfs-root", tree.root, "--json", "--", "true")
    assert figures(done.stderr)["machine"] == {
        "temperature_c": 51.25,
        "frequency_hz": None,
        "gpu_use": 0.25,
        "gpu_temperature_c": 51.25,
        "gpu_frequency_hz": 624.75e6,
        "throttling": "thermal_cpufreq_0",
    }


def test_cpu_seconds_are_the_commands(tree: Tree) -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    done = finish("measure", "--sysfs-root", tree.root, "--json", "--", sys.executable, "-c", burn)
    got = figures(done.stderr)
    assert 0.35 <= got["user_s"] + got["system_s"] < 0.8


def test_the_table_says_error_provenance_scope_and_coverage(tree: Tree) -> None:
    with Driver(tree, 20.0):
        done = finish("measure", "--sysfs-root", tree.root, "--", "sh", "-c", "sleep 0.3; exit 4")
    assert done.returncode == 4
    row = next(line.split() for line in done.stderr.splitlines() if line.startswith("  total "))
    assert row[2] == "±"
    assert "counter" in row
    assert "host" in row
    assert "100%" in row
    assert "exit status 4" in done.stderr
    assert "total = package-0+dram-0" in done.stderr
    assert "Nothing was measured" not in done.stderr


def test_a_model_is_said_to_be_one() -> None:
    done = finish("measure", "--sensor", "cpu_model", "--", "true")
    assert done.returncode == 0
    assert "estimated" in done.stderr
    assert "Nothing was measured" in done.stderr


def test_stdin_and_stdout_stay_the_commands(tree: Tree) -> None:
    data = bytes(range(256)) * 500
    arguments = command("measure", "--sysfs-root", tree.root, "--", "cat")
    done = subprocess.run(arguments, env=environment(), input=data, capture_output=True, timeout=60, check=False)
    assert done.stdout == data
    assert b"total" in done.stderr


def test_inherited_descriptors_are_handed_on(tree: Tree) -> None:
    read_fd, write_fd = os.pipe()
    script = f"import os; os.write({write_fd}, b'hello')"
    done = finish("measure", "--sysfs-root", tree.root, "--", sys.executable, "-c", script, pass_fds=(write_fd,))
    os.close(write_fd)
    assert os.read(read_fd, 100) == b"hello"
    os.close(read_fd)
    assert done.returncode == 0


def test_no_shell_looks_at_the_command(tree: Tree, tmp_path: Path) -> None:
    done = finish("measure", "--sysfs-root", tree.root, "--", "echo", f"$HOME; touch {tmp_path}/made", "--json", "--")
    assert done.stdout == f"$HOME; touch {tmp_path}/made --json --\n"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("kill -TERM $$", 143), ("kill -9 $$", 137), ("exit 255", 255)]
)
def test_the_exit_status_is_the_commands(
    tree: Tree, script: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", "--sysfs-root", str(tree.root), "--json", "--", "sh", "-c", script]) == status
    assert figures(capfd.readouterr().err)["exit_status"] == status


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--", "no-such-command-anywhere"], 127, "no-such-command-anywhere"),
        (["--", "/dev/null"], 126, "Permission denied"),
        ([], 2, "needs a command"),
        (["--sensor", "rapp", "--", "true"], 2, "Did you mean 'rapl'?"),
        (["--sensor", "cpu_model", "--", "true"], 3, "proc/stat"),
    ],
)
def test_what_cannot_be_run(
    tree: Tree, arguments: list[str], status: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", "--sysfs-root", str(tree.root), *arguments]) == status
    streams = capfd.readouterr()
    assert said in streams.err
    assert streams.out == ""


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--rate", "nan"], ["--rate", "1e9"], ["sleep"], ["--"]])
def test_wrong_usage(tree: Tree, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["measure", "--sysfs-root", str(tree.root), *arguments])
    assert raised.value.code == 2


def test_nothing_runs_where_nothing_meters(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "root").mkdir()
    assert main(["measure", "--sysfs-root", str(tmp_path / "root"), "--", "touch", str(tmp_path / "made")]) == 3
    assert "doctor" in capfd.readouterr().err
    assert not (tmp_path / "made").exists()


def test_figures_go_to_a_new_file(tree: Tree, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    arguments = ["measure", "--sysfs-root", str(tree.root), "--json", "-o", str(path)]
    assert main([*arguments, "--", "no-such-command-anywhere"]) == 127
    assert not path.exists()
    capfd.readouterr()
    assert main([*arguments, "--", "true"]) == 0
    assert capfd.readouterr().err == ""
    assert json.loads(path.read_text())["command"] == ["true"]
    text = path.read_text()
    assert main([*arguments, "--", "touch", str(tmp_path / "made")]) == 2
    assert path.read_text() == text
    assert not (tmp_path / "made").exists()


def test_a_sensor_that_vanishes_early_leaves_energy_missing(tree: Tree) -> None:
    gone = f"sleep 0.2; rm {tree.root}/sys/devices/virtual/powercap/intel-rapl/*/energy_uj"
    gone += f" {tree.root}/sys/devices/virtual/powercap/intel-rapl/*/*/energy_uj; sleep 0.8; exit 5"
    with Driver(tree, 20.0):
        done = finish("measure", "--sysfs-root", tree.root, "--json", "--", "sh", "-c", gone)
    assert done.returncode == 5
    total = figures(done.stderr)["total"]
    assert total["energy_j"] is None
    assert total["mean_power_w"] is None
    assert total["peak_power_w"] is None
    assert total["provenance"] == "missing"
    assert "can be read" in total["reason"]


def test_a_sensor_that_vanishes_late_costs_coverage(tree: Tree) -> None:
    gone = f"sleep 0.8; rm {tree.root}/sys/devices/virtual/powercap/intel-rapl/*/energy_uj"
    gone += f" {tree.root}/sys/devices/virtual/powercap/intel-rapl/*/*/energy_uj; sleep 0.3"
    with Driver(tree, 20.0, dram_w=3.0):
        done = finish("measure", "--sysfs-root", tree.root, "--", "sh", "-c", gone)
    assert done.returncode == 0
    total = next(line for line in done.stderr.splitlines() if line.startswith("  total "))
    assert " 100%" not in total
    assert "missing" not in total
    assert "can be read" in done.stderr


def test_sigterm_ends_the_command_and_not_the_measurement(tree: Tree) -> None:
    trap = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    arguments = ("measure", "--sysfs-root", tree.root, "--json", "--", "sh", "-c", trap)
    with Driver(tree, 20.0) as driver, started(*arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        n_ticks = len(driver.log)
        while len(driver.log) < n_ticks + 2:  # what is measured has counted something
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 9
    assert figures(stderr)["total"]["energy_j"] > 0


_COUNTS_SIGINT = """
import signal, time
n = []
signal.signal(signal.SIGINT, lambda *_: n.append(1))
print("ready", flush=True)
told = quiet = 0
while not n or quiet < 50:
    time.sleep(0.01)
    quiet = quiet + 1 if told == len(n) else 0
    while told < len(n):
        told += 1
        print("a signal", flush=True)
raise SystemExit(6)
"""


def test_ctrl_c_at_the_terminal_reaches_the_command_once(tree: Tree) -> None:
    arguments = ("measure", "--sysfs-root", tree.root, "--", sys.executable, "-c", _COUNTS_SIGINT)
    with Terminal(*arguments) as terminal:
        terminal.wait_for(b"ready\r\n")
        for count in range(1, 6):  # several, since two that come at once are one
            terminal.press(b"\x03")
            terminal.wait_for(b"a signal", count)
            time.sleep(0.05)
        assert terminal.end() == 6
        assert terminal.shown.count(b"a signal") == 5
        assert b"total" in terminal.shown


def test_sigint_without_a_terminal_is_passed_on(tree: Tree) -> None:
    arguments = ("measure", "--sysfs-root", tree.root, "--", sys.executable, "-c", _COUNTS_SIGINT)
    with started(*arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=60)
    assert stdout == "a signal\n"
    assert process.returncode == 6


def test_a_signal_that_was_ignored_stays_ignored(tree: Tree) -> None:
    inner = " ".join(command("measure", "--sysfs-root", str(tree.root), "--", "sh", "-c"))
    script = f"trap '' INT; exec {inner} 'kill -INT $$; echo alive'"
    done = subprocess.run(
        ["sh", "-c", script], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "alive\n"
    assert done.returncode == 0


def test_help_shows_where_the_command_goes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["measure", "--help"])
    assert "[-o FILE] -- CMD ...\n" in capsys.readouterr().out

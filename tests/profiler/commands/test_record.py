from __future__ import annotations

import json
import math
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from profiler.__main__ import main
from profiler.clock import FakeClock, SystemClock
from profiler.commands.meter import Meter
from profiler.commands.record import TraceWriter
from profiler.errors import UsageError
from profiler.integrate import integrate
from profiler.sampler import Sample, Sampler
from profiler.sensor import Available
from profiler.sensors.fake import FakeSensor
from profiler.sensors.replay import ReplaySensor, read_trace
from tests.fixtures.powercap import PACKAGE_RANGE_UJ, Driver, Tree, build_tree
from tests.profiler.commands.running import command, environment, finish, started
from tests.profiler.rails import counter_rail, power_rail

pytestmark = pytest.mark.serial


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return build_tree(tmp_path / "root")


def replayed(path: Path) -> tuple[dict[str, float | None], float]:
    """Joules of every rail and of the total, from a sampler at the two ends of the played back trace."""
    clock = FakeClock()
    _, moments = read_trace(path)
    with Sampler(ReplaySensor(path, clock), clock, rate_hz=0) as sampler:
        window = sampler.open_window()
        clock.advance((moments[-1][0] - moments[0][0]) / 1e9)
        readings = window.close()
        total = sampler.total(readings)
    return {reading.rail: reading.energy_j for reading in (*readings, total)}, total.coverage


def wait_for_lines(path: Path, count: int) -> None:
    deadline_s = time.monotonic() + 30
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize("start_uj", [123_456_789, PACKAGE_RANGE_UJ - 5_000_000])
def test_a_trace_plays_back_to_the_same_joules(tmp_path: Path, start_uj: int) -> None:
    tree = build_tree(tmp_path / "root", start_uj=start_uj)  # the second one wraps while it is recorded
    path = tmp_path / "trace.jsonl"
    with Driver(tree, lambda t_s: 20 + 10 * math.sin(9 * t_s)):
        done = finish("record", "--sysfs-root", tree.root, "-o", path, "--seconds", "1.5", "--rate", "40", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    got = json.loads(done.stderr)
    energies_j, coverage = replayed(path)
    assert coverage == pytest.approx(1.0)
    assert energies_j == {
        row["rail"]: pytest.approx(row["energy_j"], rel=1e-9) for row in (*got["rails"], got["total"])
    }
    assert energies_j["total"] > 20
    available, moments = read_trace(path)
    assert (moments[0][0], moments[-1][0]) == (got["start_ns"], got["end_ns"])
    assert len(moments) == got["total"]["n_samples"] >= 20
    assert available.total == ("package-0", "dram-0")


def test_power_rails_and_missing_values_are_recorded_as_they_came(tmp_path: Path) -> None:
    clock = SystemClock()
    rails = [power_rail(), counter_rail()]
    seen: list[Sample] = []
    sensor = FakeSensor(
        rails,
        lambda t_s: [5 + 4 * math.sin(20 * t_s), None if 0.1 < t_s < 0.2 else 3 * t_s],
        clock,
        total=[rails[0].name],
    )
    meter = Meter(sensor, clock, 100.0)
    writer = TraceWriter(tmp_path / "trace.jsonl", meter.available)
    meter.listeners += [seen.append, writer]

    def work() -> None:
        clock.sleep(0.4)

    figures = meter.run(work, on_open=writer.begin)
    writer.close()
    assert writer.failure is None
    _, moments = read_trace(tmp_path / "trace.jsonl")
    assert moments == [(sample.t_ns, sample.values) for sample in seen if sample.t_ns >= figures.start_ns]
    assert any(values[1] is None for _, values in moments)
    again = integrate(
        rails[0], [(t_ns, values[0]) for t_ns, values in moments], figures.start_ns, figures.end_ns, max_gap_s=1.0
    )
    assert again.energy_j == pytest.approx(figures.readings[0].energy_j, rel=1e-9)
    assert again.energy_j == pytest.approx(figures.total.energy_j, rel=1e-9)


def test_a_crash_keeps_what_was_written(tree: Tree, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with Driver(tree, 20.0), started("record", "--sysfs-root", tree.root, "-o", path, "--rate", "50") as process:
        wait_for_lines(path, 20)
        process.kill()
        process.wait()
    _, moments = read_trace(path)
    assert len(moments) >= 19
    energies_j, _ = replayed(path)
    assert energies_j["package-0"] == pytest.approx(20 * (moments[-1][0] - moments[0][0]) / 1e9, rel=0.3)


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["--seconds", "50"], 130)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_still_says_what_it_has(
    tree: Tree, tmp_path: Path, arguments: list[str], status: int, number: signal.Signals
) -> None:
    path = tmp_path / "trace.jsonl"
    with Driver(tree, 20.0), started("record", "--sysfs-root", tree.root, "-o", path, *arguments) as process:
        wait_for_lines(path, 5)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in stderr
    assert "total" in stderr
    assert len(read_trace(path)[1]) >= 4


def test_a_commands_status_is_handed_on(tree: Tree, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.jsonl"
    arguments = ["record", "--sysfs-root", str(tree.root), "-o", str(path)]
    assert main([*arguments, "--", "no-such-command-anywhere"]) == 127
    assert not path.exists()
    assert main([*arguments, "--", "sh", "-c", "sleep 0.1; exit 3"]) == 3
    assert "exit status 3" in capfd.readouterr().err
    written = path.read_bytes()
    assert len(read_trace(path)[1]) >= 2
    assert main([*arguments, "--", "true"]) == 2
    assert "not overwritten" in capfd.readouterr().err
    assert path.read_bytes() == written
    assert main([*arguments, "--seconds", "1", "--", "true"]) == 2


def test_a_full_disk_ends_the_trace_and_not_the_command(tree: Tree, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    arguments = command("record", "--sysfs-root", tree.root, "-o", path, "--rate", "200", "--seconds", "1")
    script = f"ulimit -f 8; exec {shlex.join(arguments)}"  # 4 or 8 KiB, by the shell
    with Driver(tree, 20.0):
        done = subprocess.run(
            ["sh", "-c", script], env=environment(), capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert "The trace ends early" in done.stderr
    assert "total" in done.stderr
    assert len(read_trace(path)[1]) >= 10
    assert path.stat().st_size <= 8192


def test_a_trace_that_cannot_be_made(tmp_path: Path) -> None:
    available = FakeSensor([power_rail()], lambda t_s: [1.0], FakeClock()).probe()
    assert isinstance(available, Available)
    with pytest.raises(UsageError):
        TraceWriter(tmp_path / "none" / "trace.jsonl", available)


def test_a_trace_has_one_sample_a_moment_and_none_from_before(tmp_path: Path) -> None:
    available = FakeSensor([power_rail()], lambda t_s: [1.0], FakeClock()).probe()
    assert isinstance(available, Available)
    writer = TraceWriter(tmp_path / "trace.jsonl", available)
    for t_ns in (1, 2, 3):
        writer(Sample(t_ns, (float(t_ns),), (0.0,)))
    writer.begin(2)
    for t_ns in (3, 4):
        writer(Sample(t_ns, (float(t_ns),), (0.0,)))
    writer.close()
    assert read_trace(tmp_path / "trace.jsonl")[1] == [(2, (2.0,)), (3, (3.0,)), (4, (4.0,))]

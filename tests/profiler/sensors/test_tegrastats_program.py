"""A tegrastats that the sensor starts itself: a real process, a script on a PATH of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from profiler.clock import FakeClock, SystemClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Scope
from profiler.sensor import ENTRY_POINT_GROUP, Available, Unavailable
from profiler.sensors.tegrastats import TegrastatsSensor, TegrastatsStream
from tests.fixtures.jetson import BOARDS, build_jetson
from tests.fixtures.tegrastats import AGX_ORIN, ORIN_NANO_JP6, Descriptor, FakeProgram, fake_program

RAILS = "VDD_CPU_GPU_CV 524mW/524mW VDD_SOC 1373mW/1373mW"
COUNTING = f"VDD_IN $((1000 - n))mW/1mW {RAILS}"  # one milliwatt more each line


def sensor_of(program: FakeProgram, **options: float) -> TegrastatsSensor:
    root = program.folder.parent
    return TegrastatsSensor(root, SystemClock(), command=[str(program.path)], **options)


def is_running(pid: int) -> bool:
    """Not as a zombie either, which a parent that waits for its children does not leave."""
    return Path(f"/proc/{pid}").exists()


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if condition():
            return True
        time.sleep(0.01)
    return False


def refusal(sensor: TegrastatsSensor) -> Unavailable:
    outcome = sensor.probe()
    assert isinstance(outcome, Unavailable), outcome
    assert outcome.remedy
    with pytest.raises(SensorError, match="tegrastats: ") as raised:
        sensor.open()
    assert raised.value.remedy
    return outcome


def failure(sensor: TegrastatsSensor) -> str:
    """What `read` raises in the end, once no line comes any more."""
    until_s = time.monotonic() + 10.0
    while time.monotonic() < until_s:
        try:
            sensor.read()
        except SensorError as error:
            return str(error)
        time.sleep(0.01)
    raise AssertionError("it reads for ever")


def test_it_is_found_in_the_path_and_metered_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake_program(tmp_path / "bin", line=AGX_ORIN)
    monkeypatch.setenv("PATH", f"{program.folder}:/usr/bin:/bin")
    sensor = TegrastatsSensor(Path("/"), SystemClock(), interval_s=0.25)
    outcome = sensor.probe()
    assert isinstance(outcome, Available), outcome
    assert outcome.total == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert (outcome.scope, outcome.provenance) == (Scope.MODULE, Provenance.INTEGRATED)
    assert outcome.same_as == "jetson"
    sensor.open()
    assert sensor.read() == [3.15, 14.312, 4.968, 1.091]
    sensor.close()
    assert [arguments for _, arguments in program.starts()] == ["--interval 250"] * 2


def test_without_the_program_there_is_no_such_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = refusal(TegrastatsSensor(Path("/"), SystemClock()))
    assert outcome.is_absent
    assert "no program tegrastats" in outcome.reason


def test_the_program_does_not_tell_of_another_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake_program(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{program.folder}:/usr/bin:/bin")
    outcome = refusal(TegrastatsSensor(tmp_path, SystemClock()))
    assert outcome.is_absent
    assert program.starts() == []


def test_the_model_tells_apart_boards_of_equal_rails(tmp_path: Path) -> None:
    build_jetson(tmp_path, BOARDS["Orin Nano"])
    outcome = sensor_of(fake_program(tmp_path / "bin")).probe()
    assert isinstance(outcome, Available)
    assert outcome.notes.startswith("Jetson Orin Nano or NX, out of tegrastats")


def test_no_child_outlives_probe_or_close(tmp_path: Path) -> None:
    program = fake_program(tmp_path / "bin")
    sensor = sensor_of(program)
    sensor.probe()
    [(probed, _)] = program.starts()
    assert not is_running(probed)
    sensor.open()
    opened = program.starts()[1][0]
    assert is_running(opened)
    sensor.close()
    assert not is_running(opened)
    sensor.open()
    sensor.open()  # again, without a close between
    sensor.close()
    assert not any(is_running(pid) for pid, _ in program.starts())


def test_a_child_that_will_not_end_is_killed(tmp_path: Path) -> None:
    program = fake_program(tmp_path / "bin", before="trap '' TERM")
    sensor = sensor_of(program)
    sensor.open()
    before_s = time.monotonic()
    sensor.close()
    assert time.monotonic() - before_s < 5
    assert not any(is_running(pid) for pid, _ in program.starts())


def test_a_read_gives_the_newest_line(tmp_path: Path) -> None:
    sensor = sensor_of(fake_program(tmp_path / "bin", line=COUNTING))
    sensor.open()
    first_w = sensor.read()[0]
    assert first_w is not None
    assert eventually(lambda: (sensor.read()[0] or 0.0) > first_w + 0.003)
    sensor.close()


def test_ctrl_c_is_not_for_the_child(tmp_path: Path) -> None:
    """A terminal sends it to the whole group, and the end of the window is still to be metered."""
    program = fake_program(tmp_path / "bin")
    sensor = sensor_of(program)
    sensor.open()
    assert os.getpgid(program.starts()[-1][0]) != os.getpgid(0)
    sensor.close()


def test_a_child_that_ends_says_how(tmp_path: Path) -> None:
    program = fake_program(tmp_path / "bin", lines=3, after="echo 'out of order'; exit 3")
    sensor = sensor_of(program, interval_s=0.05)
    sensor.open()
    assert "it has ended with exit status 3, saying 'out of order'" in failure(sensor)
    sensor.close()


def test_a_child_that_is_killed_is_missing_after_three_intervals(tmp_path: Path) -> None:
    program = fake_program(tmp_path / "bin")
    sensor = sensor_of(program, interval_s=0.05)
    sensor.open()
    os.kill(program.starts()[-1][0], signal.SIGKILL)
    assert "by signal 9" in failure(sensor)
    sensor.close()
    sensor.open()  # and may be started again
    assert sensor.read()[0] == 4.563
    sensor.close()


def test_a_child_that_hangs_is_missing_and_not_constant(tmp_path: Path) -> None:
    program = fake_program(tmp_path / "bin", lines=2, after="sleep 60")
    sensor = sensor_of(program, interval_s=0.05)
    sensor.open()
    assert "no line for" in failure(sensor)
    sensor.close()
    assert not any(is_running(pid) for pid, _ in program.starts())


def test_a_program_that_wants_root_is_quoted(tmp_path: Path) -> None:
    program = fake_program(tmp_path / "bin", before="echo 'please run as \x1b[31mroot'; exit 1")
    reason = refusal(sensor_of(program)).reason
    assert reason == "it has ended with exit status 1, saying 'please run as ?[31mroot'"


def test_a_program_without_rails_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """A Nano 2GB has a tegrastats and no power monitor."""
    program = fake_program(tmp_path / "bin", line="RAM 330/1972MB GPU@22.5C")
    outcome = refusal(sensor_of(program, first_line_s=0.1))
    assert "no line with a rail, saying 'RAM 330/1972MB GPU@22.5C'" in outcome.reason
    assert not any(is_running(pid) for pid, _ in program.starts())


def test_a_program_that_cannot_be_started_is_a_reason(tmp_path: Path) -> None:
    program = fake_program(tmp_path / "bin")
    program.path.write_bytes(b"\x7fELF of another machine")
    assert "cannot be started" in refusal(sensor_of(program)).reason
    program.path.unlink()
    outcome = refusal(sensor_of(program))
    assert "tegrastats" in outcome.reason
    assert not outcome.is_absent  # it was asked for by name


def test_an_unknown_board_names_its_rails(tmp_path: Path) -> None:
    program = fake_program(tmp_path / "bin", line="VDD_A 1mW/1mW VDD_B 2mW/2mW")
    assert "VDD_A, VDD_B" in refusal(sensor_of(program)).reason


def test_a_child_ends_when_we_are_killed(tmp_path: Path) -> None:
    program = fake_program(tmp_path / "bin")
    code = (
        "import sys, time; from pathlib import Path; from profiler.clock import SystemClock;"
        "from profiler.sensors.tegrastats import TegrastatsSensor;"
        f"sensor = TegrastatsSensor(Path('/'), SystemClock(), command=[{str(program.path)!r}]);"
        "sensor.open(); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"open\n"
        parent.kill()
    pid = program.starts()[-1][0]
    assert eventually(lambda: not _is_alive(pid))


def _is_alive(pid: int) -> bool:
    """An orphan may stay a zombie where nobody reaps it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_line_that_waited_in_a_full_pipe_is_of_no_known_age() -> None:
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        clock = FakeClock()
        stream = TegrastatsStream(Descriptor(reading), clock)
        os.write(writing, f"{ORIN_NANO_JP6}\n".encode())
        stream.open()
        with suppress(BlockingIOError):
            while True:  # until the writer would have to wait
                os.write(writing, f"{ORIN_NANO_JP6.replace('4563mW/', '9000mW/')}\n".encode())
        clock.advance(60.0)
        with pytest.raises(SensorError, match="no line for 60 s"):
            stream.read()
        os.write(writing, f"\n{ORIN_NANO_JP6.replace('4563mW/', '5000mW/')}\n".encode())
        assert stream.read()[0] == 5.0
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.serial
def test_a_user_can_measure_with_it(tmp_path: Path) -> None:
    if "tegrastats" not in {entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}:
        pytest.skip("the installed metadata is older than this source")
    program = fake_program(tmp_path / "bin")
    done = subprocess.run(
        [sys.executable, "-m", "profiler", "measure", "--sensor", "tegrastats", "--json", "--", "sleep", "0.6"],
        env={**os.environ, "PATH": f"{program.folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stderr)
    assert printed["sensor"] == "tegrastats"
    assert printed["total"]["mean_power_w"] == pytest.approx(4.563)
    assert not any(is_running(pid) for pid, _ in program.starts())

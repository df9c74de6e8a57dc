from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from profiler.__main__ import main
from profiler.clock import FakeClock, SystemClock
from profiler.commands.calibrate import burning, fitted, hold
from profiler.errors import PreconditionError, SensorError
from profiler.quantities import Scope
from profiler.sampler import Sampler
from profiler.sensor import Available
from profiler.sensors.cpu_calibration import read_calibration
from profiler.sensors.cpu_model import CpuModelSensor, host_busy
from profiler.sensors.fake import FakeSensor
from tests.fixtures.powercap import Tree, build_tree, padded
from tests.profiler.rails import counter_rail
from tests.profiler.sensors.test_cpu_calibration import machine


class Machine:
    """Four processors that other programs keep busy by some share, and a counter of 6 W + 12 W x use + what bends."""

    def __init__(self, others: float = 0.0, bend_w: float = 0.0, dead: bool = False) -> None:
        self.clock = FakeClock()
        self.others = others
        self.bend_w = bend_w
        self.dead = dead
        self.n_busy = 0
        self.held: list[int] = []
        self._since_s = 0.0
        self._busy_s = 0.0
        self._energy_j = 0.0

    @property
    def use(self) -> float:
        return min(1.0, self.others + self.n_busy / 4)

    def _advance(self) -> None:
        now_s = self.clock.monotonic_ns() / 1e9
        power_w = 6 + 12 * self.use + 4 * self.bend_w * self.use * (1 - self.use)
        self._busy_s += 4 * self.use * (now_s - self._since_s)
        self._energy_j += power_w * (now_s - self._since_s)
        self._since_s = now_s

    def busy(self) -> tuple[float, int]:
        self._advance()
        return self._busy_s, 4

    def energy(self, t_s: float) -> list[float | None]:
        self._advance()
        return [None if self.dead else self._energy_j]

    @contextmanager
    def load(self, n_busy: int, at_most_s: float) -> Iterator[None]:
        self._advance()
        self.n_busy = n_busy
        self.held.append(n_busy)
        yield
        self._advance()
        self.n_busy = 0

    def sampler(self) -> Sampler:
        rail = counter_rail(gain_err=0.03)
        return Sampler(FakeSensor([rail], self.energy, self.clock), self.clock, rate_hz=0)


def test_three_phases_measured_by_a_sensor_give_its_watts() -> None:
    """Other programs take 10 %: the line is carried on to no use and to full use all the same."""
    computer = Machine(others=0.1)
    said: list[str] = []
    with computer.sampler() as sampler:
        phases = hold(sampler, computer.busy, computer.clock, 60.0, load=computer.load, say=said.append)
    assert computer.held == [0, 2, 4]
    assert computer.clock.monotonic_ns() == 180 * 10**9
    assert [phase.use for phase in phases] == [pytest.approx(0.1), pytest.approx(0.6), pytest.approx(1.0)]
    found = fitted(phases)
    assert (found.idle_w, found.busy_w) == (pytest.approx(6.0), pytest.approx(18.0))
    meter_err = phases[0].gain_err
    assert meter_err == pytest.approx(2 * 0.03 / 3**0.5)
    # Worst at no use, where the readings may err against each other: (7.2 W x 1.0 + 18 W x 0.1) / 0.9 of 6 W.
    assert found.gain_err == pytest.approx(meter_err * 5 / 3)
    assert "idle: 0 of 4 processors busy for 60 s; the last 45 s count" in said


def test_power_that_bends_widens_the_error() -> None:
    computer = Machine(bend_w=2.0)
    with computer.sampler() as sampler:
        phases = hold(sampler, computer.busy, computer.clock, 60.0, load=computer.load, say=lambda text: None)
    assert fitted(phases).gain_err > 2.0 / 12


def test_a_machine_that_is_not_idle_is_told_before_it_is_burned() -> None:
    computer = Machine(others=0.3)
    with pytest.raises(PreconditionError, match="30% busy when they should have been idle"):
        hold(None, computer.busy, computer.clock, 60.0, load=computer.load, say=lambda text: None)
    assert computer.held == [0]


def test_a_sensor_that_dies_is_told() -> None:
    computer = Machine(dead=True)
    with computer.sampler() as sampler, pytest.raises(SensorError, match="nothing was measured while idle"):
        hold(sampler, computer.busy, computer.clock, 60.0, load=computer.load, say=lambda text: None)


def test_burning_burns_and_ends() -> None:
    def children_s() -> float:
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    before = set(psutil.Process().children())  # of other tests, such as a tracker of multiprocessing's
    before_s, start_s = children_s(), time.monotonic()
    with burning(2, 60.0):
        time.sleep(0.4)
    assert time.monotonic() - start_s < 20
    assert children_s() - before_s > 0.1  # of 0.8 at best; the processors may be somebody else's
    assert set(psutil.Process().children()) <= before, "none is left, not as a zombie either"


def test_watts_read_by_hand_are_written_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = machine(tmp_path)
    watts = ["--idle-w", "5", "--idle-use", "0", "--half-w", "8.5", "--busy-w", "12", "--meter-err", "0.01"]
    assert main(["calibrate", "--sysfs-root", str(tmp_path), *watts, "-o", str(path)]) == 0
    assert "5 W idle to 12 W busy, scope wall\n± 1.0% for loads like" in capsys.readouterr().out
    found = read_calibration(path)
    assert (found.fit.idle_w, found.fit.busy_w, found.fit.gain_err) == (5.0, 12.0, pytest.approx(0.01))
    assert found.method == "a meter read by hand"
    outcome = CpuModelSensor(tmp_path, FakeClock()).probe()
    assert isinstance(outcome, Available)
    assert "calibrated" in outcome.notes
    assert main(["calibrate", "--sysfs-root", str(tmp_path), *watts, "-o", str(path)]) == 2
    assert main(["calibrate", "--sysfs-root", str(tmp_path), *watts, "-o", str(path), "--force"]) == 0


@contextmanager
def drawing(tree: Tree, idle_w: float, busy_w: float) -> Iterator[None]:
    """Drives a tree by this machine's own use: its joules are exactly linear in busy processor time."""
    clock, busy, done = SystemClock(), host_busy(Path("/")), threading.Event()
    start_ns, (start_s, n_cpus) = clock.monotonic_ns(), busy()

    def drive() -> None:
        while not done.wait(0.005):
            idle_j = idle_w * (clock.monotonic_ns() - start_ns) / 1e9
            energy_j = idle_j + (busy_w - idle_w) * (busy()[0] - start_s) / n_cpus
            os.pwrite(file, padded(round(energy_j * 1e6)), 0)

    file = os.open(tree.zones["package-0"].energy_path, os.O_WRONLY)
    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        os.close(file)


@pytest.mark.serial
@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="reads the machine's own /proc/stat")
def test_a_sensor_and_real_load_give_the_watts_that_were_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = build_tree(tmp_path, core=False, dram=False, start_uj=0)
    (tmp_path / "proc").symlink_to("/proc")
    output = tmp_path / "out.json"
    with drawing(tree, 6.0, 18.0):
        arguments = ["--sysfs-root", str(tmp_path), "--sensor", "rapl", "--seconds", "1.2", "-o", str(output)]
        status = main(["calibrate", *arguments])
    if "should have been" in capsys.readouterr().err or (status == 2 and os.getloadavg()[0] > 1):
        pytest.skip("other programs use this machine")
    assert status == 0
    found = read_calibration(output)
    assert (found.method, found.scope) == ("sensor rapl", Scope.HOST)
    assert found.fit.idle_w == pytest.approx(6.0, rel=0.2)
    assert found.fit.busy_w == pytest.approx(18.0, rel=0.1)


def test_it_goes_to_the_users_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root").mkdir()
    machine(tmp_path / "root")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert main(["calibrate", "--sysfs-root", str(tmp_path / "root"), "--idle-w", "5", "--busy-w", "12"]) == 0
    assert read_calibration(tmp_path / "config/fedmeter/cpu_model.json").n_cpus == 2


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--idle-w", "5"], 2, "go together"),
        (["--half-w", "5"], 2, "go together"),
        (["--idle-w", "5", "--busy-w", "9", "--sensor", "rapl"], 2, "not both"),
        (["--idle-w", "9", "--busy-w", "5"], 2, "more power at more use"),
        (["--sensor", "cpu_model"], 3, "a model itself"),
        (["--sensor", "nonsense"], 2, "no sensor 'nonsense'"),
        (["--sensor", "rapl", "--seconds", "0.1"], 3, "nothing was measured while idle"),  # this tree's counters stand
        (["--seconds", "0.1"], 3, "should have been fully"),
    ],
)
def test_what_cannot_be_is_told(
    arguments: list[str], status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = build_tree(tmp_path, core=False, dram=False, start_uj=0)
    machine(tmp_path)
    output = tmp_path / "out.json"
    assert main(["calibrate", "--sysfs-root", str(tree.root), "-o", str(output), *arguments]) == status
    assert said in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "much"])
def test_a_share_is_from_0_to_1(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", "--idle-use", value])
    assert "a share must be a number from 0 to 1" in capsys.readouterr().err


def test_without_a_processors_time_nothing_is_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--sysfs-root", str(tmp_path)]) == 3
    assert "busy time is not known" in capsys.readouterr().err

"""What a sampler may take from the machine: threads, descriptors, memory, and the time it takes to stop."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from profiler.clock import Clock, FakeClock, SystemClock
from profiler.sampler import Sample, Sampler
from profiler.sensor import Sensor
from profiler.sensors.battery import BatterySensor
from profiler.sensors.fake import FakeSensor
from profiler.sensors.jetson import JetsonSensor
from profiler.sensors.rapl import RaplSensor
from tests.fixtures.jetson import BOARDS, build_jetson
from tests.fixtures.power_supply import laptop
from tests.fixtures.powercap import build_tree, driven_tree
from tests.profiler.rails import counter_rail, power_rail

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ROOT = Path(__file__).parents[2]
TICKS_OF_20_MIN = 20 * 60 * 100


def _rapl(root: Path, clock: Clock) -> Sensor:
    build_tree(root)
    return RaplSensor(root, clock)


def _jetson(board: str) -> Callable[[Path, Clock], Sensor]:
    def build(root: Path, clock: Clock) -> Sensor:
        build_jetson(root, BOARDS[board])
        return JetsonSensor(root, clock)

    return build


def _battery(root: Path, clock: Clock) -> Sensor:
    laptop(root)
    return BatterySensor(root, clock)


FILE_SENSORS = {
    "rapl": _rapl,
    "jetson iio": _jetson("TX2"),
    "jetson hwmon": _jetson("AGX Orin"),
    "battery": _battery,
}


@pytest.fixture(params=FILE_SENSORS)
def build(request: pytest.FixtureRequest) -> Callable[[Path, Clock], Sensor]:
    return FILE_SENSORS[request.param]


def children() -> set[str]:
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


@on_linux
@pytest.mark.parametrize("rate_hz", [0.0, 50.0])
def test_one_thread_if_any_and_no_child_process(
    build: Callable[[Path, Clock], Sensor], tmp_path: Path, rate_hz: float
) -> None:
    threads, processes = set(threading.enumerate()), children()
    with Sampler(build(tmp_path, SystemClock()), rate_hz=rate_hz) as sampler:
        window = sampler.open_window()
        time.sleep(0.06)
        window.close()
        started = set(threading.enumerate()) - threads
        assert {thread.name for thread in started} == ({f"profiler-{sampler.sensor.name}"} if rate_hz else set())
        assert len(started) == (1 if rate_hz else 0)
        assert children() <= processes
    assert set(threading.enumerate()) <= threads


COUNT_OPENS = """
import sys
from pathlib import Path
from profiler.clock import SystemClock
from tests.profiler.test_sampler_cost import FILE_SENSORS

sensor = FILE_SENSORS[sys.argv[1]](Path(sys.argv[2]), SystemClock())
sensor.probe()
sensor.open()
sensor.read()
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
Path("/dev/null").open().close()
assert opened == ["/dev/null"], opened  # the hook works
for _ in range(20):
    assert None not in sensor.read()
print(opened[1:])
"""


@pytest.mark.parametrize("name", FILE_SENSORS)
def test_reading_opens_no_file(name: str, tmp_path: Path) -> None:
    """By the interpreter's own audit events, which cannot be missed nor taken back: hence a process of its own."""
    command = [sys.executable, "-c", COUNT_OPENS, name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@on_linux
def test_metering_takes_little_memory_and_20_minutes_take_no_more() -> None:
    """120,000 readings are 20 minutes at 100 Hz. A block of Python's allocator is 512 bytes at most."""
    with driven_tree() as root:
        command = [sys.executable, "-m", "tests.bench.footprint", str(root), "0.5", str(TICKS_OF_20_MIN)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    found = json.loads(done.stdout)
    assert found["n_rails"] == 3
    assert found["n_samples"] > TICKS_OF_20_MIN
    assert found["added_bytes"] < 3_000_000
    assert found["grown_bytes"] < 200_000
    assert found["grown_blocks"] < 200_000 / 512


def test_what_is_allocated_does_not_grow_with_the_samples() -> None:
    clock = FakeClock()
    rails = [counter_rail("a"), counter_rail("b"), power_rail("c")]
    with Sampler(FakeSensor(rails, lambda t_s: [20 * t_s, 5 * t_s, 3.0], clock), clock, rate_hz=0) as sampler:
        whole = sampler.open_window()
        _ticks(sampler, clock, 1_000)  # whatever is made once has been made
        tracemalloc.start()
        try:
            _ticks(sampler, clock, 4_000)
            grown_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        readings = whole.close()
    assert grown_bytes < 4_000 * 8  # not even a pointer a sample
    assert readings[0].n_samples > 5_000
    assert readings[0].energy_j == pytest.approx(20 * 0.01 * 5_000)


def _ticks(sampler: Sampler, clock: FakeClock, n: int) -> None:
    """What the thread does, as fast as it can be done."""
    for i in range(n):
        clock.advance(0.01)
        with sampler._lock:
            sampler._tick()
        if i % 1_000 == 0:
            sampler.open_window().close()


@pytest.mark.parametrize("after", [1, 31, 32, 33, 100])
def test_an_edge_sums_what_was_read_before_it(after: int) -> None:
    """Readings are summed in batches; wherever an edge falls, each window has its own energy and nobody else's."""
    clock = FakeClock()
    sensor = FakeSensor([counter_rail(), power_rail()], lambda t_s: [t_s**2, 7.0], clock)
    with Sampler(sensor, clock, rate_hz=100) as sampler:
        sampler.stop()
        sampler._is_open = True  # the test takes the samples that the thread would
        sensor.open()
        outer = sampler.open_window()
        _ticks(sampler, clock, after)
        inner = sampler.open_window()
        _ticks(sampler, clock, 10)
        clock.advance(0.005)
        inside, around = inner.close(), outer.close()
    inside_s, around_s = 10 * 0.01 + 0.005, (after + 10) * 0.01 + 0.005
    assert inside[1].energy_j == pytest.approx(7.0 * inside_s)
    assert around[1].energy_j == pytest.approx(7.0 * around_s)
    assert around[0].energy_j == pytest.approx(around_s**2, abs=1e-9)
    assert inside[0].energy_j == pytest.approx(around_s**2 - (around_s - inside_s) ** 2, abs=1e-9)
    assert [reading.max_gap_s for reading in (*inside, *around)] == pytest.approx([0.01] * 4)


def test_a_failure_in_mid_batch_is_told_by_the_windows_it_fell_into() -> None:
    clock = FakeClock()

    def reads(t_s: float) -> list[float | None]:
        if 0.045 < t_s < 0.055:
            raise OSError(5, "Input/output error")
        return [t_s]

    with Sampler(FakeSensor([counter_rail()], reads, clock), clock, rate_hz=0) as sampler:
        early = sampler.open_window()
        _ticks(sampler, clock, 3)
        early_readings = early.close()
        later = sampler.open_window()
        _ticks(sampler, clock, 5)
        (reading,) = later.close()
    assert early_readings[0].reason is None
    assert "Input/output error" in (reading.reason or "")
    assert reading.energy_j == pytest.approx(0.05)


def test_whoever_listens_hears_of_each_sample_at_once() -> None:
    clock = FakeClock()
    heard: list[Sample] = []
    sensor = FakeSensor([counter_rail()], lambda t_s: [2 * t_s], clock)
    with Sampler(sensor, clock, rate_hz=0, on_sample=heard.append) as sampler:
        for n in range(5):
            clock.advance(0.01)
            with sampler._lock:
                sampler._tick()
            assert len(heard) == n + 2  # one from the start
    assert heard[3].energy_j == pytest.approx((0.06,))


class BusySensor(FakeSensor):
    """Each read takes 2 ms of CPU, and it counts what its reads take, whichever thread they are in."""

    used_s = 0.0

    def read(self) -> list[float | None]:
        before_s = time.thread_time()
        while time.thread_time() - before_s < 0.002:
            pass
        self.used_s += time.thread_time() - before_s
        return super().read()


@pytest.mark.serial
@pytest.mark.parametrize("has_clocks", [True, False], ids=["read from outside", "read by the thread"])
def test_the_cost_is_told_while_it_runs_and_over_restarts(has_clocks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all threads there have been, and of edges; never less than what the sensor alone has used."""
    if not has_clocks:
        monkeypatch.delattr(time, "pthread_getcpuclockid", raising=False)
    sensor = BusySensor([counter_rail()], lambda t_s: [t_s], SystemClock())
    sampler = Sampler(sensor, rate_hz=100)
    told_s = [0.0]
    for _ in range(2):
        with sampler:
            time.sleep(0.1)
            with sampler._lock:  # no read is under way
                told_s.append(sampler.cost_s)
                assert sensor.used_s <= told_s[-1] <= sensor.used_s * 2
        assert sensor.used_s <= sampler.cost_s <= sensor.used_s * 2
        told_s.append(sampler.cost_s)
    assert told_s == sorted(told_s)


@pytest.mark.serial
def test_a_slow_sampler_stops_promptly() -> None:
    sampler = Sampler(FakeSensor([counter_rail()], lambda t_s: [t_s], SystemClock()), rate_hz=0.01)
    for _ in range(2):
        sampler.start()
        time.sleep(0.05)  # the thread waits for its next turn, 100 s away
        start_s = time.perf_counter()
        sampler.stop()
        assert time.perf_counter() - start_s < 0.5
    assert not any(thread.name == "profiler-fake" for thread in threading.enumerate())

"""What every sensor keeps to. A new sensor joins by one entry in `CASES`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from profiler.clock import Clock, FakeClock
from profiler.combined import CombinedSensor
from profiler.errors import SensorError
from profiler.quantities import Provenance, RailKind, weakest
from profiler.sensor import Available, Explains, Sensor, Unavailable
from profiler.sensors.adb import AdbSensor
from profiler.sensors.battery import BatterySensor
from profiler.sensors.cpu_model import CpuModelSensor
from profiler.sensors.external import ExternalSensor
from profiler.sensors.fake import FakeSensor
from profiler.sensors.jetson import JetsonSensor
from profiler.sensors.jtop import JtopSensor
from profiler.sensors.nvml import NvmlSensor
from profiler.sensors.perf import PerfSensor
from profiler.sensors.pyrapl import PyRaplSensor
from profiler.sensors.rapl import RaplSensor
from profiler.sensors.raspberry_pi import RaspberryPiSensor
from profiler.sensors.replay import ReplaySensor, write_trace
from profiler.sensors.tegrastats import TegrastatsSensor, TegrastatsStream
from profiler.sensors.termux import TermuxSensor
from tests.fixtures.adb import odpm_files, phone_with_files
from tests.fixtures.jetson import BOARDS, build_jetson
from tests.fixtures.jtop import FakeJtop, build_socket
from tests.fixtures.meters import build_stream
from tests.fixtures.nvml import FakeGpu, FakeNvml
from tests.fixtures.power_events import Events, build_power_events
from tests.fixtures.power_supply import laptop, phone
from tests.fixtures.powercap import build_tree
from tests.fixtures.pyrapl import fake_pyrapl
from tests.fixtures.raspberry_pi import PMIC, model
from tests.fixtures.tegrastats import tegrastats_of_log, tegrastats_program
from tests.fixtures.termux import FakeTermux, told
from tests.profiler.rails import counter_rail, power_rail

PROC_STAT = """cpu  1000 20 300 5000 10 5 15 40 200 0
cpu0 500 10 150 2500 5 3 8 20 100 0
cpu1 500 10 150 2500 5 2 7 20 100 0
intr 12345
"""


@dataclass(frozen=True)
class Case:
    """`present` and `absent` make a sensor of the hardware, or of a machine without it, below a folder."""

    present: Callable[[Path, Clock], Sensor]
    absent: Callable[[Path, Clock], Sensor]


def _rapl(root: Path, clock: Clock) -> Sensor:
    build_tree(root, packages=2, psys=True, mmio=True)
    return RaplSensor(root, clock)


def _pyrapl(root: Path, clock: Clock) -> Sensor:
    build_tree(root, packages=2)
    return PyRaplSensor(root, clock, load=lambda: fake_pyrapl(root, [0, 1]))


def _perf(root: Path, clock: Clock) -> Sensor:
    build_power_events(root, events=("cores", "pkg", "ram", "psys"), packages={0: (0, 0), 28: (1, 0)})
    return PerfSensor(root, clock, open_event=Events())


def _battery(root: Path, clock: Clock) -> Sensor:
    laptop(root)
    return BatterySensor(root, clock)


def _battery_of_phone(root: Path, clock: Clock) -> Sensor:
    phone(root)
    return BatterySensor(root, clock)


def _adb(root: Path, clock: Clock) -> Sensor:
    phone = phone_with_files(root / "adb")
    odpm_files(phone)
    return AdbSensor(root, clock, adb=phone.adb)


def _termux(root: Path, clock: Clock) -> Sensor:
    termux = FakeTermux(root)
    termux.says(told())
    return TermuxSensor(root, clock, command=termux.command)


def _raspberry_pi(root: Path, clock: Clock) -> Sensor:
    model(root)
    return RaspberryPiSensor(root, clock, run=lambda: PMIC.encode())


def _jetson(name: str) -> Callable[[Path, Clock], Sensor]:
    def present(root: Path, clock: Clock) -> Sensor:
        build_jetson(root, BOARDS[name])
        return JetsonSensor(root, clock)

    return present


def _jtop(root: Path, clock: Clock) -> Sensor:
    build_socket(root)
    library = FakeJtop()
    return JtopSensor(root, clock, load=lambda: library)


def _cpu_model(root: Path, clock: Clock) -> Sensor:
    (root / "proc").mkdir()
    (root / "proc/stat").write_text(PROC_STAT)
    return CpuModelSensor(root, clock)


def _cpu_model_of_process(root: Path, clock: Clock) -> Sensor:
    return CpuModelSensor(root, clock, target="process")


def _replay(root: Path, clock: Clock) -> Sensor:
    rails = (power_rail(), counter_rail())
    available = Available(rails, ("board",), rails[0].scope, Provenance.INTEGRATED)
    write_trace(root / "trace.jsonl", available, [(i * 10**8, (5.0, i / 2)) for i in range(100)])
    return ReplaySensor(root / "trace.jsonl", clock)


def _external(root: Path, clock: Clock) -> Sensor:
    build_stream(root)
    return ExternalSensor(root, clock)


def _nvml(root: Path, clock: Clock) -> Sensor:
    return NvmlSensor(root, clock, nvml=FakeNvml(clock, [FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b")]))


def _fake(root: Path, clock: Clock) -> Sensor:
    return FakeSensor([power_rail(), counter_rail()], lambda t_s: [5.0, 5 * t_s], clock, total=["board"])


def _combined(root: Path, clock: Clock) -> Sensor:
    (root / "rapl").mkdir()
    return CombinedSensor([_rapl(root / "rapl", clock), _fake(root, clock)])


CASES = {
    "combined": Case(_combined, lambda root, clock: CombinedSensor([RaplSensor(root, clock)])),
    "rapl": Case(_rapl, RaplSensor),
    "pyrapl": Case(_pyrapl, PyRaplSensor),
    "perf": Case(_perf, PerfSensor),
    "jetson iio": Case(_jetson("TX2"), JetsonSensor),
    "jetson hwmon": Case(_jetson("AGX Orin"), JetsonSensor),
    "jetson ina238": Case(_jetson("Thor"), JetsonSensor),
    "tegrastats": Case(tegrastats_program, TegrastatsSensor),
    "tegrastats stream": Case(tegrastats_of_log, lambda root, clock: TegrastatsStream(BytesIO(), clock)),
    "jtop": Case(_jtop, JtopSensor),
    "cpu_model": Case(_cpu_model, CpuModelSensor),
    "cpu_model process": Case(_cpu_model_of_process, CpuModelSensor),
    "replay": Case(_replay, lambda root, clock: ReplaySensor(root / "none.jsonl", clock)),
    "battery": Case(_battery, BatterySensor),
    "battery of a phone": Case(_battery_of_phone, BatterySensor),
    "adb": Case(_adb, lambda root, clock: AdbSensor(root, clock, adb=str(root / "no-adb"))),
    "termux": Case(_termux, TermuxSensor),
    "raspberry_pi": Case(_raspberry_pi, RaspberryPiSensor),
    "external": Case(_external, ExternalSensor),
    "nvml": Case(_nvml, NvmlSensor),
    "fake": Case(_fake, lambda root, clock: FakeSensor([], lambda t_s: [], clock, unavailable=Unavailable("a", "b"))),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def sensor(case: Case, tmp_path: Path) -> Sensor:
    return case.present(tmp_path, FakeClock())


def available(sensor: Sensor) -> Available:
    outcome = sensor.probe()
    assert isinstance(outcome, Available), outcome
    return outcome


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def test_is_a_sensor_with_a_name(sensor: Sensor) -> None:
    assert isinstance(sensor, Sensor)
    assert sensor.name


def test_probe_twice_says_the_same(sensor: Sensor) -> None:
    assert available(sensor) == available(sensor)


def test_the_total_is_of_rails_that_do_not_contain_each_other(sensor: Sensor) -> None:
    outcome = available(sensor)
    rails = {rail.name: rail for rail in outcome.rails}
    assert len(rails) == len(outcome.rails)
    assert outcome.total
    assert set(outcome.total) <= set(rails)
    for name in outcome.total:
        assert rails[name].parent not in outcome.total
    assert outcome.provenance is weakest(rails[name].provenance for name in outcome.total)


def test_every_rail_states_sane_limits(sensor: Sensor) -> None:
    for rail in available(sensor).rails:
        assert rail.min_period_s > 0
        assert rail.resolution >= 0
        assert rail.gain_err >= 0
        assert rail.edge_jitter_s >= 0
        assert rail.wrap_j is None or (rail.kind is RailKind.COUNTER_J and rail.wrap_j > 0)


def test_read_gives_one_value_a_rail(sensor: Sensor) -> None:
    outcome = available(sensor)
    sensor.open()
    try:
        values = sensor.read()
        assert len(values) == len(outcome.rails)
        assert all(isinstance(value, float) and value >= 0 for value in values)
    finally:
        sensor.close()


def test_why_is_of_every_rail(sensor: Sensor) -> None:
    outcome = available(sensor)
    sensor.open()
    values = sensor.read()
    if isinstance(sensor, Explains):
        assert len(sensor.why()) == len(outcome.rails)
        assert [reason is None for reason in sensor.why()] == [value is not None for value in values]
    sensor.close()


def test_read_needs_open(sensor: Sensor) -> None:
    with pytest.raises(SensorError):
        sensor.read()
    sensor.open()
    sensor.close()
    sensor.close()
    with pytest.raises(SensorError):
        sensor.read()


def test_opens_again_and_leaks_no_file(sensor: Sensor) -> None:
    before = open_files()
    for _ in range(3):
        sensor.open()
        sensor.read()
        sensor.close()
    assert open_files() == before


def test_starts_no_thread(sensor: Sensor) -> None:
    before = set(threading.enumerate())  # other tests' threads may end meanwhile
    sensor.open()
    sensor.read()
    assert set(threading.enumerate()) <= before
    sensor.close()


def test_absent_hardware_has_a_reason_and_a_remedy(case: Case, tmp_path: Path) -> None:
    sensor = case.absent(tmp_path, FakeClock())
    outcome = sensor.probe()
    assert isinstance(outcome, Unavailable)
    assert outcome.reason
    assert outcome.remedy
    with pytest.raises(SensorError) as raised:
        sensor.open()
    assert raised.value.remedy

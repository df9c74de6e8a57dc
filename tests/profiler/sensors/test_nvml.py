from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from profiler import nvml as nvml_api
from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.quantities import EnergyReading, Provenance, RailKind, Scope
from profiler.sampler import Sampler
from profiler.sensor import Available, Sensor, Unavailable
from profiler.sensors.nvml import NvmlSensor
from profiler.uncertainty import MIN_WINDOW_JITTERS
from tests.fixtures.nvml import ALL, FakeGpu, FakeNvml

POWER_ONLY = ALL - {"energy"}


def made(*gpus: FakeGpu, init_code: int | None = None) -> tuple[NvmlSensor, FakeNvml, FakeClock]:
    clock = FakeClock()
    library = FakeNvml(clock, gpus, init_code=init_code)
    return NvmlSensor(Path("/nowhere"), clock, nvml=library), library, clock


def available(sensor: Sensor) -> Available:
    outcome = sensor.probe()
    assert isinstance(outcome, Available), outcome
    return outcome


def unavailable(sensor: Sensor) -> Unavailable:
    outcome = sensor.probe()
    assert isinstance(outcome, Unavailable), outcome
    return outcome


def metered(
    sensor: NvmlSensor, library: FakeNvml, clock: FakeClock, seconds: float, lost: FakeGpu | None = None
) -> EnergyReading:
    """The total of a window whose samples are taken by hand, ten a second. `lost` fails after a third of it."""
    n_samples = round(seconds * 10)
    with Sampler(sensor, clock, rate_hz=0.01) as sampler:  # its own thread wakes up after 100 s
        window = sampler.open_window()
        for i in range(n_samples):
            if lost is not None and i == n_samples // 3:
                lost.code = 15
            library.advance(clock, 0.1)
            sampler.sample_now()
        return sampler.total(window.close())


def test_millijoules_become_joules_and_every_gpu_counts() -> None:
    gpus = [FakeGpu(power_w=250.0, uuid="GPU-a"), FakeGpu(power_w=100.0, uuid="GPU-b", counter_mj=7)]
    sensor, library, clock = made(*gpus)
    outcome = available(sensor)
    assert [(r.name, r.kind, r.scope) for r in outcome.rails] == [
        ("gpu0", RailKind.COUNTER_J, Scope.GPU),
        ("gpu1", RailKind.COUNTER_J, Scope.GPU),
    ]
    assert outcome.total == ("gpu0", "gpu1")
    assert outcome.provenance is Provenance.COUNTER
    assert "GPU-a" in outcome.notes
    assert "GPU-b" in outcome.notes
    total = metered(sensor, library, clock, 10.0)
    assert total.energy_j == pytest.approx(3500.0)
    assert total.coverage == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("has", "source", "stale_s"),
    [
        (POWER_ONLY, "instant", 0.1),
        (POWER_ONLY - {"instant"}, "field (average", 1.0),
        (POWER_ONLY - {"instant", "average"}, "reading (average", 1.0),
    ],
)
def test_power_is_read_where_there_is_no_counter(has: frozenset[str], source: str, stale_s: float) -> None:
    sensor, library, clock = made(FakeGpu(power_w=42.0, has=has))
    outcome = available(sensor)
    [rail] = outcome.rails
    assert (rail.kind, rail.provenance) == (RailKind.POWER_W, Provenance.INTEGRATED)
    assert source in outcome.notes
    assert stale_s <= rail.edge_jitter_s <= stale_s + 0.05
    assert metered(sensor, library, clock, 5.0).energy_j == pytest.approx(210.0)


def test_before_ampere_a_power_reading_is_not_an_average() -> None:
    sensor, _, _ = made(FakeGpu("Tesla P100", has=frozenset({"usage"}), architecture=4))
    [rail] = available(sensor).rails
    assert rail.edge_jitter_s < 0.2


def test_a_field_that_failed_inside_a_call_that_succeeded_is_not_a_value() -> None:
    """nvmlDeviceGetFieldValues succeeds and leaves something in a field that it has refused."""
    sensor, library, _ = made(FakeGpu(power_w=42.0, has=frozenset({"usage"})))
    library.nvmlInit()
    [value] = library.nvmlDeviceGetFieldValues(library.nvmlDeviceGetHandleByIndex(0), [186])
    assert value.value.uiVal == 123_000
    assert nvml_api.unsigned(value) is None
    available(sensor)
    sensor.open()
    assert sensor.read() == [42.0]


def test_a_jetson_whose_nvml_starts_and_tells_nothing_is_unavailable() -> None:
    sensor, library, _ = made(FakeGpu("Orin (nvgpu)", has=frozenset()))
    outcome = unavailable(sensor)
    assert "Orin (nvgpu)" in outcome.reason
    assert "Not Supported" in outcome.reason
    assert "jetson" in outcome.remedy
    assert library.n_started == 0


@pytest.mark.parametrize("has", [ALL, POWER_ONLY, frozenset({"usage"})])
def test_no_gpu_is_asked_more_than_20_times_a_second(has: frozenset[str]) -> None:
    gpu = FakeGpu(has=has)
    sensor, library, clock = made(gpu)
    available(sensor)
    library.advance(clock, 1.0)
    sensor.open()
    gpu.asked_ns.clear()
    for _ in range(200):
        [value] = sensor.read()
        assert value is not None
        assert value > 0
        library.advance(clock, 0.005)
    assert len(gpu.asked_ns) == 20


def test_an_opening_after_a_probe_does_not_make_a_zero_of_a_hasty_question() -> None:
    gpu = FakeGpu(power_w=80.0, has=frozenset({"usage"}))
    sensor, library, clock = made(gpu)
    available(sensor)
    clock.advance(0.01)
    sensor.open()
    with pytest.raises(SensorError, match="gpu0: no value"):
        sensor.read()
    library.advance(clock, 0.05)
    assert sensor.read() == [80.0]


def test_silence_in_the_middle_of_a_run_is_missing_and_not_zero() -> None:
    quiet, other = FakeGpu(has=frozenset({"usage"}), uuid="GPU-a"), FakeGpu(uuid="GPU-b")
    sensor, library, clock = made(quiet, other)
    available(sensor)
    library.advance(clock, 1.0)
    sensor.open()
    assert None not in sensor.read()
    for change in ({"zero_power": True}, {"zero_power": False, "has": frozenset()}):
        for name, value in change.items():
            setattr(quiet, name, value)
        library.advance(clock, 0.1)
        first, second = sensor.read()
        assert first is None
        assert second is not None


def test_a_lost_gpu_reads_none_and_the_others_go_on() -> None:
    gpus = [FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b")]
    sensor, library, clock = made(*gpus)
    available(sensor)
    sensor.open()
    gpus[0].code = 15
    library.advance(clock, 0.1)
    first, second = sensor.read()
    assert first is None
    assert second is not None
    gpus[1].code = 15
    library.advance(clock, 0.1)
    with pytest.raises(SensorError, match="gpu0: GPU is lost; gpu1: GPU is lost"):
        sensor.read()


def test_a_gpu_lost_within_a_window_makes_the_total_missing_and_says_so() -> None:
    gpus = [FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b", has=POWER_ONLY)]
    sensor, library, clock = made(*gpus)
    total = metered(sensor, library, clock, 3.0, lost=gpus[1])
    assert total.energy_j is None
    assert "gpu1" in (total.reason or "")


def test_a_gpu_that_cannot_be_counted_is_named_and_not_in_the_total() -> None:
    forbidden = FakeGpu(uuid="GPU-a", code=4)
    card = FakeGpu("GeForce GT 710", uuid="GPU-b", has=frozenset())
    sensor, _, _ = made(forbidden, card, FakeGpu(uuid="GPU-c"))
    outcome = available(sensor)
    assert outcome.total == ("gpu2",)
    assert "gpu0: not counted: Insufficient Permissions" in outcome.notes
    assert "GeForce GT 710" in outcome.notes


def test_a_divided_gpu_is_metered_whole() -> None:
    sensor, _, _ = made(FakeGpu(is_mig=True))
    assert "MIG" in available(sensor).notes


def test_a_sensor_that_looks_a_quarter_of_the_time_says_so() -> None:
    assert "25 %" in available(made(FakeGpu("NVIDIA H100 80GB HBM3"))[0]).notes
    assert "25 %" not in available(made(FakeGpu("NVIDIA L4"))[0]).notes


def test_a_counter_that_starts_again_costs_coverage_and_not_joules() -> None:
    gpu = FakeGpu(power_w=200.0)
    sensor, library, clock = made(gpu)
    available(sensor)
    sampler = Sampler(sensor, clock, rate_hz=0)
    with sampler:
        window = sampler.open_window()
        for i in range(100):
            if i == 50:
                gpu.counter_mj = 0
            library.advance(clock, 0.1)
            sampler.sample_now()
        [reading] = window.close()
    assert reading.energy_j == pytest.approx(2000.0, rel=0.02)
    assert reading.energy_j is not None
    assert reading.energy_err_j is not None
    assert abs(reading.energy_j - 2000.0) <= reading.energy_err_j
    assert "counter_reset" in (reading.reason or "")
    assert reading.coverage < 1.0


def test_a_short_window_on_a_ticking_counter_says_below_resolution() -> None:
    """The counter may not have moved at all: 0 J is then told together with its limits and the reason."""
    sensor, library, clock = made(FakeGpu(power_w=300.0))
    available(sensor)
    library.advance(clock, 0.31)
    sampler = Sampler(sensor, clock, rate_hz=0)
    with sampler:
        library.advance(clock, 0.001)
        window = sampler.open_window()
        library.advance(clock, 0.08)
        [reading] = window.close()
    assert "below_resolution" in (reading.reason or "")
    [rail] = available(sensor).rails
    assert MIN_WINDOW_JITTERS * rail.edge_jitter_s <= 2.0


def test_a_name_cannot_steer_a_terminal() -> None:
    sensor, _, _ = made(FakeGpu(b"\x1b[2J\xff" + b"x" * 500))
    notes = available(sensor).notes
    assert notes.isprintable()
    assert len(notes) < 300


def test_no_gpu_is_no_hardware() -> None:
    sensor, library, _ = made()
    assert unavailable(sensor).is_absent
    assert library.n_started == 0


@pytest.mark.parametrize(
    ("code", "remedy"), [(12, "driver"), (9, "modprobe"), (18, "Reboot"), (4, "/dev/nvidia"), (3, "nvidia-smi")]
)
def test_an_nvml_that_does_not_start_says_what_to_do(code: int, remedy: str, tmp_path: Path) -> None:
    clock = FakeClock()
    sensor = NvmlSensor(tmp_path, clock, nvml=FakeNvml(clock, [FakeGpu()], init_code=code))
    outcome = unavailable(sensor)
    assert remedy in outcome.remedy
    assert outcome.is_absent
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert not unavailable(sensor).is_absent
    with pytest.raises(SensorError) as raised:
        sensor.open()
    assert remedy in raised.value.remedy


def test_without_a_gpu_not_even_the_bindings_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    outcome = unavailable(NvmlSensor(tmp_path, FakeClock()))
    assert outcome.is_absent
    assert "import" not in outcome.reason


@pytest.mark.parametrize(("device", "vendor", "is_gpu"), [("0x030200", "0x10de", True), ("0x060400", "0x10de", False)])
def test_a_gpu_on_pci_without_bindings_asks_for_them(
    device: str, vendor: str, is_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0x0604 is a bridge: a Jetson's has NVIDIA's vendor id as well."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    folder = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "class").write_text(device + "\n")
    outcome = unavailable(NvmlSensor(tmp_path, FakeClock()))
    assert outcome.is_absent is not is_gpu
    assert ("pip install 'fedmeter[nvidia]'" in outcome.remedy) is is_gpu


def test_bindings_that_are_too_old_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))
    monkeypatch.setattr(nvml_api, "has_gpu", lambda root: True)
    outcome = unavailable(NvmlSensor(Path("/"), FakeClock()))
    assert "lacks nvmlDeviceGet" in outcome.reason
    assert "upgrade" in outcome.remedy


def test_a_gpu_that_comes_back_under_another_number_is_found_by_its_uuid() -> None:
    gpus = [FakeGpu(uuid="GPU-a", has=POWER_ONLY, power_w=10.0), FakeGpu(uuid="GPU-b", has=POWER_ONLY, power_w=20.0)]
    sensor, library, clock = made(*gpus)
    available(sensor)
    library.gpus.reverse()
    library.advance(clock, 0.1)
    sensor.open()
    assert sensor.read() == [10.0, 20.0]


def test_every_start_of_nvml_is_undone() -> None:
    sensor, library, _ = made(FakeGpu())
    for _ in range(3):
        available(sensor)
        sensor.open()
        available(sensor)
        assert library.n_started == 1
        sensor.read()
        sensor.close()
    assert library.n_started == 0
    library.nvmlInit()
    sensor.open()
    library.n_started = 0  # somebody else's shutdown too many
    with pytest.raises(SensorError, match="Uninitialized"):
        sensor.read()
    sensor.close()


def test_a_counter_that_says_zero_is_not_believed() -> None:
    """Before its first tick, or for ever: then power is better, where there is any."""
    outcome = available(made(FakeGpu(counter_mj=0))[0])
    assert outcome.provenance is Provenance.INTEGRATED
    assert "no value" in unavailable(made(FakeGpu(counter_mj=0, has=frozenset({"energy"})))[0]).reason


def test_a_probe_of_an_open_sensor_leaves_its_rails() -> None:
    sensor, library, clock = made(FakeGpu(uuid="GPU-a"))
    available(sensor)
    sensor.open()
    library.gpus.append(FakeGpu(uuid="GPU-b"))
    assert len(available(sensor).rails) == 2
    library.advance(clock, 0.1)
    assert len(sensor.read()) == 1


def test_limits_are_of_the_class_that_is_documented() -> None:
    [rail] = available(made(FakeGpu())[0]).rails
    assert (rail.gain_err, rail.offset_err_w, rail.max_power_w) == (0.05, 5.0, 400.0)
    assert rail == replace(rail, wrap_j=None)  # 64 bits of mJ

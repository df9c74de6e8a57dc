"""GPU use, heat, clocks and brakes: NVML's history over a span, a Jetson's files at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.gpus import GpuState
from profiler.records import Resources, decode_line, encode_line, span_row
from profiler.resources import ResourceReader
from profiler.span import Profiler
from tests.fixtures.nvml import ALL, FakeGpu, FakeNvml, Held, UseSample
from tests.fixtures.throttling import cooler, jetson_gpu, write, zone


def made(root: Path, *gpus: FakeGpu) -> tuple[ResourceReader, FakeNvml, FakeClock]:
    clock = FakeClock()
    library = FakeNvml(clock, gpus)
    return ResourceReader(clock, root, nvml=library), library, clock


def used(reader: ResourceReader, library: FakeNvml, clock: FakeClock, *phases: tuple[float, int]) -> Resources:
    """A span of phases, each so many seconds at so many percent, after ten busy seconds before it."""
    for gpu in library.gpus:
        gpu.use_percent = 100
    library.advance(clock, 10.0)
    start = reader.mark()
    for seconds, percent in phases:
        for gpu in library.gpus:
            gpu.use_percent = percent
        library.advance(clock, seconds)
    return reader.since(start)


def test_use_is_the_mean_of_the_drivers_samples_within_the_span(tmp_path: Path) -> None:
    told = used(*made(tmp_path, FakeGpu()), (4.0, 90), (4.0, 30), (2.0, 0))
    assert told.gpu_use == pytest.approx(0.48, abs=0.01)
    assert told.gpu_temperature_c == 55.0
    assert told.gpu_frequency_hz == 1.41e9
    assert told.throttling == ""


def test_without_a_history_use_is_that_of_the_end(tmp_path: Path) -> None:
    told = used(*made(tmp_path, FakeGpu(has=ALL - {"samples"})), (4.0, 90), (4.0, 30))
    assert told.gpu_use == pytest.approx(0.30)


def test_a_span_shorter_than_a_sample_takes_the_newest_figure(tmp_path: Path) -> None:
    assert used(*made(tmp_path, FakeGpu()), (0.01, 20)).gpu_use == pytest.approx(0.20)


def test_a_divided_gpu_has_no_use_and_no_zero_instead(tmp_path: Path) -> None:
    told = used(*made(tmp_path, FakeGpu(has=ALL - {"samples", "rates"}, is_mig=True)), (1.0, 50))
    assert told.gpu_use is None
    assert told.gpu_temperature_c == 55.0


def test_several_gpus_give_the_mean_use_and_the_hottest(tmp_path: Path) -> None:
    reader, library, clock = made(tmp_path, FakeGpu(uuid="a"), FakeGpu(uuid="b", temperature_c=80, clock_mhz=1000))
    start = reader.mark()
    library.gpus[0].use_percent = 100
    library.advance(clock, 3.0)
    told = reader.since(start)
    assert told.gpu_use == pytest.approx(0.5)
    assert told.gpu_temperature_c == 80.0
    assert told.gpu_frequency_hz == 1.205e9


def test_a_gpu_lost_within_the_span_leaves_the_other(tmp_path: Path) -> None:
    reader, library, clock = made(tmp_path, FakeGpu(uuid="a"), FakeGpu(uuid="b", temperature_c=80))
    start = reader.mark()
    library.gpus[1].code = 15
    library.advance(clock, 1.0)
    told = reader.since(start)
    assert (told.gpu_use, told.gpu_temperature_c) == (0.0, 55.0)


@pytest.mark.parametrize(
    ("reasons", "words"),
    [(0x1 | 0x2 | 0x100, ""), (0x4, "gpu_power_cap"), (0x20 | 0x40, "gpu_hardware_heat,gpu_heat"), (0x10, "")],
)
@pytest.mark.parametrize("has_new_name", [True, False])
def test_idle_and_chosen_clocks_are_no_brakes(reasons: int, words: str, has_new_name: bool, tmp_path: Path) -> None:
    clock = FakeClock()
    library = FakeNvml(clock, [FakeGpu(reasons=reasons)])
    library.has_new_name = has_new_name
    reader = ResourceReader(clock, tmp_path, nvml=library)
    assert reader.since(reader.mark()).throttling == words


def test_a_brake_at_the_start_of_the_span_is_told(tmp_path: Path) -> None:
    reader, library, clock = made(tmp_path, FakeGpu(reasons=0x4))
    start = reader.mark()
    library.gpus[0].reasons = 0x1
    library.advance(clock, 1.0)
    assert reader.since(start).throttling == "gpu_power_cap"


def test_a_use_that_cannot_be_is_not_known(tmp_path: Path) -> None:
    assert used(*made(tmp_path, FakeGpu()), (1.0, 4_000_000_000)).gpu_use is None


def test_samples_from_before_the_span_are_left_out_whatever_a_driver_hands_out(tmp_path: Path) -> None:
    class Everything(FakeNvml):
        def nvmlDeviceGetSamples(self, handle: Held, kind: int, since_us: int) -> tuple[int, Sequence[UseSample]]:
            return super().nvmlDeviceGetSamples(handle, kind, 0)

    clock = FakeClock()
    library = Everything(clock, [FakeGpu()])
    told = used(ResourceReader(clock, tmp_path, nvml=library), library, clock, (4.0, 20))
    assert told.gpu_use == pytest.approx(0.20)


def test_brakes_of_gpu_and_processor_stand_in_one_text(tmp_path: Path) -> None:
    cooler(tmp_path, 0, "thermal-cpufreq-0", 1)
    reader, _, _ = made(tmp_path, FakeGpu(reasons=0x4))
    assert reader.since(reader.mark()).throttling == "gpu_power_cap,thermal_cpufreq_0"


def test_a_gpu_that_tells_nothing_leaves_none_everywhere(tmp_path: Path) -> None:
    told = used(*made(tmp_path, FakeGpu("Orin (nvgpu)", has=frozenset())), (1.0, 50))
    assert told == Resources(peak_rss_bytes=told.peak_rss_bytes)


@pytest.mark.parametrize(
    "load",
    ["gpu.0/load", "platform/gpu.0/load", "platform/17000000.gpu/load", "platform/bus@0/17000000.gpu/load"],
)
def test_the_gpu_of_a_jetson_in_every_layout(load: str, tmp_path: Path) -> None:
    """Its load is in per mille. NVML starts on it since JetPack 6, and tells nothing."""
    jetson_gpu(tmp_path, load)
    zone(tmp_path, 0, "cpu-thermal", 60_000)
    write(tmp_path / "sys/class/devfreq/13e10000.mc/cur_freq", "3199000000\n")
    for reader in (ResourceReader(FakeClock(), tmp_path), made(tmp_path, FakeGpu("Orin", has=frozenset()))[0]):
        told = reader.since(reader.mark())
        assert told.gpu_use == 0.873
        assert told.gpu_temperature_c == 51.25
        assert told.gpu_frequency_hz == 624.75e6
        assert told.temperature_c == 60.0
        assert told.throttling is None


@pytest.mark.parametrize("load", ["", "x\n", "1001\n", "-1\n"])
def test_a_load_that_cannot_be_is_not_known(load: str, tmp_path: Path) -> None:
    jetson_gpu(tmp_path, "gpu.0/load").write_text(load)
    reader = ResourceReader(FakeClock(), tmp_path)
    assert reader.since(reader.mark()).gpu_use is None


def test_what_one_source_does_not_tell_the_other_may() -> None:
    both = GpuState(temperature_c=50.0, brakes=frozenset()).or_else(GpuState(0.5, 40.0, 1e9, frozenset("x")))
    assert both == GpuState(0.5, 50.0, 1e9, frozenset())


def test_a_span_carries_it_into_its_record(tmp_path: Path) -> None:
    reader, library, clock = made(tmp_path, FakeGpu(reasons=0x80))
    with Profiler(clock=clock, resources=reader).span("fit") as span:
        library.gpus[0].use_percent = 40
        library.advance(clock, 5.0)
    assert span.record is not None
    row = decode_line(encode_line({"task": "t", "attempt": 1, **span_row(span.record)}))
    assert {name: row[name] for name in ("gpu_use", "gpu_temperature_c", "gpu_frequency_hz", "throttling")} == {
        "gpu_use": pytest.approx(0.4),
        "gpu_temperature_c": 55.0,
        "gpu_frequency_hz": 1.41e9,
        "throttling": "gpu_power_brake",
    }
    assert asdict(span.record.resources).items() <= (span_row(span.record)).items()


def test_a_machine_is_looked_for_once_and_before_the_span_begins(tmp_path: Path) -> None:
    reader, library, clock = made(tmp_path, FakeGpu())
    profiler = Profiler(clock=clock, resources=reader)
    for _ in range(3):
        with profiler.span("fit"):
            assert library.n_started == 1
    assert library.n_started == 1

"""Our fake NVML and our constants against NVIDIA's own bindings, where they are installed."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from types import ModuleType

import pytest

from profiler import gpus, nvml
from profiler.clock import FakeClock, SystemClock
from profiler.gpus import Gpus, GpuState
from profiler.sampler import Sampler
from profiler.sensor import Available, Unavailable
from profiler.sensors import nvml as sensor
from profiler.sensors.nvml import NvmlSensor
from tests.fixtures.nvml import FakeNvml, FakeNvmlError


@pytest.fixture(scope="module")
def pynvml() -> ModuleType:
    module: ModuleType = pytest.importorskip("pynvml")
    return module


def test_every_function_we_call_is_there_with_as_many_arguments(pynvml: ModuleType) -> None:
    ours = {name for name in dir(nvml.Library) if name.startswith("nvml")}
    assert len(ours) > 10
    for name in (*ours, "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        theirs = inspect.signature(getattr(pynvml, name)).parameters.values()
        needed = [p for p in theirs if p.default is p.empty]
        fake = inspect.signature(getattr(FakeNvml, name)).parameters
        assert len(needed) <= len(fake) - 1 <= len(theirs), name  # less self


def test_error_codes_and_texts_are_theirs(pynvml: ModuleType) -> None:
    names = [name for name in vars(FakeNvml) if name.startswith("NVML_ERROR_")]
    assert len(names) == 5
    for name in names:
        assert getattr(FakeNvml, name) == getattr(pynvml, name)
    for code, text in FakeNvmlError.TEXTS.items():
        error = pynvml.NVMLError(code)
        assert isinstance(error, pynvml.NVMLError)
        assert (error.value, str(error)) == (code, text)


def test_constants_are_theirs(pynvml: ModuleType) -> None:
    assert pynvml.NVML_SUCCESS == 0
    assert pynvml.NVML_DEVICE_MIG_ENABLE == 1
    assert sensor._AMPERE == pynvml.NVML_DEVICE_ARCH_AMPERE
    assert pynvml.NVML_DEVICE_ARCH_UNKNOWN > sensor._AMPERE
    assert gpus._UTILIZATION_SAMPLES == pynvml.NVML_GPU_UTILIZATION_SAMPLES
    assert gpus._UNSIGNED_INT == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
    assert gpus._TEMPERATURE_GPU == pynvml.NVML_TEMPERATURE_GPU
    assert gpus._CLOCK_SM == pynvml.NVML_CLOCK_SM
    names = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert set(gpus._BRAKES) == {getattr(pynvml, f"nvmlClocksThrottleReason{name}") for name in names}


@pytest.mark.parametrize("member", ["uiVal", "ulVal", "ullVal", "sllVal", "siVal"])
def test_their_field_values_are_read_by_kind_and_return_code(member: str, pynvml: ModuleType) -> None:
    kinds = {
        "uiVal": "UNSIGNED_INT",
        "ulVal": "UNSIGNED_LONG",
        "ullVal": "UNSIGNED_LONG_LONG",
        "sllVal": "SIGNED_LONG_LONG",
        "siVal": "SIGNED_INT",
    }
    value = pynvml.c_nvmlFieldValue_t()
    value.valueType = getattr(pynvml, f"NVML_VALUE_TYPE_{kinds[member]}")
    value.value.ullVal = 2**64 - 1  # what is left over in the union must not show
    setattr(value.value, member, 41_500)
    assert nvml.unsigned(value) == 41_500
    value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert nvml.unsigned(value) is None
    value.nvmlReturn, value.valueType = pynvml.NVML_SUCCESS, pynvml.NVML_VALUE_TYPE_DOUBLE
    assert nvml.unsigned(value) is None


def test_the_fields_we_ask_for_are_power(pynvml: ModuleType) -> None:
    """The numbers stand in the sensor, since older bindings lack the names."""
    asked: list[int] = []

    class Library(FakeNvml):
        def nvmlDeviceGetFieldValues(self, handle: object, field_ids: list[int]) -> list[object]:
            asked.extend(field_ids)
            return [pynvml.c_nvmlFieldValue_t(nvmlReturn=0, valueType=1, value=pynvml.c_nvmlValue_t(uiVal=1000))]

    library = Library(FakeClock(), [])
    assert sensor._instant_w(library, None) == 1.0
    assert sensor._average_w(library, None) == 1.0
    assert asked == [pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_FI_DEV_POWER_AVERAGE]


def test_without_nvidias_library_the_sensor_says_what_to_install(pynvml: ModuleType, tmp_path: Path) -> None:
    if any(Path("/dev").glob("nvidia*")):
        pytest.skip("this machine has an NVIDIA driver")
    for has_node in (False, True):
        if has_node:
            (tmp_path / "dev").mkdir()
            (tmp_path / "dev/nvidia0").touch()
        outcome = NvmlSensor(tmp_path, FakeClock(), nvml=pynvml).probe()
        assert isinstance(outcome, Unavailable)
        assert "Library Not Found" in outcome.reason
        assert "driver" in outcome.remedy
        assert outcome.is_absent is not has_node
    found = Gpus(tmp_path, pynvml)  # type: ignore[arg-type]
    assert found.since(found.mark()) == GpuState()
    (tmp_path / "sys").mkdir()
    assert "not the one below" in getattr(nvml.find(tmp_path), "reason", "")


@pytest.mark.skipif(not any(Path("/dev").glob("nvidia[0-9]*")), reason="no NVIDIA GPU here")
def test_on_a_real_gpu_a_second_has_plausible_joules(pynvml: ModuleType) -> None:
    """Nobody has a GPU that idles below 1 W or draws more than 2 kW."""
    clock = SystemClock()
    sensor = NvmlSensor(Path("/"), clock)
    outcome = sensor.probe()
    assert isinstance(outcome, Available), outcome
    with Sampler(sensor, clock) as sampler:
        window = sampler.open_window()
        time.sleep(3.0)
        total = sampler.total(window.close())
    assert total.energy_j is not None, total
    assert 3.0 * len(outcome.total) < total.energy_j < 3.5 * 2000 * len(outcome.total)
    assert total.coverage > 0.9
    machine = Gpus(Path("/"))
    state = machine.since(machine.mark())
    assert state.temperature_c is not None
    assert 0 < state.temperature_c < 120

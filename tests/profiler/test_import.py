from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest

import profiler

HEAVY = ["numpy", "psutil", "torch", "grpc", "pandas", "importlib.metadata", "pyarrow", "asyncio"]

pytestmark = pytest.mark.serial


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return run.stdout


def test_import_loads_nothing_heavy() -> None:
    # Coverage and editable installs put modules of their own there before any of our code runs.
    code = f"""
import sys
before = set(sys.modules)
import profiler
print([m for m in {HEAVY} if m in sys.modules and m not in before])
"""
    assert python(code).strip() == "[]"


def test_metering_a_span_loads_nothing_heavy() -> None:
    code = f"""
import sys
before = set(sys.modules)
from profiler import Profiler, Sampler, SystemClock
from profiler.sensors.cpu_model import CpuModelSensor
from pathlib import Path
clock = SystemClock()
with Profiler([Sampler(CpuModelSensor(Path("/"), clock, target="process"), clock)], clock) as meter:
    with meter.span("work") as span:
        pass
assert span.record.total.energy_j is not None
print([m for m in {HEAVY} if m in sys.modules and m not in before])
"""
    assert python(code).strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in profiler.__all__:
        assert getattr(profiler, name).__module__.startswith("profiler."), name
    assert dir(profiler) == sorted(profiler.__all__)
    assert not hasattr(profiler, "no_such_name")


def test_import_adds_little_to_the_start_of_the_interpreter() -> None:
    def seconds(code: str) -> float:
        start_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        return time.perf_counter() - start_s

    seconds("import profiler")  # fills the byte code cache
    added_s = [seconds("import profiler") - seconds("pass") for _ in range(7)]
    assert statistics.median(added_s) < 0.060

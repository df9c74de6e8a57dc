from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.clock import FakeClock
from profiler.errors import SpecError, UsageError
from profiler.quantities import Provenance, Scope
from profiler.sensor import Available
from profiler.sensors.cpu_calibration import (
    Calibration,
    Fit,
    Phase,
    candidates,
    default_path,
    fit,
    read_calibration,
    write_calibration,
)
from profiler.sensors.cpu_model import CpuModelSensor
from tests.profiler.sensors.test_cpu_model import write_stat

CPU = "Some Processor @ 2 GHz"
CALIBRATION = Calibration(Fit(4.0, 10.0, 0.05), Scope.WALL, CPU, 2, "2026-11-23", "a meter read by hand")


def machine(root: Path, cpu: str = CPU) -> Path:
    write_stat(root, user=100, idle=100)
    (root / "proc/cpuinfo").write_text(f"processor\t: 0\nmodel name\t: {cpu}\n\nprocessor\t: 1\n")
    return root / "etc/fedmeter/cpu_model.json"


def probed(root: Path, **environment: str) -> Available:
    outcome = CpuModelSensor(root, FakeClock(), environment=environment).probe()
    assert isinstance(outcome, Available)
    return outcome


def test_the_line_goes_to_no_use_and_to_full_use() -> None:
    """12 W at 10 % and 20 W at 90 %: 1 W per 10 %, so 11 W and 21 W; 16 W at half is on the line."""
    found = fit(Phase(12.0, 0.1, 0.0), Phase(20.0, 0.9, 0.0), Phase(16.0, 0.5, 0.0))
    assert (found.idle_w, found.busy_w, found.gain_err) == (pytest.approx(11), pytest.approx(21), pytest.approx(0))


def test_a_meters_limits_carry_over() -> None:
    """A straight line by a meter of ± 2 % is good to 2 %: between idle and busy its limits neither add nor cancel."""
    found = fit(Phase(5.0, 0.0, 0.02), Phase(15.0, 1.0, 0.02), Phase(10.0, 0.5, 0.02))
    assert found.gain_err == pytest.approx(0.02)
    worse_when_idle = fit(Phase(5.0, 0.0, 0.1), Phase(15.0, 1.0, 0.0), Phase(10.0, 0.5, 0.0))
    assert worse_when_idle.gain_err == pytest.approx(0.1)


def test_limits_grow_where_the_line_is_carried_on() -> None:
    """From 10 % use to none: (7.2 W x 1.0 + 18 W x 0.1) / 0.9 of 6 W, as the two may err against each other."""
    found = fit(Phase(7.2, 0.1, 0.03), Phase(18.0, 1.0, 0.03), Phase(12.0, 0.5, 0.03))
    assert found.gain_err == pytest.approx(0.05)


def test_half_load_above_the_line_is_in_the_error_by_hand() -> None:
    """10 and 20 W, 18 W at half: 3 W above. The parabola is 12 u (1 - u) above 10 + 10 u, 20.6 % at most (u = 0.41)."""
    found = fit(Phase(10.0, 0.0, 0.0), Phase(20.0, 1.0, 0.0), Phase(18.0, 0.5, 0.0))
    assert found.gain_err == pytest.approx(12 * (3 - 2 * math.sqrt(2)) / 10, abs=1e-4)


def test_without_half_load_half_of_the_dynamic_part_is_in_doubt() -> None:
    """At full use 10 of 20 W are dynamic: ± 5 W are 25 %, and 2 % of the meter."""
    assert fit(Phase(10.0, 0.0, 0.02), Phase(20.0, 1.0, 0.02)).gain_err == pytest.approx(0.27)


@given(
    idle_w=st.floats(1, 50),
    rise_w=st.floats(0.5, 100),
    bow=st.floats(-0.3, 0.3),
    uses=st.tuples(st.floats(0, 0.15), st.floats(0.4, 0.6), st.floats(0.85, 1)),
    meter=st.tuples(*[st.floats(-1, 1)] * 2),
    err=st.floats(0, 0.05),
    at=st.floats(0, 1),
)
def test_the_error_covers_every_parabola(
    idle_w: float,
    rise_w: float,
    bow: float,
    uses: tuple[float, float, float],
    meter: tuple[float, float],
    err: float,
    at: float,
) -> None:
    """Power that bends as a parabola, idle and busy read by a meter within its limits: at any use the model holds."""

    def power_w(use: float) -> float:
        return idle_w + rise_w * (use + bow * use * (1 - use))

    # Limits are of what is shown, as data sheets give them.
    shown_w = [power_w(uses[0]) / (1 + meter[0] * err), power_w(uses[2]) / (1 + meter[1] * err)]
    line_w = shown_w[0] + (shown_w[1] - shown_w[0]) * (uses[1] - uses[0]) / (uses[2] - uses[0])
    bent_w = line_w - rise_w * bow * (uses[1] - uses[0]) * (uses[1] - uses[2])  # half is read in step with the others
    phases = Phase(shown_w[0], uses[0], err), Phase(shown_w[1], uses[2], err), Phase(bent_w, uses[1], err)
    try:
        found = fit(*phases)
    except ValueError:
        return  # told that no line fits
    model_w = found.idle_w + (found.busy_w - found.idle_w) * at
    assert abs(model_w - power_w(at)) <= found.gain_err * model_w * (1 + 1e-2) + 1e-9  # a grid of 1 %


@pytest.mark.parametrize(
    ("idle", "busy", "half", "said"),
    [
        ((10.0, 0.0), (10.0, 1.0), None, "more power at more use"),
        ((12.0, 0.0), (10.0, 1.0), None, "more power at more use"),
        ((5.0, 0.5), (10.0, 0.5), None, "more power at more use"),
        ((0.0, 0.0), (10.0, 1.0), None, "more power at more use"),
        ((math.nan, 0.0), (10.0, 1.0), None, "more power at more use"),
        ((5.0, 0.0), (math.inf, 1.0), None, "more power at more use"),
        ((5.0, 0.0), (10.0, 1.2), None, "more power at more use"),
        ((1.0, 0.2), (9.0, 0.9), None, "idle machine"),
        ((5.0, 0.0), (10.0, 1.0), (7.0, 1.0), "half load"),
        ((5.0, 0.0), (10.0, 1.0), (30.0, 0.5), "in error by"),
    ],
)
def test_what_makes_no_line_is_refused(
    idle: tuple[float, float], busy: tuple[float, float], half: tuple[float, float] | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        fit(Phase(*idle, 0.0), Phase(*busy, 0.0), None if half is None else Phase(*half, 0.0))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/cpu_model.json"
    write_calibration(path, CALIBRATION)
    assert read_calibration(path) == CALIBRATION
    assert [entry.name for entry in path.parent.iterdir()] == ["cpu_model.json"]
    with pytest.raises(UsageError, match="--force"):
        write_calibration(path, CALIBRATION)
    write_calibration(path, CALIBRATION, overwrite=True)


def test_a_calibrated_model_by_hand(tmp_path: Path) -> None:
    """4 W idle, 10 W busy, 10 s, 5 of 20 CPU seconds busy: 40 J and a quarter of 60 J."""
    write_calibration(machine(tmp_path), CALIBRATION)
    clock = FakeClock()
    sensor = CpuModelSensor(tmp_path, clock)
    outcome = sensor.probe()
    assert isinstance(outcome, Available)
    assert (outcome.provenance, outcome.scope) == (Provenance.ESTIMATED, Scope.WALL)
    assert outcome.rails[0].gain_err == 0.05
    assert "calibrated 2026-11-23 by a meter read by hand, ± 5.0% for loads like" in outcome.notes
    sensor.open()
    clock.advance(10)
    write_stat(tmp_path, user=600, idle=1600)
    assert sensor.read() == [pytest.approx(55.0)]
    sensor.close()


def test_a_process_is_no_wall(tmp_path: Path) -> None:
    write_calibration(machine(tmp_path), CALIBRATION)
    outcome = CpuModelSensor(tmp_path, FakeClock(), target="process").probe()
    assert isinstance(outcome, Available)
    assert outcome.scope is Scope.PROCESS


def test_watts_of_the_caller_come_first(tmp_path: Path) -> None:
    write_calibration(machine(tmp_path), CALIBRATION)
    outcome = CpuModelSensor(tmp_path, FakeClock(), idle_w_per_cpu=1.0, max_w_per_cpu=2.0).probe()
    assert isinstance(outcome, Available)
    assert "as given" in outcome.notes
    assert outcome.rails[0].gain_err == 0.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "fedmeter.trace"),
        ("version", 2),
        ("version", True),
        ("idle_w", 0),
        ("idle_w", "4"),
        ("idle_w", None),
        ("busy_w", 3.0),
        ("busy_w", math.inf),
        ("busy_w", math.nan),
        ("gain_err", -0.1),
        ("gain_err", 1.0),
        ("scope", "galaxy"),
        ("cpu", 5),
        ("n_cpus", 2.5),
        ("date", None),
        ("surprise", 1),
    ],
)
def test_a_broken_file_is_refused_by_file_and_field(tmp_path: Path, field: str, value: Any) -> None:
    path = machine(tmp_path)
    write_calibration(path, CALIBRATION)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(SpecError, match=field) as raised:
        read_calibration(path)
    assert str(path) in str(raised.value)
    outcome = probed(tmp_path)
    assert outcome.rails[0].gain_err == 0.5
    assert "an average of servers" in outcome.notes
    assert f"not used: {path}" in outcome.notes
    assert field in outcome.notes


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000, b'{"format": "' + b"x" * 20_000])
def test_what_is_no_json_object_is_refused_by_file(tmp_path: Path, content: bytes) -> None:
    path = machine(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert f"not used: {path}" in probed(tmp_path).notes


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    machine(tmp_path).mkdir(parents=True)
    assert "not used" in probed(tmp_path).notes


@pytest.mark.parametrize(("cpu", "n_cpus"), [("Another Processor", 2), (CPU, 4)])
def test_a_file_of_another_machine_is_not_used(tmp_path: Path, cpu: str, n_cpus: int) -> None:
    """A home folder that several machines share has one file."""
    foreign = Calibration(CALIBRATION.fit, Scope.WALL, cpu, n_cpus, "2026-11-23", "a meter read by hand")
    write_calibration(machine(tmp_path), foreign)
    outcome = probed(tmp_path)
    assert "'cpu' and 'n_cpus' are" in outcome.notes
    assert outcome.scope is Scope.HOST


def test_where_it_is_looked_for() -> None:
    etc = Path("/etc/fedmeter/cpu_model.json")
    assert default_path({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/fedmeter/cpu_model.json")
    assert default_path({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}) == Path("/h/.config/fedmeter/cpu_model.json")
    assert default_path({}) is None
    assert candidates(Path("/"), {"XDG_CONFIG_HOME": "/x"}) == [Path("/x/fedmeter/cpu_model.json"), etc]
    assert candidates(Path("/"), {}) == [etc]
    assert candidates(Path("/copy"), {"HOME": "/h"}) == [Path("/copy/etc/fedmeter/cpu_model.json")]

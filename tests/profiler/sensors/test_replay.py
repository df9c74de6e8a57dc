from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.integrate import integrate
from profiler.quantities import Provenance, Scope
from profiler.sampler import Sampler
from profiler.sensor import Available, Unavailable
from profiler.sensors.replay import ReplaySensor, read_trace, write_trace
from tests.profiler.rails import WRAP_J, counter_rail, power_rail

RAILS = (power_rail(resolution=0.008), counter_rail(max_power_w=60.0))
AVAILABLE = Available(RAILS, ("board",), Scope.DEVICE, Provenance.INTEGRATED, "bench")
HEADER: dict[str, Any] = {
    "format": "fedmeter.trace",
    "version": 1,
    "rails": [{"name": "a", "scope": "device", "kind": "power_w", "provenance": "integrated"}],
    "total": ["a"],
    "scope": "device",
    "provenance": "integrated",
}


def test_write_and_read_are_inverse(tmp_path: Path) -> None:
    samples = [(0, (1.5, 2.0)), (7, (None, 3.0)), (9, (1.25, None))]
    write_trace(tmp_path / "t", AVAILABLE, samples)
    assert read_trace(tmp_path / "t") == (AVAILABLE, samples)
    with pytest.raises(FileExistsError):
        write_trace(tmp_path / "t", AVAILABLE, samples)


def test_a_sample_of_the_wrong_width_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 rails"):
        write_trace(tmp_path / "t", AVAILABLE, [(0, (1.0,))])


def test_replay_meters_what_was_recorded(tmp_path: Path) -> None:
    """Power rising from 0 to 10 W in 10 s, and a counter that wraps on the way, met at other times than recorded."""
    samples = [(5 * 10**9 + i * 10**8, (i / 10, (WRAP_J - 2 + i / 20) % WRAP_J)) for i in range(101)]
    write_trace(tmp_path / "t", AVAILABLE, samples)
    clock = FakeClock(start_ns=77)
    with Sampler(ReplaySensor(tmp_path / "t", clock), clock, rate_hz=1e-3) as sampler:
        window = sampler.open_window()
        for _ in range(270):
            clock.advance(0.037)
            sampler.sample_now()
        board, package = window.close()
    recorded = [
        integrate(rail, [(t_ns, values[i]) for t_ns, values in samples], 5 * 10**9, 5 * 10**9 + 9_990_000_000)
        for i, rail in enumerate(RAILS)
    ]
    assert board.energy_j == pytest.approx(recorded[0].energy_j)
    assert package.energy_j == pytest.approx(recorded[1].energy_j, abs=1e-6)


def test_replay_has_gaps_and_an_end(tmp_path: Path) -> None:
    samples = [(0, (1.0, 2.0)), (10**9, (None, 3.0)), (2 * 10**9, (5.0, 1.0))]
    rails = (power_rail(), counter_rail(wrap_j=None))
    write_trace(tmp_path / "t", Available(rails, ("board",), Scope.DEVICE, Provenance.INTEGRATED), samples)
    clock = FakeClock()
    sensor = ReplaySensor(tmp_path / "t", clock)
    sensor.open()
    assert sensor.read() == [1.0, 2.0]
    clock.advance(0.5)
    assert sensor.read() == [None, 2.5]
    clock.advance(1.0)
    assert sensor.read() == [None, None]  # the counter ran backwards here
    clock.advance(0.5)
    assert sensor.read() == [5.0, 1.0]
    clock.advance(0.1)
    with pytest.raises(SensorError, match="ended"):
        sensor.read()
    sensor.open()
    assert sensor.read() == [1.0, 2.0]


def changed(**more: object) -> dict[str, Any]:
    return {**HEADER, **more}


def rail_with(**more: object) -> dict[str, Any]:
    return changed(rails=[{**HEADER["rails"][0], **more}])


@pytest.mark.parametrize(
    ("header", "line", "expected"),
    [
        (changed(format="other"), None, "line 1: no fedmeter.trace"),
        (changed(version=2), None, "line 1"),
        (changed(rails=[]), None, "rails must be a list"),
        (changed(rails=[5]), None, "line 1"),
        (changed(total=["b"]), None, "total"),
        (changed(scope="moon"), None, "moon"),
        (rail_with(gain_err="big"), None, "no finite number"),
        (rail_with(gain_err=-1), None, "negative"),
        (rail_with(gain_err=None), None, "no finite number"),
        (rail_with(colour="red"), None, "colour"),
        (rail_with(name=5), None, "text"),
        (HEADER, '{"t_ns": 1}', "line 2: 'values' is missing"),
        (HEADER, '{"t_ns": 1.5, "values": [1]}', "whole number"),
        (HEADER, '{"t_ns": 1, "values": [1, 2]}', "list of 1"),
        (HEADER, '{"t_ns": 1, "values": [NaN]}', "no finite number"),
        (HEADER, '{"t_ns": 1, "values": [true]}', "no finite number"),
        (HEADER, '{"t_ns": 1, "values": [1]}\n{"t_ns": 1, "values": [1]}', "line 3: t_ns 1 does not follow 1"),
        (HEADER, "[" * 100_000, "line 2"),
        (HEADER, "[]", "not a JSON object"),
        (HEADER, None, "no samples"),
    ],
)
def test_a_damaged_trace_names_file_and_line(
    tmp_path: Path, header: dict[str, Any], line: str | None, expected: str
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(header) + "\n" + (f"{line}\n" if line else ""))
    with pytest.raises(SensorError) as raised:
        read_trace(path)
    assert expected in str(raised.value)
    assert str(path) in str(raised.value)
    assert raised.value.remedy
    assert isinstance(ReplaySensor(path, FakeClock()).probe(), Unavailable)


def test_a_torn_last_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_trace(path, AVAILABLE, [(0, (1.0, 2.0)), (5, (1.0, 2.0))])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(SensorError, match="line 3: cut off"):
        read_trace(path)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_trace_or_a_sensor_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "t"
    path.write_bytes(json.dumps(HEADER).encode() + b"\n" + content)
    outcome = ReplaySensor(path, FakeClock()).probe()
    assert isinstance(outcome, (Available, Unavailable))
    if isinstance(outcome, Unavailable):
        assert str(path) in outcome.reason

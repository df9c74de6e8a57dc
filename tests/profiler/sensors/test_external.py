from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.external import Meter
from profiler.quantities import Provenance, RailKind, Scope
from profiler.sampler import Sampler
from profiler.sensor import Available, Unavailable
from profiler.sensors.external import ExternalSensor, StreamRail, StreamSpec
from tests.fixtures.meters import build_stream, stream_spec

BOARD = StreamRail(Meter("board", Scope.DEVICE, 0.01), 1, "mW")


def opened(root: Path, clock: FakeClock | None = None, spec: StreamSpec | None = None) -> ExternalSensor:
    sensor = ExternalSensor(root, clock or FakeClock(), spec)
    sensor.open()
    return sensor


def refusal(root: Path) -> Unavailable:
    outcome = ExternalSensor(root, FakeClock()).probe()
    assert isinstance(outcome, Unavailable), outcome
    return outcome


def say(stream: Path, text: str | bytes) -> None:
    with stream.open("ab") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


@contextmanager
def fifo(root: Path, **more: object) -> Iterator[tuple[ExternalSensor, int, FakeClock]]:
    """A sensor on a FIFO, the file descriptor of its writer, and its clock."""
    build_stream(root, spec=stream_spec(**more)).unlink()
    os.mkfifo(root / "run/meter.csv")
    clock = FakeClock()
    sensor = opened(root, clock)  # before there is a writer: it must not wait for one
    writer = os.open(root / "run/meter.csv", os.O_WRONLY | os.O_NONBLOCK)
    try:
        yield sensor, writer, clock
    finally:
        sensor.close()
        os.close(writer)


def test_rails_state_what_the_description_says(tmp_path: Path) -> None:
    build_stream(tmp_path)
    outcome = ExternalSensor(tmp_path, FakeClock()).probe()
    assert isinstance(outcome, Available)
    assert (outcome.scope, outcome.provenance, outcome.total) == (Scope.DEVICE, Provenance.INTEGRATED, ("board",))
    (rail,) = outcome.rails
    assert (rail.kind, rail.gain_err, rail.min_period_s, rail.edge_jitter_s) == (RailKind.POWER_W, 0.01, 0.1, 0.1)


def test_the_last_complete_line_wins(tmp_path: Path) -> None:
    stream = build_stream(tmp_path, "0.0,5000\n0.1,5500\n0.2,62")
    sensor = opened(tmp_path)
    assert sensor.read() == [5.5]
    say(stream, "50\n")
    assert sensor.read() == [6.25]
    say(stream, "0.3,7500\n\n")
    assert sensor.read() == [7.5]
    sensor.close()


def test_a_fifo_is_read_without_waiting(tmp_path: Path) -> None:
    with fifo(tmp_path) as (sensor, writer, clock):
        with pytest.raises(SensorError, match="no line has come"):
            sensor.read()
        os.write(writer, b"1,1000\n2,2000\n3,30")
        assert sensor.read() == [2.0]
        clock.advance(0.2)
        assert sensor.read() == [2.0]  # held: it is what the meter said last
        os.write(writer, b"00\n")
        assert sensor.read() == [3.0]


def test_a_meter_that_falls_silent_is_missing_after_three_periods(tmp_path: Path) -> None:
    with fifo(tmp_path) as (sensor, writer, clock):
        os.write(writer, b"1,1000\n")
        assert sensor.read() == [1.0]
        clock.advance(0.31)
        with pytest.raises(SensorError, match=r"the last line is 0\.31 s old"):
            sensor.read()
        os.write(writer, b"2,2000\n")
        assert sensor.read() == [2.0]


def test_a_serial_port_and_its_unplugging() -> None:
    ours, theirs = os.openpty()
    sensor = ExternalSensor(Path("/"), FakeClock(), StreamSpec(Path(os.ttyname(theirs)), 0.1, (BOARD,)))
    sensor.open()
    os.write(ours, b"0,1000\r\n")
    os.close(theirs)
    assert sensor.read() == [1.0]
    os.close(ours)
    assert sensor.read() == [1.0]  # held until it is old
    sensor._clock.sleep(0.5)
    with pytest.raises(SensorError, match="old"):
        sensor.read()
    sensor.close()


def test_a_flood_takes_a_bounded_time_and_memory(tmp_path: Path) -> None:
    stream = build_stream(tmp_path)
    sensor = opened(tmp_path)
    say(stream, b"0,1000\n" * 400_000 + b"0,2000\n")
    assert sensor.read() == [1.0]  # 2.8 MB: a read takes 1 MiB of them
    assert [sensor.read(), sensor.read()] == [[1.0], [2.0]]
    sensor.close()


def test_an_endless_line_is_no_line(tmp_path: Path) -> None:
    stream = build_stream(tmp_path)
    sensor = opened(tmp_path)
    sensor.read()
    say(stream, b"0,1" + b"9" * 300_000)
    assert sensor.read() == [5.5]
    assert len(sensor._tail) < 100_000
    say(stream, b"\n")
    with pytest.raises(SensorError):
        sensor.read()
    say(stream, b"0,7000\n")
    assert sensor.read() == [7.0]
    sensor.close()


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    build_stream(tmp_path, "0,1000\n" * 50_000 + "0,2000\n")
    sensor = opened(tmp_path)
    assert sensor.read() == [2.0]
    sensor.close()


def test_what_an_idle_log_said_last_is_not_what_the_meter_shows_now(tmp_path: Path) -> None:
    stream = build_stream(tmp_path)
    os.utime(stream, (1_699_999_990, 1_699_999_990))  # ten seconds before FakeClock's wall time
    sensor = opened(tmp_path)
    with pytest.raises(SensorError, match="no line has come"):
        sensor.read()
    say(stream, "9,9000\n")
    assert sensor.read() == [9.0]
    sensor.close()


def test_a_log_that_is_cut_short_or_replaced_is_followed(tmp_path: Path) -> None:
    stream = build_stream(tmp_path, "0,1000\n" * 10)
    sensor = opened(tmp_path)
    assert sensor.read() == [1.0]
    stream.write_text("0,2000\n")
    assert sensor.read() == [2.0]
    stream.unlink()
    stream.write_text("0,3000\n")
    assert sensor.read() == [3.0]
    sensor.close()


@pytest.mark.parametrize("line", ["1", "1,", "1,nan", "1,inf", "1,5 W", "{", "{}", '{"1": 5}', "[]", "\x00"])
def test_a_line_that_gives_no_number_is_missing_not_zero(tmp_path: Path, line: str) -> None:
    build_stream(tmp_path, f"{line}\n")
    sensor = opened(tmp_path)
    with pytest.raises(SensorError) as raised:
        sensor.read()
    assert raised.value.remedy
    sensor.close()


def test_one_rail_may_be_missing(tmp_path: Path) -> None:
    usb = StreamRail(Meter("usb", Scope.RAIL, 0.02), 1, "V", times=2, times_unit="mA")
    spec = StreamSpec(Path("/run/meter.csv"), 0.1, (BOARD, usb))
    build_stream(tmp_path, "0,5000\n")
    sensor = opened(tmp_path, spec=spec)
    assert sensor.read() == [5.0, None]
    sensor.close()


def test_volts_by_amperes_and_watt_hours_from_json_lines(tmp_path: Path) -> None:
    rails = (
        StreamRail(Meter("usb", Scope.DEVICE, 0.02), "v", "V", times="i", times_unit="mA"),
        StreamRail(Meter("plug", Scope.WALL, 0.02), "aenergy.total", "Wh"),
    )
    spec = StreamSpec(Path("/run/meter.csv"), 1.0, rails, total=("plug",))
    build_stream(tmp_path, '{"v": 5, "i": "400", "aenergy": {"total": 2.5}}\n')
    sensor = opened(tmp_path, spec=spec)
    assert sensor.read() == [pytest.approx(2.0), pytest.approx(9000.0)]
    outcome = sensor.probe()
    assert isinstance(outcome, Available)
    assert (outcome.total, outcome.scope, outcome.provenance) == (("plug",), Scope.WALL, Provenance.COUNTER)
    assert [rail.kind for rail in outcome.rails] == [RailKind.POWER_W, RailKind.COUNTER_J]
    sensor.close()


def test_a_window_over_a_live_meter(tmp_path: Path) -> None:
    with fifo(tmp_path, period_s=1.0) as (sensor, writer, clock):
        os.write(writer, b"0,4000\n")
        sampler = Sampler(sensor, clock, rate_hz=1e-3)  # its own thread takes one sample in 1,000 s: none here
        with sampler:
            window = sampler.open_window()
            for _ in range(20):
                clock.advance(0.5)
                os.write(writer, b"0,4000\n")
                sampler.sample_now()
            (reading,) = window.close()
    assert reading.energy_j == pytest.approx(40.0)
    assert reading.provenance is Provenance.INTEGRATED
    assert reading.coverage == pytest.approx(1.0)


def test_without_a_description_the_remedy_shows_one_that_works(tmp_path: Path) -> None:
    outcome = refusal(tmp_path)
    assert str(tmp_path / "etc/fedmeter/external.json") in outcome.reason
    build_stream(tmp_path, spec=json.loads(outcome.remedy.partition(": ")[2].rstrip(".")))
    assert "ttyUSB0" in refusal(tmp_path).reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rails": []}, "1 to 64 rails"),
        ({"rails": 3}, "rails must be a list"),
        ({"rails": [3]}, "int where an object is due"),
        ({"rails": [stream_spec()["rails"][0]] * 2}, "different names"),  # type: ignore[index]
        ({"rails": [{"name": "b", "scope": "device", "field": 1, "unit": "W"}]}, "'gain_err' is missing"),
        ({"rails": [{"name": "b", "scope": "sky", "field": 1, "unit": "W", "gain_err": 0}]}, "'sky'"),
        ({"rails": [{"name": "b", "scope": "wall", "field": 1.5, "unit": "W", "gain_err": 0}]}, "position or a key"),
        ({"rails": [{"name": "b", "scope": "wall", "field": 1, "unit": "MW", "gain_err": 0}]}, "'MW' is no unit"),
        ({"rails": [{"name": "b", "scope": "wall", "field": 1, "unit": "W", "gain_err": -1}]}, "not negative"),
        ({"period_s": 0}, "period_s must be positive"),
        ({"period_s": "soon"}, "'soon' is no number"),
        ({"total": ["bord"]}, "Did you mean 'board'?"),
        ({"separator": "::"}, "one character"),
        ({"path": ""}, "path must be text"),
        ({"paht": "/x"}, "Did you mean 'path'?"),
    ],
)
def test_a_wrong_description_is_told_with_its_key(tmp_path: Path, change: dict[str, object], said: str) -> None:
    build_stream(tmp_path, spec=stream_spec(**change))
    outcome = refusal(tmp_path)
    assert said in outcome.reason
    assert outcome.remedy


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 60_000, " " * 70_000, '{"period_s": 1}'])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    build_stream(tmp_path)
    (tmp_path / "etc/fedmeter/external.json").write_text(text)
    assert refusal(tmp_path).reason


def test_a_stream_that_is_no_stream(tmp_path: Path) -> None:
    stream = build_stream(tmp_path)
    stream.unlink()
    assert "No such file" in refusal(tmp_path).reason
    stream.mkdir()
    assert "no file, FIFO or character device" in refusal(tmp_path).reason


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=st.lists(st.binary(max_size=40) | st.sampled_from([b"0,1\n", b'{"1":2}\n', b"\n", b"0,"]), max_size=8))
def test_whatever_a_stream_says_is_a_number_or_an_error_of_ours(tmp_path: Path, chunks: list[bytes]) -> None:
    stream = build_stream(tmp_path, "")
    sensor = opened(tmp_path)
    for chunk in chunks:
        say(stream, chunk)
        try:
            (value,) = sensor.read()
        except SensorError:
            continue
        assert value is not None
        assert math.isfinite(value)
    say(stream, b"\n0,1000\n")
    assert sensor.read() == [1.0]
    sensor.close()

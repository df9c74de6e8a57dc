from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Scope
from profiler.sensor import Available, Unavailable
from profiler.sensors.tegrastats import TegrastatsStream, parse_line
from tests.fixtures.tegrastats import AGX_ORIN, NANO_JP4, ORIN_NANO_JP6


@dataclass
class Pipe:
    """What a process would write to, and the stream that its owner hands over."""

    reading: int
    writing: int

    def fileno(self) -> int:
        return self.reading

    def say(self, text: str) -> None:
        os.write(self.writing, text.encode())


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(*os.pipe())
    yield pipe
    os.close(pipe.reading)
    os.close(pipe.writing)


def available(sensor: TegrastatsStream) -> Available:
    outcome = sensor.probe()
    assert isinstance(outcome, Available), outcome
    return outcome


def opened(pipe: Pipe, clock: FakeClock, line: str = ORIN_NANO_JP6) -> TegrastatsStream:
    pipe.say(f"{line}\n")
    sensor = TegrastatsStream(pipe, clock)
    sensor.open()
    return sensor


def test_orin_nano_on_jetpack_6() -> None:
    assert parse_line(ORIN_NANO_JP6) == {"VDD_IN": 4.563, "VDD_CPU_GPU_CV": 0.524, "VDD_SOC": 1.373}


def test_agx_orin_takes_the_value_and_not_the_average() -> None:
    assert parse_line(AGX_ORIN) == {
        "VDD_GPU_SOC": 3.150,
        "VDD_CPU_CV": 14.312,
        "VIN_SYS_5V0": 4.968,
        "VDDQ_VDD2_1V8AO": 1.091,
    }


def test_nano_on_jetpack_4_without_a_unit() -> None:
    assert parse_line(NANO_JP4) == {"POM_5V_IN": 0.933, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.084}


def test_agx_xavier_has_bare_labels() -> None:
    line = "SWAP 0/1MB GPU 100/90 CPU 200/200 SOC 300/300 CV 0/0 VDDRQ 400/400 SYS5V 1500/1500"
    assert list(parse_line(line).values()) == [0.1, 0.2, 0.3, 0.0, 0.4, 1.5]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "RAM 1928/7620MB SWAP 0/3810MB IRAM 0/252kB",
        "VDD_IN 4563mB/4563mW",
        "VDD_IN 10/20MB",
        "xVDD_IN 10/20",
        "VDD_IN -5mW/5mW",
        "VDD_IN 99999999mW/1mW",
        "GPU@22.5C CPU [4%@102] GR3D_FREQ 0%",
        "VDD_IN 4563mW/",
    ],
)
def test_what_only_looks_like_a_rail_is_none(line: str) -> None:
    assert parse_line(line) == {}


@pytest.mark.parametrize(
    ("line", "total", "watts"),
    [
        (ORIN_NANO_JP6, ("VDD_IN",), 4.563),
        (AGX_ORIN, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 22.430),
        (NANO_JP4, ("POM_5V_IN",), 0.933),
    ],
)
def test_the_total_is_that_of_the_board(pipe: Pipe, line: str, total: tuple[str, ...], watts: float) -> None:
    sensor = opened(pipe, FakeClock(), line)
    outcome = available(sensor)
    assert outcome.total == total
    assert outcome.scope is Scope.MODULE
    assert outcome.provenance is Provenance.INTEGRATED
    values = dict(zip([rail.name for rail in outcome.rails], sensor.read(), strict=True))
    assert sum(values[label] or 0.0 for label in total) == pytest.approx(watts)


def test_a_file_of_lines_gives_its_last_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "tegrastats.log"
    path.write_text(f"{NANO_JP4}\n{NANO_JP4.replace('933/933', '1200/933')}\n{NANO_JP4[:-20]}")
    with path.open("rb") as stream:
        sensor = TegrastatsStream(stream, FakeClock())
        sensor.open()
        assert sensor.read() == [1.2, 0.0, 0.084]
        with path.open("a") as more:
            more.write(f"\n{NANO_JP4.replace('933/933', '1300/933')}\n")
        assert sensor.read() == [1.3, 0.0, 0.084]


def test_a_read_never_waits_and_holds_the_last_line_for_a_while(pipe: Pipe) -> None:
    clock = FakeClock()
    sensor = opened(pipe, clock)
    clock.advance(0.29)
    before_s = time.monotonic()
    assert sensor.read() == [4.563, 0.524, 1.373]
    assert time.monotonic() - before_s < 5  # an empty pipe would be waited for, for ever
    clock.advance(0.02)
    with pytest.raises(SensorError, match=r"no line for 0\.31 s"):
        sensor.read()
    pipe.say(f"{ORIN_NANO_JP6}\n")
    assert sensor.read() == [4.563, 0.524, 1.373]


def test_half_a_line_waits_for_the_rest(pipe: Pipe) -> None:
    sensor = opened(pipe, FakeClock())
    newer = ORIN_NANO_JP6.replace("4563mW/", "7000mW/")
    cut = newer.index("7000mW") + 2
    pipe.say(newer[:cut])
    assert sensor.read()[0] == 4.563
    pipe.say(newer[cut:] + "\n")
    assert sensor.read()[0] == 7.0


def test_a_rail_that_a_line_leaves_out_is_none(pipe: Pipe) -> None:
    sensor = opened(pipe, FakeClock())
    pipe.say("VDD_IN 5000mW/4563mW VDD_SOC 1mW/1mW\n")
    assert sensor.read() == [5.0, None, 0.001]


def test_lines_without_rails_do_not_count(pipe: Pipe) -> None:
    sensor = opened(pipe, FakeClock())
    pipe.say("RAM 1/2MB\n\n\xff\xfe\n")
    assert sensor.read()[0] == 4.563


def test_a_line_without_end_is_left_out_whole(pipe: Pipe) -> None:
    sensor = opened(pipe, FakeClock())
    for _ in range(5):
        pipe.say("x" * 4000)
        assert sensor.read()[0] == 4.563
    pipe.say(" VDD_IN 1mW/1mW\n")
    assert sensor.read()[0] == 4.563
    pipe.say("VDD_IN 6000mW/1mW\n")
    assert sensor.read()[0] == 6.0
    assert len(sensor._rest) <= 8193


def test_rails_name_their_parents_and_their_age(pipe: Pipe) -> None:
    pipe.say(f"{AGX_ORIN}\n")
    sensor = TegrastatsStream(pipe, FakeClock(), interval_s=1.0)
    by_name = {rail.name: rail for rail in available(sensor).rails}
    assert by_name["VDDQ_VDD2_1V8AO"].parent == "VIN_SYS_5V0"
    assert by_name["VDD_GPU_SOC"].edge_jitter_s > 1.0
    assert by_name["VDD_GPU_SOC"].offset_err_w == pytest.approx(0.8)  # 80 uV over 2 mOhm, at 20 V
    assert by_name["VIN_SYS_5V0"].offset_err_w == pytest.approx(0.202)


def test_without_a_line_it_says_how_to_start(pipe: Pipe) -> None:
    sensor = TegrastatsStream(pipe, FakeClock())
    outcome = sensor.probe()
    assert isinstance(outcome, Unavailable)
    assert "--interval" in outcome.remedy
    with pytest.raises(SensorError, match="no line") as raised:
        sensor.open()
    assert raised.value.remedy
    pipe.say(f"{NANO_JP4}\n")
    assert available(sensor).total == ("POM_5V_IN",)


def test_an_unknown_board_names_its_rails(pipe: Pipe) -> None:
    pipe.say("VDD_A 1mW/1mW VDD_B 2mW/2mW\n")
    outcome = TegrastatsStream(pipe, FakeClock()).probe()
    assert isinstance(outcome, Unavailable)
    assert "VDD_A, VDD_B" in outcome.reason


def test_a_stream_that_is_closed_or_has_no_descriptor_is_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(f"{NANO_JP4}\n")
    with path.open("rb") as stream:
        pass
    assert isinstance(TegrastatsStream(stream, FakeClock()).probe(), Unavailable)
    assert isinstance(TegrastatsStream(BytesIO(), FakeClock()).probe(), Unavailable)


def test_closing_leaves_the_stream_to_its_owner(pipe: Pipe) -> None:
    sensor = opened(pipe, FakeClock())
    sensor.close()
    with pytest.raises(SensorError, match="not open"):
        sensor.read()
    os.fstat(pipe.fileno())
    sensor.open()
    assert sensor.read()[0] == 4.563


@pytest.mark.parametrize("interval_s", [0.0, -1.0, float("nan"), 4000.0])
def test_a_senseless_interval_is_refused(pipe: Pipe, interval_s: float) -> None:
    with pytest.raises(ValueError, match="interval_s"):
        TegrastatsStream(pipe, FakeClock(), interval_s=interval_s)

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profiler.errors import SensorError
from profiler.external import ClockAlignment, Trace, energy
from profiler.meter_files import Columns, iso_ns, number, read_csv, read_ptdaemon, unit_factor
from profiler.quantities import Provenance, RailKind, Scope
from tests.fixtures.data import device_data
from tests.fixtures.meters import METER, monsoon_csv, power_window

POWER = Columns("Time (s)", power="Power (mW)")
S = 1_000_000_000
SAME_CLOCK = ClockAlignment(0.0, 0.0)


def parsed(tmp_path: Path, text: str | bytes, columns: Columns | None = POWER, **more: int) -> Trace:
    path = tmp_path / "meter.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_csv(path, METER, columns, **more)


def samples(trace: Trace) -> list[tuple[int, float]]:
    return list(zip(trace.times_ns, trace.values, strict=True))


def refusal(tmp_path: Path, text: str | bytes, columns: Columns | None = POWER, **more: int) -> str:
    with pytest.raises(SensorError) as raised:
        parsed(tmp_path, text, columns, **more)
    assert raised.value.remedy
    return str(raised.value)


def test_power_in_milliwatts(tmp_path: Path) -> None:
    trace = parsed(tmp_path, "Time (s),Power (mW)\n0.1,5000\n0.2,2500.5\n")
    assert samples(trace) == [(100_000_000, 5.0), (200_000_000, pytest.approx(2.5005))]
    assert (trace.rail.scope, trace.rail.provenance) == (Scope.WALL, Provenance.INTEGRATED)


def test_volts_by_amperes_after_a_preamble_with_comments(tmp_path: Path) -> None:
    text = "Meter X, firmware 2\n\n# 1 kHz\nsample,time_ms,Voltage [V],Current [mA]\n1,10,5,200\n2,20,5.5,100\n"
    columns = Columns("time_ms", voltage="voltage [v]", current="current [ma]")
    assert samples(parsed(tmp_path, text, columns)) == [(10_000_000, 1.0), (20_000_000, pytest.approx(0.55))]


def test_accumulated_watt_hours_are_a_counter(tmp_path: Path) -> None:
    columns = Columns("t", energy="total", time_unit="ns", energy_unit="Wh")
    trace = parsed(tmp_path, "t,total\n0,1\n1000000000,1.001\n2000000000,1.002\n", columns)
    assert trace.rail.kind is RailKind.COUNTER_J
    reading = energy(trace, SAME_CLOCK, 0, 2 * S)
    assert reading.energy_j == pytest.approx(7.2)
    assert reading.provenance is Provenance.COUNTER


def test_decimal_commas_between_semicolons(tmp_path: Path) -> None:
    assert samples(parsed(tmp_path, "Time (s);Power (mW)\n0;1000\n0,5;1500,25\n")) == [(0, 1.0), (S // 2, 1.50025)]


def test_decimal_commas_in_quotes(tmp_path: Path) -> None:
    assert samples(parsed(tmp_path, 'Time (s),Power (mW)\n"0,5","1500"\n"1,0","1500,5"\n'))[1] == (S, 1.5005)


def test_times_keep_their_nanoseconds_beside_an_epoch(tmp_path: Path) -> None:
    trace = parsed(tmp_path, "Time (s),Power (mW)\n1700000000.123456789,1\n1700000000.123456790,1\n")
    assert list(trace.times_ns) == [1_700_000_000_123_456_789, 1_700_000_000_123_456_790]


def test_a_windows_file_with_a_byte_order_mark_and_a_latin_micro(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfTime (s),Power (\xc2\xb5W)\r\n1,2000000\r\n2,1000000\r\n"
    columns = Columns("time (s)", power="Power (µW)")
    assert samples(parsed(tmp_path, text, columns)) == [(S, 2.0), (2 * S, 1.0)]
    latin = "Time (s),Power (µW)\n1,2000000\n2,1000000\n".encode("latin-1")
    assert samples(parsed(tmp_path, latin, columns)) == [(S, 2.0), (2 * S, 1.0)]


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("1970-01-01T00:00:01Z", S),
        ("1970-01-01 00:00:01.5", 3 * S // 2),
        ("1970-01-01T02:00:00,000000001+02:00", 1),
        ("1969-12-31T19:00:00-0500", 0),
        ("2026-02-03T04:05:06.123456789123Z", 1_770_091_506_123_456_789),
    ],
)
def test_iso_times(text: str, expected_ns: int) -> None:
    assert iso_ns(text) == expected_ns


@pytest.mark.parametrize("text", ["", "1970-13-01T00:00:00Z", "1970-01-01", "now", "1970-01-01T00:00:00+1", "1e9"])
def test_what_is_no_iso_time(text: str) -> None:
    with pytest.raises(ValueError):
        iso_ns(text)


def test_iso_times_in_a_file(tmp_path: Path) -> None:
    text = "when,Power (mW)\n2026-01-01T00:00:00.0Z,1\n2026-01-01T01:00:00.25+01:00,1\n"
    trace = parsed(tmp_path, text, replace(POWER, time="when", time_unit="iso"))
    assert trace.times_ns[1] - trace.times_ns[0] == S // 4


def test_monsoons_export_is_known_and_its_means_are_summed(tmp_path: Path) -> None:
    path = monsoon_csv(tmp_path / "monsoon.csv", [1000, *[3000] * 100, *[1000] * 100])
    trace = read_csv(path, METER)
    assert trace.rail.kind is RailKind.COUNTER_J
    assert trace.rail.provenance is Provenance.INTEGRATED
    assert energy(trace, SAME_CLOCK, 0, 40_000_000).energy_j == pytest.approx(3 * 0.02 + 1 * 0.02)


def test_a_last_line_that_may_be_cut_is_left_out(tmp_path: Path) -> None:
    trace = parsed(tmp_path, "Time (s),Power (mW)\n0,1000\n1,1000\n2,10")
    assert samples(trace) == [(0, 1.0), (S, 1.0)]
    assert trace.notes == "line 4 has no newline and was left out"


HEAD = "Time (s),Power (mW)\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "0,1\n1,nan\n", "line 3: 'nan' is no number"),
        (HEAD + "0,1\n1,inf\n", "line 3: 'inf' is no number"),
        (HEAD + "0,1\n1,\n", "line 3: '' is no number"),
        (HEAD + "0,1\n1,1_000\n", "line 3: '1_000' is no number"),
        (HEAD + "0,1\n0,1\n", "line 3: time 0 s does not follow 0 s"),
        (HEAD + "1,1\n0,1\n", "line 3: time 0 s does not follow 1 s"),
        (HEAD + "0,1\n1,1,1\n", "line 3: 3 fields where the header has 2"),
        (HEAD + "0,1\n1\n", "line 3: 1 fields"),
        (HEAD + '0,1\n1,"2\n', "line 3: unexpected end of data"),
        (HEAD + "0,1\n1,1\0\n", "line 3: holds NUL"),
        (HEAD + "0,1\n1e30,1\n", "line 3: 1e+30 s"),
        (HEAD + "0,1\n1,1e20\n", "beyond anything a meter says"),
        (HEAD + "0,1\n" + "1" * 70000 + "\n", "line 3: longer than 65536 bytes"),
        (HEAD + "0,1\n", "two samples, got 1"),
        (HEAD, "two samples, got 0"),
        ("", "seen: nothing"),
        ("Time (s),Watt\n0,1\n", "names ['Time (s)', 'Power (mW)']; seen: Time (s), Watt"),
        ("Time (s),Power (mW),power (mw)\n0,1,1\n", "is there 2 times"),
        ("Time (s);Power (mW)\n0,5;1,5\n1,5;1.5\n", "line 3: '1.5' is no number with a decimal comma"),
        ("Time (s);Power (mW)\n0;1,234.5\n", "line 2: '1,234.5' is no number"),
        ("Time (s);Power (mW)\n0;1,234,567\n", "line 2: '1,234,567' is no number"),
        ("\n" * 100 + HEAD + "0,1\n1,1\n" * 2, "does not follow"),
        ("x\n" * 100 + HEAD + "0,1\n1,1\n", "no line of the first 64 names"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


def test_rows_are_bounded(tmp_path: Path) -> None:
    text = HEAD + "".join(f"{i},1\n" for i in range(5))
    assert "line 5: more than 3 rows" in refusal(tmp_path, text, max_rows=3)
    assert len(parsed(tmp_path, text, max_rows=5).values) == 5


def test_a_column_without_a_unit_needs_one(tmp_path: Path) -> None:
    text = "Time,Power\n0,1\n1,1\n"
    assert "column 'Time' does not say its unit; give time_unit" in refusal(tmp_path, text, Columns("Time", "Power"))
    assert "give power_unit" in refusal(tmp_path, text, Columns("Time", "Power", time_unit="s"))
    trace = parsed(tmp_path, text, Columns("Time", "Power", time_unit="ms", power_unit="W"))
    assert samples(trace) == [(0, 1.0), (1_000_000, 1.0)]


def test_megawatts_are_not_read_as_milliwatts(tmp_path: Path) -> None:
    text = "Time (s),Power (MW)\n0,1\n1,1\n"
    assert "'MW' is no unit of power" in refusal(tmp_path, text, Columns("Time (s)", power="Power (MW)"))
    assert unit_factor("power", "mW") == 1e-3
    assert unit_factor("energy", "kWh") == 3.6e6


def test_a_layout_nobody_knows_must_be_named(tmp_path: Path) -> None:
    assert "Main Avg Power (mW)" in refusal(tmp_path, HEAD + "0,1\n", None)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"power": "p", "energy": "e"},
        {"power": "p", "voltage": "v", "current": "a"},
        {"voltage": "v"},
        {"energy": "e", "means": True},
    ],
)
def test_columns_that_contradict_each_other(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        Columns("t", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["1_0", "0x10", "", "--1", "1e999", "١", "1 2", "infinity", "."])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError):
        number(text)


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("none.csv", "pipe", "."):
        with pytest.raises(SensorError, match="Check the path"):
            read_csv(tmp_path / name, METER, POWER)


def test_ptdaemon_lines(tmp_path: Path) -> None:
    path = tmp_path / "spl.txt"
    path.write_text(
        "Time,07-26-2022 07:05:20.790,Watts,2.8,Volts,249.9\nTime,07-26-2022 07:05:21.790,Watts,3.4,Volts,250\n"
    )
    assert samples(read_ptdaemon(path, METER)) == [
        (iso_ns("2022-07-26T07:05:20.790Z"), 2.8),
        (iso_ns("2022-07-26T07:05:21.790Z"), 3.4),
    ]
    for line in ("Time,07-26-2022,Watts,2.8\n", "Time,07-26-2022 07:05:20.790,Volts,2.8\n", "x\n"):
        path.write_text(line)
        with pytest.raises(SensorError, match="line 1"):
            read_ptdaemon(path, METER)


@pytest.mark.parametrize(
    ("name", "expected_j", "mean_w"),
    [
        ("NVIDIA__Orin_TRT_MaxQ__resnet50__SingleStream", 10_927.75, 18.2109),
        ("Krai__rpi4-tflite-v2.7.1-ruy__resnet50__singlestream", 3_503.5, 5.8348),
    ],
)
def test_published_joules_of_wall_power(tmp_path: Path, name: str, expected_j: float, mean_w: float) -> None:
    folder = device_data() / "power_traces"
    path = tmp_path / "spl.txt"
    path.write_bytes(gzip.decompress((folder / f"{name}.spl.txt.gz").read_bytes()))
    trace = read_ptdaemon(path, METER)
    begin_ns, end_ns = (wall_ns(text) for text in power_window(folder / f"{name}.detail.jsonl"))
    reading = energy(trace, ClockAlignment(0.0, 0.01), begin_ns, end_ns)
    assert reading.energy_j == pytest.approx(expected_j, rel=5e-4)
    assert reading.energy_j / ((end_ns - begin_ns) / 1e9) == pytest.approx(mean_w, rel=1e-3)
    assert reading.coverage == pytest.approx(1.0)


def wall_ns(text: str) -> int:
    """`07-26-2022 07:05:49.918` in nanoseconds."""
    date, time = text.split(" ")
    month, day, year = date.split("-")
    return iso_ns(f"{year}-{month}-{day}T{time}Z")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.one_of(st.binary(max_size=300), st.text("0123456789.,;eE+-\"'\n\r\t #nainf", max_size=300)))
def test_whatever_a_file_holds_is_a_trace_or_an_error_of_ours(tmp_path: Path, body: bytes | str) -> None:
    text = HEAD.encode() + (body if isinstance(body, bytes) else body.encode())
    outcome = outcome_of(tmp_path, text)
    if isinstance(outcome, SensorError):
        assert "meter.csv, line " in str(outcome)
    else:
        rows = [line.strip() for line in text.split(b"\n")[1:-1]]
        assert len(outcome.values) == sum(bool(row) and not row.startswith(b"#") for row in rows)


def outcome_of(tmp_path: Path, text: bytes) -> Trace | SensorError:
    try:
        return parsed(tmp_path, text)
    except SensorError as error:
        return error

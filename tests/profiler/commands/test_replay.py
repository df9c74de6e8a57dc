"""A trace from one machine read on another: the same joules, all that a report needs, nothing private."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import pytest

from profiler.__main__ import main
from profiler.clock import FakeClock
from profiler.commands.replay import figures_of
from profiler.quantities import Provenance, Scope
from profiler.sensor import Available
from profiler.sensors.external import ExternalSensor
from profiler.sensors.replay import header, read_recorded, read_trace, write_trace
from tests.fixtures.meters import build_stream, stream_spec
from tests.fixtures.powercap import PACKAGE_RANGE_UJ, Driver, build_tree
from tests.profiler.commands.running import finish
from tests.profiler.rails import counter_rail, power_rail

RAILS = (power_rail(gain_err=0.01, offset_err_w=0.2, edge_jitter_s=0.002, resolution=0.04), counter_rail())
AVAILABLE = Available(RAILS, ("board",), Scope.DEVICE, Provenance.INTEGRATED, "as wired")


@pytest.mark.serial
def test_figures_of_a_recording_are_those_that_were_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The counters wrap while they are recorded."""
    tree = build_tree(tmp_path / "root", start_uj=PACKAGE_RANGE_UJ - 5_000_000)
    trace = tmp_path / "trace.jsonl"
    with Driver(tree, 20.0):
        arguments = ("--sysfs-root", tree.root, "-o", trace, "--seconds", "0.6", "--rate", "40", "--json")
        recorded = json.loads(finish("record", *arguments).stderr)
    assert main(["replay", str(trace), "--json"]) == 0
    replayed = json.loads(capsys.readouterr().out)
    assert replayed["sensor"] == recorded["sensor"] == "rapl"
    assert replayed["rate_hz"] == 40
    for before, after in zip(
        [recorded["total"], *recorded["rails"]], [replayed["total"], *replayed["rails"]], strict=True
    ):
        assert after["energy_j"] == pytest.approx(before["energy_j"], rel=1e-9)
        assert after["energy_err_j"] == pytest.approx(before["energy_err_j"], rel=0.05)
        assert after["peak_power_w"] == pytest.approx(before["peak_power_w"], rel=1e-6)
        for key in ("provenance", "scope", "coverage", "rail"):
            assert after[key] == before[key]
    assert replayed["recorded"]["sensor"] == "rapl"
    assert replayed["recorded"]["wall_time"].endswith("Z")
    assert abs(replayed["recorded"]["monotonic_ns"] - recorded["start_ns"]) < 1e9


def test_a_trace_holds_every_limit_of_its_rails(tmp_path: Path) -> None:
    write_trace(
        tmp_path / "t.jsonl", AVAILABLE, [(0, (5.0, 1.0)), (10**9, (5.0, 6.0))], {"sensor": "x", "rate_hz": 1.0}
    )
    available, _ = read_trace(tmp_path / "t.jsonl")
    assert available == AVAILABLE
    assert read_recorded(tmp_path / "t.jsonl") == {"sensor": "x", "rate_hz": 1.0}


@pytest.mark.serial
def test_a_trace_tells_nothing_of_its_owner(tmp_path: Path) -> None:
    """No name of the host, the user or a folder of his, nor of the command that was metered."""
    tree = build_tree(tmp_path / "root")
    trace = tmp_path / "trace.jsonl"
    finish("record", "--sysfs-root", tree.root, "-o", trace, "--", "sleep", "0.0625")
    text = trace.read_text()
    for private in (str(tmp_path), "0.0625", socket.gethostname() + '"', f'"{getpass.getuser()}"', str(Path.home())):
        assert private not in text
    assert {"fedmeter", "sensor", "rate_hz", "wall_time", "monotonic_ns", "system", "machine"} <= set(
        read_recorded(trace)
    )


def test_a_path_at_home_is_shortened_in_the_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    build_stream(tmp_path, spec=stream_spec(path="/home/alice/meter.csv"))
    (tmp_path / "home/alice").mkdir(parents=True)
    (tmp_path / "home/alice/meter.csv").write_text("0,5000\n")
    outcome = ExternalSensor(tmp_path, FakeClock()).probe()
    assert isinstance(outcome, Available)
    assert "/home/alice/meter.csv" in outcome.notes
    assert "alice" not in json.dumps(header(outcome))
    assert "~/meter.csv" in json.dumps(header(outcome))


def test_gaps_of_a_trace_are_those_of_its_rate() -> None:
    """10 s at 10 Hz, of which 4 s have no sample: bridged, not covered."""
    moments = [(i * 10**8, (5.0, None if i < 5 else 5.0 * i / 10)) for i in range(101) if not 30 < i < 70]
    figures = figures_of(AVAILABLE, moments, {"rate_hz": 10.0}, "t")
    board, counter = figures.readings[:-1]
    assert board.energy_j == pytest.approx(50.0)
    assert board.coverage == pytest.approx(0.6)
    assert "no power sample for 4 s" in (figures.total.reason or "")
    assert counter.energy_j == pytest.approx(50.0)
    assert counter.coverage == pytest.approx(0.95)
    assert figures.sampler_cpu_s is None
    assert figures_of(AVAILABLE, moments, {}, "t").rate_hz == pytest.approx(10.0)


def test_a_trace_of_one_sample_has_no_energy() -> None:
    figures = figures_of(AVAILABLE, [(5, (5.0, 1.0))], {}, "t")
    assert figures.total.energy_j is None
    assert "at least 2" in (figures.total.reason or "")
    assert figures.as_table()


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (None, {}),
        ("text", {}),
        ({"a": "x" * 999, "b": [1], "c": None, "d": True, "e": 10**400}, {"a": "x" * 200}),
        ({"rate_hz": "fast"}, {"rate_hz": "fast"}),
    ],
)
def test_what_a_trace_says_of_itself_is_not_trusted(
    tmp_path: Path, recorded: object, said: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.jsonl"
    rows = [
        header(AVAILABLE) | {"recorded": recorded},
        *({"t_ns": i * 10**8, "values": [5.0, 1.0 + i]} for i in range(9)),
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert read_recorded(path) == said
    assert main(["replay", str(path)]) == 0
    assert "4.00 ± " in capsys.readouterr().out


def test_what_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    huge = json.dumps(header(AVAILABLE)).encode() + b'\n{"t_ns": 1, "values": [1' + b"0" * 400 + b", 1]}\n"
    for content in (b"", b"\xff\n", b"[]\n", b"{}\n", b"no\n", huge):
        (tmp_path / "t").write_bytes(content)
        assert main(["replay", str(tmp_path / "t")]) == 3
        assert main(["watch", "--replay", str(tmp_path / "t")]) == 3
    assert main(["replay", str(tmp_path / "none")]) == 3
    assert main(["watch", "--replay", str(tmp_path / "t"), "--sensor", "rapl"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.serial
def test_watching_a_trace_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_trace(path, AVAILABLE, [(i * 10**8, (5.0, 0.5 * i)) for i in range(7)])
    done = finish("watch", "--replay", path)
    assert done.returncode == 0, done.stderr
    assert "trace t.jsonl: replay, integrated, scope device" in done.stdout
    assert "5.000" in done.stdout

"""Faults below a span: it ends with what is known, says what is missing, and nothing of it reaches the user's fit.

Every sensor that reads files is metered through a real sampler and a real span while files of one of its rails break,
or while the kernel refuses all of its reads. What is checked is the same for all: a counter that comes back has lost
nothing, power is bridged with doubt, what stays away is missing, and so is the total that needs it; other rails are
untouched.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from profiler.clock import Clock, FakeClock, SystemClock
from profiler.quantities import EnergyReading, Provenance, RailKind
from profiler.records import SpanRecord
from profiler.sampler import Sampler
from profiler.sensor import Sensor
from profiler.sensors.battery import BatterySensor
from profiler.sensors.cpu_model import CpuModelSensor
from profiler.sensors.external import ExternalSensor
from profiler.sensors.fake import FakeSensor
from profiler.sensors.jetson import JetsonSensor
from profiler.sensors.rapl import RaplSensor
from profiler.sensors.raspberry_pi import RaspberryPiSensor
from profiler.span import Profiler
from tests.fixtures.faults import Refused, SteppedClock, answers_eio, forbid_root, in_thread, needs_seccomp
from tests.fixtures.jetson import BOARDS, build_jetson
from tests.fixtures.meters import build_stream
from tests.fixtures.power_supply import laptop
from tests.fixtures.powercap import Driver, build_tree, padded
from tests.fixtures.raspberry_pi import model, pmic
from tests.profiler.rails import counter_rail, power_rail

_TICKS = 20
_IN_DOUBT = 0.2  # at least so much of what is presumed of a steady load that was sampled some twenty times or more
_TICK_S = 3.0
_SPAN_S = _TICKS * _TICK_S


@dataclass
class Bench:
    """One sensor over a built tree. `watts` has the true power of every rail, `victim` the rail whose file breaks.

    `tick` writes what counters say after so many seconds, but for a victim that is broken.
    """

    sensor: Sensor
    watts: dict[str, float]
    victim: str
    path: Path
    tick: Callable[[float, bool], None] = lambda t_s, is_broken: None


def _rapl(root: Path, clock: Clock) -> Bench:
    tree = build_tree(root, packages=2, core=False, start_uj=1_000_000)
    watts = {"package-0": 20.0, "package-1": 30.0, "dram-0": 3.0, "dram-1": 4.0}

    def tick(t_s: float, is_broken: bool) -> None:
        for label, power_w in watts.items():
            if not (is_broken and label == "package-1"):
                with tree.zones[label].energy_path.open("r+b") as file:  # in place: cutting a file off is slow
                    file.write(padded(1_000_000 + round(power_w * t_s * 1e6)))

    return Bench(RaplSensor(root, clock), watts, "package-1", tree.zones["package-1"].energy_path, tick)


def _hwmon(root: Path, clock: Clock) -> Bench:
    tree = build_jetson(root, BOARDS["AGX Orin"])
    watts = {"VDD_GPU_SOC": 4.0, "VDD_CPU_CV": 3.0, "VIN_SYS_5V0": 5.0, "VDDQ_VDD2_1V8AO": 1.0}
    return Bench(JetsonSensor(root, clock), watts, "VDD_CPU_CV", tree.files["VDD_CPU_CV", "current"])


def _iio(root: Path, clock: Clock) -> Bench:
    tree = build_jetson(root, BOARDS["Xavier NX"])
    watts = {"VDD_IN": 5.0, "VDD_CPU_GPU_CV": 1.5, "VDD_SOC": 1.25}
    return Bench(JetsonSensor(root, clock), watts, "VDD_IN", tree.files["VDD_IN", "power"])


def _batteries(root: Path, clock: Clock) -> Bench:
    for attribute in ("energy_now", "energy_full", "energy_full_design"):
        for name in ("BAT0", "BAT1"):
            folder = laptop(root, name) if attribute == "energy_now" else root / "sys/class/power_supply" / name
            (folder / attribute).unlink()
    watts = {"BAT0": 12.5, "BAT1": 12.5}
    return Bench(BatterySensor(root, clock), watts, "BAT1", root / "sys/devices/platform/BAT1/power_now")


BENCHES = {"rapl": _rapl, "jetson hwmon": _hwmon, "jetson iio": _iio, "battery": _batteries}


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "EIO": (answers_eio, "Input/output error"),
    "EISDIR": (_directory, "Is a directory"),
    "a pipe that would block": (_pipe, "Illegal seek|empty"),
    "hot-unplugged": (Path.unlink, "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty|b''"),
    "truncated": (lambda path: path.write_bytes(b"12"), "cut off|b'12'"),
    "garbage": (lambda path: path.write_bytes(b"\xff" * 4096), "\\xff|no number|\ufffd|cut off"),
    "no number": (lambda path: path.write_bytes(b"nan\n"), "nan"),
}
"""How a file breaks, and what the reason then says."""


def mend(path: Path, content: bytes) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        path.rmdir()
    path.write_bytes(content)


def fit(bench: Bench, clock: FakeClock, sampler: Sampler, fault: Callable[[Path], object], broken: range) -> str:
    """The user's work: a minute of it, a sample each 3 s, while the victim is broken at some of them."""
    content = bench.path.read_bytes()
    for tick in range(1, _TICKS + 1):
        if tick == broken.start:
            fault(bench.path)
        if tick == broken.stop:
            mend(bench.path, content)
        clock.advance(_TICK_S)
        bench.tick(tick * _TICK_S, tick in broken)
        sampler.sample_now()
    return "trained"


def spanned(bench: Bench, clock: FakeClock, fault: Callable[[Path], object], broken: range) -> SpanRecord:
    sampler = Sampler(bench.sensor, clock, rate_hz=1 / _TICK_S)  # its thread waits 2 s or more: longer than all this
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        assert fit(bench, clock, sampler, fault, broken) == "trained"
    assert span.record is not None
    assert span.record.status == "ok"
    assert span.record.duration_s == _SPAN_S
    return span.record


def split(record: SpanRecord, victim: str) -> tuple[EnergyReading, list[EnergyReading]]:
    (reading,) = (reading for reading in record.energies if reading.rail == victim)
    return reading, [reading for reading in record.energies if reading.rail != victim]


def others_are_untouched(bench: Bench, others: list[EnergyReading]) -> None:
    assert {reading.rail for reading in others} == set(bench.watts) - {bench.victim}
    for reading in others:
        assert reading.energy_j == pytest.approx(bench.watts[reading.rail] * _SPAN_S, rel=1e-6)
        assert reading.coverage == pytest.approx(1.0)
        assert reading.reason is None


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", BENCHES)
def test_a_rail_that_comes_back(tmp_path: Path, name: str, fault: str) -> None:
    """Broken from the 8th to the 13th tick: 7 of 20 without a reading."""
    clock = FakeClock()
    bench = BENCHES[name](tmp_path, clock)
    breaks, said = FAULTS[fault]
    record = spanned(bench, clock, breaks, range(8, 14))
    reading, others = split(record, bench.victim)
    others_are_untouched(bench, others)
    true_j = bench.watts[bench.victim] * _SPAN_S
    assert reading.energy_j == pytest.approx(true_j, rel=1e-6)
    assert reading.max_gap_s == pytest.approx(7 * _TICK_S)
    assert reading.n_samples == _TICKS + 1 + 1 - 6  # the last tick is sampled at the edge of the span as well
    assert reading.reason is not None
    assert any(word in reading.reason for word in said.split("|")), reading.reason
    rail = next(rail for rail in bench.sensor.probe().rails if rail.name == bench.victim)  # type: ignore[union-attr]
    if rail.kind is RailKind.COUNTER_J:
        assert reading.coverage == pytest.approx(1.0)  # it went on counting while nobody could look
    else:
        assert reading.coverage == pytest.approx(13 / 20)
        assert (reading.energy_err_j or 0) >= _IN_DOUBT * 7 * _TICK_S * bench.watts[bench.victim]
    assert record.total is not None
    assert record.total.coverage == pytest.approx(reading.coverage)
    assert f"{bench.victim}: {reading.reason}" == record.total.reason


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", BENCHES)
def test_a_rail_that_stays_away_makes_the_total_missing_and_not_smaller(tmp_path: Path, name: str, fault: str) -> None:
    clock = FakeClock()
    bench = BENCHES[name](tmp_path, clock)
    breaks, said = FAULTS[fault]
    record = spanned(bench, clock, breaks, range(8, 99))
    reading, others = split(record, bench.victim)
    others_are_untouched(bench, others)
    assert (reading.energy_j, reading.energy_err_j, reading.provenance) == (None, None, Provenance.MISSING)
    assert reading.coverage == pytest.approx(7 / 20)
    assert "only 35% of 60 s" in (reading.reason or "")
    assert any(word in (reading.reason or "") for word in said.split("|")), reading.reason
    assert record.total is not None
    assert record.total.provenance is Provenance.MISSING
    assert bench.victim in (record.total.reason or "")


@pytest.mark.parametrize("name", BENCHES)
def test_a_rail_that_goes_late_is_presumed_and_in_doubt(tmp_path: Path, name: str) -> None:
    """15 of 60 s are not known: bridged at the power before, since a smaller figure would be wrong for certain."""
    clock = FakeClock()
    bench = BENCHES[name](tmp_path, clock)
    reading, others = split(spanned(bench, clock, answers_eio, range(16, 99)), bench.victim)
    others_are_untouched(bench, others)
    watts = bench.watts[bench.victim]
    assert reading.energy_j == pytest.approx(watts * _SPAN_S, rel=1e-6)
    assert reading.coverage == pytest.approx(15 / 20)
    assert (reading.energy_err_j or 0) >= _IN_DOUBT * 5 * _TICK_S * watts


def test_a_file_that_may_no_longer_be_read_is_told(tmp_path: Path) -> None:
    """A driver is reloaded and its new files are root's: the descriptors from before are dead, new ones forbidden."""

    def forbidden(path: Path) -> None:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        path.chmod(0)

    for name in BENCHES:
        clock = FakeClock()
        bench = BENCHES[name](tmp_path / name.replace(" ", "-"), clock)

        def metered(bench: Bench = bench, clock: FakeClock = clock) -> SpanRecord:
            def forbid(path: Path) -> None:
                forbidden(path)
                os.chmod(path.parent, stat.S_IRWXU)  # noqa: PTH101
                forbid_root()

            # as an unprivileged user nothing can be mended or ticked, so the fault is the last thing that happens
            sampler = Sampler(bench.sensor, clock, rate_hz=1.0)
            with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
                clock.advance(1)
                bench.tick(1, False)
                sampler.sample_now()
                forbid(bench.path)
                clock.advance(9)
            assert span.record is not None
            return span.record

        reading, _ = split(in_thread(metered), bench.victim)
        assert reading.energy_j is None
        assert "Permission denied" in (reading.reason or "")


REFUSALS = [errno.EIO, errno.ENODATA, errno.ENODEV, errno.EACCES, errno.EBUSY, errno.ETIMEDOUT]


@needs_seccomp
@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", BENCHES)
def test_the_kernel_refuses_every_read(tmp_path: Path, name: str, number: int) -> None:
    clock = FakeClock()
    bench = BENCHES[name](tmp_path, clock)
    sensor = Refused(bench.sensor, number)

    def metered() -> SpanRecord:
        def refuse(path: Path) -> None:
            sensor.is_refused = True

        refused = Bench(sensor, bench.watts, bench.victim, bench.path, bench.tick)
        return spanned(refused, clock, refuse, range(8, 99))

    record = in_thread(metered)
    assert {reading.rail for reading in record.energies} == set(bench.watts)
    for reading in record.energies:
        assert reading.provenance is Provenance.MISSING
        assert reading.coverage == pytest.approx(7 / 20)
        assert os.strerror(number) in (reading.reason or "")
    assert record.total is not None
    assert record.total.energy_j is None


@needs_seccomp
@pytest.mark.serial
@pytest.mark.parametrize("name", BENCHES)
def test_the_kernel_refuses_every_read_of_a_running_sampler(tmp_path: Path, name: str) -> None:
    """At 50 Hz, in the sampler's own thread and in the user's: half of the span is known, and the fit is not told."""
    bench = BENCHES[name](tmp_path, SystemClock())
    sensor = Refused(bench.sensor, errno.EIO)

    def work() -> str:
        time.sleep(0.1)
        sensor.is_refused = True
        time.sleep(0.25)
        return "trained"

    def metered() -> tuple[str, SpanRecord]:
        with Profiler([Sampler(sensor, rate_hz=50)]) as profiler, profiler.span("fit") as span:
            answer = work()
        assert span.record is not None
        return answer, span.record

    answer, record = in_thread(metered)
    assert answer == "trained"
    assert record.status == "ok"
    for reading in record.energies:
        assert reading.energy_j is None
        assert 0.05 < reading.coverage < 0.5
        assert reading.n_samples >= 2
        assert reading.max_gap_s > 0.2
        assert "Input/output error" in (reading.reason or "")


@pytest.mark.serial
def test_a_driven_counter_that_is_unplugged_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    """At a real rate: the file is gone for 0.15 s, and its counter counts on in the hardware meanwhile."""
    tree = build_tree(tmp_path, core=False)
    path = tree.zones["dram-0"].energy_path
    hidden = path.with_name("hidden")
    clock = SystemClock()
    with Driver(tree, 20.0, dram_w=5.0) as driver:
        with Profiler([Sampler(RaplSensor(tmp_path, clock), clock, rate_hz=50)], clock) as profiler:
            time.sleep(0.05)
            opening_ns = clock.monotonic_ns()
            with profiler.span("fit") as span:
                opened_ns = clock.monotonic_ns()
                time.sleep(0.1)
                path.rename(hidden)
                directory = path
                directory.mkdir()  # whoever looks now finds something else in its place
                time.sleep(0.15)
                directory.rmdir()
                hidden.rename(path)
                time.sleep(0.1)
                closing_ns = clock.monotonic_ns()
            closed_ns = clock.monotonic_ns()
        time.sleep(0.05)
    assert span.record is not None
    total = span.record.total
    assert total is not None
    least_j, most_j = driver.counted_j((opening_ns, opened_ns), (closing_ns, closed_ns))
    assert least_j - 1e-6 <= (total.energy_j or 0.0) <= most_j + 1e-6
    assert total.coverage == pytest.approx(1.0)


def test_an_exception_of_the_work_passes_while_its_meter_is_dying(tmp_path: Path) -> None:
    clock = FakeClock()
    bench = _rapl(tmp_path, clock)
    records: list[SpanRecord] = []
    with Profiler([Sampler(bench.sensor, clock, rate_hz=1.0)], clock, sink=records) as profiler:

        def work() -> None:
            with profiler.span("fit"):
                shutil.rmtree(tmp_path / "sys")
                clock.advance(5)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            work()
        with profiler.span("evaluate"):
            clock.advance(1)
    assert [record.status for record in records] == ["error", "ok"]
    assert [record.total.energy_j for record in records if record.total] == [None, None]


# The model, the meter beside the device, the helper process


def test_a_processor_that_is_taken_away_neither_adds_nor_takes_energy(tmp_path: Path) -> None:
    """Two of four logical CPUs go offline for 10 s, after 1000 s: their idle power goes, the past stays."""
    stat_file = tmp_path / "proc/stat"
    stat_file.parent.mkdir()

    def say(n_cpus: int) -> None:
        lines = ["cpu  0 0 0 0 0 0 0 0 0 0", *(f"cpu{n} 0 0 0 0 0 0 0 0 0 0" for n in range(n_cpus))]
        stat_file.write_text("\n".join(lines) + "\n")

    clock = FakeClock()
    say(4)
    sampler = Sampler(CpuModelSensor(tmp_path, clock, idle_w_per_cpu=1.0, max_w_per_cpu=4.0), clock, rate_hz=0)
    with Profiler([sampler], clock, resources=False) as profiler:
        clock.advance(1000)
        sampler.sample_now()
        with profiler.span("fit") as span:
            for second in range(_TICKS):
                say(2 if 5 <= second < 15 else 4)
                clock.advance(1)
                sampler.sample_now()
    assert span.record is not None
    (reading,) = span.record.energies
    assert reading.energy_j == pytest.approx(10 * 4 + 10 * 2)
    assert reading.reason is None


@pytest.mark.parametrize("content", ["", "cpu", "cpu  1 2 3\n", "intr 5\n", "cpu  a b c d e f g h\ncpu0 1\n", "\xff\n"])
def test_a_stat_file_that_breaks_is_a_gap(tmp_path: Path, content: str) -> None:
    stat_file = tmp_path / "proc/stat"
    stat_file.parent.mkdir()
    stat_file.write_text("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    clock = FakeClock()
    bench = Bench(CpuModelSensor(tmp_path, clock), {"cpu-model": 0.74}, "cpu-model", stat_file)
    record = spanned(bench, clock, lambda path: path.write_text(content), range(8, 14))
    (reading,) = record.energies
    assert reading.energy_j == pytest.approx(0.74 * _SPAN_S)
    assert reading.provenance is Provenance.ESTIMATED
    assert reading.max_gap_s == pytest.approx(7 * _TICK_S)
    assert str(stat_file) in (reading.reason or "") or "invalid literal" in (reading.reason or "")


def test_a_meter_that_is_unplugged_in_mid_span(tmp_path: Path) -> None:
    """A line each 100 ms for 5 s of 10, then silence: the meter's last word is not taken for the other half."""
    clock = FakeClock()
    stream = build_stream(tmp_path)
    sampler = Sampler(ExternalSensor(tmp_path, clock), clock, rate_hz=10.0)
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        for tick in range(100):
            clock.advance(0.1)
            if tick < 50:
                with stream.open("a") as file:
                    file.write(f"{tick / 10},5000\n")
            if tick == 60:
                stream.unlink()
            sampler.sample_now()
    assert span.record is not None
    (reading,) = span.record.energies
    assert 0.4 < reading.coverage < 0.6
    if reading.energy_j is not None:
        assert (reading.energy_err_j or 0) > _IN_DOUBT * 5 * 4
    assert "s old" in (reading.reason or "")


def test_a_meter_that_is_plugged_in_again_is_read_again(tmp_path: Path) -> None:
    """Two pseudo-terminals stand for a serial adapter before and after: another device behind the same name."""
    clock = FakeClock()
    build_stream(tmp_path).unlink()
    name = tmp_path / "run/meter.csv"
    ours, theirs = os.openpty()
    name.symlink_to(os.ttyname(theirs))
    sampler = Sampler(ExternalSensor(tmp_path, clock), clock, rate_hz=10.0)
    values: list[float | None] = []
    with sampler:
        for tick in range(30):
            clock.advance(0.1)
            if tick == 10:  # unplugged
                os.close(theirs)
                os.close(ours)
                name.unlink()
            if tick == 20:  # and plugged in again
                ours, theirs = os.openpty()
                name.symlink_to(os.ttyname(theirs))
            elif not 10 <= tick < 20:
                os.write(ours, b"0,5000\n" if tick < 10 else b"0,7000\n")
            values += sampler.sample_now().values
    os.close(theirs)
    os.close(ours)
    assert values[:10] == [5.0] * 10
    assert values[13:20] == [None] * 7
    assert values[22:] == [7.0] * 8


def test_a_log_that_is_rotated_is_followed(tmp_path: Path) -> None:
    """The old one is renamed, as logrotate does, and stays on the disk."""
    clock = FakeClock()
    stream = build_stream(tmp_path)
    sensor = ExternalSensor(tmp_path, clock)
    sensor.open()
    stream.rename(stream.with_suffix(".1"))
    stream.write_text("0,9000\n")
    assert sensor.read() == [9.0]
    sensor.close()


def test_a_helper_that_hangs_fails_or_babbles_is_a_gap(tmp_path: Path) -> None:
    """vcgencmd itself, as a child process: it exits with an error, prints half, prints too much, and recovers."""
    script = tmp_path / "vcgencmd"
    output = tmp_path / "output"
    output.write_text(pmic())
    script.write_text(f"#!/bin/sh\n. {tmp_path}/mode\ncat {output}\n")
    script.chmod(0o755)
    mode = tmp_path / "mode"
    mode.write_text("\n")

    def run() -> bytes:
        import subprocess

        done = subprocess.run([str(script)], capture_output=True, timeout=5, check=False)
        if done.returncode:
            raise OSError(f"vcgencmd failed: {done.stderr!r:.100}")
        return done.stdout

    model(tmp_path)
    clock = FakeClock()
    sampler = Sampler(RaspberryPiSensor(tmp_path, clock, run=run), clock, rate_hz=1.0)
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        for second in range(10):
            mode.write_text(
                {3: "exit 255\n", 4: "head -c 99 " + f"{output}; exit 0\n", 5: "yes | head -c 99999\n"}.get(
                    second, "\n"
                )
            )
            clock.advance(1)
            sampler.sample_now()
    assert span.record is not None
    total = span.record.total
    assert total is not None
    assert total.coverage == pytest.approx(6 / 10)
    core = next(reading for reading in span.record.energies if reading.rail == "VDD_CORE")
    assert core.energy_j == pytest.approx(10.87674 * 0.8974594 * 10, rel=1e-6)
    assert "vcgencmd failed" in (core.reason or "")
    assert "prints something else" in (core.reason or "")


def test_a_total_says_once_what_is_wrong_with_all_of_its_rails(tmp_path: Path) -> None:
    clock = FakeClock()
    bench = _rapl(tmp_path, clock)
    sampler = Sampler(bench.sensor, clock, rate_hz=1.0)
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        shutil.rmtree(tmp_path / "sys")
        clock.advance(5)
    assert span.record is not None
    assert span.record.total is not None
    reason = span.record.total.reason or ""
    assert reason.startswith("package-0, package-1, dram-0, dram-1: ")
    assert reason.count("No such file") == 1


# Clocks


@pytest.mark.parametrize("step_s", [-86_400.0, -1.0, 3_600.0, 1e9])
def test_a_step_of_the_wall_clock_changes_no_second_and_no_joule(tmp_path: Path, step_s: float) -> None:
    records = []
    for is_stepped in (False, True):
        clock = SteppedClock()
        bench = _rapl(tmp_path / str(is_stepped), clock)
        records.append(
            spanned(bench, clock, lambda path, c=clock, s=step_s * is_stepped: c.step(s), range(8, 99))  # type: ignore[misc]
        )
    steady, stepped = records
    assert steady == stepped


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
def test_a_step_of_the_wall_clock_does_not_age_a_live_meter(tmp_path: Path, step_s: float) -> None:
    clock = SteppedClock()
    stream = build_stream(tmp_path)
    sampler = Sampler(ExternalSensor(tmp_path, clock), clock, rate_hz=10.0)
    with Profiler([sampler], clock, resources=False) as profiler:
        with stream.open("a") as file:
            file.write("0,5000\n")
        with profiler.span("fit") as span:
            for tick in range(50):
                clock.advance(0.1)
                if tick == 25:
                    clock.step(step_s)
                with stream.open("a") as file:
                    file.write(f"{tick},5000\n")
                sampler.sample_now()
    assert span.record is not None
    (reading,) = span.record.energies
    assert reading.energy_j == pytest.approx(25.0)
    assert reading.coverage == pytest.approx(1.0)


def test_suspend_is_in_a_counters_joules_and_not_in_the_seconds() -> None:
    """CLOCK_MONOTONIC stands still while a machine is suspended; a battery's energy counter does not.

    3 h of sleep took 3600 J of the battery: they are in the energy of the span, not in its 20 s, so the mean power is
    too high; power that is integrated has none of them.
    """
    clock = FakeClock()
    rails = [counter_rail("energy", wrap_j=None), power_rail("power")]
    slept_j = 0.0
    sensor = FakeSensor(rails, lambda t_s: [10 * t_s + slept_j, 10.0], clock, total=["energy"])
    sampler = Sampler(sensor, clock, rate_hz=1.0)
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        for second in range(_TICKS):
            clock.advance(1)
            slept_j = 3600.0 if second >= 10 else 0.0
            sampler.sample_now()
    assert span.record is not None
    counter, power = span.record.energies
    assert span.record.duration_s == _TICKS
    assert counter.energy_j == pytest.approx(200 + 3600)
    assert power.energy_j == pytest.approx(200)

from __future__ import annotations

import errno
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from profiler.clock import FakeClock, SystemClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Scope
from profiler.sampler import Sampler
from profiler.sensor import Available, Probe, Unavailable, best
from profiler.sensors.perf import PerfSensor
from profiler.sensors.perf_event import OpenEvent, attributes, open_event, read_event
from profiler.sensors.rapl import RaplSensor
from tests.fixtures.power_events import ALL_REFUSALS, CONFIGS, EVENT_TYPE, Events, build_power_events, refusing
from tests.fixtures.powercap import DRAM_RANGE_UJ, build_tree
from tests.profiler.sensors.test_rapl import as_nobody

SOFTWARE = 1  # PERF_TYPE_SOFTWARE
CPU_CLOCK = 0  # PERF_COUNT_SW_CPU_CLOCK: nanoseconds
CLOCKS_NS = 1_000_000  # two clocks of one kernel may run apart a little
TASK_CLOCK = 1  # PERF_COUNT_SW_TASK_CLOCK


def made(root: Path, open_event: OpenEvent | None = None) -> PerfSensor:
    return PerfSensor(root, FakeClock(), open_event=open_event or Events())


def available(root: Path, open_event: OpenEvent | None = None) -> Available:
    outcome = made(root, open_event).probe()
    assert isinstance(outcome, Available), outcome
    return outcome


def refusal(root: Path, open_event: OpenEvent | None = None) -> Unavailable:
    outcome = made(root, open_event).probe()
    assert isinstance(outcome, Unavailable), outcome
    return outcome


@pytest.fixture
def event_file() -> Iterator[int]:
    """A real event of this machine's kernel: what the clock of processor 0 counts."""
    try:
        file = open_event(SOFTWARE, CPU_CLOCK, 0)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOSYS):
            raise
        pytest.skip(f"this kernel forbids perf events: {error}")
    yield file
    os.close(file)


def test_rails_and_total_are_those_of_rapl(tmp_path: Path) -> None:
    build_tree(tmp_path, packages=2, psys=True)
    rapl = RaplSensor(tmp_path, FakeClock()).probe()
    assert isinstance(rapl, Available)
    packages = {0: (0, 0), 28: (1, 0)}
    build_power_events(tmp_path, events=("cores", "pkg", "ram", "psys"), packages=packages)
    outcome = available(tmp_path)
    assert outcome.total == rapl.total == ("package-0", "package-1", "dram-0", "dram-1")
    limits = [(r.name, r.scope, r.gain_err, r.parent, r.resolution, r.max_power_w) for r in outcome.rails]
    assert limits == [(r.name, r.scope, r.gain_err, r.parent, r.resolution, r.max_power_w) for r in rapl.rails]
    assert all(rail.wrap_j is None for rail in outcome.rails)
    assert (outcome.scope, outcome.provenance, outcome.same_as) == (Scope.HOST, Provenance.COUNTER, "rapl")


def test_each_event_is_opened_on_the_processor_of_its_package(tmp_path: Path) -> None:
    build_power_events(tmp_path, events=("pkg", "ram", "psys"), packages={0: (0, 0), 28: (1, 0)})
    events = Events()
    assert [rail.name for rail in available(tmp_path, events).rails] == [
        "package-0",
        "package-1",
        "psys",
        "dram-0",
        "dram-1",
    ]
    assert events.asked == [
        (EVENT_TYPE, CONFIGS[name], cpu)
        for name, cpu in (("pkg", 0), ("pkg", 28), ("psys", 0), ("ram", 0), ("ram", 28))
    ]


def test_counts_become_joules_by_the_scale(tmp_path: Path) -> None:
    build_power_events(tmp_path, events=("pkg", "ram"))
    sensor = made(tmp_path, Events(lambda config, cpu, n: config + n / 8))
    sensor.open()
    assert sensor.read() == [2.0, 3.0]
    assert sensor.read() == [2.125, 3.125]
    sensor.close()


def test_a_counter_of_64_bits_does_not_wrap_where_powercap_does(tmp_path: Path) -> None:
    build_power_events(tmp_path, events=("pkg",))
    clock = FakeClock()
    sensor = PerfSensor(tmp_path, clock, open_event=Events(lambda config, cpu, n: 262_142.0 + n))
    with Sampler(sensor, clock, rate_hz=0) as sampler:
        window = sampler.open_window()
        clock.advance(1.0)
        assert window.close()[0].energy_j == 1.0


def test_a_register_that_suspend_has_reset_is_a_reset(tmp_path: Path) -> None:
    """The kernel takes it for a wrap and adds up to 262 kJ; the joules of that step are not known, the others are."""
    build_power_events(tmp_path, events=("pkg",))
    clock = FakeClock()
    joules = [0.0, 0.0, 10.0, 20.0, 262_100.0, 262_110.0, 262_120.0]
    sensor = PerfSensor(tmp_path, clock, open_event=Events(lambda config, cpu, n: joules[n], n_readings=len(joules)))
    with Sampler(sensor, clock, rate_hz=0) as sampler:
        window = sampler.open_window()
        for _ in joules[2:-1]:
            clock.advance(1.0)
            sampler.sample_now()
        clock.advance(1.0)
        (reading,) = window.close()
    assert reading.energy_j == pytest.approx(50.0)  # four steps of 10 J, and the one between bridged at their power
    assert reading.coverage == pytest.approx(0.8)
    assert "counter_reset" in (reading.reason or "")


@pytest.mark.parametrize(("drawn_j", "is_a_reset"), [(2003.0, False), (2005.0, True)])
def test_only_what_no_machine_can_draw_is_a_reset(tmp_path: Path, drawn_j: float, is_a_reset: bool) -> None:
    """2 x 1000 W over 1 s and twice 1 ms."""
    build_power_events(tmp_path, events=("pkg",))
    clock = FakeClock()
    sensor = PerfSensor(tmp_path, clock, open_event=Events(lambda config, cpu, n: 1 + n * drawn_j))
    sensor.open()
    assert sensor.read() == [1.0]
    clock.advance(1.0)
    assert sensor.read() == [0.0 if is_a_reset else 1 + drawn_j]
    sensor.close()


def test_units_without_powercap_are_the_coarsest_known(tmp_path: Path) -> None:
    build_power_events(tmp_path, events=("pkg", "ram", "psys"))
    assert [rail.resolution for rail in available(tmp_path).rails] == [2**-14, 1.0, 2**-14]


def test_units_come_from_powercap_where_only_its_counters_are_closed(tmp_path: Path) -> None:
    build_power_events(tmp_path, events=("pkg", "ram"))
    tree = build_tree(tmp_path, dram_range_uj=DRAM_RANGE_UJ)
    for zone in tree.zones.values():
        zone.energy_path.unlink()
    assert [rail.resolution for rail in available(tmp_path).rails] == [61e-6, 15e-6]


def test_dies_of_intel_count_each(tmp_path: Path) -> None:
    build_power_events(tmp_path, events=("pkg", "ram"), packages={0: (0, 0), 24: (0, 1)})
    assert available(tmp_path).total == ("package-0-die-0", "package-0-die-1", "dram-0-die-0", "dram-0-die-1")


def test_dies_of_amd_mirror_one_counter(tmp_path: Path) -> None:
    """Kernels have shown the package's counter once a die, and once a core complex (see the package scope of 6.14)."""
    packages = {0: (0, 0), 8: (0, 1), 64: (1, 0), 72: (1, 1)}
    build_power_events(tmp_path, events=("pkg",), packages=packages, vendor="AuthenticAMD")
    outcome = available(tmp_path)
    assert outcome.total == ("package-0", "package-1")
    assert "2 dies of package-0 mirror one counter" in outcome.notes
    assert "memory is not in the total" in outcome.notes


def test_rapl_is_preferred_and_perf_the_second_choice(tmp_path: Path) -> None:
    build_power_events(tmp_path)
    tree = build_tree(tmp_path)

    def chosen() -> str:
        sensors = [made(tmp_path), RaplSensor(tmp_path, FakeClock())]
        (probe,) = best([Probe(sensor, sensor.probe()) for sensor in sensors])
        return probe.sensor.name

    assert chosen() == "rapl"
    tree.zones["package-0"].energy_path.write_text("")
    assert chosen() == "perf"


def test_a_virtual_machine_shows_psys_alone_which_never_counts(tmp_path: Path) -> None:
    """Seen on a guest of Sapphire Rapids: events/energy-psys is there, and reads 0 J for ever."""
    build_power_events(tmp_path, events=("psys",))
    outcome = refusal(tmp_path)
    assert outcome.is_absent
    assert "virtual machine" in outcome.reason


def test_no_pmu_is_no_hardware(tmp_path: Path) -> None:
    outcome = refusal(tmp_path)
    assert outcome.is_absent
    assert "no power PMU" in outcome.reason


@pytest.mark.parametrize("kind", ["psys", "gpu"])
def test_what_the_kernel_has_not_seen_counting_is_missing_until_it_counts(tmp_path: Path, kind: str) -> None:
    build_power_events(tmp_path, events=("pkg", kind))
    sensor = made(tmp_path, Events(lambda config, cpu, n: 0.0 if n < 2 and config == CONFIGS[kind] else 2.0 * n))
    sensor.open()
    assert sensor.read() == [0.0, None]  # a package may start at 0: the kernel has seen it count
    assert sensor.read() == [2.0, None]
    assert sensor.read() == [4.0, 4.0]
    sensor.close()


def test_closed_by_paranoia_says_the_level_and_both_remedies(tmp_path: Path) -> None:
    build_power_events(tmp_path, paranoid=4)
    outcome = refusal(tmp_path, refusing(errno.EACCES))
    assert not outcome.is_absent
    assert "perf_event_paranoid (it is 4)" in outcome.reason
    assert "sysctl kernel.perf_event_paranoid=0" in outcome.remedy
    assert "setcap cap_perfmon=ep" in outcome.remedy


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_blocked_in_a_container_is_told_apart(tmp_path: Path, code: int) -> None:
    build_power_events(tmp_path)
    outcome = refusal(tmp_path, refusing(code))
    assert "seccomp" in outcome.reason
    assert "--cap-add PERFMON" in outcome.remedy
    assert "sysctl" not in outcome.remedy


@pytest.mark.parametrize("code", ALL_REFUSALS)
def test_every_refusal_has_a_reason_and_stops_open(tmp_path: Path, code: int) -> None:
    build_power_events(tmp_path)
    assert refusal(tmp_path, refusing(code)).remedy
    with pytest.raises(SensorError):
        made(tmp_path, refusing(code)).open()


def test_what_was_opened_before_a_refusal_is_closed(tmp_path: Path) -> None:
    build_power_events(tmp_path, events=("cores", "pkg", "ram"))
    events = Events()

    def second_fails(event_type: int, config: int, cpu: int) -> int:
        if len(events.asked) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return events(event_type, config, cpu)

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    refusal(tmp_path, second_fails)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("type", ""),
        ("type", "nine\n"),
        ("type", "99999999999\n"),
        ("cpumask", ""),
        ("cpumask", "0-\n"),
        ("cpumask", "0,99999-0\n"),
        ("cpumask", "0-99999\n"),
        ("cpumask", "7\n"),
        ("events/energy-pkg", "event=2\n"),
        ("events/energy-pkg", "event=0x02,umask=0x01\n"),
        ("events/energy-pkg", "event=0x102\n"),
        ("events/energy-pkg.scale", "0\n"),
        ("events/energy-pkg.scale", "nan\n"),
        ("events/energy-pkg.scale", "-1e-9\n"),
        ("events/energy-pkg.scale", "1e9\n"),
        ("events/energy-pkg.scale", "\xff"),
        ("events/energy-pkg.unit", "Watts\n"),
    ],
)
def test_a_file_that_says_something_else_is_a_reason(tmp_path: Path, name: str, content: str) -> None:
    pmu = build_power_events(tmp_path)
    (pmu / name).write_text(content, encoding="latin-1")
    reason = refusal(tmp_path).reason
    assert "cpu7" in reason if content == "7\n" else str(pmu / name) in reason


def test_a_missing_scale_is_a_reason(tmp_path: Path) -> None:
    pmu = build_power_events(tmp_path)
    (pmu / "events/energy-ram.scale").unlink()
    assert "energy-ram.scale" in refusal(tmp_path).reason


def test_an_event_that_stops_counting_gives_none(tmp_path: Path) -> None:
    """The last processor of its package went offline: the kernel goes on handing out the last count."""
    build_power_events(tmp_path, events=("pkg", "ram"))
    events = Events(lambda config, cpu, n: 5.0, clock_stops=1)
    sensor = made(tmp_path, events)
    sensor.open()
    assert sensor.read() == [5.0, 5.0]
    assert sensor.read() == [5.0, 5.0]  # nothing drawn, but the clock of the event runs
    with pytest.raises(SensorError, match="counts any more"):
        sensor.read()
    sensor.close()


def test_an_event_in_its_error_state_reads_as_the_end_of_a_file(tmp_path: Path) -> None:
    build_power_events(tmp_path, events=("pkg",))
    sensor = made(tmp_path, Events(n_readings=1))
    sensor.open()
    assert sensor.read() == [1.0]
    with pytest.raises(SensorError):
        sensor.read()
    sensor.close()


def test_one_dead_rail_leaves_the_others(tmp_path: Path) -> None:
    build_power_events(tmp_path, events=("pkg", "ram"))
    sensor = made(tmp_path, Events(lambda config, cpu, n: 3.0))
    sensor.open()
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, sensor._files[0])
    os.close(nothing)
    assert sensor.read() == [None, 3.0]
    sensor.close()


def test_the_structure_is_that_of_version_0() -> None:
    """Offsets of include/uapi/linux/perf_event.h: type 0, size 4, config 8, read_format 32."""
    data = attributes(9, 0x05)
    assert len(data) == 64
    assert [int.from_bytes(data[at : at + n], "little") for at, n in ((0, 4), (4, 4), (8, 8), (32, 8))] == [9, 64, 5, 1]
    assert not any(data[16:32] + data[40:])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "i386", "i686"), reason="the power PMU is one of x86")
def test_a_real_event_counts_real_time(event_file: int) -> None:
    """The system call, the structure and the reading, against the machine's own kernel: 1 ns a count."""
    start_ns, (count_0, enabled_0_ns), opened_ns = time.monotonic_ns(), read_event(event_file), time.monotonic_ns()
    time.sleep(0.05)
    closing_ns, (count_1, enabled_1_ns), end_ns = time.monotonic_ns(), read_event(event_file), time.monotonic_ns()
    for counted_ns in (count_1 - count_0, enabled_1_ns - enabled_0_ns):
        assert closing_ns - opened_ns - CLOCKS_NS <= counted_ns <= end_ns - start_ns + CLOCKS_NS
    with pytest.raises(OSError, match=os.strerror(errno.ESPIPE)):
        os.pread(event_file, 16, 0)  # why this sensor reads instead


def test_another_event_of_the_kernel_is_another_config(event_file: int) -> None:
    file = open_event(SOFTWARE, TASK_CLOCK, 0)
    assert read_event(file)[1] > 0
    os.close(file)
    with pytest.raises(OSError):
        open_event(SOFTWARE, 200, 0)


def test_a_real_event_through_the_sampler_is_one_watt(event_file: int, tmp_path: Path) -> None:
    """A tree that calls the processor's clock an energy, at 1 nJ a count: every second is one joule."""
    build_power_events(tmp_path, events=("pkg",), event_type=SOFTWARE, config=CPU_CLOCK, scale="1e-9")
    clock = SystemClock()
    with Sampler(PerfSensor(tmp_path, clock), clock, rate_hz=0) as sampler:
        start_ns = clock.monotonic_ns()
        window = sampler.open_window()
        opened_ns = clock.monotonic_ns()
        time.sleep(0.1)
        closing_ns = clock.monotonic_ns()
        (reading,) = window.close()
        end_ns = clock.monotonic_ns()
    assert reading.energy_j is not None
    assert closing_ns - opened_ns - CLOCKS_NS <= reading.energy_j * 1e9 <= end_ns - start_ns + CLOCKS_NS
    assert reading.provenance is Provenance.COUNTER


def test_a_real_refusal_of_this_kernel(event_file: int) -> None:
    """Without rights and above level 0 the kernel says EACCES (perf_allow_cpu)."""
    level = int(Path("/proc/sys/kernel/perf_event_paranoid").read_text())
    if level <= 0 or os.geteuid() != 0:
        pytest.skip("anybody may, or nothing to give up")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        build_power_events(root, events=("pkg",), event_type=SOFTWARE, config=CPU_CLOCK, paranoid=level)
        with as_nobody():
            outcome = PerfSensor(root, SystemClock()).probe()
    assert isinstance(outcome, Unavailable)
    assert f"perf_event_paranoid (it is {level})" in outcome.reason

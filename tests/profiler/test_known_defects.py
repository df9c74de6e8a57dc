"""What other tools get wrong, and the test in which our code is put into the same place.

`DEFECTS` is the list: what happens elsewhere, where it was reported or in which version it was seen, and the tests of
ours, here or beside the code they are about. Nothing is said of later versions of these tools.
"""

from __future__ import annotations

import ast
import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from profiler.clock import FakeClock, SystemClock
from profiler.integrate import integrate
from profiler.quantities import EnergyReading, Provenance
from profiler.sampler import Sampler
from profiler.sensor import Available, Probe, Unavailable, best
from profiler.sensors.cpu_model import CpuModelSensor
from profiler.sensors.fake import FakeSensor
from profiler.sensors.rapl import RaplSensor
from profiler.span import Profiler
from tests.fixtures.powercap import PACKAGE_RANGE_UJ, build_tree, modulus_uj
from tests.profiler.rails import WRAP_J, counter_rail, power_rail

_REPOSITORY = Path(__file__).parents[2]
_HERE = "tests/profiler/test_known_defects.py"
_RAPL = "tests/profiler/sensors/test_rapl.py"
_JETSON = "tests/profiler/sensors/test_jetson.py"
_TEGRASTATS = "tests/profiler/sensors/test_tegrastats.py"
_BATTERY = "tests/profiler/sensors/test_battery.py"
_PI = "tests/profiler/sensors/test_raspberry_pi.py"
_CPU_MODEL = "tests/profiler/sensors/test_cpu_model.py"
_CONTRACT = "tests/contract/test_sensor.py"
_SPAN = "tests/profiler/test_span.py"
_FAULTS = "tests/profiler/test_faults.py"
_NVML = "tests/profiler/sensors/test_nvml.py"
_PYRAPL = "tests/profiler/sensors/test_pyrapl.py"
_JTOP = "tests/profiler/sensors/test_jtop.py"
_PERF = "tests/profiler/sensors/test_perf.py"
_ADB = "tests/profiler/sensors/test_adb.py"
_ADB_CONTROL = "tests/profiler/sensors/test_adb_control.py"
_GITHUB = "https://github.com/"


class Defect(NamedTuple):
    what: str
    source: str
    tests: tuple[str, ...]


DEFECTS = (
    # Windows and integration
    Defect(
        "0 J for a constant 100 W over 10 s: equal samples are dropped, edges are not interpolated",
        "zeus 0.16.0, PowerMonitor.get_energy",
        (f"{_HERE}::test_constant_power_is_not_zero_joules",),
    ),
    Defect(
        "only the samples inside a window count: 5 % too little of 2 s at 10 Hz, 20 % of 0.5 s",
        "zeus 0.16.0, PowerMonitor.get_energy",
        (f"{_HERE}::test_short_windows_have_no_bias",),
    ),
    Defect(
        "the average of a rail is (new + old average) / 2, which is no mean: 8.75 W for 5 s of 1 W and 5 s of 9 W",
        "jetson-stats 7.2.2, jtop.power[...]['avg']; the second figure of tegrastats",
        (f"{_HERE}::test_a_mean_is_a_mean", f"{_TEGRASTATS}::test_agx_orin_takes_the_value_and_not_the_average"),
    ),
    # Counters
    Defect(
        "-262133 J where the counter wraps just before the end of a window, +262133 J just before its beginning",
        "zeus 0.16.0 (a helper process counts wraps); pyJoules 0.5.1",
        (f"{_HERE}::test_a_wrap_next_to_an_edge",),
    ),
    Defect(
        "a wrap gives negative energy or power, a panic, or no figure",
        f"{_GITHUB}tdurieux/EnergiBridge/issues/17 {_GITHUB}hubblo-org/scaphandre/issues/280 "
        f"{_GITHUB}joular/powerjoular/issues/45 {_GITHUB}RRZE-HPC/likwid/issues/646 pyRAPL 0.2.3.1",
        (f"{_HERE}::test_a_wrap_next_to_an_edge", f"{_RAPL}::test_a_wrap_is_exact_to_one_unit"),
    ),
    Defect(
        "several wraps in one window are counted as one",
        f"{_GITHUB}ml-energy/zeus/issues/91",
        (f"{_HERE}::test_several_wraps_in_one_window",),
    ),
    Defect(
        "without a readable range a wrap gives negative energy",
        f"{_GITHUB}mlco2/codecarbon/issues/1309",
        (f"{_HERE}::test_a_package_without_a_range_is_not_left_out", f"{_RAPL}::test_a_bad_range_is_a_reason"),
    ),
    Defect(
        "the modulus is taken for the range: a unit (61 uJ) is lost at each wrap",
        "kernel arithmetic, drivers/powercap/intel_rapl_common.c",
        (f"{_RAPL}::test_wrap_is_the_range_and_one_unit",),
    ),
    # What is added up
    Defect(
        "core, uncore and psys are added to the packages that contain them",
        f"{_GITHUB}ColinIanKing/powerstat/issues/4 {_GITHUB}winsiderss/systeminformer/issues/2001",
        (f"{_RAPL}::test_total_is_packages_and_memory_once_each", f"{_RAPL}::test_containment_and_scopes"),
    ),
    Defect(
        "every die of an AMD socket shows the socket's one counter, and they are added",
        f"{_GITHUB}mlco2/codecarbon/issues/1274 {_GITHUB}mlco2/codecarbon/issues/1379",
        (f"{_RAPL}::test_mirrored_dies_of_amd_count_once", f"{_RAPL}::test_real_dies_count_each"),
    ),
    Defect(
        "the same package twice, through MSR and MMIO",
        f"{_GITHUB}mlco2/codecarbon/issues/788",
        (f"{_RAPL}::test_total_is_packages_and_memory_once_each", f"{_RAPL}::test_an_mmio_tree_alone_is_no_tree"),
    ),
    Defect(
        "zones are told apart by their number, or must carry the number that is expected",
        f"{_GITHUB}intel/powertelemetry/issues/3 {_GITHUB}hubblo-org/scaphandre/issues/85",
        (f"{_HERE}::test_zone_numbers_mean_nothing",),
    ),
    Defect(
        "DDR is counted twice on AGX Orin; the total exceeds the board's input",
        f"{_GITHUB}rbonghi/jetson_stats/issues/344 {_GITHUB}rbonghi/jetson_stats/issues/51",
        (f"{_JETSON}::test_agx_orin_counts_its_memory_once", f"{_JETSON}::test_the_total_of_each_board"),
    ),
    Defect(
        "no total on AGX Orin and AGX Xavier; a Jetson is unsupported or has no power on JetPack 5",
        f"zeus 0.16.0 {_GITHUB}ml-energy/zeus/issues/103 {_GITHUB}joular/powerjoular/issues/24 "
        f"{_GITHUB}joular/powerjoular/issues/89 {_GITHUB}rbonghi/jetson_stats/issues/238",
        (f"{_JETSON}::test_the_total_of_each_board",),
    ),
    Defect(
        "VDD_CPU_GPU_CV is called cpu",
        "zeus 0.16.0",
        (f"{_JETSON}::test_a_rail_that_feeds_several_is_not_called_cpu",),
    ),
    Defect(
        "a rail whose label contains NC is dropped",
        "jetson-stats 7.2.2",
        (f"{_JETSON}::test_only_the_whole_label_nc_means_not_connected",),
    ),
    Defect(
        "a Jetson is known by platform.processor(), which is empty on some distributions",
        "zeus 0.16.0",
        (f"{_JETSON}::test_chips_are_found_below_hwmon_alone",),
    ),
    Defect(
        "RAM 1928/7620MB is taken for a rail",
        "a pattern of two numbers with a stroke, on the lines of tegrastats",
        (f"{_TEGRASTATS}::test_what_only_looks_like_a_rail_is_none",),
    ),
    Defect(
        "a Raspberry Pi's currents and voltages are paired by their numbers; inputs with volts only are counted",
        f"{_GITHUB}jfikar/RPi5-power",
        (f"{_PI}::test_rails_are_paired_by_name_and_inputs_with_volts_only_are_not_counted",),
    ),
    # Silence, fallbacks and lost provenance
    Defect(
        "a counter that root alone may read: a bare PermissionError, an error without a text, or a silent estimate",
        f"{_GITHUB}mlco2/codecarbon/issues/244 {_GITHUB}ml-energy/zeus/issues/146 pyRAPL 0.2.3.1 pyJoules 0.5.1",
        (f"{_RAPL}::test_unreadable_counters_name_the_file_and_the_command",),
    ),
    Defect(
        "without RAPL: an exception with an empty text, an AttributeError, a panic",
        f"pyRAPL 0.2.3.1 {_GITHUB}hubblo-org/scaphandre/issues/131 {_GITHUB}hubblo-org/scaphandre/issues/397 "
        f"{_GITHUB}joular/powerjoular/issues/34 {_GITHUB}sustainable-computing-io/kepler/issues/2262",
        (
            f"{_CONTRACT}::test_absent_hardware_has_a_reason_and_a_remedy",
            f"{_RAPL}::test_no_tree_names_the_virtual_machine_and_the_module",
        ),
    ),
    Defect(
        "a constant TDP is used silently although RAPL is readable",
        f"{_GITHUB}mlco2/codecarbon/issues/515 {_GITHUB}mlco2/codecarbon/issues/915",
        (f"{_HERE}::test_what_can_be_measured_is_not_modelled",),
    ),
    Defect(
        "a model is used in a virtual machine, and no figure says so",
        f"{_GITHUB}sustainable-computing-io/kepler/issues/828",
        (
            f"{_CPU_MODEL}::test_is_always_an_estimate_and_says_its_idle_share",
            "tests/profiler/commands/test_measure.py::test_a_model_is_said_to_be_one",
        ),
    ),
    Defect(
        "a constant 20 W of memory are added to what was measured, 72 % of the figure, and its record does not say so",
        "codecarbon 3.3.2",
        (
            f"{_HERE}::test_nothing_assumed_is_in_a_measured_total",
            f"{_RAPL}::test_without_a_dram_zone_the_notes_say_so",
        ),
    ),
    Defect(
        "0 W, or a field without a value and without a word",
        f"{_GITHUB}hubblo-org/scaphandre/issues/351 zeus 0.16.0",
        (
            f"{_SPAN}::test_without_a_sensor_energy_is_missing_with_a_reason",
            "tests/profiler/test_frozen.py::test_a_counter_that_never_moves_is_missing",
            f"{_HERE}::test_a_figure_has_its_error_or_a_reason",
        ),
    ),
    Defect(
        "without a dram zone: TypeError; with two dies a package: cannot be set up",
        "pyRAPL 0.2.3.1, measureit and setup",
        (f"{_RAPL}::test_without_a_dram_zone_the_notes_say_so", f"{_RAPL}::test_real_dies_count_each"),
    ),
    Defect(
        "an offline processor: FileNotFoundError",
        "pyRAPL 0.2.3.1",
        (
            f"{_RAPL}::test_an_offline_package_gives_none",
            f"{_FAULTS}::test_a_processor_that_is_taken_away_neither_adds_nor_takes_energy",
        ),
    ),
    Defect(
        "an exception in the measured block loses the measurement; `with ... as m` gives None",
        "pyRAPL 0.2.3.1",
        (f"{_SPAN}::test_an_exception_passes_through_and_is_recorded",),
    ),
    Defect(
        "microjoules that are documented as joules, microseconds as seconds",
        "pyRAPL 0.2.3.1",
        ("tests/profiler/commands/test_measure.py::test_joules_of_a_sleep_are_the_drivers",),
    ),
    # Several at once
    Defect(
        "a second tracker is refused, and a lock file is left behind",
        f"{_GITHUB}mlco2/codecarbon/issues/681 {_GITHUB}mlco2/codecarbon/issues/702",
        (f"{_HERE}::test_several_profilers_meter_at_once_and_leave_nothing_behind",),
    ),
    Defect(
        "of several clients on one host each is charged all of it, or a share that does not add up",
        f"{_GITHUB}mlco2/codecarbon/issues/936 {_GITHUB}mlco2/codecarbon/issues/261",
        (
            "tests/profiler/test_shares.py::test_shares_of_any_window_add_up_to_the_host",
            "tests/profiler/test_shares.py::test_energy_follows_cpu_time_within_each_interval",
        ),
    ),
    # Cost and side effects
    Defect(
        "helper processes; a new thread at each tick",
        "zeus 0.16.0; codecarbon 3.3.2",
        (f"{_HERE}::test_one_thread_and_no_process", f"{_CONTRACT}::test_starts_no_thread"),
    ),
    Defect(
        "importing it costs 1.3 s and 140 MB",
        "zeus 0.16.0",
        ("tests/profiler/test_import.py::test_import_loads_nothing_heavy",),
    ),
    Defect(
        "importing it installs a root log handler; a SyntaxWarning; leaked files",
        "pyRAPL 0.2.3.1; pyJoules 0.5.1",
        (
            f"{_HERE}::test_importing_every_sensor_warns_of_nothing_and_logs_nowhere",
            f"{_CONTRACT}::test_opens_again_and_leaks_no_file",
        ),
    ),
    Defect(
        "a rate is promised that is not kept: 200 us in the help, 200 ms in the code",
        "EnergiBridge",
        ("tests/profiler/test_sampler.py::test_the_thread_samples_at_its_rate_jittered_and_tells_its_cost",),
    ),
    Defect(
        "a process a sample, as often as one likes: fifty times a second slow the work down",
        "pollers of vcgencmd pmic_read_adc",
        (f"{_PI}::test_at_most_ten_processes_a_second",),
    ),
    # Batteries
    Defect(
        "the sign of a battery's current is trusted, and its unit taken for granted",
        "Linux commit 05f94eb98907; termux-battery-status",
        (
            f"{_BATTERY}::test_phones_of_every_convention_draw_the_same",
            f"{_BATTERY}::test_a_gauge_wrongly_taken_for_milliampere_is_missing_rather_than_a_thousandfold",
        ),
    ),
    Defect(
        "a phone on its cable is metered by its battery",
        f"{_GITHUB}flwrlabs/flower/issues/1203",
        (
            f"{_BATTERY}::test_unless_it_discharges_a_battery_tells_nothing",
            f"{_BATTERY}::test_plugging_in_ends_what_is_known",
            f"{_ADB}::test_charging_is_refused_with_the_way_to_meter_without_a_cable",
        ),
    ),
    Defect(
        "`dumpsys battery unplug` is left behind, and every later figure of the phone is frozen",
        "AOSP BatteryService, UPDATES STOPPED",
        (
            f"{_ADB_CONTROL}::test_however_the_block_ends",
            f"{_ADB_CONTROL}::test_what_cannot_be_set_right_is_said_loudly",
            f"{_ADB}::test_a_faked_state_is_refused_and_allow_charging_does_not_help",
        ),
    ),
    Defect(
        "the screen's or the processor's share in batterystats is added to that of the apps: the same charge twice",
        "AOSP BatteryStats.dumpCheckinLocked, rows pwi",
        ("tests/profiler/sensors/test_batterystats.py::test_components_are_not_added_to_apps",),
    ),
    # NVIDIA
    Defect(
        "NVML initialises on a Jetson and answers nothing: no energy, and the coverage says fine",
        f"{_GITHUB}HazyResearch/intelligence-per-watt/issues/40",
        (f"{_NVML}::test_a_jetson_whose_nvml_starts_and_tells_nothing_is_unavailable",),
    ),
    Defect(
        "0 W, taken for a figure, from a GPU that is asked more than 20 times a second",
        "zeus 0.16.0 warns of it",
        (
            f"{_NVML}::test_no_gpu_is_asked_more_than_20_times_a_second",
            f"{_NVML}::test_a_counter_that_says_zero_is_not_believed",
        ),
    ),
    Defect(
        "a field that failed within a call of NVML that succeeded is read as its value",
        "nvmlDeviceGetFieldValues has a return code for each field",
        (f"{_NVML}::test_a_field_that_failed_inside_a_call_that_succeeded_is_not_a_value",),
    ),
    # Back-ends that are used
    Defect(
        "after a wrap pyRAPL says None, and its microjoules pass for joules",
        "pyRAPL 0.2.3.1",
        (f"{_PYRAPL}::test_a_wrap_is_a_difference_and_agrees_with_rapl", f"{_PYRAPL}::test_microjoules_become_joules"),
    ),
    Defect(
        "pyRAPL's exceptions have no text, and others escape",
        "pyRAPL 0.2.3.1",
        (
            f"{_PYRAPL}::test_a_machine_without_rapl_and_one_without_permission_are_told_apart",
            f"{_PYRAPL}::test_what_pyrapl_lets_escape_becomes_a_reason",
        ),
    ),
    Defect(
        "jtop's total counts the memory of an AGX Orin twice, and its average is no mean",
        "jetson-stats 7.2.2",
        (f"{_JTOP}::test_the_memory_of_an_agx_orin_is_not_counted_twice", f"{_JTOP}::test_its_average_is_not_used"),
    ),
    Defect(
        "jtop's service is not there, not allowed, or of another version, and nothing says which",
        f"{_GITHUB}rbonghi/jetson_stats/issues/86 {_GITHUB}rbonghi/jetson_stats/issues/156 "
        f"{_GITHUB}rbonghi/jetson_stats/issues/393 {_GITHUB}rbonghi/jetson_stats/issues/488 "
        f"{_GITHUB}rbonghi/jetson_stats/issues/63 {_GITHUB}rbonghi/jetson_stats/issues/417",
        (f"{_JTOP}::test_what_the_service_refuses", f"{_JTOP}::test_the_socket_is_looked_at_first"),
    ),
    Defect(
        "perf's list of domains and powercap's disagree, and an EPYC's core zone counts nonsense",
        "alumet, rapl/src/consistency.rs; Linux before 5.17",
        (
            f"{_PERF}::test_rails_and_total_are_those_of_rapl",
            "tests/profiler/commands/test_doctor.py::test_two_readers_of_the_same_counters_are_compared",
        ),
    ),
)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.what[:40])
def test_every_defect_has_the_tests_that_are_named(defect: Defect) -> None:
    assert defect.source
    assert defect.tests
    for test in defect.tests:
        path, _, name = test.partition("::")
        assert name in _tests_of(_REPOSITORY / path), test


def _tests_of(path: Path) -> set[str]:
    """The names of a module's tests, as pytest collects them: functions at its top."""
    return {
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


# Windows and integration


def test_constant_power_is_not_zero_joules() -> None:
    """100 W for 10 s, the same number at each sample, and edges that lie between samples."""
    samples = [(i * 10**8, 100.0) for i in range(200)]
    assert integrate(power_rail(), samples, 5_050_000_000, 15_050_000_000).energy_j == pytest.approx(1000.0, rel=1e-12)
    clock = FakeClock()
    sampler = Sampler(FakeSensor([power_rail()], lambda t_s: [100.0], clock), clock, rate_hz=10.0)
    with Profiler([sampler], clock, resources=False) as profiler, profiler.span("fit") as span:
        for _ in range(100):
            clock.advance(0.1)
            sampler.sample_now()
    assert span.record is not None
    assert span.record.total is not None
    assert span.record.total.energy_j == pytest.approx(1000.0)


@pytest.mark.parametrize("duration_s", [0.5, 2.0])
def test_short_windows_have_no_bias(duration_s: float) -> None:
    """Noisy power at 10 Hz, 500 windows anywhere: the mean error is 0, sums of what lies inside lose 5 to 20 %."""
    draw = random.Random(7)
    samples = [(i * 10**8 + draw.randint(-(10**7), 10**7), 50 + draw.uniform(-5, 5)) for i in range(6000)]
    ratios, inside = [], []
    for _ in range(500):
        t0_ns = draw.randint(10**9, 590 * 10**9)
        t1_ns = t0_ns + round(duration_s * 1e9)
        energy_j = integrate(power_rail(), samples[t0_ns // 10**8 - 3 : t1_ns // 10**8 + 4], t0_ns, t1_ns).energy_j
        ratios.append((energy_j or 0.0) / (50 * duration_s))
        inside.append(_samples_inside_j(samples, t0_ns, t1_ns) / (50 * duration_s))
    assert sum(ratios) / 500 == pytest.approx(1.0, abs=0.005)
    assert sum(inside) / 500 < 0.96  # the defect itself, so that this test is known to see it


def _samples_inside_j(samples: list[tuple[int, float]], t0_ns: int, t1_ns: int) -> float:
    inside = [sample for sample in samples[t0_ns // 10**8 - 3 : t1_ns // 10**8 + 4] if t0_ns <= sample[0] <= t1_ns]
    return sum((b[0] - a[0]) / 1e9 * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(inside))


def test_a_mean_is_a_mean() -> None:
    """1 W for 5 s, then 9 W for 5 s."""
    samples = [(i * 10**7, 1.0 if i < 500 else 9.0) for i in range(1001)]
    energy_j = integrate(power_rail(), samples, 0, 10**10).energy_j
    assert energy_j is not None
    assert energy_j / 10 == pytest.approx(5.0, abs=0.01)


# Counters


@pytest.mark.parametrize("before_s", [-0.05, 0.0, 0.0001, 0.05, 0.1, 0.15])
@pytest.mark.parametrize("edge", ["begins", "ends"])
def test_a_wrap_next_to_an_edge(tmp_path: Path, edge: str, before_s: float) -> None:
    """A package of 100 W over 2 s; its counter wraps so long before the window begins or ends, or after."""
    clock = FakeClock()
    at_s = (1.0 if edge == "begins" else 3.0) - before_s
    start_uj = modulus_uj(PACKAGE_RANGE_UJ) - round(100e6 * at_s)
    tree = build_tree(tmp_path, core=False, dram=False, start_uj=start_uj)
    sampler = Sampler(RaplSensor(tmp_path, clock), clock, rate_hz=0)

    def run(duration_s: float) -> None:
        for _ in range(round(duration_s * 20)):
            clock.advance(0.05)
            counted_uj = round(100e6 * clock.monotonic_ns() / 1e9)
            tree.set_uj("package-0", (start_uj + counted_uj) % modulus_uj(PACKAGE_RANGE_UJ))
            sampler.sample_now()

    with sampler:
        run(1.0)
        window = sampler.open_window()
        run(2.0)
        (reading,) = window.close()
    assert reading.energy_j == pytest.approx(200.0, abs=61e-6)
    assert reading.provenance is Provenance.COUNTER
    assert reading.reason is None


@pytest.mark.parametrize("n_wraps", [2, 7])
def test_several_wraps_in_one_window(n_wraps: int) -> None:
    """Metered once a minute, as a wrap takes 4 minutes at 1 kW and more at less."""
    clock = FakeClock()
    watts = 1000.0
    sensor = FakeSensor([counter_rail()], lambda t_s: [(watts * t_s) % WRAP_J], clock)
    duration_s = n_wraps * WRAP_J / watts + 30
    with Sampler(sensor, clock, rate_hz=0.02) as sampler:
        window = sampler.open_window()
        for _ in range(100):
            clock.advance(duration_s / 100)
            sampler.sample_now()
        (reading,) = window.close()
    assert reading.energy_j == pytest.approx(watts * duration_s, rel=1e-9)


def test_a_package_without_a_range_is_not_left_out(tmp_path: Path) -> None:
    """Its wrap could not be told, and without it the total of the other package would pass for the machine's."""
    tree = build_tree(tmp_path, packages=2, core=False, dram=False)
    (tree.zones["package-1"].path / "max_energy_range_uj").unlink()
    outcome = RaplSensor(tmp_path, FakeClock()).probe()
    assert isinstance(outcome, Unavailable)
    assert "max_energy_range_uj" in outcome.reason
    assert outcome.remedy


def test_zone_numbers_mean_nothing(tmp_path: Path) -> None:
    """psys lies in the folder with number 0, and the packages call themselves 3 and 12."""
    tree = build_tree(tmp_path, packages=2, psys=True, core=False, dram=False)
    for was, is_ in (("package-0", "package-12"), ("package-1", "package-3")):
        (tree.zones[was].path / "name").write_text(f"{is_}\n")
    outcome = RaplSensor(tmp_path, FakeClock()).probe()
    assert isinstance(outcome, Available)
    assert set(outcome.total) == {"package-12", "package-3"}


# Silence, fallbacks and lost provenance


def test_what_can_be_measured_is_not_modelled(tmp_path: Path) -> None:
    build_tree(tmp_path)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  1 0 1 1 0 0 0 0 0 0\ncpu0 1 0 1 1 0 0 0 0 0 0\n")
    clock = FakeClock()
    sensors = [CpuModelSensor(tmp_path, clock), RaplSensor(tmp_path, clock)]
    (chosen,) = best([Probe(sensor, sensor.probe()) for sensor in sensors])
    assert chosen.sensor.name == "rapl"
    for path in (tmp_path / "sys").rglob("energy_uj"):
        path.unlink()
    (chosen,) = best([Probe(sensor, sensor.probe()) for sensor in sensors])
    assert isinstance(chosen.outcome, Available)
    assert chosen.outcome.provenance is Provenance.ESTIMATED  # and it says so


def test_nothing_assumed_is_in_a_measured_total(tmp_path: Path) -> None:
    """A package without a dram zone beside a model: the measured total has the package's joules and no other."""
    clock = FakeClock()
    tree = build_tree(tmp_path, core=False, dram=False, start_uj=0)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  1 0 1 1 0 0 0 0 0 0\ncpu0 1 0 1 1 0 0 0 0 0 0\n")
    samplers = [Sampler(sensor(tmp_path, clock), clock, rate_hz=0) for sensor in (CpuModelSensor, RaplSensor)]
    with Profiler(samplers, clock, resources=False) as profiler, profiler.span("fit") as span:
        clock.advance(2)
        tree.set_uj("package-0", 40_000_000)
    assert span.record is not None
    total = span.record.total
    assert total is not None
    assert (total.energy_j, total.provenance, total.total_of) == (40.0, Provenance.COUNTER, ("package-0",))
    assert [reading.provenance for reading in span.record.energies] == [Provenance.ESTIMATED, Provenance.COUNTER]


def test_a_figure_has_its_error_or_a_reason() -> None:
    with pytest.raises(ValueError, match="energy_err_j"):
        EnergyReading("board", 1.0, None, Provenance.COUNTER, power_rail().scope)
    with pytest.raises(ValueError, match="missing"):
        EnergyReading("board", None, None, Provenance.COUNTER, power_rail().scope)
    with pytest.raises(ValueError, match="missing"):
        EnergyReading("board", 0.0, 0.0, Provenance.MISSING, power_rail().scope)


# Several at once


@pytest.mark.serial
def test_several_profilers_meter_at_once_and_leave_nothing_behind(tmp_path: Path) -> None:
    """Two here and one in another process, on the same counters; no file is made in the tree, /tmp or at home."""
    tree = build_tree(tmp_path / "root", core=False, dram=False, start_uj=0)
    temporary = tmp_path / "temporary"
    home = tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    program = (
        "import sys; from pathlib import Path; from profiler import Profiler, Sampler; "
        "from profiler.clock import SystemClock; from profiler.sensors.rapl import RaplSensor\n"
        "p = Profiler([Sampler(RaplSensor(Path(sys.argv[1]), SystemClock()), rate_hz=20)])\n"
        "with p, p.span('fit') as span:\n    print('open', flush=True); sys.stdin.readline()\n"
        "print(span.record.total.energy_j)"
    )
    before = {path: path.stat().st_mtime_ns for path in tree.root.rglob("*")}
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tree.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
        env={**os.environ, "TMPDIR": str(temporary), "HOME": str(home)},
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    clock = FakeClock()
    samplers = [Sampler(RaplSensor(tree.root, clock), clock, rate_hz=0) for _ in range(2)]
    with samplers[0], samplers[1]:
        windows = [sampler.open_window() for sampler in samplers]
        clock.advance(1)
        with tree.zones["package-0"].energy_path.open("r+b") as file:
            file.write(b"%015d\n" % 25_000_000)
        mine = [window.close()[0].energy_j for window in windows]
    said, _ = other.communicate("\n", timeout=60)
    assert mine == [25.0, 25.0]
    assert float(said) == 25.0
    assert {path for path in tree.root.rglob("*")} == set(before)
    assert not list(temporary.iterdir())
    assert not list(home.iterdir())


# Cost and side effects


@pytest.mark.serial
@pytest.mark.skipif(sys.platform != "linux", reason="counts children in /proc")
def test_one_thread_and_no_process(tmp_path: Path) -> None:
    build_tree(tmp_path)
    threads_before, children_before = threading.active_count(), _children()
    seen: set[int] = set()
    sampler = Sampler(
        RaplSensor(tmp_path, SystemClock()), rate_hz=100, on_sample=lambda sample: seen.add(threading.get_ident())
    )
    with sampler:
        time.sleep(0.2)
        assert threading.active_count() == threads_before + 1
        assert _children() == children_before
    assert len(seen) == 2  # the sampler's own, and ours at both ends
    assert threading.active_count() == threads_before


def _children() -> set[str]:
    found: set[str] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        found |= set(path.read_text().split())
    return found


def test_importing_every_sensor_warns_of_nothing_and_logs_nowhere() -> None:
    program = (
        "import importlib, logging, pkgutil, profiler, profiler.sensors\n"
        "for module in pkgutil.iter_modules(profiler.sensors.__path__):\n"
        "    importlib.import_module(f'profiler.sensors.{module.name}')\n"
        "assert logging.root.handlers == [] and logging.root.level == logging.WARNING\n"
    )
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", "-c", program],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(_REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

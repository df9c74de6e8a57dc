"""What slows a machine down is told as words, from counters over the span and from flags at its edges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from profiler.throttling import Throttling
from tests.fixtures.throttling import PI_THROTTLED, cooler, set_throttle_count, write, x86


def during(root: Path, change: Callable[[], object]) -> frozenset[str] | None:
    throttling = Throttling(root / "sys")
    start = throttling.mark()
    change()
    return throttling.since(start)


def nothing() -> None:
    pass


def test_a_machine_that_tells_nothing_is_not_known_to_be_well(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    assert during(tmp_path, nothing) is None


def test_counts_from_before_the_span_are_not_its_own(tmp_path: Path) -> None:
    x86(tmp_path)
    assert during(tmp_path, nothing) == frozenset()


@pytest.mark.parametrize(
    ("name", "cpus", "word"), [("core", [3, 7], "cpu_core_heat"), ("package", [2, 3, 6, 7], "cpu_package_heat")]
)
def test_a_count_that_rises_within_the_span(name: str, cpus: list[int], word: str, tmp_path: Path) -> None:
    """All threads of a core show one counter, as do all cores of a package."""
    x86(tmp_path, packages=2, cores=2, threads=2)
    assert during(tmp_path, lambda: set_throttle_count(tmp_path, name, cpus, 20)) == {word}


def test_a_count_that_started_again_counts_from_zero(tmp_path: Path) -> None:
    x86(tmp_path)
    assert during(tmp_path, lambda: set_throttle_count(tmp_path, "core", [0, 1, 2, 3], 1)) == {"cpu_core_heat"}
    assert during(tmp_path, lambda: set_throttle_count(tmp_path, "core", [0, 1, 2, 3], 0)) == frozenset()


def test_a_cpu_that_goes_off_line_takes_nothing_along(tmp_path: Path) -> None:
    x86(tmp_path, cores=3, threads=1)

    def off_line() -> None:
        for name in ("core", "package"):
            (tmp_path / f"sys/devices/system/cpu/cpu1/thermal_throttle/{name}_throttle_count").unlink()
        set_throttle_count(tmp_path, "core", [2], 9)

    assert during(tmp_path, off_line) == {"cpu_core_heat"}


def test_one_file_a_core_and_a_package_and_never_too_many(tmp_path: Path) -> None:
    x86(tmp_path, packages=2, cores=8, threads=2)
    assert len(Throttling(tmp_path / "sys").mark().counts) == 2 + 16
    x86(tmp_path / "large", packages=2, cores=64, threads=1)
    assert len(Throttling(tmp_path / "large/sys").mark().counts) == 24
    change = lambda: set_throttle_count(tmp_path / "large", "package", list(range(64, 128)), 8)  # noqa: E731
    assert during(tmp_path / "large", change) == {"cpu_package_heat"}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("0", "0", set()),
        ("0", "50005", {"undervoltage", "throttled"}),  # now, and so since the start
        ("50005", "50000", {"undervoltage", "throttled"}),  # at the first edge
        ("50000", "50000", set()),  # some time before
        ("50000", "d0000", {"soft_temperature_limit"}),  # in between, and over again
        ("0", "20002", {"frequency_cap"}),
    ],
)
def test_a_raspberry_pis_flags(before: str, after: str, words: set[str], tmp_path: Path) -> None:
    path = write(tmp_path / PI_THROTTLED, before + "\n")
    assert during(tmp_path, lambda: path.write_text(after + "\n")) == words


def test_flags_that_are_no_number_are_not_known(tmp_path: Path) -> None:
    path = write(tmp_path / PI_THROTTLED, "0\n")
    assert during(tmp_path, lambda: path.write_text("")) is None


def test_only_what_slows_a_processor_counts_among_cooling_devices(tmp_path: Path) -> None:
    """A fan that turns is no throttling, nor is a dimmed screen."""
    for number, kind in enumerate(["pwm-fan", "Fan", "cpu-fan", "LCD", "iwlwifi", "TCC Offset", "intel_powerclamp"]):
        cooler(tmp_path, number, kind, -1 if kind == "intel_powerclamp" else 3)
    assert during(tmp_path, nothing) == frozenset()
    for number, kind in enumerate(["Processor", "thermal-cpufreq-0", "thermal-devfreq-0", "cpu-throttle-alert"]):
        cooler(tmp_path, 10 + number, kind, 2)
    assert during(tmp_path, nothing) == {"processor", "thermal_cpufreq_0", "thermal_devfreq_0", "cpu_throttle_alert"}


def test_a_cooling_device_is_looked_at_at_both_edges(tmp_path: Path) -> None:
    path = cooler(tmp_path, 0, "thermal-cpufreq-0", 0)
    assert during(tmp_path, lambda: path.write_text("1\n")) == {"thermal_cpufreq_0"}
    assert during(tmp_path, lambda: path.write_text("0\n")) == {"thermal_cpufreq_0"}
    assert during(tmp_path, nothing) == frozenset()


def test_a_large_machine_costs_no_more_than_a_few_files(tmp_path: Path) -> None:
    for number in range(128):
        cooler(tmp_path, number, "Processor", 0)
    for number in range(128, 160):
        cooler(tmp_path, number, f"thermal-cpufreq-{number}", 0)
    assert len(Throttling(tmp_path / "sys").mark().states) == 16

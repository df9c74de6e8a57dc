"""Mistakes that readers of RAPL have made, each as a test that ours passes."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.sampler import Sampler
from profiler.sensor import Available
from profiler.sensors.rapl import RaplSensor
from tests.fixtures.power_events import Events, build_power_events
from tests.fixtures.powercap import DRAM_RANGE_UJ, PACKAGE_RANGE_UJ, Tree, build_tree
from tests.profiler.sensors.test_rapl import as_nobody, probe, rails, refusal

UDEV_RULE = 'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"'


def cpu_info(root: Path, vendor: str, flags: str) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n\n")


def test_psys_and_what_it_contains_are_never_added(tmp_path: Path) -> None:
    """14.44 W were reported for 9.61 W where psys and the package in it were summed."""
    build_tree(tmp_path, psys=True)
    assert probe(tmp_path).total == ("package-0", "dram-0")
    build_tree(tmp_path / "psys", packages=0, psys=True)
    assert probe(tmp_path / "psys").total == ("psys",)


def test_memory_on_a_server_is_zone_0_of_its_package(tmp_path: Path) -> None:
    """Names tell zones apart, not numbers: here :0:0 is dram, elsewhere it is core."""
    tree = build_tree(tmp_path, core=False, dram_range_uj=DRAM_RANGE_UJ)
    assert tree.zones["dram-0"].path.name == "intel-rapl:0:0"
    assert [rail.name for rail in probe(tmp_path).rails] == ["package-0", "dram-0"]


def test_what_is_only_numbered_like_a_package_is_none(tmp_path: Path) -> None:
    tree = build_tree(tmp_path, packages=2, psys=True)
    numbers = {label: tree.zones[label].path.name for label in ("psys", "package-0", "package-1")}
    assert numbers == {"psys": "intel-rapl:0", "package-0": "intel-rapl:1", "package-1": "intel-rapl:2"}
    assert probe(tmp_path).total == ("package-0", "package-1", "dram-0", "dram-1")


def test_flat_links_and_folders_are_one_zone_each(tmp_path: Path) -> None:
    """A zone can be reached by its flat link, inside its parent, and in a copy that was mounted beside it."""
    tree = build_tree(tmp_path)
    copy = tree.powercap / "intel-rapl:7"
    shutil.copytree(tree.zones["package-0"].path, copy)
    (tree.powercap / "intel-rapl:9").symlink_to(tree.zones["package-0"].path)
    names = [rail.name for rail in probe(tmp_path).rails]
    assert names == ["package-0", "core-0", "dram-0"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    tree = build_tree(tmp_path)
    (tree.zones["package-0"].path / "intel-rapl:0:5").symlink_to("..")
    assert probe(tmp_path).total == ("package-0", "dram-0")


def test_mmio_is_the_same_package_again(tmp_path: Path) -> None:
    tree = build_tree(tmp_path, mmio=True, core=False)
    assert tree.zones["mmio"].path.joinpath("name").read_text() == "package-0\n"
    assert [rail.name for rail in probe(tmp_path).rails] == ["package-0", "dram-0"]


def test_core_of_amd_is_shown_and_never_added(tmp_path: Path) -> None:
    """Of two EPYC 7702 `core` was absurd; a rail of its own shows it, no total holds it."""
    cpu_info(tmp_path, "AuthenticAMD", "fpu")
    build_tree(tmp_path, packages=2, dram=False, start_uj={"package-0": 5, "core-0": 9 * 10**10, "core-1": 7})
    outcome = probe(tmp_path)
    assert outcome.total == ("package-0", "package-1")
    assert {rail.name: rail.parent for rail in outcome.rails}["core-0"] == "package-0"
    assert "memory is not in the total" in outcome.notes


def test_two_sockets_of_mirrored_dies(tmp_path: Path) -> None:
    """Threadripper and EPYC of Zen 1 and 2: 68 + 68 W were shown of a machine that drew 125 W."""
    start_uj = {f"package-{n}-die-{die}": 10**9 * (n + 1) + die for n in range(2) for die in range(4)}
    build_tree(tmp_path, packages=2, dies=4, dram=False, core=False, start_uj=start_uj)
    outcome = probe(tmp_path)
    assert outcome.total == ("package-0-die-0", "package-1-die-0")
    assert "4 dies of package-1 mirror one counter" in outcome.notes


def test_what_lies_in_a_mirrored_die_goes_with_it(tmp_path: Path) -> None:
    build_tree(tmp_path, dies=2, dram=False, core=True)
    assert [rail.name for rail in probe(tmp_path).rails] == ["package-0-die-0", "core-0-die-0"]


def read_through(tree: Tree, label: str, before_uj: int, after_uj: int, dt_s: float) -> tuple[float | None, str]:
    clock = FakeClock()
    tree.set_uj(label, before_uj)
    with Sampler(RaplSensor(tree.root, clock), clock, rate_hz=0) as sampler:
        window = sampler.open_window()
        clock.advance(dt_s)
        tree.set_uj(label, after_uj)
        readings = {reading.rail: reading for reading in window.close()}
    return readings[label].energy_j, readings[label].reason or ""


@pytest.mark.parametrize(
    ("label", "range_uj", "unit_uj"), [("package-0", PACKAGE_RANGE_UJ, 61), ("dram-0", DRAM_RANGE_UJ, 15)]
)
@pytest.mark.parametrize("drawn_units", [1, 2, 16_000, 1_000_000])
def test_a_wrap_is_exact_anywhere(tmp_path: Path, label: str, range_uj: int, unit_uj: int, drawn_units: int) -> None:
    """At the very edge of the range and past it; a negative or a doubled figure has been seen in other tools."""
    tree = build_tree(tmp_path, core=False, dram_range_uj=DRAM_RANGE_UJ)
    for before_uj in (range_uj, range_uj - (drawn_units - 1) // 2 * unit_uj):
        after_uj = (before_uj + drawn_units * unit_uj) % (range_uj + unit_uj)
        assert after_uj < before_uj
        energy_j, reason = read_through(tree, label, before_uj, after_uj, 1.0)
        assert energy_j == pytest.approx(drawn_units * unit_uj / 1e6, abs=unit_uj / 1e6)
        assert not reason or (reason.startswith("below_resolution") and drawn_units < 4)


@pytest.mark.parametrize(("max_power_w", "is_a_wrap"), [(125, False), (300, True)])
def test_what_the_power_limit_forbids_is_a_reset(tmp_path: Path, max_power_w: int, is_a_wrap: bool) -> None:
    """500 J in 1 s across the wrap: more than twice 125 W, less than twice 300 W."""
    tree = build_tree(tmp_path, core=False, dram=False, max_power_uw=max_power_w * 1_000_000)
    energy_j, reason = read_through(tree, "package-0", PACKAGE_RANGE_UJ - 400_000_000, 100_000_000, 1.0)
    assert ("counter_reset" in reason) is not is_a_wrap
    assert energy_j == (pytest.approx(500.0, abs=1e-4) if is_a_wrap else None)  # nothing else of that second is known


def test_without_a_range_there_is_no_figure(tmp_path: Path) -> None:
    """A wrap could not be told from a reset: negative joules have come of it."""
    tree = build_tree(tmp_path)
    (tree.zones["package-0"].path / "max_energy_range_uj").write_text("\n")
    assert "max_energy_range_uj" in refusal(tmp_path).reason


def test_a_package_that_goes_offline_in_mid_span(tmp_path: Path) -> None:
    """Its file answers EIO, as the kernel's does, and comes back: a counter has lost nothing meanwhile."""
    clock = FakeClock()
    tree = build_tree(tmp_path, packages=2, core=False, dram=False, start_uj=1_000_000)
    sensor = RaplSensor(tmp_path, clock)
    gone = tree.zones["package-1"].energy_path
    with Sampler(sensor, clock, rate_hz=0) as sampler:
        window = sampler.open_window()
        gone.unlink()
        gone.symlink_to("/proc/self/mem")  # which answers a read at 0 with EIO
        clock.advance(1.0)
        tree.set_uj("package-0", 11_000_000)
        dead = sampler.sample_now()
        assert dead.values == (11.0, None)
        cut_short = sampler.open_window().close()[1]
        gone.unlink()
        clock.advance(1.0)
        tree.set_uj("package-0", 21_000_000)
        tree.set_uj("package-1", 31_000_000)
        readings = window.close()
    assert [reading.energy_j for reading in readings] == [20.0, 30.0]
    assert os.strerror(errno.EIO) in (readings[1].reason or "")
    assert cut_short.energy_j == 0.0  # a window without length, at a moment without a reading: nothing made up
    assert sampler.total(readings).energy_j == 50.0


def test_a_package_that_stays_offline_makes_the_total_missing(tmp_path: Path) -> None:
    clock = FakeClock()
    tree = build_tree(tmp_path, packages=2, core=False, dram=False, start_uj=1_000_000)
    with Sampler(RaplSensor(tmp_path, clock), clock, rate_hz=0) as sampler:
        window = sampler.open_window()
        tree.zones["package-1"].energy_path.write_bytes(b"")
        for n in range(1, 5):
            clock.advance(1.0)
            tree.set_uj("package-0", 1_000_000 + n * 10_000_000)
            sampler.sample_now()
        readings = window.close()
        total = sampler.total(readings)
    assert readings[0].energy_j == 40.0
    assert readings[1].energy_j is None
    assert total.energy_j is None  # never a smaller total
    assert "package-1" in (total.reason or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be nobody for a while")
def test_closed_counters_name_the_udev_rule_and_leave_perf(tmp_path: Path) -> None:
    """Since 5.10 energy_uj is root's alone. All else of the tree stays readable, and perf may be permitted."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        tree = build_tree(root)
        for zone in tree.zones.values():
            zone.energy_path.chmod(0o400)
        build_power_events(root)
        with as_nobody():
            outcome = refusal(root)
            from profiler.sensors.perf import PerfSensor

            beside = PerfSensor(root, FakeClock(), open_event=Events()).probe()
    assert UDEV_RULE in outcome.remedy
    assert "/etc/udev/rules.d/70-powercap.rules" in outcome.remedy
    assert not outcome.is_absent
    assert isinstance(beside, Available)
    assert beside.rails[0].resolution == 61e-6  # from the range, which anybody may read


def test_the_rule_in_the_documentation_is_the_one_that_is_told() -> None:
    text = (Path(__file__).parents[3] / "docs/sensors.md").read_text(encoding="utf-8")
    assert UDEV_RULE in text


@pytest.mark.parametrize(("flags", "is_told"), [("fpu sgx sgx_lc", True), ("fpu sgx_lc", False), ("", False)])
def test_energy_filtering_is_told(tmp_path: Path, flags: str, is_told: bool) -> None:
    """With SGX on, Intel's answer to PLATYPUS adds noise to the counters."""
    build_tree(tmp_path)
    cpu_info(tmp_path, "GenuineIntel", flags)
    assert ("INTEL-SA-00389" in probe(tmp_path).notes) is is_told


def test_no_rail_of_a_total_contains_another(tmp_path: Path) -> None:
    build_tree(
        tmp_path, packages=2, dies=2, psys=True, start_uj={"package-0-die-0": 7 * 10**9, "package-1-die-1": 10**9}
    )
    outcome = probe(tmp_path)
    by_name = rails(tmp_path)
    assert len(outcome.total) == len(set(outcome.total)) == 8  # four dies, and the memory of each
    assert all(by_name[name].parent is None for name in outcome.total)
    assert "psys" not in outcome.total

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from profiler.clock import FakeClock, SystemClock
from profiler.errors import SensorError
from profiler.quantities import Rail, Scope
from profiler.sampler import Sampler
from profiler.sensor import Available, Unavailable
from profiler.sensors.rapl import RaplSensor
from tests.fixtures.powercap import DRAM_RANGE_UJ, PACKAGE_RANGE_UJ, build_tree, padded


def probe(root: Path) -> Available:
    outcome = RaplSensor(root, FakeClock()).probe()
    assert isinstance(outcome, Available), outcome
    return outcome


def refusal(root: Path) -> Unavailable:
    outcome = RaplSensor(root, FakeClock()).probe()
    assert isinstance(outcome, Unavailable), outcome
    return outcome


def rails(root: Path) -> dict[str, Rail]:
    return {rail.name: rail for rail in probe(root).rails}


def test_total_is_packages_and_memory_once_each(tmp_path: Path) -> None:
    build_tree(tmp_path, packages=2, psys=True, core=True, mmio=True)
    outcome = probe(tmp_path)
    assert outcome.total == ("package-0", "package-1", "dram-0", "dram-1")
    assert outcome.scope is Scope.HOST
    names = [rail.name for rail in outcome.rails]
    assert names == ["package-0", "package-1", "psys", "core-0", "core-1", "dram-0", "dram-1"]


def test_containment_and_scopes(tmp_path: Path) -> None:
    build_tree(tmp_path, psys=True)
    by_name = rails(tmp_path)
    assert by_name["core-0"].parent == "package-0"
    assert by_name["dram-0"].parent is None  # a package does not contain its memory
    assert by_name["package-0"].scope is Scope.PACKAGE
    assert by_name["dram-0"].scope is Scope.DRAM


def test_a_copied_sysfs_serves_as_root(tmp_path: Path) -> None:
    build_tree(tmp_path)
    assert probe(tmp_path / "sys").total == probe(tmp_path).total


def test_a_tree_without_flat_links_to_subzones(tmp_path: Path) -> None:
    tree = build_tree(tmp_path)
    for link in tree.powercap.glob("intel-rapl:*:*"):
        link.unlink()
    assert probe(tmp_path).total == ("package-0", "dram-0")


def test_wrap_is_the_range_and_one_unit(tmp_path: Path) -> None:
    build_tree(tmp_path, range_uj=PACKAGE_RANGE_UJ, dram_range_uj=DRAM_RANGE_UJ)
    by_name = rails(tmp_path)
    assert by_name["package-0"].wrap_j == pytest.approx((PACKAGE_RANGE_UJ + 61) / 1e6, abs=1e-9)
    assert by_name["dram-0"].wrap_j == pytest.approx((DRAM_RANGE_UJ + 15) / 1e6, abs=1e-9)
    assert by_name["package-0"].resolution == 61e-6


def test_the_power_limit_comes_from_the_constraints(tmp_path: Path) -> None:
    build_tree(tmp_path, max_power_uw=125_000_000)
    assert rails(tmp_path)["package-0"].max_power_w == 125.0
    assert rails(tmp_path)["dram-0"].max_power_w == 1000.0  # states none


def test_mirrored_dies_of_amd_count_once(tmp_path: Path) -> None:
    build_tree(tmp_path, dies=2, dram=False, core=False, start_uj=5_000_000)
    outcome = probe(tmp_path)
    assert outcome.total == ("package-0-die-0",)
    assert "mirror" in outcome.notes


def test_real_dies_count_each(tmp_path: Path) -> None:
    start_uj = {"package-0-die-0": 5_000_000, "package-0-die-1": 900_000_000}
    build_tree(tmp_path, dies=2, dram=False, core=False, start_uj=start_uj)
    assert probe(tmp_path).total == ("package-0-die-0", "package-0-die-1")


def test_without_a_dram_zone_the_notes_say_so(tmp_path: Path) -> None:
    build_tree(tmp_path, dram=False)
    assert "memory is not in the total" in probe(tmp_path).notes


def test_no_tree_names_the_virtual_machine_and_the_module(tmp_path: Path) -> None:
    outcome = refusal(tmp_path)
    assert "virtual machine" in outcome.reason
    assert "modprobe intel_rapl_msr" in outcome.remedy


def test_an_mmio_tree_alone_is_no_tree(tmp_path: Path) -> None:
    tree = build_tree(tmp_path, packages=0, mmio=True)
    assert "no powercap tree" in refusal(tmp_path).reason
    assert (tree.powercap / "intel-rapl-mmio:0").is_dir()


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything; this test is about all the others."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_unreadable_counters_name_the_file_and_the_command() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to nobody
        root = Path(folder)
        root.chmod(0o755)
        tree = build_tree(root)
        tree.zones["package-0"].energy_path.chmod(0o400 if os.geteuid() == 0 else 0)
        with as_nobody():
            outcome = refusal(root)
    assert str(tree.zones["package-0"].energy_path) in outcome.reason
    assert "root only" in outcome.reason
    assert f"chmod a+r {tree.powercap}/*/energy_uj" in outcome.remedy


@pytest.mark.parametrize("content", [b"", b"12x\n", b"-5\n", b"12345", b"\xff\n"])
def test_a_bad_counter_at_the_probe_is_a_reason(tmp_path: Path, content: bytes) -> None:
    tree = build_tree(tmp_path)
    tree.zones["dram-0"].energy_path.write_bytes(content)
    assert str(tree.zones["dram-0"].energy_path) in refusal(tmp_path).reason


@pytest.mark.parametrize("content", [b"0\n", b"", b"many\n"])
def test_a_bad_range_is_a_reason(tmp_path: Path, content: bytes) -> None:
    tree = build_tree(tmp_path)
    (tree.zones["package-0"].path / "max_energy_range_uj").write_bytes(content)
    assert isinstance(refusal(tmp_path), Unavailable)


def test_unknown_zones_are_left_alone(tmp_path: Path) -> None:
    tree = build_tree(tmp_path)
    (tree.zones["core-0"].path / "name").write_text("flux-capacitor\n")
    assert set(rails(tmp_path)) == {"package-0", "dram-0"}


@pytest.mark.parametrize("content", [b"", b"0000", b"no number\n", b"999999999999999\n"])
def test_a_bad_read_of_one_rail_is_none(tmp_path: Path, content: bytes) -> None:
    """Empty, cut off, no number, beyond the range: each could pass for a smaller or larger number."""
    tree = build_tree(tmp_path, core=False, start_uj=1_000_000)
    sensor = RaplSensor(tmp_path, FakeClock())
    sensor.open()
    tree.zones["dram-0"].energy_path.write_bytes(content)
    assert sensor.read() == [1.0, None]
    tree.zones["package-0"].energy_path.write_bytes(content)
    with pytest.raises(SensorError, match="energy_uj"):
        sensor.read()
    sensor.close()


def test_an_offline_package_gives_none(tmp_path: Path) -> None:
    """The kernel answers EIO, as /proc/self/mem does at offset 0."""
    tree = build_tree(tmp_path, core=False, start_uj=1_000_000)
    sensor = RaplSensor(tmp_path, FakeClock())
    sensor.open()
    sensor.read()
    tree.zones["package-0"].energy_path.unlink()
    tree.zones["package-0"].energy_path.symlink_to("/proc/self/mem")
    assert sensor.read() == [None, 1.0]
    sensor.close()


def test_a_wrap_is_exact_to_one_unit(tmp_path: Path) -> None:
    clock = FakeClock()
    tree = build_tree(tmp_path, core=False, dram=False, start_uj=PACKAGE_RANGE_UJ - 1_000_000)
    with Sampler(RaplSensor(tmp_path, clock), clock, rate_hz=0) as sampler:
        window = sampler.open_window()
        clock.advance(0.1)
        tree.set_uj("package-0", 2_000_000 - 61)  # 3 J on, in a counter of range + 61 uJ
        assert window.close()[0].energy_j == pytest.approx(3.0, abs=61e-6)


def test_suspend_resets_the_counter(tmp_path: Path) -> None:
    clock = FakeClock()
    tree = build_tree(tmp_path, core=False, dram=False, start_uj=50_000_000)
    with Sampler(RaplSensor(tmp_path, clock), clock, rate_hz=0) as sampler:
        window = sampler.open_window()
        for energy_uj in (51_000_000, 52_000_000, 53_000_000, 0, 1_000_000, 2_000_000):
            clock.advance(0.1)
            tree.set_uj("package-0", energy_uj)
            sampler.sample_now()
        (reading,) = window.close()
    assert reading.energy_j == pytest.approx(6.0)
    assert reading.coverage == pytest.approx(5 / 6)
    assert "counter_reset" in (reading.reason or "")


def test_padded_numbers_keep_their_length() -> None:
    assert len(padded(0)) == len(padded(PACKAGE_RANGE_UJ)) == 16


@pytest.mark.parametrize("written", ["replaced", "truncated", "no newline"])
def test_trees_that_others_write_to_are_read_whole(tmp_path: Path, written: str) -> None:
    """However a driver of a copied tree writes, what is read is some value that it wrote, and not an old one."""
    tree = build_tree(tmp_path, dram=False, core=False, start_uj=5_000_000)
    path = tree.zones["package-0"].energy_path
    if written == "no newline":
        path.with_name("max_energy_range_uj").write_text(str(PACKAGE_RANGE_UJ))
        path.write_text("5000000")
    values = [6_000_000 + n for n in range(0, 400_000, 997)]
    sensor = RaplSensor(tmp_path, SystemClock())
    sensor.probe()
    sensor.open()
    done = threading.Event()

    def write() -> None:
        for value in values:
            text = str(value) if written == "no newline" else f"{value}\n"
            if written == "replaced":
                partial = path.with_name("new")
                partial.write_text(text)
                partial.replace(path)
            else:
                path.write_text(text)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        try:
            seen += [value for value in sensor.read() if value is not None]
        except SensorError:  # an unlucky look at an empty file; the sampler takes it as a gap
            continue
    writer.join()
    assert sensor.read() == [values[-1] / 1e6]
    sensor.close()
    assert seen == sorted(seen)
    assert {round(value * 1e6) for value in seen} <= {5_000_000, *values}


def test_a_bare_tree_without_links_or_newlines(tmp_path: Path) -> None:
    zone = tmp_path / "class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "42000000"), ("max_energy_range_uj", "262143328850")):
        (zone / name).write_text(text)
    sensor = RaplSensor(tmp_path, SystemClock())
    outcome = sensor.probe()
    assert isinstance(outcome, Available)
    assert outcome.total == ("package-0",)
    sensor.open()
    assert sensor.read() == [42.0]
    sensor.close()

"""Boards, layouts and the defects of other tools: what a tree must not make us count twice, drop or mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.integrate import integrate
from profiler.quantities import Scope
from profiler.sampler import Sampler
from profiler.sensors.jetson import JetsonSensor
from tests.fixtures.jetson import (
    AGX_ORIN_INDUSTRIAL,
    BOARDS,
    FakeBoard,
    FakeChip,
    FakeRail,
    build_ina219,
    build_jetson,
)
from tests.profiler.sensors.test_jetson import ALL_LAYOUTS, ORIN_NANO, opened, probe, rails, read_w, refusal

CARRIER = {"VDD_MUX", "VDD_5V_IO_SYS", "VDD_5V0_IO_SYS", "VDD_3V3_SYS", "VDD_3V3_IO", "VDD_1V8_IO", "VDD_M2_IN"}
CARRIER |= {"CVB_ATX_12V", "CVB_ATX_3V3", "CVB_ATX_5V"}


def test_on_jetpack_4_shunts_come_from_the_device_tree(tmp_path: Path) -> None:
    gpu, cpu, soc = (FakeRail(f"R{n}", 5000, 100, shunt_uohm=1000 * n) for n in (10, 20, 50))
    chip = FakeChip("6-0040", (replace(gpu, label="POM_5V_IN"), cpu, soc))
    build_jetson(tmp_path, FakeBoard("Nano", "iio", (chip,), (), 0.0))
    by_name = rails(tmp_path)
    assert by_name["POM_5V_IN"].offset_err_w == pytest.approx(80e-6 / 0.010 * 5)
    assert by_name["R20"].resolution == pytest.approx(40e-6 / 0.020 * 5)
    assert by_name["R50"].offset_err_w == pytest.approx(80e-6 / 0.050 * 5)
    assert "assumed" not in probe(tmp_path).notes


@pytest.mark.parametrize("name", ["reg", "ti,shunt-resistor-mohm"])
@pytest.mark.parametrize("content", [None, b"", b"\x05", b"\0\0\0\0", b"\xff" * 4, b"\0\0\0\x05" * 2, b"5\n"])
def test_without_a_shunt_in_the_device_tree_the_boards_is_assumed_and_said(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    chip = FakeChip("6-0040", tuple(FakeRail(label, 5000, 100, shunt_uohm=10_000) for label in ("POM_5V_IN", "A", "B")))
    tree = build_jetson(tmp_path, FakeBoard("Nano", "iio", (chip,), (), 0.0))
    of_node = tree.files["A", "voltage"].parents[1] / "of_node"
    path = of_node / "channel@1" / name  # of channel 1, A
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert "shunt of A not said, 5 mOhm assumed" in probe(tmp_path).notes
    by_name = rails(tmp_path)
    assert by_name["A"].offset_err_w == pytest.approx(80e-6 / 0.005 * 5)
    assert by_name["B"].offset_err_w == pytest.approx(80e-6 / 0.010 * 5)


def test_a_missing_device_tree_is_said_for_every_rail(tmp_path: Path) -> None:
    tree = build_jetson(tmp_path, BOARDS["AGX Orin"])
    for path in tmp_path.rglob("shunt?_resistor"):
        path.write_text("\n")
    notes = probe(tmp_path).notes
    assert "VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0, VDDQ_VDD2_1V8AO not said, 2 mOhm assumed" in notes
    assert rails(tree.root)["VDD_GPU_SOC"].offset_err_w == pytest.approx(80e-6 / 0.002 * 20)


@pytest.mark.parametrize("name", ALL_LAYOUTS)
def test_rails_of_the_carrier_are_in_no_total_and_in_no_rail_of_the_module(tmp_path: Path, name: str) -> None:
    build_jetson(tmp_path, ALL_LAYOUTS[name])
    outcome = probe(tmp_path)
    assert not CARRIER & set(outcome.total)
    assert all(rail.parent is None for rail in outcome.rails if rail.name in CARRIER)
    assert all(rail.scope is Scope.RAIL for rail in outcome.rails if rail.name in CARRIER)


def test_an_agx_orin_industrial_is_told_by_its_module_and_its_ina219_left_alone(tmp_path: Path) -> None:
    """zeus and jtop have no rule for its CVB_ATX rails; an INA219 has another layout and measures the carrier."""
    tree = build_jetson(tmp_path, AGX_ORIN_INDUSTRIAL)
    build_ina219(tree, "2-0044", 9)
    outcome = probe(tmp_path)
    assert outcome.notes.startswith("Jetson AGX Orin, ")
    watts = read_w(tmp_path)
    assert sum(watts[label] or 0.0 for label in outcome.total) == pytest.approx(12.0)
    assert watts["CVB_ATX_12V"] == pytest.approx(30.0)
    assert len(watts) == 7


def test_nothing_but_voltages_and_currents_of_channels_are_rails(tmp_path: Path) -> None:
    """in4..in7 are shunts' voltages and their sum, curr4 summed currents: labelled or not, they are no rails."""
    tree = build_jetson(tmp_path, ORIN_NANO)
    folder = tree.files["VDD_IN", "voltage"].parent
    for n in (4, 5, 6):
        (folder / f"in{n}_label").write_text(f"VDD_{n}\n")
        (folder / f"in{n}_enable").write_text("1\n")
        (folder / f"curr{n}_input").write_text("9000\n")
    assert read_w(tmp_path) == {"VDD_IN": 4.56, "VDD_CPU_GPU_CV": pytest.approx(0.52), "VDD_SOC": pytest.approx(1.36)}


def test_a_limit_with_a_unit_behind_it_disturbs_nothing(tmp_path: Path) -> None:
    """JetPack 4's warn_current_limit_0 may read '32760 ma'; jtop takes int() of it."""
    tree = build_jetson(tmp_path, BOARDS["Xavier NX"])
    assert (tree.files["VDD_IN", "voltage"].parent / "warn_current_limit_0").read_text() == "32760 ma\n"
    assert read_w(tmp_path)["VDD_IN"] == pytest.approx(5.0)


def test_jetpack_4_and_5_have_channels_0_to_2_and_1_to_3(tmp_path: Path) -> None:
    """An iio tree has no channel 3, a hwmon tree none of number 0: what stands there is something else."""
    iio, hwmon = tmp_path / "iio", tmp_path / "hwmon"
    tree = build_jetson(iio, BOARDS["Xavier NX"])
    folder = tree.files["VDD_IN", "voltage"].parent
    for name, content in {"rail_name_3": "VDD_X", "in_power3_input": "1"}.items():
        (folder / name).write_text(f"{content}\n")
    tree = build_jetson(hwmon, ORIN_NANO)
    folder = tree.files["VDD_IN", "voltage"].parent
    for name, content in {"in0_label": "VDD_X", "in0_input": "1", "curr0_input": "1"}.items():
        (folder / name).write_text(f"{content}\n")
    assert "VDD_X" not in {**rails(iio), **rails(hwmon)}


def test_a_channel_that_is_disabled_later_is_missing_and_not_zero(tmp_path: Path) -> None:
    """The driver answers ENODATA where inN_enable is 0; a folder in the file's place cannot be read either."""
    tree = build_jetson(tmp_path, ORIN_NANO)
    sensor, names = opened(tmp_path)
    tree.files["VDD_SOC", "current"].unlink()
    tree.files["VDD_SOC", "current"].mkdir()
    assert dict(zip(names, sensor.read(), strict=True)) == {
        "VDD_IN": 4.56,
        "VDD_CPU_GPU_CV": pytest.approx(0.52),
        "VDD_SOC": None,
    }
    sensor.close()


def test_a_nano_of_2_gb_has_no_monitor_and_says_so(tmp_path: Path) -> None:
    build_jetson(tmp_path, FakeBoard("NVIDIA Jetson Nano 2GB Developer Kit", "iio", (), (), 0.0))
    outcome = refusal(tmp_path)
    assert outcome.is_absent
    assert "Nano 2GB has no power monitor" in outcome.remedy


def test_the_mean_of_a_step_is_its_mean(tmp_path: Path) -> None:
    """jtop's `avg` says 8750 mW after five seconds at 1000 and five at 9000 mW: it halves towards the newest."""
    tree = build_jetson(tmp_path, BOARDS["Nano"])
    sensor, _ = opened(tmp_path)
    samples = []
    for second in range(11):
        tree.set("POM_5V_IN", "power", 1000 if second <= 5 else 9000)
        samples.append((second * 10**9, sensor.read()[0]))
    sensor.close()
    reading = integrate(probe(tmp_path).rails[0], samples, 0, 10**10)
    assert reading.energy_j == pytest.approx(5 * 1.0 + 0.5 * (1.0 + 9.0) + 4 * 9.0)  # the step lies within one second


def test_a_reading_is_stamped_with_the_middle_of_its_time(tmp_path: Path) -> None:
    """U and I are of different conversions, milliseconds apart: neither the first's time nor the last's is theirs."""
    build_jetson(tmp_path, ORIN_NANO)
    clock = FakeClock()

    class Slow(JetsonSensor):
        def read(self) -> list[float | None]:
            clock.advance(0.04)
            return super().read()

    sampler = Sampler(Slow(tmp_path, clock), clock, rate_hz=0.0)
    with sampler:
        before_ns = clock.monotonic_ns()
        sample = sampler.sample_now()
    assert sample.t_ns - before_ns == pytest.approx(20e6, abs=1)


@pytest.mark.parametrize("label", ["SYNC_NC", "NC_5V", "VDD_NC"])
def test_a_label_with_nc_in_it_is_a_rail(tmp_path: Path, label: str) -> None:
    """jtop leaves out every rail whose label contains NC."""
    chip = FakeChip("1-0040", (FakeRail("VDD_IN", 5000, 1000), FakeRail(label, 5000, 200), FakeRail("NC", 0, 0)))
    build_jetson(tmp_path, FakeBoard("", "hwmon", (chip,), (), 0.0))
    assert read_w(tmp_path) == {"VDD_IN": 5.0, label: 1.0}


def test_the_product_is_power_where_there_is_no_file_of_it(tmp_path: Path) -> None:
    """JetPack 5 and later have none, and a file that is called so is not the driver's."""
    tree = build_jetson(tmp_path, ORIN_NANO)
    (tree.files["VDD_IN", "voltage"].parent / "power1_input").write_text("99000000\n")
    assert read_w(tmp_path)["VDD_IN"] == 4.56

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.integrate import integrate
from profiler.integrate import total as total_of
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable
from profiler.sensors.jetson import JetsonSensor
from profiler.sensors.jetson_boards import INA3221, find_board, limits
from tests.fixtures.jetson import (
    AGX_ORIN_INDUSTRIAL,
    BOARDS,
    HWMON_XAVIER_NX,
    IIO_AGX_XAVIER,
    FakeBoard,
    FakeChip,
    FakeRail,
    build_jetson,
)
from tests.profiler.sensors.test_rapl import as_nobody

ORIN_NANO = BOARDS["Orin Nano"]
BY_DRIVER = "sys/bus/i2c/drivers/ina3221/1-0040"
ALL_LAYOUTS = {
    **BOARDS,
    "AGX Xavier, JetPack 4": IIO_AGX_XAVIER,
    "Xavier NX, JetPack 5": HWMON_XAVIER_NX,
    "AGX Orin Industrial": AGX_ORIN_INDUSTRIAL,
}


def probe(root: Path) -> Available:
    outcome = JetsonSensor(root, FakeClock()).probe()
    assert isinstance(outcome, Available), outcome
    return outcome


def refusal(root: Path) -> Unavailable:
    outcome = JetsonSensor(root, FakeClock()).probe()
    assert isinstance(outcome, Unavailable), outcome
    assert outcome.remedy
    return outcome


def rails(root: Path) -> dict[str, Rail]:
    return {rail.name: rail for rail in probe(root).rails}


def opened(root: Path) -> tuple[JetsonSensor, list[str]]:
    """An open sensor and the names of its rails in the order of `read`."""
    sensor = JetsonSensor(root, FakeClock())
    outcome = sensor.probe()
    assert isinstance(outcome, Available), outcome
    sensor.open()
    return sensor, [rail.name for rail in outcome.rails]


def read_w(root: Path) -> dict[str, float | None]:
    sensor, names = opened(root)
    try:
        return dict(zip(names, sensor.read(), strict=True))
    finally:
        sensor.close()


def one_chip(*labels: str) -> FakeBoard:
    chip = FakeChip("1-0040", tuple(FakeRail(label, 5000, 100 * n) for n, label in enumerate(labels, start=1)))
    return FakeBoard("some board", "hwmon", (chip,), (), 0.0)


@pytest.mark.parametrize("with_power", [True, False])
@pytest.mark.parametrize("name", ALL_LAYOUTS)
def test_the_total_of_each_board(tmp_path: Path, name: str, with_power: bool) -> None:
    board = ALL_LAYOUTS[name]
    build_jetson(tmp_path, board, with_power=with_power)
    outcome = probe(tmp_path)
    assert outcome.total == board.total
    assert outcome.scope is Scope.MODULE
    assert outcome.provenance is Provenance.INTEGRATED
    assert board.model in outcome.notes
    watts = read_w(tmp_path)
    assert sum(watts[label] or 0.0 for label in outcome.total) == pytest.approx(board.total_w, abs=1e-9)
    labels = {rail.label for chip in board.chips for rail in chip.rails} - {"NC"}
    assert set(watts) == labels


@pytest.mark.parametrize("name", ALL_LAYOUTS)
def test_every_rail_is_power_that_we_integrate(tmp_path: Path, name: str) -> None:
    build_jetson(tmp_path, ALL_LAYOUTS[name])
    for rail in probe(tmp_path).rails:
        assert rail.kind is RailKind.POWER_W
        assert rail.provenance is Provenance.INTEGRATED
        assert rail.offset_err_w > 0
        assert rail.resolution > 0
        assert 0.01 < rail.gain_err < 0.03


def test_agx_orin_counts_its_memory_once(tmp_path: Path) -> None:
    """12.0 W, not 13.0: VIN_SYS_5V0 feeds VDDQ_VDD2_1V8AO."""
    build_jetson(tmp_path, BOARDS["AGX Orin"])
    assert rails(tmp_path)["VDDQ_VDD2_1V8AO"].parent == "VIN_SYS_5V0"
    sensor, _ = opened(tmp_path)
    outcome = probe(tmp_path)
    samples = [(t_ns, sensor.read()) for t_ns in range(0, 10**10 + 1, 10**8)]
    sensor.close()
    readings = [
        integrate(rail, [(t_ns, values[n]) for t_ns, values in samples], 0, 10**10)
        for n, rail in enumerate(outcome.rails)
    ]
    total = total_of(readings, outcome.total, outcome.scope)
    assert total.energy_j == pytest.approx(120.0, abs=1e-6)
    assert total.scope is Scope.MODULE
    assert total.total_of == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


def test_jetpack_4_takes_the_drivers_power(tmp_path: Path) -> None:
    tree = build_jetson(tmp_path, BOARDS["Nano"])
    tree.set("POM_5V_IN", "power", 4321)
    assert read_w(tmp_path)["POM_5V_IN"] == pytest.approx(4.321)


def test_scopes_and_parents(tmp_path: Path) -> None:
    build_jetson(tmp_path, BOARDS["TX2"])
    by_name = rails(tmp_path)
    assert by_name["VDD_IN"].scope is Scope.MODULE
    assert by_name["VDD_SYS_GPU"].scope is Scope.GPU
    assert by_name["VDD_SYS_DDR"].scope is Scope.DRAM
    assert by_name["VDD_SYS_CPU"].parent == "VDD_IN"
    assert by_name["VDD_MUX"].parent is None  # beside the module, not within it
    assert by_name["VDD_MUX"].scope is Scope.RAIL


def test_a_rail_that_feeds_several_is_not_called_cpu(tmp_path: Path) -> None:
    build_jetson(tmp_path, ORIN_NANO)
    assert rails(tmp_path)["VDD_CPU_GPU_CV"].scope is Scope.RAIL


def test_thors_other_rails_are_within_its_input(tmp_path: Path) -> None:
    build_jetson(tmp_path, BOARDS["Thor"])
    by_name = rails(tmp_path)
    assert {rail.parent for rail in by_name.values()} == {None, "VIN"}
    assert by_name["VIN"].parent is None


@pytest.mark.parametrize(("first", "second"), [(0, 7), (3, 11)])
def test_hwmon_numbers_mean_nothing(tmp_path: Path, first: int, second: int) -> None:
    """hwmon10 sorts before hwmon9, and numbers change between boots: the order is by i2c address."""
    outcomes = []
    for n, number in enumerate((first, second)):
        root = tmp_path / str(n)
        build_jetson(root, BOARDS["AGX Orin"], first_hwmon=number)
        outcomes.append((probe(root), read_w(root)))
    chips = BOARDS["AGX Orin"].chips
    root = tmp_path / "reversed"
    build_jetson(root, replace(BOARDS["AGX Orin"], chips=chips[::-1]), first_hwmon=9)
    outcomes.append((probe(root), read_w(root)))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_chips_are_found_below_hwmon_alone(tmp_path: Path) -> None:
    build_jetson(tmp_path, BOARDS["AGX Orin"])
    for link in (tmp_path / "sys/bus/i2c/drivers/ina3221").glob("1-*"):
        link.unlink()
    assert probe(tmp_path).total == BOARDS["AGX Orin"].total


def test_the_order_is_by_address_before_bus_and_number(tmp_path: Path) -> None:
    first, second = BOARDS["AGX Xavier"].chips
    build_jetson(tmp_path, replace(BOARDS["AGX Xavier"], chips=(replace(second, device="0-0041"), first)))
    assert list(rails(tmp_path)) == ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]


def test_chips_are_found_below_their_driver_alone(tmp_path: Path) -> None:
    build_jetson(tmp_path, BOARDS["Thor"])
    for link in (tmp_path / "sys/class/hwmon").iterdir():
        link.unlink()
    assert read_w(tmp_path)["VIN"] == pytest.approx(45.0)


def test_other_hwmon_devices_are_left_alone(tmp_path: Path) -> None:
    build_jetson(tmp_path, ORIN_NANO)
    other = tmp_path / "sys/class/hwmon/hwmon0"
    other.mkdir()
    for name, text in (("name", "coretemp"), ("in1_label", "VDD_IN"), ("in1_input", "9"), ("curr1_input", "9")):
        (other / name).write_text(f"{text}\n")
    assert set(rails(tmp_path)) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}


def test_a_bare_copy_without_links_or_newlines(tmp_path: Path) -> None:
    folder = tmp_path / "class/hwmon/hwmon3"
    folder.mkdir(parents=True)
    for name, text in (("name", "ina3221"), ("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "700")):
        (folder / name).write_text(text)
    assert read_w(tmp_path) == {"VDD_IN": pytest.approx(3.5)}


@pytest.mark.parametrize("label", ["NC", ""])
def test_channels_without_a_rail_are_skipped(tmp_path: Path, label: str) -> None:
    build_jetson(tmp_path, one_chip("VDD_IN", label, "VDD_SOC"))
    assert read_w(tmp_path) == {"VDD_IN": 0.5, "VDD_SOC": 1.5}


def test_only_the_whole_label_nc_means_not_connected(tmp_path: Path) -> None:
    build_jetson(tmp_path, one_chip("VDD_IN", "VDD_NCORE", "NC"))
    assert set(rails(tmp_path)) == {"VDD_IN", "VDD_NCORE"}


def test_disabled_channels_are_skipped(tmp_path: Path) -> None:
    chip = FakeChip("1-0040", (FakeRail("VDD_IN", 5000, 100), FakeRail("VDD_SOC", 5000, 0, is_enabled=False)))
    build_jetson(tmp_path, FakeBoard("", "hwmon", (chip,), (), 0.0))
    assert set(rails(tmp_path)) == {"VDD_IN"}


def test_a_disabled_part_of_a_sum_makes_no_smaller_total(tmp_path: Path) -> None:
    tree = build_jetson(tmp_path, BOARDS["AGX Xavier"])
    tree.files["VDDRQ", "voltage"].with_name("in2_enable").write_text("0\n")
    reason = refusal(tmp_path).reason
    assert "GPU, CPU, SOC, CV, SYS5V" in reason


def test_a_board_that_is_not_in_the_table_by_its_only_input(tmp_path: Path) -> None:
    build_jetson(tmp_path, one_chip("VDD_IN", "VDD_CPU_GPU", "VDD_SOC"))  # TX2 NX
    outcome = probe(tmp_path)
    assert outcome.total == ("VDD_IN",)
    assert "not in the table" in outcome.notes


@pytest.mark.parametrize("labels", [("VDD_A", "VDD_B"), ("VDD_IN", "VDD_M2_IN")])
def test_without_one_input_rail_the_reason_names_the_labels(tmp_path: Path, labels: tuple[str, ...]) -> None:
    build_jetson(tmp_path, one_chip(*labels))
    assert ", ".join(labels) in refusal(tmp_path).reason


def test_a_label_on_two_chips_is_told_apart_by_its_address(tmp_path: Path) -> None:
    chips = tuple(FakeChip(f"1-004{n}", (FakeRail("5V", 5000, n), FakeRail("5V", 5000, 10 * n))) for n in (1, 2))
    chips += (FakeChip("1-0040", (FakeRail("VDD_IN", 5000, 1000), FakeRail("NC", 0, 0))),)
    build_jetson(tmp_path, FakeBoard("", "hwmon", chips, (), 0.0))
    watts = read_w(tmp_path)
    assert list(watts) == ["VDD_IN", "5V@1-0041.1", "5V@1-0041.2", "5V@1-0042.1", "5V@1-0042.2"]
    assert watts["5V@1-0042.2"] == pytest.approx(0.1)


def test_boards_that_share_their_labels_are_named_by_their_model() -> None:
    labels = ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    names = []
    for model in ("NVIDIA Jetson Xavier NX", "NVIDIA Jetson Orin NX", ""):
        board = find_board(labels, model)
        assert board is not None
        assert board.total == ("VDD_IN",)
        names.append(board.name)
    assert names[:2] == ["Jetson Xavier NX", "Jetson Orin Nano or NX"]
    assert names[2] == "Jetson Xavier NX or Jetson Orin Nano or NX"


def test_no_chip_is_a_reason_that_names_containers(tmp_path: Path) -> None:
    outcome = refusal(tmp_path)
    assert "INA3221" in outcome.reason
    assert "container" in outcome.remedy


@pytest.mark.parametrize("label", ["VDD_IN", "VDD_SOC"])
@pytest.mark.parametrize("quantity", ["voltage", "current"])
@pytest.mark.parametrize("content", [b"", b"5", b"0x10\n", b"1 2\n", b"\xff\n", b"9999999999\n", b"-\n"])
def test_a_bad_read_of_one_rail_is_none(tmp_path: Path, label: str, quantity: str, content: bytes) -> None:
    """Empty, cut off, no number, beyond anything: none may pass for a smaller or larger number, or for 0."""
    tree = build_jetson(tmp_path, ORIN_NANO)
    sensor, names = opened(tmp_path)
    tree.files[label, quantity].write_bytes(content)
    values = dict(zip(names, sensor.read(), strict=True))
    sensor.close()
    assert [name for name, value in values.items() if value is None] == [label]


def test_a_driver_that_answers_eio_gives_none_until_it_recovers(tmp_path: Path) -> None:
    """/proc/self/mem opens and answers EIO at offset 0, as a monitor does on a busy bus."""
    tree = build_jetson(tmp_path, ORIN_NANO)
    sensor, names = opened(tmp_path)
    path = tree.files["VDD_SOC", "current"]
    path.unlink()
    path.symlink_to("/proc/self/mem")
    with path.open("rb") as file, pytest.raises(OSError, match="Input/output error"):
        os.pread(file.fileno(), 64, 0)
    assert dict(zip(names, sensor.read(), strict=True))["VDD_SOC"] is None
    path.unlink()
    path.write_text("272\n")
    assert sensor.read() == pytest.approx([4.56, 0.52, 1.36])
    sensor.close()


def test_a_rail_that_vanishes_is_none_and_may_return(tmp_path: Path) -> None:
    tree = build_jetson(tmp_path, ORIN_NANO)
    sensor, names = opened(tmp_path)
    tree.files["VDD_IN", "current"].unlink()
    assert dict(zip(names, sensor.read(), strict=True))["VDD_IN"] is None
    tree.set("VDD_IN", "current", 1000)
    assert sensor.read()[0] == pytest.approx(5.0)
    sensor.close()


def test_no_rail_at_all_is_an_error(tmp_path: Path) -> None:
    tree = build_jetson(tmp_path, ORIN_NANO)
    sensor, _ = opened(tmp_path)
    for path in tree.files.values():
        path.write_bytes(b"")
    with pytest.raises(SensorError, match="no rail"):
        sensor.read()
    sensor.close()


def test_a_small_negative_current_is_the_offset_and_is_kept(tmp_path: Path) -> None:
    tree = build_jetson(tmp_path, ORIN_NANO)
    tree.set("VDD_CPU_GPU_CV", "current", -8)
    assert read_w(tmp_path)["VDD_CPU_GPU_CV"] == pytest.approx(-0.04)


def test_a_total_that_cannot_be_read_at_the_probe_names_the_file(tmp_path: Path) -> None:
    tree = build_jetson(tmp_path, ORIN_NANO)
    tree.files["VDD_IN", "current"].write_bytes(b"")
    assert f"{tmp_path / BY_DRIVER}/hwmon/hwmon1/curr1_input: b''" in refusal(tmp_path).reason


def test_another_rail_that_cannot_be_read_at_the_probe_is_a_note(tmp_path: Path) -> None:
    tree = build_jetson(tmp_path, ORIN_NANO)
    tree.files["VDD_SOC", "current"].write_bytes(b"")
    assert "VDD_SOC cannot be read now" in probe(tmp_path).notes
    assert read_w(tmp_path)["VDD_SOC"] is None


@pytest.mark.parametrize("label", ["VDD_IN", "VDD_SOC"])
def test_a_rail_that_only_root_may_read(label: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to nobody
        root = Path(folder)
        root.chmod(0o755)
        tree = build_jetson(root, ORIN_NANO)
        tree.files[label, "current"].chmod(0o400 if os.geteuid() == 0 else 0)
        with as_nobody():
            if label == "VDD_SOC":  # not needed for the total
                assert read_w(root) == {"VDD_IN": 4.56, "VDD_CPU_GPU_CV": pytest.approx(0.52), "VDD_SOC": None}
                return
            outcome = refusal(root)
    assert "root only" in outcome.reason
    assert f"chmod a+r {root / BY_DRIVER}/hwmon/hwmon1/curr1_input" in outcome.remedy


def test_what_cannot_be_printed_does_not_reach_a_terminal(tmp_path: Path) -> None:
    build_jetson(tmp_path, replace(one_chip("VDD_IN", "\x1b[31mRED"), model="\x1b]0;x\x07"))
    outcome = probe(tmp_path)
    assert outcome.rails[1].name == "?[31mRED"
    assert outcome.notes.isprintable()


@pytest.mark.parametrize(
    ("shunt_ohm", "bus_v", "power_w", "worst"),
    [
        (0.005, 5.048, 4.5, 0.041),
        (0.005, 5.048, 15.0, 0.026),
        (0.002, 19.7, 3.15, 0.33),
        (0.002, 19.7, 10.0, 0.11),
        (0.002, 19.7, 30.0, 0.05),
        (0.005, 19.7, 1.0, 0.40),
    ],
)
def test_limits_against_worst_cases_worked_by_hand(
    shunt_ohm: float, bus_v: float, power_w: float, worst: float
) -> None:
    """Orin Nano's input, AGX Orin's GPU and AGX Xavier's GPU after SBOS576, rounded to two digits."""
    known = limits(INA3221, shunt_ohm, bus_v)
    error_w = known.gain_err * power_w + known.offset_err_w + known.resolution_w / 2
    assert error_w / power_w == pytest.approx(worst, rel=0.05)


def test_limits_of_a_rail_come_from_its_shunt_and_its_voltage(tmp_path: Path) -> None:
    build_jetson(tmp_path, BOARDS["AGX Orin"])
    by_name = rails(tmp_path)
    assert by_name["VDD_GPU_SOC"].resolution == pytest.approx(0.4)  # 40 uV over 2 mOhm make 20 mA, at 20 V
    assert by_name["VDD_GPU_SOC"].offset_err_w == pytest.approx(0.8)
    assert by_name["VIN_SYS_5V0"].offset_err_w == pytest.approx(0.2)


@pytest.mark.parametrize("content", ["", "0\n", "-5\n", "five\n", "4294967295\n", "50\n"])
def test_a_senseless_shunt_is_replaced_by_the_boards(tmp_path: Path, content: str) -> None:
    tree = build_jetson(tmp_path, ORIN_NANO)
    tree.files["VDD_IN", "voltage"].with_name("shunt1_resistor").write_text(content)
    assert rails(tmp_path)["VDD_IN"].offset_err_w == pytest.approx(80e-6 / 0.005 * 5)


@pytest.mark.parametrize("content", ["0\n", "400\n", "9999999\n", "", "-3\n"])
def test_a_rail_that_is_off_has_the_limits_of_the_boards_voltage(tmp_path: Path, content: str) -> None:
    tree = build_jetson(tmp_path, HWMON_XAVIER_NX)
    tree.files["VDD_SOC", "voltage"].write_text(content)
    assert rails(tmp_path)["VDD_SOC"].offset_err_w == pytest.approx(80e-6 / 0.005 * 5.05)


def test_thors_shunt_comes_from_the_device_tree(tmp_path: Path) -> None:
    tree = build_jetson(tmp_path, BOARDS["Thor"])
    assert rails(tmp_path)["VIN"].offset_err_w == pytest.approx(5e-6 / 0.002 * 20)
    (tree.files["VIN", "power"].parent / "device/of_node/shunt-resistor").write_bytes(b"")
    assert rails(tmp_path)["VIN"].offset_err_w == pytest.approx(5e-6 / 0.001 * 20)


def test_three_rails_take_forty_milliseconds(tmp_path: Path) -> None:
    build_jetson(tmp_path, ORIN_NANO)
    rail = rails(tmp_path)["VDD_IN"]
    assert rail.min_period_s == pytest.approx(0.042, abs=0.003)
    assert rail.edge_jitter_s == pytest.approx(0.028, abs=0.001)


def test_averaging_in_the_chip_makes_readings_older(tmp_path: Path) -> None:
    tree = build_jetson(tmp_path, ORIN_NANO)
    tree.files["VDD_IN", "voltage"].with_name("update_interval").write_text("422\n")
    rail = rails(tmp_path)["VDD_IN"]
    assert rail.min_period_s == pytest.approx(6 * 0.422)
    assert rail.edge_jitter_s > 0.422

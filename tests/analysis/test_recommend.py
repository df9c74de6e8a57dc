"""Cutoffs for new hardware: by hand where the arithmetic is short, refused where the data do not carry one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import cutoff
from analysis.known_devices import Configuration, KnownDevice, from_published
from analysis.new_hardware import Recommendation
from analysis.recommend import main
from analysis.step_estimates import KnownSteps, NewDevice, calibrated, step_estimate
from harness.calibrate import Plan, simulated
from harness.cutoffs import read_cutoffs
from harness.simulated_board import Heat
from profiler.calibrations import Calibration, StepCurve
from profiler.errors import ResultsError, UsageError
from profiler.published import published
from profiler.quantities import Provenance
from tests.fixtures.calibrations import POWER, calibration, point
from tests.fixtures.results_folder import Client, RunFolder, Task

K = 100  # steps of a whole fit
WINDOW_S = 10.5


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two values of E: a fit of 100 steps and 10.5 s on `fast`, one of 50 steps that reaches less."""

    def task(name: str, epochs: int, window_s: float, accuracy: float) -> Task:
        steps_s = [window_s / (K * epochs / 2)] * (K * epochs // 2)
        fits = [Client(f"d{n}", "fast", window_s, 1.0, steps_s) for n in range(2)]
        return Task(name, epochs=epochs, accuracy=accuracy, fits=fits)

    RunFolder(tmp_path / "results").write([task("whole", 2, WINDOW_S, 0.80), task("half", 1, WINDOW_S / 2, 0.76)])
    return tmp_path / "results"


def write(folder: Path, made: Calibration, name: str = "board.json") -> str:
    path = folder / name
    path.write_text(made.as_json())
    return str(path)


def recommended(
    results: Path, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0
) -> dict[str, dict[str, object]]:
    """By kind, for E = 2."""
    assert main([str(results), "--json", *arguments]) == code
    entries = json.loads(capsys.readouterr().out)["cutoffs"]
    assert {tuple(entry) for entry in entries} == {tuple(Recommendation.__slots__)}
    return {entry["kind"]: entry for entry in entries if entry["epochs"] == 2}


def test_tau_of_a_slower_board_by_hand(results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    board = write(tmp_path, calibration(point(0.2, start_s=0.5)))  # 0.196 to 0.204 s: 100 steps are 20.5 s
    made = recommended(results, capsys, "--calibration", board, "--max-drop", "0.02")
    parity, work, accuracy = made["parity"], made["work"], made["accuracy"]
    assert parity["tau_s"] == pytest.approx(WINDOW_S)
    assert parity["work_fraction"] == pytest.approx(0.50)  # (10.5 - 0.5) / 0.2 of 100
    assert parity["work_interval"] == pytest.approx([0.49, 0.50], abs=0.0101)
    assert parity["window_s"] == pytest.approx(20.5)
    assert parity["energy_j"] == pytest.approx(7.0 * WINDOW_S)
    assert parity["energy_interval"] == pytest.approx([6.5 * WINDOW_S, 7.5 * WINDOW_S])
    assert (parity["basis"], parity["time_provenance"]) == ("calibrated", "measured")
    low_s, high_s = work["step_interval"]  # type: ignore[misc]
    assert 0.196 <= low_s < 0.2 < high_s <= 0.204
    assert work["tau_s"] == pytest.approx(0.5 + K * high_s), "from the slow end of the step time"
    assert work["interval"] == pytest.approx([0.5 + K * low_s, 0.5 + K * high_s])
    # 0.78 of 0.76 at E = 1 and 0.80 at E = 2 is half way: 75 steps
    assert accuracy["tau_s"] == pytest.approx(0.5 + 75 * high_s)


def test_a_faster_board_needs_no_cutoff(results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = recommended(results, capsys, "--calibration", write(tmp_path, calibration(point(0.05))))
    assert made["parity"]["tau_s"] == 0
    assert "by itself" in str(made["parity"]["note"])
    assert made["parity"]["work_fraction"] == 1


def test_a_longer_way_takes_from_tau_and_one_step_must_fit(
    results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    board = write(tmp_path, calibration(point(0.2)))
    far = recommended(results, capsys, "--calibration", board, "--communication-s", "4")
    assert far["parity"]["tau_s"] == pytest.approx(WINDOW_S - 3)
    slow = write(tmp_path, calibration(point(12.0)), "slow.json")
    made = recommended(results, capsys, "--calibration", slow)
    assert made["parity"]["tau_s"] is None
    assert "not even one step" in str(made["parity"]["note"])
    assert made["work"]["tau_s"]


def test_what_is_written_the_harness_reads(results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    board, path = write(tmp_path, calibration(point(0.2))), tmp_path / "cutoffs.json"
    assert main([str(results), "--calibration", board, "-o", str(path), "--kind", "work"]) == 0
    assert "calibrated: measured on the device itself" in capsys.readouterr().out
    entries = read_cutoffs(path)
    assert {(entry.processor, entry.cutoff.kind, entry.epochs) for entry in entries} == {
        ("board", "work", 1),
        ("board", "work", 2),
    }


def test_the_cutoff_command_takes_a_calibration_too(
    results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    board, path = write(tmp_path, calibration(point(0.2))), tmp_path / "cutoffs.json"
    assert cutoff.main([str(results), "--calibration", board, "-o", str(path)]) == 0
    assert "range of tau" in capsys.readouterr().out
    taus_s = {(entry.processor, entry.epochs): entry.cutoff.tau_s for entry in read_cutoffs(path)}
    assert taus_s["board", 2] == pytest.approx(WINDOW_S)
    assert taus_s["fast", 2] == 0


def test_a_workload_that_was_not_calibrated_is_refused_with_what_to_run(
    results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    board = write(tmp_path, calibration(point(0.2, batch_size=64)))
    assert main([str(results), "--calibration", board]) == 3
    out = capsys.readouterr().out
    assert "no cutoff can be given" in out
    assert "harness.calibrate --workload digits --batch-size 16" in out


def test_simulated_and_measured_are_never_mixed(
    results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    power = replace(POWER, provenance=Provenance.SIMULATED)
    board = write(tmp_path, calibration(point(0.2, power=power), clock="simulated", idle=power))
    assert main([str(results), "--calibration", board]) == 3
    assert "never mixed" in capsys.readouterr().err


def test_speeds_alone_give_an_estimate_that_is_wide_and_says_so(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--processor", "board", "--speed", "50", "--known-speed", "fast=100"]
    made = recommended(results, capsys, *told)
    work = made["work"]
    assert (work["basis"], work["time_provenance"]) == ("estimated", "estimated")
    assert work["step_s"] == pytest.approx(2 * WINDOW_S / K)
    low_s, high_s = work["step_interval"]  # type: ignore[misc]
    assert high_s > 16 * low_s
    assert work["energy_j"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--processor", "board"],
        ["--processor", "board", "--speed", "0", "--known-speed", "fast=1"],
        ["--processor", "board", "--speed", "fast", "--known-speed", "fast=1"],
        ["--processor", "board", "--speed", "1", "--known-speed", "fast"],
        ["--processor", "board", "--speed", "1", "--known-speed", "fast=inf"],
        ["--processor", "b", "--speed", "1", "--known-speed", "fast=1", "--horizon-minutes", "0"],
        ["--processor", "b", "--speed", "1", "--known-speed", "fast=1", "--communication-s", "nan"],
        ["--processor", "b", "--speed", "1", "--known-speed", "fast=1", "--max-drop", "2"],
        ["--processor", "b", "--speed", "1", "--known-speed", "fast=1", "--reference", "quick"],
    ],
)
def test_wrong_usage_is_refused(results: Path, arguments: list[str]) -> None:
    assert main([str(results), *arguments]) == 2


def test_a_size_that_was_not_calibrated_is_transferred_from_calibrations_of_others(
    results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`fast` of the results knows one size alone and must not stand in the way of one that knows them all."""

    def board(processor: str, scale: float, sizes: list[int]) -> str:
        points = [point(scale * (size + 20) / 400, batch_size=size, start_s=0.0) for size in sizes]
        return write(tmp_path, calibration(*points, processor=processor), f"{processor}.json")

    others = [4 * n for n in range(1, 14) if n != 4]
    made = recommended(
        *(results, capsys, "--calibration", board("board", 2.0, others)),
        *("--known", board("other", 1.0, [16, *others])),
    )
    work = made["work"]
    assert (work["basis"], work["time_provenance"]) == ("transferred", "estimated")
    assert work["step_s"] == pytest.approx(2 * 36 / 400, rel=0.02)
    assert "from 12 points and other" in str(work["note"])


# Step times


def sizes(n: int = 12, workloads: int = 1) -> list[Configuration]:
    return [Configuration(f"w{i % workloads}", 8 * (i + 1)) for i in range(n)]


def known_device(name: str, scale: float, wanted: list[Configuration]) -> KnownDevice:
    return KnownDevice(name, "system", {one: scale * one.batch_size / 100 for one in wanted})


def new_device(wanted: list[Configuration], scale: float = 3.0, noise: float = 0.05) -> NewDevice:
    rng = np.random.default_rng(0)
    points = [
        point(
            float(scale * one.batch_size / 100 * rng.lognormal(sigma=noise)),
            workload=one.workload,
            batch_size=one.batch_size,
            start_s=0.0,
        )
        for one in wanted
    ]
    return NewDevice.of([calibration(*points)])


def test_a_size_that_was_not_calibrated_is_transferred_from_known_devices() -> None:
    all_sizes = sizes(14)
    known = KnownSteps([known_device("a", 1.0, all_sizes), known_device("b", 2.0, all_sizes)])
    wanted = all_sizes[5]
    found = step_estimate(new_device([one for one in all_sizes if one != wanted]), wanted, known)
    assert found.basis == "transferred"
    assert found.interval_s[0] < 3 * wanted.batch_size / 100 < found.interval_s[1]
    assert found.step_s == pytest.approx(3 * wanted.batch_size / 100, rel=0.1)
    assert found.power_provenance is Provenance.ESTIMATED, "it was not measured on this work"
    assert found.power_w == pytest.approx(7.0)


def test_another_workload_is_refused_unless_many_were_calibrated() -> None:
    wanted = Configuration("other", 16)
    for workloads, is_refused in ((1, True), (3, True), (12, False)):
        some = sizes(12, workloads)
        known = KnownSteps([known_device("a", 1.0, [*some, wanted])])
        if is_refused:
            with pytest.raises(ResultsError, match="no transfer from w0"):
                step_estimate(new_device(some), wanted, known)
        else:
            assert step_estimate(new_device(some), wanted, known).basis == "transferred"


@pytest.mark.parametrize(
    ("n", "wanted", "noise", "said"),
    [
        (9, Configuration("w0", 20), 0.05, "no known device has run it and 10 of"),
        (12, Configuration("w0", 1000), 0.05, "outside of what was calibrated"),
        (12, Configuration("w0", 20), 2.0, "it could take"),
    ],
)
def test_what_the_data_do_not_carry_is_refused(n: int, wanted: Configuration, noise: float, said: str) -> None:
    known = KnownSteps([known_device("a", 1.0, [*sizes(n), wanted])])
    with pytest.raises(ResultsError, match=said) as refused:
        step_estimate(new_device(sizes(n), noise=noise), wanted, known)
    assert "harness.calibrate" in refused.value.remedy


def test_the_published_table_carries_no_cross_family_transfer() -> None:
    """FLASH, three phones by four workloads: device plus workload, in logarithms, is off by up to 106 % there."""
    phones = from_published(published())
    flash = next(one for one in phones if "Nexus 6" in one.name)
    assert flash.step_s
    (wanted,) = list(flash.step_s)[:1]
    with pytest.raises(ResultsError, match="no transfer"):
        step_estimate(new_device(sizes(12)), wanted, KnownSteps(phones))


def test_calibrations_of_two_devices_are_not_pooled() -> None:
    with pytest.raises(UsageError, match="different devices"):
        NewDevice.of([calibration(), calibration(processor="another")])


@given(st.floats(1e-6, 1e3), st.floats(0, 0.09), st.floats(1.0, 1e5))
def test_a_calibrated_step_lies_in_its_interval(step_s: float, spread: float, horizon_s: float) -> None:
    found = calibrated(point(step_s, spread=spread), horizon_s)
    assert found.interval_s[0] <= found.step_s <= found.interval_s[1]
    assert found.interval_s[1] - found.interval_s[0] <= 2 * spread * step_s * (1 + 1e-6)


def test_what_heat_leaves_open_is_refused() -> None:
    wide = tuple(StepCurve(0.1, 0.001 * n, 300.0) for n in range(100))
    with pytest.raises(ResultsError, match="open by") as refused:
        calibrated(point(0.1, replicates=wide), 1200.0)
    assert "--minutes" in refused.value.remedy
    with pytest.raises(ResultsError, match="fewer than 20"):
        calibrated(point(0.1, replicates=wide[:5]), 1200.0)


def test_five_minutes_of_a_throttling_board_are_enough_and_one_is_not() -> None:
    def n_refused(minutes: float, n_seeds: int) -> int:
        count = 0
        for seed in range(n_seeds):
            plan = Plan("cifar10-resnet18", {}, (), minutes * 60, 60.0, seed)
            measured = simulated(plan, "jetson-tx2-cpu", Heat(0.25, 300.0)).points[0]
            try:
                calibrated(measured, 1200.0)
            except ResultsError:
                count += 1
        return count

    assert n_refused(5.0, 10) <= 1
    assert n_refused(1.0, 10) >= 5

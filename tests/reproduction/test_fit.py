"""The profiles that ship hold what the fit gives, and the simulation gives back the tables that they were fitted to."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from analysis.load import load
from analysis.load import rows as rows_of
from analysis.paper import compare
from analysis.runs import runs_table
from harness.run import main
from profiler.devices import load_device
from tests.reproduction import fit


def training(device: str):  # type: ignore[no-untyped-def]
    (only,) = load_device(device).training
    return only


def test_the_profiles_are_the_fit() -> None:
    tx2, (transfer_j, epoch_j) = fit.fit_tx2(), fit.fit_tx2_energy()
    gpu, cpu = training("jetson-tx2-gpu"), training("jetson-tx2-cpu")
    assert (gpu.start_s, gpu.step_s * fit.STEPS_PER_EPOCH, gpu.slow_factor) == pytest.approx(
        (tx2.start_s, tx2.epoch_s, tx2.slow_factor), rel=1e-5
    )
    assert (gpu.transfer_j, gpu.step_j * fit.STEPS_PER_EPOCH) == pytest.approx((transfer_j, epoch_j), rel=1e-5)
    assert cpu.step_s * fit.STEPS_PER_EPOCH == pytest.approx(fit.fit_cpu_epoch_s(), rel=1e-5)
    assert gpu.download_s + gpu.upload_s == cpu.download_s + cpu.upload_s == fit.TRANSFER_S
    assert (gpu.slow_after_s, gpu.step_cv, gpu.fit_cv) == (fit.SLOW_AFTER_S, fit.STEP_CV, fit.TX2_FIT_CV)
    mean_s, fit_cv = fit.fit_phones()
    above_j = fit.fit_phone_energy(mean_s, fit_cv)
    phones = (("google-pixel-4", 0), ("google-pixel-3", 0), ("samsung-galaxy-tab-s6", 1), ("google-pixel-2", 2))
    for device, part in (*phones, ("samsung-galaxy-tab-s4", 2)):
        phone, steps = training(device), 5 * fit.PHONE_STEPS_PER_EPOCH
        assert (phone.step_s * steps, phone.fit_cv) == pytest.approx((mean_s, fit_cv), rel=1e-5)
        assert phone.step_j * steps + phone.transfer_j == pytest.approx(above_j[part], rel=1e-5)
        assert load_device(device).power.idle_w == fit.PHONE_IDLE_W


def test_a_row_that_is_held_out_is_predicted_by_the_others() -> None:
    told = {row.row: row for row in fit.held_out()}
    assert all(row.predicted is None or math.isfinite(row.predicted) for row in told.values())
    assert told["2a, E=5, energy"].predicted == pytest.approx(50.54, rel=1e-3)
    assert told["2a, E=5, time"].predicted == pytest.approx(45.49, abs=0.01), "times are not affine in E"
    assert told["2b, C=7, time"].predicted == pytest.approx(31.3, rel=0.01)
    assert told["3, CPU, tau 1.99, time"].predicted == pytest.approx(80.34, rel=0.01)


@pytest.mark.parametrize(
    ("table", "accuracy"),
    [
        ("table2a", {"time": 0.01, "energy": 0.001}),
        ("table2b", {"time": 0.01, "energy": 0.01}),
        ("table3", {"time": 0.01}),
    ],
)
def test_thirty_seeds_give_the_papers_table(table: str, accuracy: dict[str, float], tmp_path: Path) -> None:
    seeds = [str(seed) for seed in range(1, 31)]
    command = ["--experiment", f"paper-{table}", "--no-training", "-o", str(tmp_path), "--quiet", "--seeds", *seeds]
    assert main(command) == 0
    found = compare(rows_of(runs_table(load([tmp_path]))), table)
    for row in found.rows:
        assert row.time_s.ours is not None
        assert row.time_s.ours.n == 30
        assert row.time_s.ratio == pytest.approx(1.0, abs=accuracy["time"]), row.key
        assert row.time_s.ours.interval is not None
        if "energy" in accuracy:
            assert row.energy_j.ratio == pytest.approx(1.0, abs=accuracy["energy"]), row.key
            assert row.energy_provenance.value == "simulated"
        assert row.time_provenance == "simulated"
    if table == "table3":
        assert [f"{found.to_reference(row):.2f}" for row in found.rows] == ["1.00", "1.27", "1.11", "1.00"]

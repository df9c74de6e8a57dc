from __future__ import annotations

import math

import numpy as np
import pytest

from profiler.sensors.odpm import float_step_j, odpm_rails, parse_energy_value, parse_service, summed
from tests.fixtures.adb import ENERGY_VALUES, POWER_STATS


def test_microwatt_seconds_of_the_driver_are_joules() -> None:
    assert parse_energy_value(ENERGY_VALUES[0]) == pytest.approx(
        {"S10M_VDD_TPU": 5.578756, "S2M_VDD_CPUCL2": 30.203502, "L15M_VDD_SLC_M": 1.0}
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t=1\n",
        "CH0(T=1)[A], 5\n",
        "t=1\nCH0(T=1)[A], \n",
        "t=1\nCH0(T=1)[A], 5\nCH1(T=1)[B",
        "t=1\nCH0(T=1)[A], 5\nCH1(T=1)[A], 6\n",
        "t=1\nCH0(T=1)[A], -5\n",
        "t=1\nCH0(T=1)[A], 1e9\n",
    ],
)
def test_a_file_that_is_cut_off_or_odd_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="energy_value"):
        parse_energy_value(text)


def test_milliwatt_seconds_of_the_service_are_joules_with_or_without_a_delta() -> None:
    told = {"S10M_VDD_TPU": 5.57876, "VSYS_PWR_DISPLAY": 1039.10842}
    assert parse_service(POWER_STATS) == pytest.approx(told)
    assert parse_service(POWER_STATS.replace("42 mWs", "42 mWs (        344.69)")) == pytest.approx(told)


def test_consumers_are_a_model_s_and_not_rails() -> None:
    assert "TPU" not in parse_service(POWER_STATS)


@pytest.mark.parametrize("text", ["", "Can't find service: x", POWER_STATS.split("energy meter")[0]])
def test_a_phone_without_rails_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no rails"):
        parse_service(text)


@pytest.mark.parametrize("energy_j", [1e-3, 5.57876, 1039.10842, 86_400.0, 600_000.0])
def test_the_step_of_the_service_is_that_of_the_float_it_prints_from(energy_j: float) -> None:
    float_j = float(np.spacing(np.float32(energy_j * 1e6))) / 1e6
    step_j = float_step_j(energy_j)
    assert step_j >= max(float_j, 1e-5)
    assert step_j <= max(4 * float_j, 1e-5)


def test_rails_behind_another_are_not_summed() -> None:
    energies_j = parse_energy_value(ENERGY_VALUES[0])
    assert summed(energies_j) == ("S10M_VDD_TPU", "S2M_VDD_CPUCL2")
    assert summed({"L1S_A": 1.0}) == ("L1S_A",)
    rails = odpm_rails(energies_j, is_service=False, stale_s=1.0, min_period_s=1.0, parent="battery")
    assert [rail.name for rail in rails] == list(energies_j)
    assert {rail.resolution for rail in rails} == {1e-6}
    assert all(math.isclose(rail.gain_err, 0.05) and rail.parent == "battery" for rail in rails)

"""Calibrations of simulated boards in virtual time, and of this machine in real time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fl.messages import Array, Config, Scalar
from fl.steps import steps
from harness.calibrate import Plan, main, measured_points, simulated
from harness.calibration import STEADY_FITS, WARMUP_STEPS, Calibrator, Training
from harness.simulated_board import Heat, parse_heat
from profiler.calibrations import StepCurve, load_calibration, read_calibration
from profiler.clock import FakeClock
from profiler.devices import load_device
from profiler.errors import SpecError, UsageError
from profiler.quantities import Provenance

PROFILE, WORKLOAD = "jetson-tx2-cpu", "cifar10-resnet18"
STEP_S = load_device(PROFILE).training_of(WORKLOAD).step_s
HORIZON_S = 1200.0


def plan(seed: int = 0, minutes: float = 5.0, batch_sizes: tuple[int, ...] = ()) -> Plan:
    return Plan(WORKLOAD, {}, batch_sizes, minutes * 60, idle_s=60.0, seed=seed)


def test_a_simulated_board_is_calibrated_to_what_its_profile_says() -> None:
    made = simulated(plan(), PROFILE)
    (point,) = made.points
    assert point.step_s == pytest.approx(STEP_S, rel=0.02)
    assert abs(point.step_s - STEP_S) <= 2 * point.step_err_s
    assert made.is_simulated
    assert {made.idle.provenance, point.power.provenance} == {Provenance.SIMULATED}
    assert made.idle.power_w == pytest.approx(2.0)
    assert point.power.power_w == pytest.approx(2.0 + 0.4 / STEP_S, rel=0.03)
    assert point.n_warmup >= WARMUP_STEPS
    assert read_calibration(made.as_json().encode(), "made") == made


def test_it_stops_once_steady_and_otherwise_at_the_limit() -> None:
    clock = FakeClock()
    even = Calibrator([], clock).measure(Client(clock, 40), Training("mine", {}, 8, 0.1, limit_s=3600.0))
    assert even.stopped_by == "steady"
    assert even.duration_s < 120
    hot = simulated(plan(), PROFILE, Heat(0.25, 300.0)).points[0]
    assert hot.stopped_by == "time"
    assert hot.duration_s == pytest.approx(300, abs=1)


def test_one_lucky_look_does_not_stop_it() -> None:
    clock, told = FakeClock(), list[str]()
    training = Training("mine", {}, 8, 0.1, limit_s=3600.0)
    Calibrator([], clock, progress=told.append).measure(Client(clock, 40), training)
    looks = [line for line in told if "warming up" not in line]
    assert len(looks) == STEADY_FITS == 2, "even steps look steady at the first look, and are looked at again"


def test_five_minutes_predict_twenty_of_a_board_that_throttles() -> None:
    true_s = StepCurve(STEP_S, 0.25 * STEP_S, 300.0).mean_s(HORIZON_S)
    errors, plain = [], []
    for seed in range(20):
        point = simulated(plan(seed), PROFILE, Heat(0.25, 300.0)).points[0]
        assert point.is_throttled
        assert point.stopped_by == "time"
        errors.append(point.curve.mean_s(HORIZON_S) / true_s - 1)
        plain.append(point.step_s / true_s - 1)
    assert np.mean(np.abs(errors) <= 0.05) >= 0.9
    assert np.mean(plain) < -0.07, "without the fit it would be told 8 % too short"


def test_a_batch_size_each_makes_a_point_each() -> None:
    made = simulated(plan(minutes=1, batch_sizes=(16, 64)), PROFILE)
    small, large = made.points
    assert (small.batch_size, large.batch_size) == (16, 64)
    assert large.step_s == pytest.approx(4 * small.step_s, rel=0.1)


def test_the_same_seed_gives_the_same_file() -> None:
    assert simulated(plan(3), PROFILE).as_json() == simulated(plan(3), PROFILE).as_json()
    assert simulated(plan(3), PROFILE).as_json() != simulated(plan(4), PROFILE).as_json()


def test_a_profile_without_the_workload_is_refused() -> None:
    with pytest.raises(SpecError, match="not known; known are"):
        simulated(Plan("office", {}, (), 60.0, 0.0), PROFILE)


class Client:
    """Takes steps of a second; with none of them its loop does not go through `fl.steps`."""

    def __init__(self, clock: FakeClock, n_steps: int | None) -> None:
        self._clock = clock
        self._n_steps = n_steps

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return {}

    def get_parameters(self, config: Config) -> list[Array]:
        return []

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        for _ in range(3) if self._n_steps is None else steps(range(self._n_steps)):
            self._clock.advance(1.0)
        return parameters, 1, {}

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        return 0.0, 1, {}


def test_training_that_nobody_can_time_is_refused() -> None:
    clock = FakeClock()
    training = Training("mine", {}, 8, 0.1, limit_s=30.0)
    with pytest.raises(UsageError, match="took no step that"):
        Calibrator([], clock).measure(Client(clock, None), training)


def test_too_few_steps_for_the_time_are_refused_and_a_missing_meter_is_told() -> None:
    clock = FakeClock()
    with pytest.raises(UsageError, match="Give it more --minutes"):
        Calibrator([], clock).measure(Client(clock, 3), Training("mine", {}, 8, 0.1, limit_s=5.0))
    point = Calibrator([], clock).measure(Client(clock, 40), Training("mine", {}, 8, 0.1, limit_s=60.0))
    assert point.step_s == pytest.approx(1.0)
    assert point.power.power_w is None
    assert point.power.provenance is Provenance.MISSING
    assert point.power.reason


class Impatient(Client):
    """Its user leaves when a batch is as large as 32."""

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        if config["batch_size"] == 32:
            raise KeyboardInterrupt
        return super().fit(parameters, config)


def test_an_interruption_keeps_the_points_before_it() -> None:
    clock = FakeClock()
    trainings = [Training("mine", {}, size, 0.1, limit_s=40.0) for size in (16, 32, 64)]
    points = measured_points(Calibrator([], clock), Impatient(clock, 40), trainings)
    assert [point.batch_size for point in points] == [16]
    with pytest.raises(KeyboardInterrupt):
        measured_points(Calibrator([], clock), Impatient(clock, 40), trainings[1:])


@pytest.mark.parametrize("text", ["", "0.25", "0.25:", "a:b", "-1:300", "0.25:0", "nan:1", "0.25:inf", "1e9:1"])
def test_heat_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="PART:SECONDS"):
        parse_heat(text)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--minutes", "0"], "--minutes"),
        (["--minutes", "nan"], "--minutes"),
        (["--idle-s", "-1"], "--idle-s"),
        (["--batch-size", "0"], "--batch-size"),
        (["--shards", "0"], "--shards"),
        (["--throttle", "0.25:300"], "--device-profile"),
        (["--device-profile", "jetson-tx3"], "does not ship"),
        (["--sysfs-root", "nowhere"], "not a folder"),
    ],
)
def test_wrong_usage_is_told_before_anything_runs(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--workload", WORKLOAD, *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_file_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "board.json"
    command = ["--workload", WORKLOAD, "--device-profile", PROFILE, "--minutes", "0.5", "--processor", "board"]
    assert main([*command, "-o", str(path)]) == 0
    told = capsys.readouterr()
    assert "simulated" in told.out
    assert load_calibration(path).processor == "board"
    assert main([*command, "-o", str(path)]) == 2
    assert "is not overwritten" in capsys.readouterr().err


@pytest.mark.serial
def test_this_machine_is_calibrated_with_a_real_workload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "here.json"
    flags = ["--workload-option", "hidden=32", "--minutes", "0.08", "--idle-s", "0.5", "--threads", "1", "--json"]
    assert main(["--workload", "digits", *flags, "--processor", "here", "-o", str(path)]) == 0
    made = load_calibration(path)
    assert json.loads(capsys.readouterr().out)["processor"] == "here"
    (point,) = made.points
    assert made.clock == "system"
    assert dict(point.options) == {"hidden": 32}
    assert 0 < point.step_s < 1
    assert point.duration_s == pytest.approx(4.8, abs=2)
    assert point.power.provenance is not Provenance.SIMULATED
    assert point.power.power_w is not None or point.power.reason
    assert made.facts["system"]

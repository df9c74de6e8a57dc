"""The rules of cutoffs one by one: closed forms, the paper's candidates, and limits that exclude each other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import isotonic_regression
from scipy.stats import norm

from analysis import fronts
from analysis.cutoff import Cutoff, Limits, cutoffs, main
from analysis.cutoff_curves import Curve, isotonic_rows
from analysis.cutoff_rules import expected_round_s
from analysis.windows import FitWindow, Group, Windows, steps_started
from fl.steps import StepControl
from harness.cutoffs import find_cutoff, read_cutoffs
from profiler.clock import FakeClock
from profiler.quantities import Provenance
from tests.fixtures.paper_tables import CPU, GPU, table_3
from tests.fixtures.results_folder import Client, RunFolder, Task

DURATIONS = st.floats(0.01, 100.0)


def fits(processor: str, *windows_s: float, fleet: dict[str, int] | None = None, **more: float) -> Windows:
    made = tuple(FitWindow(w, 1.0, None, round=n, **more) for n, w in enumerate(windows_s))
    return Windows(processor, made, fleet=fleet or {processor: 1})


def made(*processors: Windows, **limits: float) -> dict[tuple[str, str], Cutoff]:
    groups = {Group("digits", 10, 16): {windows.processor: windows for windows in processors}}
    return {(one.kind, one.processor): one for one in cutoffs(groups, {}, limits=Limits(**limits))}


# The paper's Table 3: three points of its CPUs


def of_table_3(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, dict]]:
    table_3(tmp_path) if not (tmp_path / "paper-3").exists() else None
    code = main([str(tmp_path), "--json", *options])
    rows = json.loads(capsys.readouterr().out)["cutoffs"]
    return code, {row["kind"]: row for row in rows if row["processor"] == CPU}


@pytest.mark.parametrize(("max_drop", "minutes"), [("0.01", 2.23), ("0.04", 1.99), ("0.02", 2.15)])
def test_the_smallest_tau_of_the_paper_within_a_drop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], max_drop: str, minutes: float
) -> None:
    """0.02 lies between the points: linear, 1.99 + 0.24 · 2/3 min."""
    code, rows = of_table_3(tmp_path, capsys, "--max-drop", max_drop)
    assert code == 0
    assert rows["accuracy"]["tau_s"] == pytest.approx(minutes * 60)
    assert rows["accuracy"]["inputs"]["accuracy_from"] == "runs"
    assert rows["knee"]["tau_s"] == pytest.approx(2.23 * 60)
    assert rows["knee"]["inputs"]["height"] == pytest.approx(0.3433, abs=5e-5)
    assert rows["recommended"]["tau_s"] == pytest.approx(2.23 * 60)


def test_without_any_drop_the_paper_gets_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = of_table_3(tmp_path, capsys, "--max-drop", "0")
    assert code == 0
    assert (rows["accuracy"]["tau_s"], rows["recommended"]["tau_s"]) == (0, 0)


def test_eighty_minutes_and_a_drop_of_a_hundredth_exclude_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """80 of the GPUs' 80.32 minutes are 120 s a round, less 1.08 s of communication. 2.23 min need 134.88 s."""
    code, rows = of_table_3(tmp_path, capsys, "--max-slowdown", f"{80 / 80.32}")
    assert code == 1
    assert rows["time"]["tau_s"] == pytest.approx(118.92)
    assert (rows["recommended"]["tau_s"], rows["recommended"]["infeasible"]) == (None, True)
    note = rows["recommended"]["note"]
    assert "infeasible: a drop of at most 0.01 needs 133.8 s, time allows 118.9 s" in note
    assert "--max-slowdown 1.12 (no run tells accuracy below 119.4 s, where the drop is 0.04)" in note


def test_either_relaxation_makes_it_feasible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = of_table_3(tmp_path, capsys, "--max-slowdown", "1.05")
    assert code == 1
    said = rows["recommended"]["note"].split("Smallest relaxation: ")[1]
    slowdown, drop = (part.split()[-1] for part in said.split(", or "))
    code, rows = of_table_3(tmp_path, capsys, "--max-slowdown", slowdown)
    assert (code, rows["recommended"]["tau_s"]) == (0, pytest.approx(133.8, rel=1e-3))
    code, rows = of_table_3(tmp_path, capsys, "--max-slowdown", "1.05", "--max-drop", drop)
    assert (code, rows["recommended"]["tau_s"]) == (0, pytest.approx(1.05 * 120.48 - 1.08, rel=1e-3))


@pytest.mark.parametrize(("slowdown", "tau_s"), [("1.0", 119.4), ("1.11", 1.11 * 120.48 - 1.08)])
def test_time_of_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str], slowdown: str, tau_s: float) -> None:
    _, rows = of_table_3(tmp_path, capsys, "--max-slowdown", slowdown)
    assert rows["time"]["tau_s"] == pytest.approx(tau_s)


def test_the_gpus_of_the_paper_were_never_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table_3(tmp_path)
    assert main([str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["cutoffs"]
    gpu = {row["kind"]: row for row in rows if row["processor"] == GPU}
    assert gpu["parity"]["tau_s"] == 0
    assert gpu["recommended"]["tau_s"] is None
    assert "or at 2 values of tau" in gpu["recommended"]["note"]


def test_the_harness_reads_what_is_recommended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table_3(tmp_path / "r")
    out = tmp_path / "cutoffs.json"
    assert main([str(tmp_path / "r"), "--kind", "recommended", "-o", str(out)]) == 0
    assert f"not in {out}: cifar10-resnet18, {GPU}" in capsys.readouterr().err
    found = find_cutoff(read_cutoffs(out), workload="cifar10-resnet18", processor=CPU, epochs=10, batch_size=16)
    assert (found.kind, found.tau_s) == ("recommended", pytest.approx(133.8))


def test_neither_the_order_of_folders_nor_a_copy_of_a_simulation_changes_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(1)

    def task(number: int) -> Task:
        clients = [Client(d, p, float(random.normal(m, 1)), 0.5) for d, p, m in (("f", "fast", 9), ("s", "slow", 18))]
        return Task(f"t{number}", seed=number, processors={"fast": 1, "slow": 1}, fits=clients)

    for number in range(5):
        RunFolder(tmp_path / "all", f"run-{number}", "simulated").write([task(number)])
    folders = sorted((tmp_path / "all").iterdir())

    def rows(*paths: Path) -> list[dict]:
        main([*map(str, paths), "--json", "--max-slowdown", "1.5"])
        return json.loads(capsys.readouterr().out)["cutoffs"]

    expected = rows(*folders)
    assert rows(*reversed(folders)) == expected
    shutil.copytree(folders[2], tmp_path / "copy")
    document = json.loads((tmp_path / "copy" / "run.json").read_text())
    (tmp_path / "copy" / "run.json").write_text(json.dumps({**document, "run_id": "a-copy"}))
    again = rows(tmp_path / "copy", *folders)
    assert [row["inputs"] for row in again] == [row["inputs"] for row in expected]
    assert [row["interval_from"] for row in again] == [row["interval_from"] for row in expected]


# Time, energy, joint guarantee


def test_energy_is_what_communication_and_waiting_leave_over_power() -> None:
    """(100 J - 20 J) / 4 W; 40 J a window of 10 s."""
    one = made(fits("p", *[30.0] * 4, fit_j=120.0, beside_j=20.0), max_energy_j=100.0)["energy", "p"]
    assert one.tau_s == pytest.approx(20)
    assert one.inputs["power_w"] == pytest.approx(4)


def test_modelled_joules_say_so() -> None:
    windows = replace(fits("p", *[30.0] * 4, fit_j=120.0, beside_j=20.0), energy_provenance=Provenance.ESTIMATED)
    assert "joules are estimated by a model" in made(windows, max_energy_j=100.0)["energy", "p"].note


def test_a_budget_that_waiting_alone_exceeds_is_infeasible() -> None:
    one = made(fits("p", 30.0, fit_j=120.0, beside_j=20.0), max_energy_j=19.0)["energy", "p"]
    assert (one.tau_s, one.infeasible) == (None, True)
    assert "take 20 J of 19 J" in one.note


def test_without_joules_on_record_there_is_no_energy_cutoff() -> None:
    one = made(fits("p", 30.0), max_energy_j=19.0)["energy", "p"]
    assert (one.tau_s, one.infeasible) == (None, False)
    assert "no energy on record" in one.note


def test_a_budget_beyond_the_whole_training_is_no_cutoff() -> None:
    assert made(fits("p", 30.0, fit_j=120.0, beside_j=20.0), max_energy_j=1e6)["energy", "p"].tau_s == 0


def test_limits_that_nobody_gave_make_no_rows() -> None:
    assert {kind for kind, _ in made(fits("p", 30.0))} == {"parity", "joint", "accuracy", "knee", "recommended"}


@pytest.mark.parametrize("n_clients", [1, 2, 10])
def test_all_clients_together_keep_the_joint_deadline(n_clients: int) -> None:
    """Windows 1..400 s: the quantile β^(1/C); C = 10 and β = 0.95 are 0.99488."""
    one = made(fits("p", *range(1, 401), fleet={"p": n_clients}), beta=0.95)["joint", "p"]
    assert one.inputs["quantile"] == pytest.approx(0.95 ** (1 / n_clients))
    assert one.tau_s == pytest.approx(400 * 0.95 ** (1 / n_clients), abs=1)
    random = np.random.default_rng(2)
    kept = (random.integers(1, 401, (20_000, n_clients)) <= one.tau_s).all(axis=1).mean()
    assert kept == pytest.approx(0.95, abs=0.01)


def test_a_quantile_beyond_the_fits_on_record_says_so() -> None:
    one = made(fits("p", *range(1, 51), fleet={"p": 10}))["joint", "p"]
    assert (one.tau_s, one.interval) == (50, None)
    assert "quantile of 50 fits is the longest seen" in one.note


# Round time: order statistics


SIGMA, MEAN_S = 0.6, 60.0


def lognormal_cdf(t_s: float) -> float:
    return float(norm.cdf((np.log(t_s / MEAN_S) + SIGMA**2 / 2) / SIGMA)) if t_s > 0 else 0.0


def lognormal(n_clients: int) -> Windows:
    """As 50,000 quantiles."""
    places = norm.ppf((np.arange(50_000) + 0.5) / 50_000)
    windows_s = MEAN_S * np.exp(SIGMA * places - SIGMA**2 / 2)
    return Windows("p", tuple(FitWindow(float(w), 0.0, None) for w in windows_s), fleet={"p": n_clients})


@pytest.mark.parametrize("n_clients", [10, 100])
@pytest.mark.parametrize("tau_s", [0.0, 60.0, 90.0])
def test_the_expected_round_of_a_lognormal_fleet(n_clients: int, tau_s: float) -> None:
    """The integral of 1 - F^C up to τ, by quadrature: 134.7 and 233.7 s without τ, 87.9 and 90.0 s under 90 s."""
    ends_s = [0.0, 30.0, 60.0, tau_s] if tau_s == 90 else [0.0, 60.0] if tau_s else [0.0, 100.0, 400.0, 4000.0]
    pieces = pairwise(ends_s)
    expected = sum(quad(lambda t: 1 - lognormal_cdf(t) ** n_clients, *piece)[0] for piece in pieces)
    found = expected_round_s({"p": lognormal(n_clients)}, {"p": tau_s}, {"p": n_clients})
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("tau_s", "fraction"), [(60.0, 0.882), (90.0, 0.959)])
def test_the_work_that_a_lognormal_fleet_has_done(tau_s: float, fraction: float) -> None:
    windows = lognormal(10)
    assert float(windows.work_fraction(np.array([tau_s]))[0]) == pytest.approx(fraction, abs=0.001)


@given(
    st.lists(st.tuples(DURATIONS, DURATIONS), min_size=1, max_size=3),
    st.lists(st.tuples(DURATIONS, DURATIONS), min_size=1, max_size=3),
    st.floats(0, 120),
)
def test_the_expected_round_is_the_mean_over_all_pairs(
    a: list[tuple[float, float]], b: list[tuple[float, float]], tau_s: float
) -> None:
    """One client of each of two processors: every pair of their fits is equally likely."""
    by_processor = {
        name: Windows(name, tuple(FitWindow(w, c, None) for w, c in values)) for name, values in (("a", a), ("b", b))
    }

    def call_s(window_s: float, comm_s: float) -> float:
        return (min(window_s, tau_s) if tau_s else window_s) + comm_s

    expected = np.mean([max(call_s(*one), call_s(*other)) for one in a for other in b])
    found = expected_round_s(by_processor, {"a": tau_s, "b": tau_s}, {"a": 1, "b": 1})
    assert found == pytest.approx(expected)


# Work: the client's own rule


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 20_000))
def test_predicted_steps_are_those_that_the_client_does(durations_ms: list[int], cutoff_ms: int) -> None:
    clock = FakeClock()
    left = iter(durations_ms)
    control = StepControl(clock, cutoff_s=cutoff_ms / 1000, epochs=1, pace=lambda _: clock.advance(next(left) / 1000))
    with control.active():
        for _ in control.iterate(range(len(durations_ms))):
            pass
    predicted = steps_started(np.cumsum(durations_ms) / 1000, np.array([cutoff_ms / 1000]))
    assert predicted.tolist() == [control.steps_done]


def test_the_guard_looks_at_recent_steps_only() -> None:
    """Twenty slow steps are forgotten once 1,024 quick ones have followed."""
    ends_s = np.cumsum([1.0, *[10.0] * 100, *[0.1] * 1200])
    before_end = steps_started(ends_s, np.array([ends_s[-1] - 0.05]))
    assert before_end.tolist() == [ends_s.size - 1], "the next step is guarded by 0.1 s, not by 10 s"


# Curves


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=5))
def test_isotonic_rows_agree_with_scipy(means: list[list[float]]) -> None:
    weights = np.array([1.0, 3.0, 2.0, 5.0])
    found = isotonic_rows(np.array(means), weights)
    for row, mean in zip(found, means, strict=True):
        assert row == pytest.approx(isotonic_regression(mean, weights=weights).x, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=10))
def test_the_knee_of_many_curves_is_that_of_each(points: list[tuple[int, int]]) -> None:
    costs, gains = (sorted(float(point[axis]) for point in points) for axis in (0, 1))
    curve = Curve(*(np.array([values]) for values in (costs, gains, costs)), np.ones((1, len(costs)), dtype=bool))
    tau_s, height = (float(values[0]) for values in curve.knee())
    expected = fronts.knee(costs, gains)
    if expected.index is None:
        assert np.isnan(tau_s)
    else:
        assert (tau_s, height) == (costs[expected.index], pytest.approx(expected.height))


# Clients' own evaluations


def test_the_worst_processor_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    folder.write([Task("t", rounds=2, processors={"fast": 1, "slow": 2}, fits=[Client("f", "fast", 5.0)])])
    for device, processor, accuracy, examples in (
        ("f", "fast", 0.9, 10),
        ("s", "slow", 0.5, 30),
        ("z", "slow", 0.7, 10),
    ):
        for round_, value in ((1, 0.1), (2, accuracy)):
            key = {"task": "t", "attempt": 1, "round": round_, "device": device, "processor": processor}
            span = {"kind": "span", **key, "call": "evaluate", "name": "evaluate", "clock": "device", "status": "ok"}
            told = {"span_id": f"e-{device}-{round_}", "duration_s": 0.1, "accuracy": value, "examples": examples}
            folder.append({**span, **told})
    assert main([str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["evaluations"]
    assert found["accuracy_by_processor"] == pytest.approx({"fast": 0.9, "slow": 0.55})
    assert (found["worst_processor"], found["worst_accuracy"]) == ("slow", pytest.approx(0.55))
    assert main([str(tmp_path)]) == 0
    assert "slow 0.5500" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value"), [("--max-slowdown", "0"), ("--max-energy-j", "inf"), ("--beta", "1"), ("--beta", "nan")]
)
def test_limits_that_make_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    table_3(tmp_path)
    assert main([str(tmp_path), option, value]) == 2
    assert f"{option} {value}" in capsys.readouterr().err

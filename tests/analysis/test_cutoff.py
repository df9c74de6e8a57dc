"""Parity, accuracy-constrained and knee cutoffs, and the file that the harness reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.cutoff import AccuracyModel, Cutoff, Limits, cutoffs, main
from analysis.windows import FitWindow, Group, Windows
from tests.fixtures.results_folder import Client, RunFolder, Task

DURATIONS = st.floats(0.01, 100.0)
CALLS = st.lists(st.tuples(DURATIONS, DURATIONS), min_size=1, max_size=8)


def windows(processor: str, *values: tuple[float, float | None], steps: int | None = None) -> Windows:
    ends = [None if steps is None else np.linspace(w / steps, w, steps) for w, _ in values]
    return Windows(processor, tuple(FitWindow(w, c, end) for (w, c), end in zip(values, ends, strict=True)))


def one_group(
    *processors: Windows,
    epochs: int = 10,
    model: AccuracyModel | None = None,
    reference: str | None = None,
    **limits: float,
) -> list[Cutoff]:
    models = {} if model is None else {("digits", 16): model}
    group = {Group("digits", epochs, 16): {windows.processor: windows for windows in processors}}
    return cutoffs(group, models, reference=reference, limits=Limits(**limits))


def of_kind(made: list[Cutoff], kind: str) -> dict[str, Cutoff]:
    return {cutoff.processor: cutoff for cutoff in made if cutoff.kind == kind}


# Parity


def test_parity_is_the_reference_window_less_the_longer_communication() -> None:
    fast = windows("fast", (9, 1.0), (10, 1.0), (11, 1.0))
    slow = windows("slow", (20, 3.0), (20, 3.0), (20, 3.0), steps=10)
    parity = of_kind(one_group(fast, slow), "parity")
    assert (parity["fast"].tau_s, parity["fast"].reference) == (0.0, "fast")
    assert parity["slow"].tau_s == pytest.approx(10 - 2)
    assert parity["slow"].work_fraction == pytest.approx(0.4)
    assert parity["slow"].round_ratio_uncut == pytest.approx(23 / 11)
    assert parity["slow"].round_ratio == pytest.approx(1.0)
    assert parity["slow"].inputs["n_ref"] == 3


def test_a_faster_link_gives_no_time_to_train() -> None:
    made = of_kind(one_group(windows("fast", (10, 3.0)), windows("slow", (20, 1.0))), "parity")
    assert made["slow"].tau_s == pytest.approx(10)
    assert made["slow"].interval is None, "one window has no spread"


def test_a_chosen_reference() -> None:
    made = of_kind(one_group(windows("fast", (10, 0)), windows("slow", (20, 0)), reference="slow"), "parity")
    assert (made["slow"].tau_s, made["fast"].tau_s) == (0.0, pytest.approx(20))
    assert made["fast"].work_fraction == 1.0


def test_parity_out_of_reach_is_not_written_as_no_cutoff() -> None:
    made = of_kind(one_group(windows("fast", (10, 1)), windows("slow", (20, 12))), "parity")
    assert made["slow"].tau_s is None
    assert "communication alone is 1 s longer" in made["slow"].note


def test_unknown_communication_is_said() -> None:
    made = of_kind(one_group(windows("fast", (10, None), (10, None)), windows("slow", (20, None))), "parity")
    assert made["slow"].tau_s == pytest.approx(10)
    assert "communication is not on record" in made["slow"].note
    assert "no step times" in made["slow"].note


@given(CALLS, CALLS)
def test_under_parity_nobody_is_predicted_to_end_after_the_reference(
    a: list[tuple[float, float]], b: list[tuple[float, float]]
) -> None:
    one, other = windows("a", *a), windows("b", *b)
    for cutoff in of_kind(one_group(one, other), "parity").values():
        if cutoff.tau_s:
            assert cutoff.round_ratio is not None
            assert cutoff.round_ratio <= 1 + 1e-9
            assert 0 < cutoff.tau_s <= min(one.median_window_s, other.median_window_s) + 1e-9


def test_the_interval_holds_the_estimate_and_narrows_with_more_rounds() -> None:
    random = np.random.default_rng(3)

    def width(n: int) -> float:
        fast = windows("fast", *((w, 0.5) for w in random.normal(10, 1, n)))
        slow = windows("slow", *((w, 0.5) for w in random.normal(20, 1, n)))
        cutoff = of_kind(one_group(fast, slow), "parity")["slow"]
        assert cutoff.interval is not None
        assert cutoff.tau_s is not None
        assert cutoff.interval[0] <= cutoff.tau_s <= cutoff.interval[1]
        return cutoff.interval[1] - cutoff.interval[0]

    assert width(400) < width(10)


# Work


def test_work_is_the_steps_that_end_by_tau_and_at_least_one() -> None:
    one = windows("p", (10.0, 0.0), steps=4)  # ends at 2.5, 5, 7.5, 10
    taus_s = np.array([0.1, 2.5, 4.9, 5.0, 9.9, 10.0, 99.0])
    assert one.work_fraction(taus_s).tolist() == [0.25, 0.25, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_floor_rule_agrees_with_renewal_theory() -> None:
    """E K(tau) = tau/mu + (CV^2 - 1)/2 (facts §3b; Cox, Renewal Theory, 1962): 199.508 for these; 4 sd of the mean."""
    random = np.random.default_rng(11)
    mu, cv, tau_s, n_windows = 0.30, 0.13, 60.0, 400
    steps = random.normal(mu, cv * mu, (n_windows, 400))
    made = Windows("p", tuple(FitWindow(float(s.sum()), 0.0, np.cumsum(s)) for s in steps))
    n_done = made.work_fraction(np.array([tau_s]))[0] * 400
    assert n_done == pytest.approx(199.508, abs=4 * (3.380 / n_windows) ** 0.5)


@given(st.lists(DURATIONS, min_size=1, max_size=30), st.lists(DURATIONS, min_size=2, max_size=6))
def test_work_grows_with_tau(steps_s: list[float], taus_s: list[float]) -> None:
    ends_s = np.cumsum(steps_s)
    made = Windows("p", (FitWindow(float(ends_s[-1]), 0.0, ends_s), FitWindow(7.0, 0.0, None)))
    fractions = made.work_fraction(np.sort(taus_s))
    assert (np.diff(fractions) >= 0).all()
    assert ((fractions > 0) & (fractions <= 1)).all()


# From the sweep of E


SWEEP = AccuracyModel.fit({1: [0.5], 5: [0.80], 10: [0.90]})


def test_accuracy_is_isotonic_and_linear_between() -> None:
    model = AccuracyModel.fit({1: [0.5], 5: [0.9, 0.9, 0.9], 10: [0.86]})
    assert model.accuracies.tolist() == pytest.approx([0.5, 0.89, 0.89])
    assert model.predict(np.array([3.0]))[0] == pytest.approx((0.5 + 0.89) / 2)


def test_the_smallest_tau_within_the_drop() -> None:
    """0.02 a epoch between 5 and 10: 0.04 less is 8 of 10 epochs, a τ of 80 s for windows of 100 s."""
    made = of_kind(one_group(windows("p", (100.0, 0.0)), model=SWEEP, max_drop=0.04), "accuracy")["p"]
    assert made.tau_s == pytest.approx(80, abs=100 / 400)
    assert made.work_fraction == pytest.approx(0.8, abs=1 / 400)
    predicted = made.inputs["predicted_accuracy"]
    assert isinstance(predicted, float)
    assert 0.86 <= predicted < 0.861


def test_clients_that_end_by_themselves_get_no_cutoff_and_count_with_all_their_work() -> None:
    """Half the clients do all: a mean of 9 of 10 epochs leaves the slow half 8, that is 160 of 200 s."""
    fast, slow = windows("fast", (100.0, 0.0)), windows("slow", (200.0, 0.0))
    made = of_kind(one_group(fast, slow, model=SWEEP, max_drop=0.02), "accuracy")
    assert made["fast"].tau_s == 0
    assert made["slow"].tau_s == pytest.approx(160, abs=200 / 400)
    assert made["slow"].round_ratio == pytest.approx(1.6, abs=2 / 400)


def test_the_knee_of_predicted_accuracy_against_time() -> None:
    """Piecewise linear through (1, .5), (5, .8), (10, .9): its corner at E = 5 is the knee, half the window."""
    made = of_kind(one_group(windows("p", (100.0, 0.0)), model=SWEEP), "knee")["p"]
    assert made.tau_s == pytest.approx(50, abs=100 / 400)
    # min-max scaled: x = 4/9, y = 0.3/0.4
    assert made.inputs["height"] == pytest.approx(0.75 - 4 / 9, abs=0.005)


def test_a_convex_sweep_has_no_knee() -> None:
    convex = AccuracyModel.fit({2: [0.1], 6: [0.2], 10: [0.9]})
    made = of_kind(one_group(windows("p", (100.0, 0.0)), model=convex), "knee")["p"]
    assert made.tau_s is None
    assert "no knee" in made.note


@pytest.mark.parametrize(
    ("sweep", "kind", "available"),
    [
        ({10: [0.9]}, "accuracy", False),
        ({1: [0.5], 10: [0.9]}, "accuracy", True),
        ({1: [0.5], 10: [0.9]}, "knee", False),
        ({1: [0.5], 5: [0.8], 10: [0.9]}, "knee", True),
        ({1: [0.5], 5: [0.8]}, "accuracy", False),
    ],
)
def test_what_a_sweep_allows(sweep: dict[int, list[float]], kind: str, available: bool) -> None:
    made = of_kind(one_group(windows("p", (100.0, 0.0)), model=AccuracyModel.fit(sweep)), kind)["p"]
    assert (made.tau_s is not None) == available
    if not available:
        assert "not available: needs runs with accuracy at" in made.note


# The main


def client(device: str, processor: str, window_s: float, comm_s: float = 0.5, **more: object) -> Client:
    return Client(device, processor, window_s, comm_s, [window_s / 10] * 10, **more)


def fleet(epochs: int, accuracy: float, **more: object) -> Task:
    fits = [client("f", "fast", 1.0 * epochs), client("s", "slow", 2.0 * epochs)]
    processors = {"fast": 1, "slow": 1}
    return Task(f"e{epochs}", epochs=epochs, accuracy=accuracy, processors=processors, fits=fits, **more)


SWEPT = ((1, 0.5), (5, 0.8), (10, 0.9))


def test_the_file_has_an_entry_for_every_processor_and_task(tmp_path: Path) -> None:
    RunFolder(tmp_path / "r").write([fleet(epochs, accuracy) for epochs, accuracy in SWEPT])
    out = tmp_path / "cutoffs.json"
    assert main([str(tmp_path / "r"), "-o", str(out)]) == 0
    document = json.loads(out.read_text())
    assert (document["schema"], document["kind"], document["reference"]) == (1, "parity", "fast")
    assert document["inputs"]["n_tasks"] == 3
    entries = {(entry["processor"], entry["epochs"]): entry for entry in document["cutoffs"]}
    assert set(entries) == {(processor, epochs) for processor in ("fast", "slow") for epochs in (1, 5, 10)}
    for epochs in (1, 5, 10):
        assert entries["fast", epochs]["tau_s"] == 0
        assert entries["slow", epochs]["tau_s"] == pytest.approx(1.0 * epochs)
        assert entries["slow", epochs]["work_fraction"] == pytest.approx(0.5)
        assert entries["slow", epochs]["batch_size"] == 16
        assert entries["slow", epochs]["workload"] == "digits"
        assert len(entries["slow", epochs]["interval"]) == 2


def test_runs_with_a_cutoff_and_broken_fits_teach_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = fleet(5, 0.9, cutoffs={"slow": {"tau_s": 5.0, "kind": "parity"}})
    cut.task, cut.fits = "cut", [client("f", "fast", 1.0), client("s", "slow", 1.0)]
    broken = fleet(5, 0.8)
    broken.fits = [
        *broken.fits,
        client("x", "slow", 99.0, status="error"),
        client("y", "slow", 99.0, stopped_by="cutoff"),
    ]
    RunFolder(tmp_path).write([cut, broken])
    assert main([str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    slow = [c for c in json.loads(out)["cutoffs"] if c["processor"] == "slow" and c["kind"] == "parity"]
    assert [c["tau_s"] for c in slow] == [pytest.approx(5.0)]
    assert slow[0]["inputs"]["median_window_s"] == pytest.approx(10.0)
    assert "2 fit windows are left out: the fit failed" in err
    assert "2 fit windows are left out: the fit was stopped early" in err


def test_only_runs_with_a_cutoff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write([fleet(5, 0.9, cutoffs={"slow": {"tau_s": 5.0, "kind": "parity"}})])
    assert main([str(tmp_path), "-o", str(tmp_path / "c.json")]) == 3
    assert "0 of 1 finished tasks ran without a cutoff" in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


def test_a_kind_that_cannot_be_given_writes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path / "r").write([fleet(5, 0.9)])
    assert main([str(tmp_path / "r"), "--kind", "knee", "-o", str(tmp_path / "c.json")]) == 3
    assert "needs runs with accuracy at 3 values of E" in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


def test_a_kind_that_some_groups_lack_is_written_for_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RunFolder(tmp_path / "r").write([fleet(epochs, accuracy) for epochs, accuracy in SWEPT])
    out = tmp_path / "c.json"
    assert main([str(tmp_path / "r"), "--kind", "accuracy", "-o", str(out)]) == 0
    assert {entry["epochs"] for entry in json.loads(out.read_text())["cutoffs"]} == {5, 10}
    assert "digits, slow, E=1: not available" in capsys.readouterr().err


def test_one_processor_has_trivial_parity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path).write([Task("t", fits=[client("f", "fast", 1.0)])])
    assert main([str(tmp_path)]) == 0
    assert "parity is trivially none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--reference", "fats"], "Did you mean 'fast'"), (["--max-drop", "nan"], "--max-drop nan")]
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    RunFolder(tmp_path).write([fleet(5, 0.9)])
    assert main([str(tmp_path), *arguments]) == 2
    assert says in capsys.readouterr().err

"""What the page and the exposition are made of: sums that hide nothing, states, bounds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.live import board as board_module
from harness.live import timeline
from harness.live.board import Joules
from harness.store import Done
from profiler.clock import FakeClock
from profiler.quantities import Provenance
from tests.harness.live.boards import (
    NASTY,
    failure_row,
    fit_span,
    make_board,
    round_row,
    tick,
    told_board,
)


def test_a_device_goes_from_starting_to_fitting_to_gone() -> None:
    clock = FakeClock()
    board = make_board("a", "b", clock=clock)

    def standing(device: str = "a") -> tuple[str, str]:
        [found] = [one for one in board.state()["devices"] if one["id"] == device]
        return found["state"], found["why"]

    assert standing() == ("starting", "")
    board.present({"a"})
    assert (standing(), standing("b")) == (("waiting", ""), ("starting", ""))
    board.call_started(1, "fit", "a")
    board.present(set())  # a call that is under way says itself how it ends
    assert standing() == ("fitting", "")
    board.call_finished(1, "fit", "a", "late")
    assert standing() == ("failed", "late")
    board.present({"a"})
    assert standing() == ("failed", "late"), "it is there, and its last call failed"
    board.present(set())
    assert standing() == ("gone", "its connection ended")
    board.gone("a", "killed by SIGKILL; log a.log:\nthe last words")
    assert standing() == ("gone", "killed by SIGKILL; log a.log:")
    clock.advance(3.0)
    board.gone("a", "killed by SIGKILL; log a.log:\nthe last words")
    assert board.state()["devices"][0]["for_s"] == 3.0, "it has been gone since it was first told"
    board.present({"a"})
    assert standing() == ("waiting", "")
    board.call_started(2, "evaluate", "a")
    assert board.state()["states"] == {
        "gone": 0, "failed": 0, "fitting": 0, "evaluating": 1, "starting": 1, "waiting": 0,
    }  # fmt: skip


def test_figures_come_from_the_records() -> None:
    state = told_board().state()
    fast, slow = state["devices"]
    assert (fast["n_fits"], fast["last_fit_s"]) == (1, 2.0)
    assert fast["energy"] == {"energy_j": 6.0, "err_j": 0.5, "provenance": "counter"}
    assert slow["energy"]["energy_j"] is None
    assert slow["energy"]["provenance"] == "missing"
    assert slow["n_failures"] == 1
    [task] = state["tasks"]
    assert (task["status"], task["rounds_done"], task["energy"]["energy_j"]) == ("running", 1, 12.0)
    assert state["rounds"][0]["accuracy"] == 0.5
    assert state["n_failures"] == 1


def test_one_round_without_energy_makes_the_task_s_joules_missing() -> None:
    board = make_board("a")
    board.recorded([round_row(1), round_row(2, None)])
    assert board.state()["tasks"][0]["energy"] == {"energy_j": None, "provenance": "missing", "reason": "unplugged"}
    assert (board.figures().joules, board.figures().n_without_energy) == ({"counter": (12.0, 1.0)}, 1)


@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.floats(0, 1e6)), st.sampled_from(["counter", "integrated", "estimated"])),
        min_size=1,
    )
)
def test_a_sum_is_missing_if_a_part_is_and_as_weak_as_its_weakest(parts: list[tuple[float | None, str]]) -> None:
    joules = Joules()
    for energy_j, provenance in parts:
        joules.add({"energy_j": energy_j, "energy_err_j": 0.1, "provenance": provenance})
    if any(energy_j is None for energy_j, _ in parts):
        assert (joules.known_j, joules.provenance) == (None, Provenance.MISSING)
    else:
        assert joules.known_j == pytest.approx(sum(energy_j or 0.0 for energy_j, _ in parts))
        order = ["counter", "integrated", "estimated"]
        assert joules.provenance.value == max((provenance for _, provenance in parts), key=order.index)


@given(st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0.0, 50.0), st.floats(0.0, 1.0)), min_size=2, max_size=8))
def test_the_watts_of_owners_add_up_to_the_host_s(steps: list[tuple[float, float, float]]) -> None:
    board, t_s, energy_j, cpu_s = make_board("a"), 0.0, 0.0, 0.0
    for length_s, joules, used_s in steps:
        t_s, energy_j, cpu_s = t_s + length_s, energy_j + joules, cpu_s + used_s
        board.note_tick(tick(t_s, energy_j, a=cpu_s, server=cpu_s / 2))
    watts = board.figures().watts
    assert watts["a"] + watts["server"] + watts["other"] == pytest.approx(watts["host"], abs=1e-6)
    assert watts["host"] == pytest.approx(steps[-1][1] / steps[-1][0], rel=1e-6, abs=1e-6)


def test_a_sample_that_was_there_before_adds_nothing() -> None:
    board = make_board("a")
    for _ in range(3):
        board.note_tick(tick(1.0, 1.0, a=0.5))
    board.note_tick(None)
    assert board.state()["watts"] == {}


def test_a_device_with_a_meter_of_its_own_shows_the_mean_of_each_fit() -> None:
    board = make_board("a")
    board.recorded([fit_span("a", 2.0, 6.0)])
    assert board.state()["devices"][0]["watts"] == [(0.0, 3.0)]
    assert board.state()["devices"][0]["watts_of"] == "fit"


def test_a_resumed_run_shows_what_was_done_before() -> None:
    done = Done()
    for row in (round_row(1), round_row(2), failure_row("a")):
        done.note(row)
    state = make_board("a", done=done).state()
    assert (state["tasks"][0]["rounds_done"], state["tasks"][0]["status"]) == (2, "completed")
    assert (len(state["rounds"]), state["n_failures"]) == (2, 1)


def test_everything_is_bounded_and_what_is_left_out_is_counted() -> None:
    names = [f"d{n}" for n in range(board_module.MAX_DEVICES_SHOWN + 5)]
    board = make_board(*names)
    board.present(names)
    board.gone(names[10], "why")
    for number in range(1, 500):
        board.recorded([round_row(number), failure_row(names[0])])
        board.say(f"message {number}")
        board.call_started(number, "fit", names[0])
        board.note_tick(tick(float(number), float(number), server=0.0))
    state = board.state()
    assert len(state["devices"]) == board_module.MAX_DEVICES_SHOWN
    assert state["devices"][0]["id"] == names[10], "where not all are shown, those in trouble come first"
    assert state["run"]["n_devices"] == len(names)
    assert (len(state["rounds"]), state["rounds"][-1]["round"]) == (board_module.MAX_ROUNDS, 499)
    assert (len(state["failures"]), state["n_failures"]) == (board_module.MAX_FAILURES, 499)
    assert len(state["messages"]) == board_module.MAX_MESSAGES
    assert len(state["timeline"]["rounds"]) == timeline.MAX_ROUNDS
    assert len(json.dumps(state)) < 600_000


def test_what_a_device_says_is_cut_off_and_printable() -> None:
    board = told_board()
    board.say("x" * 10_000)
    text = json.dumps(board.state(), ensure_ascii=False)
    assert "\x1b" not in text
    assert "x" * 301 not in text
    assert NASTY.strip()[:20] in json.loads(text)["failures"][0]["reason"]


def test_calls_become_bars_whose_ways_are_known_afterwards() -> None:
    clock = FakeClock()
    board = make_board("a", "b", clock=clock)
    for device in ("a", "b"):
        board.call_started(1, "fit", device)
    clock.advance(2.0)
    board.call_finished(1, "fit", "a", None)
    board.call_finished(1, "fit", "b", "late")
    way = {"clock": "server", "call": "fit", "energy_j": None}
    board.recorded(
        [fit_span("a", 0.25, **{**way, "name": "download"}), fit_span("a", 0.5, **{**way, "name": "upload"})]
    )
    board.call_started(2, "fit", "a")
    clock.advance(1.0)
    first, second = board.state()["timeline"]["rounds"]
    ways = {"download_s": 0.25, "upload_s": 0.5}
    assert first["bars"][0] == {"device": "a", "call": "fit", "start_s": 0.0, "end_s": 2.0, **ways, "state": "done"}
    assert first["bars"][1]["state"] == "failed"
    assert (second["bars"][0]["state"], second["bars"][0]["end_s"]) == ("running", 1.0)

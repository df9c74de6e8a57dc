"""What a person sees: a line a round, a bar in a terminal, who is waited for, and a summary that hides nothing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan import Task
from harness.progress import LETTERS, Progress, energy_text, status_lines
from harness.show import print_summary
from harness.store import Done
from harness.summary import summary_json
from harness.watching import STATES, DeviceState, Standing
from profiler.records import Row

TASK = Task("digits", {"kind": "iid"}, 2, 5, 3, 16, 0.01, 1, "fedavg", {}, {"cpu": 3}, {})


def round_row(round_: int, energy_j: float | None = 2.0) -> Row:
    energy: Row = {"energy_j": energy_j, "energy_err_j": 0.5, "provenance": "counter"}
    if energy_j is None:
        energy = {"provenance": "missing", "energy_reason": "the meter was unplugged"}
    counts = {"n_selected": 3, "n_results": 3, "n_failures": 0, "attempt": 1}
    return {"kind": "round", "task": TASK.id, "round": round_, "time_s": 1.5, "accuracy": 0.5, **counts, **energy}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO, *, quiet: bool = False) -> str:
    progress = Progress(1, stream=stream, quiet=quiet)
    progress.task_started(TASK, 1)
    for device in ("a", "b", "c", "d", "e"):
        progress.call_started(1, "fit", device)
    progress.call_finished(1, "fit", "a", None)
    progress.call_finished(1, "fit", "b", "it caught fire")
    progress.round_finished(TASK, round_row(1))
    progress.task_finished()
    return stream.getvalue()


def test_without_a_terminal_each_round_is_a_line() -> None:
    text = show(io.StringIO())
    assert "[1/1] E=5 C=3 round 1: b failed in fit: it caught fire" in text
    assert "[1/1] E=5 C=3 round 1/2: accuracy 0.500, 1.50 s, 2.0 ± 0.5 J (counter)" in text
    assert "\r" not in text


def test_a_terminal_gets_a_bar_that_says_who_is_waited_for() -> None:
    text = show(Terminal())
    assert "waiting for c, d, e" in text
    assert "1/2 rounds" in text
    assert "it caught fire" in text


def standings(**states: DeviceState) -> dict[str, Standing]:
    return {
        device: Standing(state, 0, "no route\x1b[31m to host" if state == "gone" else "")
        for device, state in states.items()
    }


def test_few_devices_are_named_and_their_trouble_is_told() -> None:
    [line] = status_lines(standings(a="waiting", b="gone", c="fitting", d="fitting"), 120)
    assert line == "x 1 gone: b (no route?[31m to host) | F 2 fitting: c, d | . 1 waiting"


@given(st.lists(st.sampled_from(STATES), max_size=400), st.integers(20, 200))
def test_however_many_devices_the_lines_fit_and_a_letter_is_a_device(states: list[DeviceState], width: int) -> None:
    lines = status_lines({f"device-{n}": Standing(state, 0) for n, state in enumerate(states)}, width)
    assert all(len(line) <= width for line in lines)
    assert len(lines) <= 5
    if len(lines) > 1:
        assert "".join(lines[1:]) == "".join(LETTERS[state] for state in states)


def test_two_hundred_devices_take_three_rows_of_letters() -> None:
    states = {f"pi-{n}": Standing("fitting" if n < 2 else "waiting", 0) for n in range(200)}
    lines = status_lines(states, 79)
    assert lines[0] == "F 2 fitting: pi-0, pi-1 | . 198 waiting"
    assert lines[1] == "FF" + 77 * "."
    assert len(lines) == 4


def test_a_terminal_shows_what_devices_do_from_their_start_on() -> None:
    terminal = Terminal()
    progress = Progress(1, stream=terminal)
    progress.starting("a")
    assert "s 1 starting: a" in terminal.getvalue()
    progress.task_started(TASK, 1)
    progress.call_started(1, "fit", "a")
    progress.gone("a", "killed by SIGKILL")
    progress.round_finished(TASK, round_row(1))
    progress.task_finished()
    assert "x 1 gone: a (killed by SIGKILL)" in terminal.getvalue()


def test_quiet_says_nothing() -> None:
    assert show(io.StringIO(), quiet=True) == ""


def test_energy_is_never_a_bare_number() -> None:
    assert energy_text(round_row(1)) == "2.0 ± 0.5 J (counter)"
    assert energy_text(round_row(1, None)) == "energy missing (the meter was unplugged)"


def test_one_round_without_energy_makes_the_total_missing(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done()
    done.note(round_row(1))
    done.note(round_row(2, None))
    failure = {"kind": "failure", "task": TASK.id, "attempt": 1, "round": 2, "device": "b", "phase": "fit"}
    done.note({**failure, "reason": "it caught fire", "detail": "log"})
    summary = summary_json(Path("results/x"), [TASK], done)
    (task,) = summary["tasks"]
    assert task["energy_j"] is None
    assert task["energy_reason"] == "the meter was unplugged"
    assert task["provenance"] == "missing"
    assert (task["time_s"], task["rounds_done"], task["status"]) == (3.0, 2, "unfinished")
    print_summary(summary, as_json=False)
    out = capsys.readouterr().out
    assert "energy missing (the meter was unplugged)" in out
    assert "failed: b in fit, round 2: it caught fire" in out
    print_summary(summary, as_json=True)
    assert '"it caught fire"' in capsys.readouterr().out


def test_a_task_that_never_began() -> None:
    (task,) = summary_json(Path("results/x"), [TASK], Done())["tasks"]
    assert (task["accuracy"], task["energy_j"], task["rounds_done"]) == (None, None, 0)
    assert task["energy_reason"] == "no round was finished"


def test_what_a_sensor_cannot_resolve_is_said_beside_the_joules() -> None:
    short = round_row(1) | {"energy_reason": "below_resolution: 0.1 s, and readings are up to 1 s old"}
    assert energy_text(short) == "2.0 ± 0.5 J (counter, below_resolution)"
    done = Done()
    for row in (short, round_row(2)):
        done.note(row)
    (task,) = summary_json(Path("run"), [TASK], done)["tasks"]
    assert task["energy_reason"] == "below_resolution: 1 of 2 rounds"

"""Where the bars of a round lie, and that no clock of a device moves them."""

from __future__ import annotations

import pytest

from analysis.figures.timeline import Bar, bars
from tests.fixtures.results_folder import Task
from tests.fixtures.timed_rounds import CALL, SECOND, Timed, timed_rows

TASK = Task("t")


def layout(*calls: Timed) -> list[Bar]:
    first_ns = round(min(call.start_s for call in calls) * SECOND)
    return bars([row for call in calls for row in timed_rows(TASK, 1, call)], first_ns)


def test_phases_follow_each_other_from_the_servers_start() -> None:
    made = {bar.phase: (bar.start_s, bar.duration_s) for bar in layout(Timed("a", start_s=100.0))}
    assert made == {
        "download": (0.0, 1.0),
        "receive": (1.0, 0.5),
        "fit": (1.5, 4.0),
        "send": (5.5, 0.5),
        "upload": (6.0, 1.0),
        "straggler_wait": (7.0, 2.0),
        "wait": (9.0, 1.0),  # 4 s, less the upload and the straggler wait that are parts of it
    }


def test_devices_lie_apart_by_the_servers_clock_alone() -> None:
    first = layout(Timed("a", 100.0), Timed("b", 103.0))
    assert min(bar.start_s for bar in first if bar.device == "b") == pytest.approx(3.0)
    assert layout(Timed("a", 100.0, device_clock_s=7e5), Timed("b", 103.0, device_clock_s=-4e4)) == first


def test_a_wait_that_is_shorter_than_its_parts_is_no_bar_backwards() -> None:
    made = layout(Timed("a", durations_s={**CALL, "wait": 0.5}))
    assert next(bar for bar in made if bar.phase == "wait").duration_s == 0.0


def test_a_call_without_a_start_on_the_servers_clock_gives_no_bars() -> None:
    rows = [{**row, "start_ns": None} if row["name"] == "call" else row for row in timed_rows(TASK, 1, Timed("a"))]
    assert bars(rows, 0) == []
    both = [*rows, *timed_rows(TASK, 1, Timed("b"))]
    assert {bar.device for bar in bars(both, 0)} == {"b"}

"""Who takes part: labels, a fair draw, FedCS' deadline and an energy budget, with what is not known yet tried."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.proxy import ClientInfo
from fl.selection import Selection
from fl.strategy import Experience
from profiler.errors import UsageError

FLEET = [ClientInfo(f"d{number}", "gpu" if number < 3 else "cpu") for number in range(6)]


def took(device: str, device_s: float, upload_s: float = 0.0, energy_j: float | None = None) -> Experience:
    return Experience(device, "cpu", device_s, 0.0, upload_s, energy_j=energy_j)


def names(selection: Selection, known: list[Experience], clients: list[ClientInfo] | None = None) -> list[str]:
    drawn = selection.draw(1, FLEET if clients is None else clients, {one.device: one for one in known})
    return [client.device for client in drawn]


def test_all_take_part_unless_told_otherwise() -> None:
    assert names(Selection(), []) == ["d0", "d1", "d2", "d3", "d4", "d5"]


def test_only_the_named_processors() -> None:
    assert names(Selection(processors=["gpu"]), []) == ["d0", "d1", "d2"]
    assert names(Selection(processors=["gpu"], fraction=0.5), [])[0] in ("d0", "d1", "d2")
    assert names(Selection(processors=["tpu"]), []) == []


@pytest.mark.parametrize(("fraction", "n"), [(1.0, 6), (0.5, 3), (0.34, 3), (1 / 3, 2), (0.001, 1)])
def test_a_fraction_is_rounded_up(fraction: float, n: int) -> None:
    assert len(names(Selection(fraction=fraction), [])) == n


def test_a_deadline_keeps_those_who_are_done_by_then() -> None:
    known = [took(f"d{number}", device_s=10.0 * (number + 1)) for number in range(6)]
    assert names(Selection(round_deadline_s=35.0), known) == ["d0", "d1", "d2"]
    assert names(Selection(round_deadline_s=60.0), known) == ["d0", "d1", "d2", "d3", "d4", "d5"]


def test_uploads_queue_behind_each_other() -> None:
    """Three that train 10 s and upload 4 s: the first ends at 14 s, the second at 18 s, the third at 22 s."""
    known = [took(f"d{number}", 10.0, 4.0) for number in range(3)]
    for deadline_s, n in ((14.0, 1), (17.9, 1), (18.0, 2), (22.0, 3)):
        assert len(names(Selection(round_deadline_s=deadline_s), known, FLEET[:3])) == n


def test_a_device_that_was_never_seen_is_tried() -> None:
    assert names(Selection(round_deadline_s=1.0), [took("d0", 99.0)]) == ["d1", "d2", "d3", "d4", "d5"]


def test_where_none_is_in_time_the_nearest_goes() -> None:
    known = [took(f"d{number}", 10.0 + (number - 2) ** 2) for number in range(6)]
    assert names(Selection(round_deadline_s=1.0), known) == ["d2"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 50), st.floats(0.0, 5)), min_size=1, max_size=6), st.floats(0.5, 100))
def test_the_greedy_choice_ends_in_time(times: list[tuple[float, float]], deadline_s: float) -> None:
    known = {f"d{n}": took(f"d{n}", device_s, upload_s) for n, (device_s, upload_s) in enumerate(times)}
    clients = [ClientInfo(device) for device in known]
    chosen = [client.device for client in Selection(round_deadline_s=deadline_s).draw(1, clients, known)]
    ends = [_round_s([known[device] for device in order]) for order in itertools.permutations(chosen)]
    assert len(chosen) == 1 or min(ends) <= deadline_s + 1e-9


def _round_s(order: list[Experience]) -> float:
    elapsed_s = 0.0
    for client in order:
        elapsed_s = max(elapsed_s, client.device_s) + client.upload_s
    return elapsed_s


def test_an_energy_budget_is_kept_and_followed_in_the_order_of_the_draw() -> None:
    known = [took(f"d{number}", 1.0, energy_j=4.0) for number in range(6)]
    rounds = [
        [client.device for client in Selection(round_energy_j=9.0).draw(n, FLEET, {k.device: k for k in known})]
        for n in range(50)
    ]
    assert all(len(chosen) == 2 for chosen in rounds)
    assert len({tuple(chosen) for chosen in rounds}) > 5, "not always the same two"
    dear = [took("d0", 1.0, energy_j=50.0), took("d1", 1.0, energy_j=20.0)]
    assert names(Selection(round_energy_j=9.0), dear, FLEET[:2]) == ["d1"], "where none fits, the cheapest"
    assert names(Selection(round_energy_j=9.0), dear, FLEET[:3]) == ["d2"], "unknown ones are tried"


@pytest.mark.parametrize(
    "options",
    [
        {"clients": 0},
        {"fraction": 0.0},
        {"fraction": 1.5},
        {"clients": 2, "fraction": 0.5},
        {"round_deadline_s": 0.0},
        {"round_energy_j": float("nan")},
        {"processors": "gpu"},
        {"processors": []},
    ],
)
def test_refuses_what_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        Selection(**options)

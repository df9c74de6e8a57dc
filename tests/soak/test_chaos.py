"""The soak of misbehaving clients, small enough for every run of the tests."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.soak.chaos import KINDS, MODEL, Figures, Options, chaos, groups_of, growth, problems, roles_of

SMALL = Options(seed=7, clients=60, rounds=4, processes=2, faulty=1 / 3, deadline_s=1.0)


@pytest.mark.serial
def test_chaos_neither_stops_a_run_nor_loses_or_doubles_a_measurement() -> None:
    figures = chaos(SMALL)
    assert figures["problems"] == []
    assert figures["rounds"] == 4
    assert figures["measurements"] > 60


def test_every_kind_of_fault_befalls_as_many_and_by_seed() -> None:
    roles = roles_of(SMALL)
    assert roles == roles_of(SMALL)
    assert Counter(roles.values()) == {**dict.fromkeys(KINDS, 2), "honest": 44}
    groups = groups_of(roles, 2)
    assert set(groups) == {"killed", "stopped", "rest-0", "rest-1"}
    assert sum(len(group) for group in groups.values()) == 60


def test_what_goes_wrong_is_told() -> None:
    figures = Figures(walls_s=[9.0], results=[3], peaks_bytes=[1] * 12 + [2] * 8, model=MODEL)
    told = {"d0000": {"measured": ["d0000/0", "d0000/1", "d0000/2"], "left": ["d0000/2"]}}
    found = problems(SMALL, figures, told, Counter({"d0000/0": 2}))
    assert growth(figures) == 2
    for word in ("1 of 4 rounds", "longer than", "with 3 results", "model", "twice", "1 of 2 measurements", "memory"):
        assert any(word in problem for problem in found), word

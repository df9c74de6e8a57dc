"""What our app inside Flower is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.flower.plan import AppPlan, PlannedDevice
from fl.workload import Partition
from profiler.errors import UsageError

DEVICES = (PlannedDevice("pi-0", 0), PlannedDevice("pi-1", 4, threads=2, meters=False))
PLAN = AppPlan("127.0.0.1:9090", "linear", Partition(shards=5), DEVICES, {"features": 8}, fit_timeout_s=60.0)


@given(
    options=st.dictionaries(st.text(max_size=8), st.integers() | st.booleans() | st.text(max_size=8), max_size=3),
    pull_s=st.floats(0.01, 10.0),
)
def test_a_plan_comes_back_as_it_was(options: dict[str, int | str], pull_s: float) -> None:
    plan = AppPlan("[::1]:1", "digits", Partition("dirichlet", 3, 0.1, 7), DEVICES, options, pull_s=pull_s)
    text = plan.to_text()
    assert text.isascii()
    assert AppPlan.from_text(text) == plan


@pytest.mark.parametrize(
    "text", [None, 3, "", "[]", "{}", '{"devices": 3}', PLAN.to_text()[:-1], PLAN.to_text().replace("pull_s", "pull")]
)
def test_what_is_no_plan_of_ours_is_refused(text: object) -> None:
    with pytest.raises(UsageError, match="no plan") as raised:
        AppPlan.from_text(text)
    assert "same version" in str(raised.value)


def test_a_plan_of_a_later_version_is_refused() -> None:
    with pytest.raises(UsageError, match="later"):
        AppPlan.from_text(json.dumps({**json.loads(PLAN.to_text()), "later": 1}))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"device": "pi-1"}, "pi-1"),
        ({"device": "pi-1", "partition-id": 0}, "pi-1"),
        ({"partition-id": 1}, "pi-1"),
        ({"partition-id": 2}, None),
        ({"partition-id": -1}, None),
        ({"partition-id": "0"}, None),
        ({"device": "pi-9", "partition-id": 0}, None),
        ({}, None),
    ],
)
def test_a_node_is_the_device_that_it_says_it_is(config: dict[str, object], expected: str | None) -> None:
    device = PLAN.device_of(config)
    assert (device and device.id) == expected


def test_a_message_lives_as_long_as_its_answer_is_waited_for() -> None:
    assert PLAN.ttl_s({}) == 60.0
    assert PLAN.ttl_s({"cutoff_s": 0.0}) == 60.0
    assert PLAN.ttl_s({"cutoff_s": 5.0}) == 60.0
    assert PLAN.ttl_s({"cutoff_s": 20.0}) == 90.0

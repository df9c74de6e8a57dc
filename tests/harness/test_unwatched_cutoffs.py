"""A cutoff that was sent to a client in which nothing obeys it: the records say so, and a person is told once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fl.loop import CallRecord, RoundResult
from fl.messages import FitRes, Parameters, Scalar
from fl.proxy import Answer, CallTiming
from harness.fleet import parse_fleet
from harness.recorder import IgnoredCutoffs, TaskContext, counts_no_steps, ignores_cutoff
from profiler.errors import SpecError
from tests.harness.test_recorder import SECOND, NoMeter, round_rows


def fit(metrics: dict[str, Scalar], cutoff_s: float) -> CallRecord:
    timing = CallTiming(0, SECOND, 10, 10)
    return CallRecord("d", "p", "fit", {"cutoff_s": cutoff_s}, Answer(FitRes(Parameters(()), 3, metrics), timing))


@pytest.mark.parametrize(
    ("metrics", "cutoff_s", "expected"),
    [
        ({"fit.steps_done": 4}, 5.0, {}),
        ({}, 0.0, {"stopped_by": "unknown"}),
        ({}, 5.0, {"stopped_by": "unknown", "attributes": {"cutoff_ignored": True}}),
    ],
)
def test_the_call_says_that_nobody_counted(
    metrics: dict[str, Scalar], cutoff_s: float, expected: dict[str, object]
) -> None:
    call = fit(metrics, cutoff_s)
    result = RoundResult(1, Parameters(()), (call,), 1.0, 1.0, 0.0, (0, SECOND), None, None, None, 1, 1)
    rows = round_rows(TaskContext("t", 1, 1, {"d": "p"}, frozenset(), ""), result, NoMeter())
    [row] = [row for row in rows if row.get("name") == "call"]
    assert {key: row[key] for key in ("stopped_by", "attributes") if key in row} == expected
    assert counts_no_steps(call) == bool(expected)
    assert ignores_cutoff(call) == ("attributes" in expected)


def test_a_call_that_failed_is_no_call_that_ignored() -> None:
    assert not ignores_cutoff(CallRecord("d", "p", "fit", {"cutoff_s": 5.0}, None, "no answer"))


def test_each_device_is_told_of_once() -> None:
    ignored = IgnoredCutoffs()
    rounds = [[replace(fit({}, 5.0), device=device) for device in devices] for devices in ("ba", "ac", "abc")]
    assert [ignored.new(calls) for calls in rounds] == [["a", "b"], ["c"], []]
    assert ignored.new([replace(fit({"fit.steps_done": 1}, 5.0), device="d")]) == []


FLEET = 'name = "lab"\n[[device]]\nid = "phone"\nprocessor = "soc"\n'


def test_a_device_entry_says_how_its_tensors_are_encoded() -> None:
    assert parse_fleet(FLEET, "f", cores=1).devices[0].tensors == "npy"
    assert parse_fleet(FLEET + 'tensors = "float32"\n', "f", cores=1).devices[0].tensors == "float32"
    with pytest.raises(SpecError, match="tensors = 'float16'; it is one of npy, float32"):
        parse_fleet(FLEET + 'tensors = "float16"\n', "f", cores=1)

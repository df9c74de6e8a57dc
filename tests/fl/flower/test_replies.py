"""Replies of Flower's nodes as calls, with records of their shape."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.flower.replies import Nodes, Phase, WatchedGrid, take
from fl.loop import CallRecord
from fl.messages import FitRes, Parameters
from fl.proxy import Answer, CallTiming
from fl.wire.measurement import RECORD_KEY, encode_spans
from profiler.clock import FakeClock
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.records import Resources, SpanRecord


class Content(dict[str, Any]):
    """A RecordDict: a record of metrics is a dict, one of configuration a ConfigRecord."""

    @property
    def config_records(self) -> dict[str, Any]:
        return {name: record for name, record in self.items() if isinstance(record, ConfigRecord)}

    @property
    def metric_records(self) -> dict[str, Any]:
        return {name: record for name, record in self.items() if not isinstance(record, ConfigRecord)}

    array_records: Mapping[str, Any] = {}


class ConfigRecord(dict[str, Any]):
    pass


@dataclass
class Message:
    content: Content
    metadata: Any
    error: Any = None

    def has_error(self) -> bool:
        return self.error is not None


@dataclass
class Grid:
    """Answers each node with what `answers` has for it, one poll after the other; nothing for other nodes."""

    clock: FakeClock
    answers: Mapping[int, Content | str]
    asked: dict[str, int] = field(default_factory=dict)

    def send_and_receive(self, messages: list[Message], *, timeout: float | None = None) -> list[Message]:
        waiting, replies = set(self.push_messages(messages)), list[Message]()
        for _ in range(len(messages)):
            self.clock.advance(1.0)
            found = self.pull_messages(waiting)
            waiting -= {message.metadata.reply_to_message_id for message in found}
            replies += found
        return replies

    def push_messages(self, messages: list[Message]) -> list[str]:
        for n, message in enumerate(messages):
            message.metadata.message_id = f"message-{n}"
            self.asked[message.metadata.message_id] = message.metadata.dst_node_id
        return list(self.asked)

    def pull_messages(self, message_ids: set[str]) -> list[Message]:
        for message_id in sorted(message_ids):
            answer = self.answers.get(self.asked[message_id])
            if answer is not None:
                metadata = SimpleNamespace(reply_to_message_id=message_id)
                if isinstance(answer, str):
                    return [Message(Content(), metadata, SimpleNamespace(code=3, reason=answer))]
                return [Message(answer, metadata)]
        return []


def fit_span(energy_j: float, cpu_s: float, host_cpu_s: float) -> SpanRecord:
    total = EnergyReading("package", energy_j, energy_j / 10, Provenance.COUNTER, Scope.HOST, coverage=1.0)
    attributes = {"call": "fit", "round": 1, "host_cpu_s": host_cpu_s}
    return SpanRecord("1", "fit", 0, 1.0, total=total, resources=Resources(cpu_s=cpu_s), attributes=attributes)


def reply(span: SpanRecord | None = None, /, **told: Any) -> Content:
    numbers = {"num-examples": 40, "train_loss": 0.5, "fit.duration_s": 2.0, "fit.energy_j": 7.0}
    data = {} if span is None else {RECORD_KEY: encode_spans([span])}
    return Content(metrics=dict(numbers), fedmeter=ConfigRecord({"device": "pi", "processor": "arm", **told, **data}))


def phase_of(answers: Mapping[int, Content | str], nodes: Nodes | None = None, asked: int = 2) -> Phase:
    clock = FakeClock()
    grid = WatchedGrid(Grid(clock, answers), clock)
    config = Content(config=ConfigRecord({"lr": 0.1}))
    messages = [Message(config, SimpleNamespace(dst_node_id=n, message_id="")) for n in range(1, asked + 1)]
    return take("fit", grid, grid.send_and_receive(messages), nodes or Nodes(), "num-examples")


def answer_of(call: CallRecord) -> Answer[FitRes]:
    assert call.answer is not None
    assert isinstance(call.answer.result, FitRes)
    return call.answer  # type: ignore[return-value]


def test_what_is_left_of_a_reply_is_the_apps_own() -> None:
    content = reply(epochs=3, cutoff_s=1.5)
    [call] = phase_of({1: content}, asked=1).calls
    assert content == {"metrics": {"num-examples": 40, "train_loss": 0.5}}
    assert (call.device, call.processor, call.config) == ("pi", "arm", {"epochs": 3, "lr": 0.1, "cutoff_s": 1.5})
    assert answer_of(call).result.num_examples == 40
    assert answer_of(call).result.metrics["fit.energy_j"] == 7.0


def test_a_node_without_the_mod_is_known_by_its_id() -> None:
    [call] = phase_of({1: Content(metrics={"num-examples": 4})}, asked=1).calls
    assert (call.device, call.processor, answer_of(call).spans) == ("node-1", "", ())


def test_arrivals_are_when_a_reply_was_fetched() -> None:
    phase = phase_of({1: reply(), 2: reply(device="other")})
    took = [answer_of(call).timing.round_trip_s for call in phase.calls]
    assert took == [1.0, 2.0]
    assert phase.length_s == 2.0
    assert {answer_of(call).timing.download_s for call in phase.calls} == {None}


def test_who_fails_is_named_with_the_reason() -> None:
    nodes = Nodes()
    nodes.meet(1, {"device": "pi", "processor": "arm"})
    phase = phase_of({1: "Message Unavailable"}, nodes)
    assert [(call.device, call.failure) for call in phase.calls] == [
        ("pi", "Message Unavailable (code 3)"),
        ("node-2", "no reply before the timeout"),
    ]


@pytest.mark.parametrize("name", ["../../etc", "", "a/b", "x" * 65, "pi\n"])
def test_a_name_that_is_none_is_not_taken(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fl"):
        [call] = phase_of({1: reply(device=name)}, asked=1).calls
    assert call.device == "node-1"
    assert "which is no name" in caplog.text


def test_two_nodes_of_one_name_are_two() -> None:
    assert [call.device for call in phase_of({1: reply(), 2: reply()}).calls] == ["pi", "node-2"]


def test_a_damaged_record_costs_itself_alone(caplog: pytest.LogCaptureFixture) -> None:
    [call] = phase_of({1: reply(**{RECORD_KEY: b"\xff" * 9})}, asked=1).calls
    assert answer_of(call).spans == ()
    assert answer_of(call).result.num_examples == 40
    assert "pi: its measurement is dropped" in caplog.text


def test_one_machine_is_shared_by_cpu_time_also_with_a_node_that_failed() -> None:
    nodes = Nodes()
    nodes.meet(2, {"device": "late", "machine": "m"})
    phase = phase_of({1: reply(fit_span(10.0, 1.0, 4.0), machine="m"), 2: "gone"}, nodes)
    [span] = answer_of(phase.calls[0]).spans
    assert span.total is not None
    assert (span.total.energy_j, span.total.energy_err_j, span.total.scope) == (2.5, 0.25, Scope.PROCESS)
    assert phase.totals("fit")["fit.energy_j"] == 2.5


def test_machines_of_their_own_keep_what_they_measured() -> None:
    answers = {n: reply(fit_span(10.0, 1.0, 4.0), device=f"d{n}", machine=f"m{n}") for n in (1, 2)}
    assert [
        span.total.energy_j for call in phase_of(answers).calls for span in answer_of(call).spans if span.total
    ] == [
        10.0,
        10.0,
    ]


def test_a_share_that_cannot_be_told_is_missing_and_so_is_the_sum() -> None:
    spanned = {n: reply(fit_span(10.0, 0.0, 0.0), device=f"d{n}", machine="m") for n in (1, 2)}
    phase = phase_of(spanned)
    assert "fit.energy_j" not in phase.totals("fit")
    [span] = answer_of(phase.calls[0]).spans
    assert span.total is not None
    assert span.total.provenance is Provenance.MISSING
    assert "share the meter" in str(span.total.reason)


def fitted(energy_j: float | None, duration_s: float) -> CallRecord:
    known = {} if energy_j is None else {"fit.energy_j": energy_j}
    result = FitRes(Parameters(()), 1, {"fit.duration_s": duration_s, **known})
    return CallRecord("d", "", "fit", {}, Answer(result, CallTiming(0, 1, 1, 1)))


PARTS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=8)


@given(PARTS, st.randoms(use_true_random=False))
def test_joules_add_up_and_seconds_do_not_whatever_the_order(parts: list[tuple[float, float]], random: Any) -> None:
    calls = [fitted(*part) for part in parts]
    totals = Phase(tuple(calls), (0, 1)).totals("fit")
    random.shuffle(calls)
    assert Phase(tuple(calls), (0, 1)).totals("fit") == totals
    assert totals["fit.energy_j"] == math.fsum(energy_j for energy_j, _ in parts)
    assert totals["fit.duration_s"] == max(duration_s for _, duration_s in parts)


@given(PARTS)
def test_one_unknown_makes_no_smaller_sum(parts: list[tuple[float, float]]) -> None:
    totals = Phase((*(fitted(*part) for part in parts), fitted(None, 1.0)), (0, 1)).totals("fit")
    assert "fit.energy_j" not in totals
    assert "fit.energy_j" not in Phase((fitted(math.nan, 1.0),), (0, 1)).totals("fit")

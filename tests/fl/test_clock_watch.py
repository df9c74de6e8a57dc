"""A wall clock that was set is told from one that is slewed, and from time that passed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.clock_watch import SET_KEY, ClockWatch
from fl.instrument import instrument
from fl.messages import FitIns, Parameters
from fl.responder import Responder
from fl.wire import codec
from fl.wire.measurement import RECORD_KEY, decode_spans
from fl.workload import Partition, load_workload
from profiler.records import SpanRecord


class Clocks:
    def __init__(self) -> None:
        self.wall_s = 1_700_000_000.0
        self.steady_s = 100.0

    def watch(self) -> ClockWatch:
        return ClockWatch(lambda: self.wall_s, lambda: self.steady_s)

    def pass_by(self, seconds: float, *, slewed: float = 0.0) -> None:
        self.steady_s += seconds
        self.wall_s += seconds * (1 + slewed)


@given(
    passed_s=st.floats(0, 1e5),
    slewed=st.floats(-5e-4, 5e-4),
    step_s=st.one_of(st.floats(-1e9, -200), st.floats(200, 1e9), st.just(0.0)),
)
def test_a_step_is_told_and_slewing_is_not(passed_s: float, slewed: float, step_s: float) -> None:
    clocks = Clocks()
    watch = clocks.watch()
    clocks.pass_by(passed_s, slewed=slewed)
    clocks.wall_s += step_s
    found = watch.set_by_s()
    if step_s == 0:
        assert found is None
    else:
        assert found == pytest.approx(step_s, abs=1 + 5e-4 * passed_s)
    assert watch.set_by_s() is None, "each once"


def test_the_next_instruction_after_it_says_so() -> None:
    clocks = Clocks()
    client = load_workload("linear").client(0, Partition())
    responder = Responder(instrument(client), clocks.watch())
    model = Parameters(tuple(client.get_parameters({})))
    ask = codec.encode_instruction(FitIns(model, {"round": 1, "telemetry": "full"}))

    def receive() -> SpanRecord:
        reply = codec.decode_reply(responder.answer(ask, 0).data)
        record = reply.metrics[RECORD_KEY]  # type: ignore[union-attr]
        assert isinstance(record, bytes)
        return [span for span in decode_spans(record) if span.name == "receive"][-1]

    assert SET_KEY not in receive().attributes
    clocks.wall_s -= 3600
    assert receive().attributes[SET_KEY] == pytest.approx(-3600)
    assert SET_KEY not in receive().attributes
    responder.close()

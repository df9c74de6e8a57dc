"""Instrumented clients: what is measured, what is told, and what is told only when asked for."""

from __future__ import annotations

import numpy as np
import pytest

from fl.instrument import MAX_WAITING_SPANS, Spool, instrument
from fl.messages import Array, Config, Scalar
from fl.steps import steps
from fl.wire.measurement import RECORD_KEY, decode_spans
from profiler.clock import FakeClock
from profiler.errors import UsageError
from profiler.records import SpanRecord
from profiler.span import Profiler

ONES = [np.ones(2, dtype=np.float32)]


class Stepping:
    """Ten steps of 1 s an epoch, on a fake clock."""

    def __init__(self, clock: FakeClock, profiler: Profiler | None = None) -> None:
        self._clock = clock
        self._profiler = profiler

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return {}

    def get_parameters(self, config: Config) -> list[Array]:
        return ONES

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        if config.get("fail"):
            raise RuntimeError("no power")
        for _ in range(int(config["epochs"])):
            for _ in steps(range(10)):
                self._clock.advance(1.0)
        if self._profiler is not None:
            with self._profiler.span("save"):
                self._clock.advance(0.5)
        return parameters, 7, {"loss": 0.25, "accuracy": float("nan"), "mine": 1}

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        self._clock.advance(2.0)
        return np.float32(0.125), np.int64(3), {"accuracy": 0.5}  # type: ignore[return-value]


def make() -> tuple[FakeClock, list[SpanRecord], Profiler]:
    clock = FakeClock()
    seen: list[SpanRecord] = []
    return clock, seen, Profiler(clock=clock, sink=seen)


def test_a_fit_without_cutoff_tells_all_its_steps() -> None:
    clock, seen, profiler = make()
    client = instrument(Stepping(clock), profiler)
    arrays, num_examples, metrics = client.fit(ONES, {"epochs": 2, "round": 4})
    assert (len(arrays), num_examples) == (1, 7)
    assert metrics["mine"] == 1
    assert metrics["fit.duration_s"] == 20.0
    assert (metrics["fit.steps_done"], metrics["fit.steps_planned"]) == (20, 20)
    assert (metrics["fit.stopped_by_cutoff"], metrics["fit.cutoff_s"]) == (0, 0.0)
    assert "fit.energy_j" not in metrics, "nothing metered: absent, not 0"
    assert RECORD_KEY not in metrics, "nobody asked for it"
    assert all(isinstance(value, (int, float)) for value in metrics.values()), "any Flower server can average these"
    [span] = seen
    assert span.attributes == {
        "call": "fit",
        "round": 4,
        "examples": 7,
        "loss": 0.25,
        "steps_done": 20,
        "steps_planned": 20,
        "stopped_by": "completed",
        "cutoff_s": 0.0,
    }
    assert span.steps_s == (1.0,) * 20
    assert span.warmup_steps == 1


def test_a_cutoff_in_the_config_stops_the_fit_before_it_is_crossed() -> None:
    clock, _, profiler = make()
    _, _, metrics = instrument(Stepping(clock), profiler).fit(ONES, {"epochs": 3, "cutoff_s": 5.5})
    assert metrics["fit.steps_done"] == 5
    assert metrics["fit.steps_planned"] == 30
    assert metrics["fit.stopped_by_cutoff"] == 1
    assert metrics["fit.cutoff_s"] == 5.5
    assert metrics["fit.duration_s"] == 5.0


def test_the_record_holds_every_span_once_the_users_own_among_them() -> None:
    clock, _, profiler = make()
    client = instrument(Stepping(clock, profiler), profiler)
    client.fit(ONES, {"epochs": 1, "round": 1})
    _, _, metrics = client.fit(ONES, {"epochs": 1, "round": 2, "telemetry": "full"})
    record = metrics[RECORD_KEY]
    assert isinstance(record, bytes)
    spans = decode_spans(record)
    assert [span.name for span in spans] == ["save", "fit", "save", "fit"]
    assert spans[0].parent_id == spans[1].span_id
    loss, num_examples, metrics = client.evaluate(ONES, {"telemetry": "full"})
    assert (loss, num_examples) == (0.125, 3)
    record = metrics[RECORD_KEY]
    assert isinstance(record, bytes)
    [span] = decode_spans(record)
    assert span.name == "evaluate"
    assert span.attributes == {"call": "evaluate", "examples": 3, "loss": 0.125, "accuracy": 0.5}
    assert metrics["evaluate.duration_s"] == 2.0
    assert "evaluate.steps_done" not in metrics


def test_a_fit_that_raises_leaves_a_span_that_says_so() -> None:
    clock, seen, profiler = make()
    client = instrument(Stepping(clock), profiler)
    with pytest.raises(RuntimeError, match="no power"):
        client.fit(ONES, {"epochs": 1, "fail": True})
    [span] = seen
    assert span.status == "error"
    assert "no power" in str(span.attributes["error"])


@pytest.mark.parametrize(
    "config", [{"cutoff_s": "soon"}, {"cutoff_s": -1.0}, {"cutoff_s": True}, {"epochs": 0}, {"epochs": 1.5}]
)
def test_a_config_that_makes_no_sense_is_refused_by_key(config: dict[str, Scalar]) -> None:
    clock, _, profiler = make()
    with pytest.raises(UsageError, match=next(iter(config))):
        instrument(Stepping(clock), profiler).fit(ONES, {"epochs": 1, **config})


def test_without_a_profiler_times_are_real() -> None:
    clock = FakeClock()
    _, _, metrics = instrument(Stepping(clock)).fit(ONES, {"epochs": 1})
    assert 0 < float(metrics["fit.duration_s"]) < 5
    assert int(metrics["fit.peak_rss_bytes"]) > 1_000_000


def test_the_spool_is_bounded_and_counts_what_it_loses() -> None:
    spool = Spool()
    for index in range(MAX_WAITING_SPANS + 5):
        spool.add(SpanRecord(str(index), "fit", 0, 1.0))
    assert spool.n_lost == 5
    assert spool.take()[0].span_id == "5"


def test_a_span_that_cannot_be_sent_costs_only_itself() -> None:
    clock, _, profiler = make()
    client = instrument(Stepping(clock), profiler)
    with profiler.span("mine", size=2**80, note="x" * 5000):
        pass
    with profiler.span("other", note="x" * 5000):
        pass
    _, _, metrics = client.fit(ONES, {"epochs": 1, "telemetry": "full"})
    record = metrics[RECORD_KEY]
    assert isinstance(record, bytes)
    spans = decode_spans(record)
    assert [span.name for span in spans] == ["other", "fit"]
    assert spans[0].attributes["note"] == "x" * 1000

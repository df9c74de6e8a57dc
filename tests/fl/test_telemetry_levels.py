"""What a client tells at each level of `telemetry`, and of a training loop that does not count its steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fl.flower_style import NumPyClient
from fl.instrument import InstrumentedClient, instrument
from fl.messages import Array, Config, Scalar
from fl.steps import steps
from fl.wire.measurement import RECORD_KEY
from profiler.clock import FakeClock
from profiler.errors import UsageError
from profiler.records import SpanRecord
from profiler.resources import ResourceReader
from profiler.span import Profiler
from tests.fixtures.throttling import x86

MODEL = [np.zeros(2, dtype=np.float32)]


class Counting(NumPyClient):
    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        if config.get("count", True):
            for _ in steps(range(3)):
                pass
        return parameters, 5, {}

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        return 0.5, 5, {}


@pytest.fixture
def client(tmp_path: Path) -> tuple[InstrumentedClient, list[SpanRecord]]:
    """On a machine that says whether it throttles: that is text, and no server can average it."""
    x86(tmp_path)
    clock, seen = FakeClock(), list[SpanRecord]()
    return instrument(Counting(), Profiler(clock=clock, sink=seen, resources=ResourceReader(clock, tmp_path))), seen


@pytest.mark.parametrize("level", [None, "flat", "everything", 1, True])
def test_without_a_level_that_is_known_numbers_travel_alone(
    client: tuple[InstrumentedClient, list[SpanRecord]], level: Scalar | None
) -> None:
    config: Config = {} if level is None else {"telemetry": level}
    _, _, metrics = client[0].fit(MODEL, config)
    assert client[1][0].resources.throttling == "", "it is known, and nothing throttles"
    assert {type(value) for value in metrics.values()} <= {int, float}
    assert metrics["fit.steps_done"] == 3
    _, _, metrics = client[0].evaluate(MODEL, config)
    assert {type(value) for value in metrics.values()} <= {int, float}


def test_full_tells_text_and_the_record_too(client: tuple[InstrumentedClient, list[SpanRecord]]) -> None:
    _, _, metrics = client[0].fit(MODEL, {"telemetry": "full"})
    text = {key: value for key, value in metrics.items() if isinstance(value, str)}
    reason = text.pop("fit.energy_reason")
    assert "no sensor" in str(reason)
    assert text == {
        "fit.stopped_by": "completed",
        "fit.provenance": "missing",
        "fit.energy_scope": "device",
        "fit.throttling": "",
    }
    assert isinstance(metrics[RECORD_KEY], bytes)
    _, _, metrics = client[0].evaluate(MODEL, {"telemetry": "full"})
    assert "evaluate.stopped_by" not in metrics


def test_a_loop_that_does_not_count_is_metered_and_told_apart(
    client: tuple[InstrumentedClient, list[SpanRecord]],
) -> None:
    _, _, metrics = client[0].fit(MODEL, {"count": False, "cutoff_s": 5.0, "telemetry": "full"})
    assert "fit.steps_done" not in metrics
    assert "fit.stopped_by_cutoff" not in metrics
    assert (metrics["fit.stopped_by"], metrics["fit.duration_s"]) == ("unknown", 0.0)
    assert client[1][-1].attributes["stopped_by"] == "unknown"


def test_a_client_that_leaves_calls_out_still_answers() -> None:
    class Least:
        def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
            return parameters, 1, {}

        def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
            return 0.0, 1, {}

    assert instrument(Least()).get_properties({}) == {}
    with pytest.raises(UsageError, match="int is no client"):
        instrument(3)

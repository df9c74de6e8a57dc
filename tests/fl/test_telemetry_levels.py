"""What a client tells at each level of `telemetry`, and of a training loop that does not count its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fl.flower_style import NumPyClient
from fl.instrument import InstrumentedClient, instrument
from fl.messages import Array, Config, Scalar
from fl.steps import steps
from fl.wire.measurement import RECORD_KEY, decode_spans
from fl.wire.samples import SAMPLES_KEY, decode_samples
from profiler.clock import FakeClock
from profiler.errors import UsageError
from profiler.kept_samples import KeptSamples
from profiler.records import SpanRecord
from profiler.resources import ResourceReader
from profiler.sampler import Sampler
from profiler.sensors.fake import FakeSensor
from profiler.span import Profiler
from tests.fixtures.throttling import x86
from tests.profiler.rails import counter_rail, power_rail

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


class Slow(Counting):
    """Every step takes a tenth of a second of this clock, and the meter is read then, as its thread would."""

    def __init__(self, clock: FakeClock, sampler: Sampler, n_steps: int) -> None:
        self._clock = clock
        self._sampler = sampler
        self._n_steps = n_steps

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        for _ in range(self._n_steps):
            self._clock.advance(0.1)
            self._sampler.sample_now()
        return parameters, 5, {}


@pytest.fixture
def metered() -> Iterator[Callable[[int], InstrumentedClient]]:
    """A client with a meter of two rails, one of which cannot be read at first."""
    clock = FakeClock()
    clock.advance(100.0)
    rails = [power_rail("VDD_IN"), counter_rail("package-0")]
    sensor = FakeSensor(rails, lambda t_s: [10.0 if t_s > 0.05 else None, 20.0 * t_s], clock)
    with Sampler(sensor, clock, rate_hz=1e-6) as sampler:
        yield lambda n_steps: instrument(Slow(clock, sampler, n_steps), Profiler((sampler,), clock, resources=False))


def test_samples_tell_what_was_read_in_the_span(metered: Callable[[int], InstrumentedClient]) -> None:
    client = metered(2)
    _, _, metrics = client.fit(MODEL, {"telemetry": "samples"})
    told = decode_samples(metrics[SAMPLES_KEY])  # type: ignore[arg-type]
    [span] = decode_spans(metrics[RECORD_KEY])  # type: ignore[arg-type]
    assert (told.span_id, told.start_ns) == (span.span_id, span.start_ns)
    volts, package = told.rails
    assert (volts.rail, package.rail) == ("VDD_IN", "package-0")
    since_ns = [t_ns - span.start_ns for t_ns in package.t_ns]
    assert since_ns == [0, 100_000_000, 200_000_000, 200_000_000], "both edges, and what was taken between"
    assert package.values == pytest.approx([0.0, 2.0, 4.0, 4.0])
    assert volts.values == (10.0, 10.0, 10.0), "what was not read is not there"
    assert (volts.every, package.every) == (1, 1)


@pytest.mark.parametrize("level", ["flat", "full", None, "everything"])
def test_no_sample_is_kept_at_another_level(
    metered: Callable[[int], InstrumentedClient], level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(kept: KeptSamples, t_ns: int, values: object) -> None:
        raise AssertionError("kept")

    monkeypatch.setattr(KeptSamples, "add", refuse)
    _, _, metrics = metered(2).fit(MODEL, {} if level is None else {"telemetry": level})
    assert SAMPLES_KEY not in metrics


def test_samples_of_a_long_span_are_thinned_out_evenly_and_say_so(
    metered: Callable[[int], InstrumentedClient],
) -> None:
    _, _, metrics = metered(20_000).fit(MODEL, {"telemetry": "samples"})
    data = metrics[SAMPLES_KEY]
    assert isinstance(data, bytes)
    assert 10_000 < len(data) <= 65_536
    for rail in decode_samples(data).rails:
        assert rail.every == 16
        gaps_ns = {later - before for before, later in pairwise(rail.t_ns[1:-1])}
        assert gaps_ns == {1_600_000_000}
        assert rail.t_ns[-1] - rail.t_ns[0] == pytest.approx(2_000e9, abs=2e9)


def test_a_client_without_a_meter_has_no_samples(client: tuple[InstrumentedClient, list[SpanRecord]]) -> None:
    _, _, metrics = client[0].fit(MODEL, {"telemetry": "samples"})
    assert SAMPLES_KEY not in metrics
    assert RECORD_KEY in metrics
    assert client[0].get_properties({"telemetry": "samples"}) == client[0].get_properties({"telemetry": "full"}) != {}


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

"""The FL loop: concurrent calls, streaming aggregation, failures by name, windows and waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from fl.aggregate import WeightedMean
from fl.in_process import InProcessProxy
from fl.instrument import instrument
from fl.loop import CallName, RoundResult, run_rounds
from fl.messages import Array, Config, Parameters
from fl.proxy import ClientInfo, ClientProxy
from fl.strategy import Aggregator, Assignment, Experience
from profiler.clock import SystemClock
from profiler.errors import PreconditionError
from tests.fl.clients import Unruly

START = Parameters((np.zeros(2, dtype=np.float32),))


class Scripted:
    """Each device's config by round: `modes[device][round]`; evaluates where `evaluate` is set."""

    name = "scripted"

    def __init__(
        self, modes: dict[str, str] | None = None, *, evaluate: bool = False, deadline_s: float = 10.0
    ) -> None:
        self._modes = modes or {}
        self._evaluate = evaluate
        self._deadline_s = deadline_s

    def configure_fit(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        return [Assignment(info.device, self._config(round_, info.device), self._deadline_s) for info in clients]

    def configure_evaluate(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        if not self._evaluate:
            return []
        return [Assignment(info.device, {"round": round_}, self._deadline_s) for info in clients]

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator:
        return WeightedMean(parameters)

    def observe(self, round_: int, calls: Sequence[Experience]) -> None:
        pass

    def state(self) -> list[Array]:
        return []

    def restore(self, state: Sequence[Array]) -> None:
        pass

    def _config(self, round_: int, device: str) -> Config:
        return {"round": round_, "mode": self._modes.get(device, ""), "telemetry": "full", "seconds": 0.3}


class Watcher:
    def __init__(self) -> None:
        self.waiting: set[str] = set()
        self.most_waiting = 0
        self.events: list[tuple[int, CallName, str, str | None]] = []

    def call_started(self, round_: int, call: CallName, device: str) -> None:
        self.waiting.add(device)
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def call_finished(self, round_: int, call: CallName, device: str, failure: str | None) -> None:
        self.waiting.remove(device)
        self.events.append((round_, call, device, failure))


@contextmanager
def fleet(*devices: str) -> Iterator[list[InProcessProxy]]:
    proxies = [InProcessProxy(ClientInfo(device, processor=f"p-{device}"), instrument(Unruly())) for device in devices]
    try:
        yield proxies
    finally:
        for proxy in proxies:
            proxy.close()


def run(proxies: Sequence[ClientProxy], strategy: Scripted, **options: object) -> list[RoundResult]:
    async def collect() -> list[RoundResult]:
        settings: dict[str, object] = {"parameters": START, "rounds": [1], "clock": SystemClock(), **options}
        rounds = run_rounds(strategy, lambda: proxies, **settings)  # type: ignore[arg-type]
        return [result async for result in rounds]

    return asyncio.run(collect())


def test_rounds_build_on_each_other() -> None:
    with fleet("a", "b") as proxies:
        results = run(proxies, Scripted(), rounds=range(4, 7))
    assert [result.round for result in results] == [4, 5, 6]
    assert [result.parameters.arrays[0].tolist() for result in results] == [[1, 1], [2, 2], [3, 3]]
    assert all((result.n_selected, result.n_results, result.n_failures) == (2, 2, 0) for result in results)
    assert all(result.loss is None and result.accuracy is None for result in results)


def test_all_clients_fit_at_once_and_the_round_lasts_as_long_as_the_slowest() -> None:
    watcher = Watcher()
    with fleet("a", "b", "c", "d") as proxies:
        [result] = run(proxies, Scripted(dict.fromkeys("abcd", "hang")), observer=watcher)
    assert watcher.most_waiting == 4
    assert not watcher.waiting
    assert 0.3 <= result.fit_time_s < 0.9, "four fits of 0.3 s, one after another, take 1.2 s"
    assert result.time_s == result.fit_time_s
    assert result.evaluate_window_ns is None


def test_the_records_of_a_round_say_who_did_what() -> None:
    with fleet("a", "b") as proxies:
        [result] = run(proxies, Scripted(evaluate=True))
    assert [(call.device, call.call) for call in result.calls] == [
        ("a", "fit"),
        ("b", "fit"),
        ("a", "evaluate"),
        ("b", "evaluate"),
    ]
    fit = result.calls[0]
    assert fit.processor == "p-a"
    assert fit.config["round"] == 1
    assert fit.answer is not None
    assert fit.answer.spans
    assert fit.answer.result.parameters.arrays == (), "folded in, so not kept"  # type: ignore[union-attr]
    assert result.evaluate_window_ns is not None
    evaluate_s = (result.evaluate_window_ns[1] - result.evaluate_window_ns[0]) / 1e9
    assert result.time_s == pytest.approx(result.fit_time_s + evaluate_s)


def test_the_servers_own_work_is_counted_apart() -> None:
    def slow(parameters: Parameters) -> tuple[float, float]:
        time.sleep(0.3)
        return 0.5, float(parameters.arrays[0][0])

    with fleet("a") as proxies:
        [result] = run(proxies, Scripted(), evaluate=slow)
    assert (result.loss, result.accuracy) == (0.5, 1.0)
    assert result.server_s >= 0.3
    assert result.time_s < 0.3


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("raise", "RuntimeError: out of cake"), ("shape", "tensor 0 has shape"), ("nan", "not finite")],
)
def test_one_that_fails_is_recorded_and_the_round_goes_on(mode: str, reason: str) -> None:
    watcher = Watcher()
    with fleet("a", "b") as proxies:
        first, second = run(proxies, Scripted({"b": mode}), rounds=[1, 2], observer=watcher)
    for result in (first, second):
        assert (result.n_selected, result.n_results, result.n_failures) == (2, 1, 1)
        failed = result.calls[1]
        assert failed.device == "b"
        assert failed.answer is None
        assert failed.failure is not None
        assert reason in failed.failure
    assert second.parameters.arrays[0].tolist() == [2, 2]
    assert {event[2]: event[3] is None for event in watcher.events} == {"a": True, "b": False}


def test_where_all_fail_the_model_stays_and_the_time_counts() -> None:
    with fleet("a") as proxies:
        [result] = run(proxies, Scripted({"a": "hang"}, deadline_s=0.1))
    assert result.parameters is START
    assert result.n_results == 0
    assert 0.1 <= result.time_s < 0.3


def test_a_late_client_misses_a_round_and_joins_the_next() -> None:
    with fleet("a", "b") as proxies:
        strategy = Scripted({"b": "hang"}, deadline_s=0.2)
        results = run(proxies, strategy, rounds=[1, 2], min_clients=2, wait_s=5.0)
    assert [result.n_selected for result in results] == [2, 2]
    assert [result.n_failures for result in results] == [1, 1]
    assert proxies[1].receipts.n_late >= 1


def test_too_few_clients_are_waited_for_and_then_named() -> None:
    with fleet("a") as proxies:
        begin_s = time.monotonic()
        with pytest.raises(PreconditionError, match=r"1 of 2 clients are ready after 0\.2 s .*ready: a"):
            run(proxies, Scripted(), min_clients=2, wait_s=0.2)
        assert 0.2 <= time.monotonic() - begin_s < 2


def test_a_client_that_left_between_asking_and_calling_fails_by_name() -> None:
    with fleet("a", "b") as proxies:
        asked: list[int] = []

        def leaving() -> Sequence[ClientProxy]:
            asked.append(1)
            return proxies if len(asked) == 1 else proxies[:1]

        async def one() -> RoundResult:
            rounds = run_rounds(Scripted(), leaving, parameters=START, rounds=[1], clock=SystemClock())
            return await rounds.__anext__()

        result = asyncio.run(one())
    assert [call.failure for call in result.calls] == [None, "the client has left"]


def test_what_a_refused_update_measured_stays_in_its_record() -> None:
    with fleet("a", "b") as proxies:
        [result] = run(proxies, Scripted({"a": "nan", "b": "raise"}))
    for call in result.calls:
        assert call.answer is None
        assert [span.name for span in call.spans if span.name == "fit"] == ["fit"], call.device


def test_a_late_reply_is_told_in_the_round_it_came_in_and_not_folded_in() -> None:
    with fleet("a", "b") as proxies:
        strategy = Scripted({"b": "hang"}, deadline_s=0.2)
        first, second = run(
            proxies, strategy, rounds=[1, 2], min_clients=2, wait_s=5.0, strays=proxies[1].receipts.take
        )
    assert (first.n_late, second.n_late) == (0, 1)
    [late] = second.strays
    assert (late.device, late.call, late.round) == ("b", "fit", 1)
    assert late.late_s == pytest.approx(0.1, abs=0.3)
    assert [span.attributes["round"] for span in late.spans if span.name == "fit"] == [1]
    assert second.parameters.arrays[0].tolist() == [2, 2]

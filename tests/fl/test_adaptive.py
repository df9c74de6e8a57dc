"""Cutoffs that are found on the way: parity with the fastest, a target, and what drifts in between."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from fl.proxy import ClientInfo
from fl.strategies.adaptive import Adaptive
from fl.strategy import Experience
from profiler.errors import UsageError

GPU, CPU = ClientInfo("a", "gpu"), ClientInfo("b", "cpu")
OPTIONS: dict[str, Any] = {"epochs": 10, "batch_size": 16, "lr": 0.01}


def took(client: ClientInfo, fit_s: float, communication_s: float = 1.0, *, is_cut: bool = False) -> Experience:
    each_s = communication_s / 2
    return Experience(client.device, client.processor, fit_s, each_s, each_s, fit_s, is_cut)


def cutoffs(strategy: Adaptive, round_: int = 9) -> dict[str, float]:
    assigned = strategy.configure_fit(round_, [GPU, CPU])
    return {part.device: float(part.config["cutoff_s"]) for part in assigned}


def test_it_measures_first_and_then_sets_parity() -> None:
    strategy = Adaptive(measure_rounds=2, **OPTIONS)
    assert cutoffs(strategy, 1) == {"a": 0.0, "b": 0.0}
    strategy.observe(1, [took(GPU, 79.0), took(CPU, 102.0)])
    assert cutoffs(strategy, 2) == {"a": 0.0, "b": 0.0}
    strategy.observe(2, [took(GPU, 81.0), took(CPU, 102.0)])
    assert cutoffs(strategy) == {"a": 0.0, "b": 80.0}


def test_slower_communication_leaves_less_time_and_faster_no_more() -> None:
    for communication_s, cutoff_s in ((5.0, 76.0), (0.1, 80.0)):
        strategy = Adaptive(measure_rounds=1, **OPTIONS)
        strategy.observe(1, [took(GPU, 80.0), took(CPU, 102.0, communication_s)])
        assert cutoffs(strategy)["b"] == pytest.approx(cutoff_s)


def test_it_follows_the_reference_and_ignores_windows_that_were_cut() -> None:
    strategy = Adaptive(measure_rounds=1, **OPTIONS)
    strategy.observe(1, [took(GPU, 80.0), took(CPU, 102.0)])
    for round_ in range(2, 40):
        strategy.observe(round_, [took(GPU, 60.0), took(CPU, 40.0, is_cut=True)])
    assert cutoffs(strategy) == {"a": 0.0, "b": 60.0}


def test_the_reference_can_be_named() -> None:
    strategy = Adaptive(measure_rounds=1, reference="cpu", **OPTIONS)
    strategy.observe(1, [took(GPU, 80.0), took(CPU, 102.0)])
    assert cutoffs(strategy) == {"a": 102.0, "b": 0.0}


def test_a_target_is_of_the_whole_call() -> None:
    strategy = Adaptive(measure_rounds=1, target_s=50.0, **OPTIONS)
    strategy.observe(1, [took(GPU, 80.0, 2.0), took(CPU, 102.0, 5.0)])
    assert cutoffs(strategy) == {"a": 48.0, "b": 45.0}


def test_where_communication_takes_it_all_none_is_set_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    strategy = Adaptive(measure_rounds=1, **OPTIONS)
    with caplog.at_level(logging.WARNING, "fl"):
        strategy.observe(1, [took(GPU, 3.0), took(CPU, 5.0, 10.0)])
    assert cutoffs(strategy)["b"] == 0.0
    assert "cpu: its communication alone" in caplog.text


def test_rounds_without_an_answer_do_not_count_as_measured() -> None:
    strategy = Adaptive(measure_rounds=1, **OPTIONS)
    strategy.observe(1, [])
    assert cutoffs(strategy) == {"a": 0.0, "b": 0.0}


def test_a_reference_that_never_answered_sets_none(caplog: pytest.LogCaptureFixture) -> None:
    strategy = Adaptive(measure_rounds=1, reference="npu", **OPTIONS)
    strategy.observe(1, [took(CPU, 5.0)])
    assert cutoffs(strategy) == {"a": 0.0, "b": 0.0}
    assert "no training time of npu is known" in caplog.text


@pytest.mark.parametrize(
    "options",
    [{"measure_rounds": 0}, {"target_s": 0.0}, {"reference": "gpu", "target_s": 1.0}, {"cutoffs": {"a": 1.0}}],
)
def test_refuses_what_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Adaptive(**options, **OPTIONS)

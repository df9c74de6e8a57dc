"""The exposition, read back by Prometheus' own parser."""

from __future__ import annotations

import re

import pytest

from harness.live.exposition import exposition
from tests.harness.live.boards import NASTY, Board, fit_span, make_board, round_row, told_board

prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus-client reads what we expose")


def parsed(board: Board) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and sorted labels."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(exposition(board.figures())):
        assert family.documentation, family.name
        for sample in family.samples:
            key = tuple(sorted(sample.labels.items()))
            assert key not in found.setdefault(sample.name, {}), "every series once"
            found[sample.name][key] = sample.value
    return found


def test_prometheus_reads_the_figures_of_the_page() -> None:
    found = parsed(told_board())
    assert found["fedmeter_accuracy_ratio"] == {(): 0.5}
    assert found["fedmeter_rounds_total"] == {(): 1.0}
    assert found["fedmeter_energy_joules_total"] == {(("provenance", "counter"),): 12.0}
    assert found["fedmeter_device_fit_seconds_total"][(("device", "fast"), ("processor", "cpu"))] == 2.0
    fit_j = found["fedmeter_device_fit_joules_total"]
    assert fit_j == {(("device", "fast"), ("processor", "cpu"), ("provenance", "counter")): 6.0}, "missing is no 0"
    assert found["fedmeter_failures_total"] == {(("phase", "fit"),): 1.0}
    assert found["fedmeter_power_watts"][(("owner", "host"),)] == 10.0
    assert found["fedmeter_power_watts"][(("owner", "fast"),)] == pytest.approx(6.0)
    [about] = found["fedmeter_run_info"]
    assert dict(about)["fleet"] == 'lab "one"'


def test_a_device_is_in_one_state_only() -> None:
    states = parsed(told_board())["fedmeter_device_state"]
    for device in ("fast", "slow"):
        assert sum(value for key, value in states.items() if ("device", device) in key) == 1.0
    assert states[(("device", "slow"), ("state", "gone"))] == 1.0


def test_labels_are_escaped() -> None:
    board = make_board(NASTY)
    board.recorded([fit_span(NASTY)])
    [labels] = parsed(board)["fedmeter_device_fit_joules_total"]
    assert dict(labels)["device"] == NASTY


def test_names_and_types_are_as_prometheus_has_them() -> None:
    text = exposition(told_board().figures())
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert set(types.values()) == {"counter", "gauge"}
    for name, kind in types.items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert re.fullmatch(r"fedmeter_[a-z_]+", name)
        assert f"# HELP {name} " in text
    assert text.endswith("\n")


def test_counters_never_fall() -> None:
    board = make_board("a")
    before: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for number in range(1, 6):
        board.recorded([fit_span("a"), round_row(number, None if number == 3 else 5.0)])
        counters = {
            (name, key): value
            for name, samples in parsed(board).items()
            if name.endswith("_total")
            for key, value in samples.items()
        }
        assert all(counters[key] >= value for key, value in before.items())
        before = counters

"""The area under a power trace is the energy that was sampled, however it is thinned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.figures.drawing import MAX_POINTS
from analysis.figures.power import Trace, counter_rails, read_samples, trace
from profiler.errors import ResultsError
from tests.fixtures.timed_rounds import HOST

gaps_s = st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=1500)


def area_j(made: Trace) -> float:
    return float(np.sum(made.powers_w * np.diff(made.edges_s)))


def times_ns(gaps: list[float]) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(gaps)]) * 1e9


@given(gaps_s, st.floats(0.1, 50.0))
def test_a_counter_keeps_its_joules(gaps: list[float], power_w: float) -> None:
    t_ns = times_ns(gaps)
    made = trace("r", t_ns, t_ns / 1e9 * power_w, is_counter=True)
    assert made.powers_w.size <= MAX_POINTS + 1
    assert area_j(made) == pytest.approx(sum(gaps) * power_w, rel=1e-9)
    assert made.powers_w == pytest.approx(np.full(made.powers_w.size, power_w), rel=1e-6)


@given(gaps_s, st.data())
def test_a_power_keeps_its_trapezia(gaps: list[float], data: st.DataObject) -> None:
    t_ns = times_ns(gaps)
    values = np.array(data.draw(st.lists(st.floats(0, 100), min_size=t_ns.size, max_size=t_ns.size)))
    values[-1] = values[0]  # so that it never only rises, which would make it a counter
    assert area_j(trace("r", t_ns, values, is_counter=False)) == pytest.approx(
        float(np.trapezoid(values, t_ns / 1e9)), rel=1e-9, abs=1e-9
    )


def test_what_only_rises_is_taken_as_a_counter_and_a_constant_is_not() -> None:
    t_ns = np.arange(11) * 1e8
    assert trace("model", t_ns, np.arange(11) * 0.3, is_counter=False).powers_w == pytest.approx(3.0)
    assert trace("gauge", t_ns, np.full(11, 3.0), is_counter=False).powers_w == pytest.approx(3.0)


def test_a_reset_is_a_gap_and_no_negative_power() -> None:
    values = np.concatenate([np.arange(50.0), np.arange(50.0)])
    made = trace("r", np.arange(100) * 1e8, values, is_counter=True)
    assert np.isnan(made.powers_w).sum() == 1
    assert np.nanmin(made.powers_w) == pytest.approx(10.0)


def test_extra_samples_at_edges_of_spans_make_no_spikes() -> None:
    t_s = np.sort(np.concatenate([np.arange(0, 10, 0.1), [3.3001, 3.3002, 3.3003]]))
    made = trace("r", t_s * 1e9, np.round(t_s * 7, 1), is_counter=True)  # a counter of 0.1 J steps
    assert made.powers_w.max() < 8


def test_the_device_file_tells_which_rails_are_counters() -> None:
    assert counter_rails(HOST) == {"package-0"}
    assert counter_rails({"sensors": "none"}) == frozenset()


@pytest.mark.parametrize("content", [b"", b"PAR1 but not Parquet", None])
def test_what_is_no_file_of_samples_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "host.parquet"
    if content is None:
        pq.write_table(pa.table({"t_ns": [1], "rail": ["a"]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(ResultsError, match=r"host\.parquet"):
        read_samples(path)


def samples_file(path: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two rails in turn: a counter of 5 W, and a power that rises and falls around 3 W."""
    t_ns = np.arange(n) * 10_000_000
    values = np.where(np.arange(n) % 2 == 0, t_ns / 1e9 * 5.0, 3.0 + np.sin(t_ns / 1e9))
    pq.write_table(
        pa.table({"t_ns": t_ns, "rail": ["a" if i % 2 == 0 else "b" for i in range(n)], "value": values}), path
    )
    return t_ns, values


def test_a_few_samples_are_drawn_as_they_are(tmp_path: Path) -> None:
    t_ns, values = samples_file(tmp_path / "host.parquet", 1001)
    read = read_samples(tmp_path / "host.parquet")
    assert np.array_equal(read["a"][0], t_ns[::2])
    assert np.array_equal(read["b"][1], values[1::2])


@pytest.mark.parametrize("n", [1000, 1001, 1007])
def test_of_many_samples_each_is_the_mean_of_several(tmp_path: Path, n: int) -> None:
    t_ns, values = samples_file(tmp_path / "host.parquet", n)
    read = read_samples(tmp_path / "host.parquet", max_samples=100)
    assert all(90 <= times.size + other.size <= 120 for times, other in [(read["a"][0], read["b"][0])])
    assert np.diff(read["a"][1]) / np.diff(read["a"][0]) * 1e9 == pytest.approx(5.0)
    means_w, plain_w = (trace("b", *one, is_counter=False) for one in (read["b"], (t_ns[1::2] * 1.0, values[1::2])))
    assert area_j(means_w) == pytest.approx(area_j(plain_w), rel=0.03)

"""Power over time with the calls that it was drawn for: what a meter saw while one task ran.

A rail of power is shown as it was sampled; one of energy, a counter, is differentiated between its samples. Samples and
calls share an axis only where one clock timed both: the host's, which the harness and its server run on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.patches import Patch

from analysis.cli import printable
from analysis.figures import choice
from analysis.figures.drawing import (
    MAX_LINES,
    MAX_POINTS,
    MAX_ROWS,
    PHASE_STYLE,
    Material,
    Picture,
    by_number,
    canvas,
    line_style,
    nothing,
    shortened,
    slug,
    styled,
)
from analysis.load import Run, rows
from profiler.errors import ResultsError
from profiler.quantities import Provenance
from profiler.records import Row

Values = npt.NDArray[np.float64]
HOST = "host"
MAX_SAMPLES = 4_000_000
MAX_ROUNDS = 100
"""Rounds whose calls are drawn: more of them would be thinner than a pixel or two."""
_BATCH_ROWS = 1_000_000
_MAX_RAILS = 1_000
_COLUMNS = ("t_ns", "rail", "value")


@dataclass(frozen=True, slots=True)
class Trace:
    """Mean power of one rail between edges: `edges_s` float64[n + 1] on the meter's clock, `powers_w` float64[n]."""

    rail: str
    edges_s: Values
    powers_w: Values


def draw(material: Material) -> list[Picture]:
    """One picture a workload: the host's meter during the longest task without a cutoff, and during one with."""
    pictures = []
    for workload, tasks in choice.finished(material.results).items():
        panels = [(shown, traces) for shown in choice.telling(tasks) if (traces := _traces(material, shown))]
        if panels:
            pictures.append(_picture(material, workload, panels))
    if not pictures:
        raise nothing("power", "no samples of a host's meter are kept for the tasks that would be shown")
    return pictures


def _traces(material: Material, shown: choice.Shown) -> list[Trace]:
    run = next(run for run in material.results.runs if run.run_id == shown.key[0])
    path = _file(run, shown.key[1])
    if path is None:
        return []
    counters = counter_rails(material.results.devices[run.run_id].get(HOST, {}))
    return [trace(rail, t_ns, values, rail in counters) for rail, (t_ns, values) in read_samples(path).items()]


def _file(run: Run, task: str) -> Path | None:
    """The samples of the last attempt; plan and loader have checked that `task` is an id."""
    folder = run.path / "samples" / Path(task).name
    return max(folder.glob(f"{HOST}*.parquet"), key=lambda path: (len(path.name), path.name), default=None)


def read_samples(path: Path, max_samples: int = MAX_SAMPLES) -> dict[str, tuple[Values, Values]]:
    """Rail -> times (ns) and values (W or J) in order of time. Raises ResultsError on what is no file of samples.

    Of a file of more than `max_samples` each is the mean of several, in the order of the file, which is never whole in
    memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    means: defaultdict[str, _Means] = defaultdict(_Means)
    try:
        with pq.ParquetFile(path) as file:
            n_each = max(1, math.ceil(file.metadata.num_rows / max_samples))
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(_COLUMNS)):
                for rail, t_ns, values in _by_rail(batch):
                    means[rail].add(t_ns, values, n_each)
                if len(means) > _MAX_RAILS:
                    raise ValueError(f"more than {_MAX_RAILS} rails")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ResultsError(f"{path}: {error}.", remedy="Restore it, or remove it: only the figure needs it.") from None
    found = {rail: means[rail].sorted() for rail in sorted(means)[:MAX_LINES]}
    return {rail: (t_ns, values) for rail, (t_ns, values) in found.items() if t_ns.size > 1}


def _by_rail(batch: Any) -> Iterator[tuple[str, Values, Values]]:
    t_ns, values = (batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in ("t_ns", "value"))
    rails = batch.column("rail").dictionary_encode()
    codes = rails.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    for code, rail in enumerate(rails.dictionary.to_pylist()):
        own = (codes == code) & np.isfinite(values) & np.isfinite(t_ns)
        yield str(rail), t_ns[own], values[own]


@dataclass(slots=True)
class _Means:
    """The samples of one rail as means of so many, and those that are too few for another yet; float64[2, n] each."""

    parts: list[Values] = field(default_factory=list)
    rest: Values = field(default_factory=lambda: np.empty((2, 0)))

    def add(self, t_ns: Values, values: Values, n_each: int) -> None:
        pairs = np.concatenate([self.rest, [t_ns, values]], axis=1)
        n_whole = pairs.shape[1] // n_each * n_each
        self.parts.append(pairs[:, :n_whole].reshape(2, -1, n_each).mean(axis=2))
        self.rest = pairs[:, n_whole:].copy()

    def sorted(self) -> tuple[Values, Values]:
        rest = [self.rest.mean(axis=1, keepdims=True)] if self.rest.size else []
        t_ns, values = np.concatenate([*self.parts, *rest], axis=1)
        order = np.argsort(t_ns, kind="stable")
        return t_ns[order], values[order]


def counter_rails(host: Mapping[str, Any]) -> frozenset[str]:
    """The rails of the host's sensors that count joules in hardware, by what the device file says of its sensors."""
    sensors = [sensor for sensor in host.get("sensors") or () if isinstance(sensor, dict)]
    counting = [sensor for sensor in sensors if sensor.get("provenance") == Provenance.COUNTER.value]
    return frozenset(str(rail) for sensor in counting for rail in sensor.get("rails") or ())


def trace(rail: str, t_ns: Values, values: Values, is_counter: bool) -> Trace:
    """Mean power between at most `MAX_POINTS` edges, so that the area under the curve is what was drawn.

    A rail that no sensor declares a counter is one if it only ever rises, as a model's joules do and no power does. A
    counter that steps back has been reset: that stretch is a gap.
    """
    times_s = t_ns / 1e9
    rising = bool((np.diff(values) >= 0).all() and values[-1] > values[0])
    if is_counter or rising:
        joules = np.diff(values)
        joules[joules < 0] = np.nan
    else:  # trapezia between the samples
        joules = (values[1:] + values[:-1]) / 2 * np.diff(times_s)
    edges = _edges(times_s)
    edges_s = times_s[edges]
    sums_j = np.add.reduceat(joules, edges[:-1])
    widths_s = np.diff(edges_s)
    powers_w = np.full(sums_j.size, np.nan)
    np.divide(sums_j, widths_s, out=powers_w, where=widths_s > 0)
    return Trace(rail, edges_s, powers_w)


def _edges(times_s: Values) -> list[int]:
    """Indices of samples two periods apart or more: the extra ones that a sampler takes at span edges make spikes."""
    period_s = float(np.median(np.diff(times_s)))
    apart_s = max(2 * period_s, (times_s[-1] - times_s[0]) / MAX_POINTS)
    edges = [0]
    while (after := int(np.searchsorted(times_s, times_s[edges[-1]] + apart_s))) < times_s.size and after > edges[-1]:
        edges.append(after)
    # The last stretch is as long as the others or longer: one of a sample or two would be a spike.
    return [*edges[: max(1, len(edges) - 1)], times_s.size - 1]


@dataclass(frozen=True, slots=True)
class _Calls:
    """The calls drawn below a trace: of very many those of one round in `every`, of some devices alone."""

    rows: Sequence[Row] = ()
    every: int = 1
    n_left_out: int = 0

    @classmethod
    def of(cls, spans: pd.DataFrame) -> _Calls:
        if spans.empty:
            return cls()
        known = spans["start_ns"].notna() & spans["device"].notna() & spans["round"].notna()
        calls = spans[(spans["name"] == "call") & (spans["clock"] == "server") & known]
        devices = sorted(set(calls["device"]), key=by_number)
        every = max(1, math.ceil(calls["round"].nunique() / MAX_ROUNDS))
        kept = calls[calls["device"].isin(devices[:MAX_ROWS]) & (calls["round"] % every == 0)]
        return cls(rows(kept), every, max(0, len(devices) - MAX_ROWS))


def _picture(material: Material, workload: str, panels: Sequence[tuple[choice.Shown, list[Trace]]]) -> Picture:
    meters = sorted({_meter(material, shown) for shown, _ in panels})
    drawn = [_Calls.of(choice.of_task(material.spans.drawn, shown.key)) for shown, _ in panels]
    with styled():
        figure = canvas(8.0, 0.6 + 2.9 * len(panels))
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, (shown, traces), calls in zip(grid, panels, drawn, strict=True):
            _draw(axes, traces, calls.rows)
            axes.set_title(f"{shortened(shown.label, 60)}: {_meter(material, shown)}")
        axes.set_xlabel("time since the meter's first sample of the task (s)")
    return Picture(
        f"power-{slug(workload)}",
        f"Power while it ran: {workload}",
        f"The host's meter: {'; '.join(meters)}. {_said(drawn)}",
        figure,
    )


def _said(drawn: Sequence[_Calls]) -> str:
    every, n_left_out = max(calls.every for calls in drawn), max(calls.n_left_out for calls in drawn)
    some = f" of one round in {every}" if every > 1 else ""
    more = f" {n_left_out} more devices took part and are not drawn." if n_left_out else ""
    return f"Bars below: each client's calls{some}, on the same clock.{more}"


def _meter(material: Material, shown: choice.Shown) -> str:
    host = material.results.devices[shown.key[0]].get(HOST, {})
    return printable(str(host.get("meter") or "which one is not on record"))[:80]


def _draw(axes: Any, traces: Sequence[Trace], calls: Sequence[Row]) -> None:
    origin_s = min(float(one.edges_s[0]) for one in traces)
    for number, one in enumerate(traces):
        style = line_style(number) | {"marker": ""}
        axes.stairs(
            one.powers_w,
            one.edges_s - origin_s,
            baseline=None,
            color=style["color"],
            linestyle=style["linestyle"],
            linewidth=1.1,
            label=shortened(printable(one.rail), 30),
        )
    end_s = max(float(one.edges_s[-1]) for one in traces) - origin_s
    top_w = max((float(np.nanmax(one.powers_w)) for one in traces if np.isfinite(one.powers_w).any()), default=1.0)
    devices = sorted({row["device"] for row in calls}, key=by_number)
    _draw_calls(axes, calls, devices, origin_s, top_w)
    axes.set(xlim=(0, end_s), ylim=(-top_w * (0.06 * len(devices) + 0.04), top_w * 1.25))
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top_w * 1.25])
    axes.set_ylabel("power (W)")
    calls_legend = [Patch(**PHASE_STYLE[call] | {"hatch": ""}, label=call) for call in ("fit", "evaluate")]
    handles = [*axes.get_legend_handles_labels()[0], *calls_legend]
    axes.legend(handles=handles, loc="upper right", ncols=min(5, len(handles)), fontsize=7.5, frameon=True)


def _draw_calls(axes: Any, calls: Sequence[Row], devices: Collection[str], origin_s: float, top_w: float) -> None:
    for place, device in enumerate(devices):
        y, height = -top_w * 0.06 * (place + 1), top_w * 0.05
        for call in ("fit", "evaluate"):
            own = [row for row in calls if row["device"] == device and row["call"] == call]
            pieces = [(row["start_ns"] / 1e9 - origin_s, row["duration_s"]) for row in own]
            axes.broken_barh(
                pieces, (y, height), edgecolor="0.25", linewidth=0.3, zorder=3, **PHASE_STYLE[call] | {"hatch": ""}
            )
        name = shortened(printable(device), 16)
        axes.annotate(
            name, (1.0, y), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points", fontsize=6.5
        )

"""One round as a Gantt chart: what each device did when, and for whom it waited.

Everything is placed on the server's clock. A call's `download`, `upload` and `straggler_wait` were measured there; what
the device measured itself (`receive`, `fit` or `evaluate`, `send`) is laid between the two transfers by duration alone,
since times of two clocks are never subtracted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.cli import printable
from analysis.figures import choice
from analysis.figures.drawing import (
    MAX_ROWS,
    PHASE_STYLE,
    Material,
    Picture,
    by_number,
    canvas,
    clock_words,
    nothing,
    phase_legend,
    shortened,
    slug,
    styled,
    time_label,
)
from analysis.load import rows
from profiler.records import Row

_ON_DEVICE = ("receive", "fit", "evaluate", "send")


@dataclass(frozen=True, slots=True)
class Bar:
    """One phase of one device, in seconds since the round's first instruction."""

    device: str
    phase: str
    start_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class _Panel:
    shown: choice.Shown
    round: int
    bars: tuple[Bar, ...]
    n_left_out: int


def draw(material: Material) -> list[Picture]:
    """One picture a workload: the median round of the longest task without a cutoff, and of one with."""
    rounds = choice.drawn_rounds(material.results)
    pictures = []
    for workload, tasks in choice.finished(material.results).items():
        panels = [
            panel
            for shown in choice.telling(tasks)
            if (panel := _panel(material, shown, rounds[shown.key])) is not None
        ]
        if panels:
            pictures.append(_picture(workload, panels))
    if not pictures:
        raise nothing("rounds", "no call is on record with its times on the server's clock")
    return pictures


def _panel(material: Material, shown: choice.Shown, number: int) -> _Panel | None:
    spans = choice.of_task(material.spans.drawn, shown.key)
    spans = spans[(spans["round"] == number).fillna(False).astype(bool)] if len(spans) else spans
    if not len(timed := _timed_calls(spans)):
        return None
    processors = spans.groupby("device")["processor"].first().fillna("")
    devices = sorted(set(timed["device"]), key=lambda name: (processors[name], by_number(name)))
    kept = devices[:MAX_ROWS]
    own = rows(spans[spans["device"].isin(kept)])
    made = sorted(bars(own, int(timed["start_ns"].min())), key=lambda bar: devices.index(bar.device))
    return _Panel(shown, number, tuple(made), len(devices) - len(kept))


def _timed_calls(spans: pd.DataFrame) -> pd.DataFrame:
    if spans.empty:
        return spans
    known = spans["device"].notna() & spans["call"].notna() & spans["start_ns"].notna()
    timed: pd.DataFrame = spans[(spans["name"] == "call") & (spans["clock"] == "server") & known]
    return timed


def bars(spans: Sequence[Row], origin_ns: int) -> list[Bar]:
    """The bars of one round, from its span records; a call without a start on the server's clock gives none."""
    calls: defaultdict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in spans:
        if row["device"] is not None and row["call"] is not None:
            calls[row["device"], row["call"]][row["name"]] = row
    return [bar for (device, _), call in calls.items() for bar in _call_bars(device, call, origin_ns)]


def _start_ns(row: Row) -> int | None:
    return row["start_ns"] if row["clock"] == "server" else None


def _call_bars(device: str, call: dict[str, Row], origin_ns: int) -> list[Bar]:
    made = []
    begin_ns = _start_ns(call["call"]) if "call" in call else None
    if begin_ns is None:
        return []
    at_s = (begin_ns - origin_ns) / 1e9
    for phase in ("download", *_ON_DEVICE, "upload"):
        if phase in call:
            made.append(Bar(device, phase, at_s, call[phase]["duration_s"]))
            at_s += call[phase]["duration_s"]
    # A wait counts from handing over the reply: upload and straggler wait are parts of it.
    parts_s = sum(call[phase]["duration_s"] for phase in ("upload", "straggler_wait") if phase in call)
    for phase, part_s in (("straggler_wait", 0.0), ("wait", parts_s)):
        if phase in call:
            duration_s = max(0.0, call[phase]["duration_s"] - part_s)
            made.append(Bar(device, phase, at_s, duration_s))
            at_s += duration_s
    return made


def _picture(workload: str, panels: Sequence[_Panel]) -> Picture:
    heights = [max(2, len({bar.device for bar in panel.bars})) for panel in panels]
    with styled():
        figure = canvas(8.0, 1.3 + sum(0.24 * height + 0.55 for height in heights))
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _draw(axes, panel)
        ends_s = [bar.start_s + bar.duration_s for panel in panels for bar in panel.bars if bar.phase != "wait"]
        grid[-1, 0].set_xlim(0, 1.02 * max(ends_s) or 1.0)
        clocks = {panel.shown.task["clock"] for panel in panels}
        grid[-1, 0].set_xlabel(time_label("time since the round's first instruction (s), server's clock", clocks))
        drawn = {bar.phase for panel in panels for bar in panel.bars if bar.duration_s > 0}
        phase_legend(figure, drawn)
    return Picture(
        f"timeline-{slug(workload)}",
        f"Where a round's time goes: {workload}",
        "The round of median length, of the longest task without a cutoff and of one with. Transfers and straggler "
        "waits were measured on the server's clock; what a device measured itself is laid between them by duration."
        + _left_out(panels),
        figure,
    )


def _left_out(panels: Sequence[_Panel]) -> str:
    n_left_out = max(panel.n_left_out for panel in panels)
    return f" {n_left_out} more devices took part and are not drawn." if n_left_out else ""


def _draw(axes: Any, panel: _Panel) -> None:
    devices = list(dict.fromkeys(bar.device for bar in panel.bars))
    places = {device: place for place, device in enumerate(devices)}
    # What waits is drawn first, so that the next call of the round covers it.
    for bar in sorted(panel.bars, key=lambda bar: (bar.phase != "wait", bar.phase != "straggler_wait")):
        if bar.duration_s > 0:
            axes.barh(
                places[bar.device],
                bar.duration_s,
                left=bar.start_s,
                height=0.72,
                edgecolor="0.25",
                linewidth=0.4,
                zorder=2,
                **PHASE_STYLE[bar.phase],
            )
    axes.set(yticks=range(len(devices)), ylim=(len(devices) - 0.4, -0.6))
    axes.set_yticklabels([shortened(printable(device), 24) for device in devices])
    axes.set_title(f"{shortened(panel.shown.label, 80)}: round {panel.round}{clock_words(panel.shown.task)}")
    axes.grid(visible=False, axis="y")

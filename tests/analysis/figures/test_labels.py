"""Labels cover neither each other nor a mark: as geometry, and as they are drawn."""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from analysis.figures import pareto
from analysis.figures.drawing import Material
from analysis.figures.labels import Box, around, places
from tests.fixtures.results_folder import RunFolder, Task

PANEL = Box(0.0, 0.0, 400.0, 250.0)
coordinates = st.tuples(st.floats(0, 400), st.floats(0, 250))
sizes = st.tuples(st.floats(5, 150), st.just(10.0))


@given(st.lists(st.tuples(coordinates, sizes), max_size=25), st.lists(coordinates, max_size=5))
def test_no_box_covers_another_or_a_mark_or_leaves_the_panel(
    labelled: list[tuple[tuple[float, float], tuple[float, float]]], ends: list[tuple[float, float]]
) -> None:
    points = [point for point, _ in labelled]
    marks = [around(*point, 8.0) for point in points]
    lines = [Box(0.0, y, x, y) for x, y in ends]
    found = places(points, [size for _, size in labelled], marks, lines, PANEL)
    assert len(found) == len(points)
    boxes = [box for box in found if box is not None]
    assert all(PANEL.holds(box) for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.overlaps(mark) for box in boxes for mark in marks)


def test_a_label_is_right_below_its_point_unless_a_line_is_there() -> None:
    (below,) = places([(200.0, 100.0)], [(50.0, 10.0)], [around(200.0, 100.0, 8.0)], [], PANEL)
    assert below == Box(204.0, 86.0, 254.0, 96.0)
    upright = Box(210.0, 0.0, 210.5, 100.0)
    (above,) = places([(200.0, 100.0)], [(50.0, 10.0)], [around(200.0, 100.0, 8.0)], [upright], PANEL)
    assert above == Box(204.0, 104.0, 254.0, 114.0)


def test_where_there_is_no_room_there_is_no_label() -> None:
    assert places([(5.0, 5.0)], [(500.0, 10.0)], [], [], PANEL) == [None]
    crowd = [(200.0, 125.0)] * 200
    found = places(crowd, [(60.0, 10.0)] * 200, [around(200.0, 125.0, 8.0)], [], PANEL)
    assert 5 < sum(box is not None for box in found) < 100


def figure_of(root: Path, tasks: list[Task]) -> Figure:
    RunFolder(root).write(tasks)
    (picture,) = pareto.draw(Material.of([root]))
    return picture.figure


def close_tasks(n: int) -> list[Task]:
    """Configurations that hardly differ in accuracy, as those of many epochs do."""
    return [
        Task(f"t{e}", epochs=e, accuracy=0.96 + 0.001 * e, time_s=4.0 + 0.4 * e, energy_j=30.0 + 5 * e)
        for e in range(1, n + 1)
    ]


def test_drawn_labels_cover_neither_each_other_nor_marks(tmp_path: Path) -> None:
    figure = figure_of(tmp_path, close_tasks(8))
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        notes = [text for text in axes.texts if text.get_text().startswith("E=")]
        assert len(notes) == 8
        boxes = [note.get_window_extent(renderer) for note in notes]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        marked = [line for line in axes.lines if line.get_marker() in ("o", "s")]
        middles = [line.get_transform().transform(line.get_xydata())[0] for line in marked]
        assert len(middles) >= 8
        assert not any(box.contains(*middle) for box in boxes for middle in middles)


def test_labels_without_room_are_counted(tmp_path: Path) -> None:
    figure = figure_of(tmp_path, close_tasks(60))
    for axes in figure.axes:
        drawn = sum(text.get_text().startswith("E=") for text in axes.texts)
        assert 0 < drawn < 60
        assert axes.get_title(loc="left").endswith(f"({60 - drawn} labels do not fit)")

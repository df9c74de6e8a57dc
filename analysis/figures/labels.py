"""Where the labels of points go: beside their point, over no mark and no other label. Pure geometry, in points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

_GAPS = (4.0, 9.0, 16.0, 25.0, 36.0, 50.0, 68.0, 90.0)
# From the point to the label, right below first, since a front rises to the right: -1, 0 or 1 widths, and heights.
_SIDES = ((1, -1), (1, 1), (-1, 1), (-1, -1), (1, 0), (0, -1), (0, 1), (-1, 0))
_COVERS_LINE = 40.0
"""A place that covers part of a line is as bad as one so much further away."""


class Box(NamedTuple):
    """A rectangle, y upwards."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: Box) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def holds(self, other: Box) -> bool:
        return self.x0 <= other.x0 and self.y0 <= other.y0 and other.x1 <= self.x1 and other.y1 <= self.y1

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of it that is nearest to another."""
        return min(max(x, self.x0), self.x1), min(max(y, self.y0), self.y1)


def around(x: float, y: float, size: float) -> Box:
    """A square with its middle there."""
    return Box(x - size / 2, y - size / 2, x + size / 2, y + size / 2)


def places(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    marks: Sequence[Box],
    lines: Sequence[Box],
    inside: Box,
) -> list[Box | None]:
    """A box for the label of each point, of its size, inside of the panel; None where there is no room for it.

    No two boxes overlap, and none a mark; lines, as thin boxes, are avoided where another place is near. Earlier points
    choose first.
    """
    taken = list(marks)
    found: list[Box | None] = []
    for point, size in zip(points, sizes, strict=True):
        free = [
            (away + (_COVERS_LINE if any(map(box.overlaps, lines)) else 0.0), box)
            for away, box in _candidates(point, size)
            if inside.holds(box) and not any(map(box.overlaps, taken))
        ]
        best = min(free, key=lambda candidate: candidate[0])[1] if free else None
        found.append(best)
        taken += [best] if best is not None else []
    return found


def _candidates(point: tuple[float, float], size: tuple[float, float]) -> Iterator[tuple[float, Box]]:
    """Boxes around a point with how far away they are; of equally far ones the first is liked best."""
    (x, y), (width, height) = point, size
    for gap in _GAPS:
        for rank, (right, up) in enumerate(_SIDES):
            x0 = x - width / 2 + right * (width / 2 + gap)
            y0 = y - height / 2 + up * (height / 2 + gap)
            yield gap + rank, Box(x0, y0, x0 + width, y0 + height)

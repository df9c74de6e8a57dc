"""What the figures share: material and pictures, a look that survives grey print, and files of it.

Colours are of Okabe and Ito (2008), told apart by colour-blind eyes; what a colour says a hatch or a mark says, too.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.figures import choice
from analysis.files import write_atomically
from analysis.load import SIMULATED, Results, each_batch, load_each
from analysis.page_spans import PageSpans
from analysis.spans import FIT_CALLS, FIT_WORK, PAGE_SPANS
from analysis.words import TIME_PROVENANCE
from profiler.errors import ResultsError, nearest
from profiler.quantities import Provenance
from profiler.records import Row

FIGURE_GROUP = "fedmeter.figures"
MAX_ROWS = 24
"""Devices or bars in one panel: more of them would be unreadable, and are counted in words."""
MAX_LINES = 12
MAX_POINTS = 600
"""Points of one line: about as many as its figure has pixels."""
_DPI = 130
_RC: dict[Any, Any] = {
    "svg.hashsalt": "fedmeter",
    "svg.fonttype": "none",
    # What matplotlib measures text with comes first: a browser would lay out an SVG with whatever is named before it.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a $ in a label is a $
}
_WORD_AND_NUMBER = re.compile(r"([^0-9]*)([0-9]{0,18})")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
_MARKS = "osD^vPX"

PHASES = ("download", "receive", "fit", "send", "upload", "evaluate", "straggler_wait", "wait")
PHASE_STYLE: Mapping[str, dict[str, Any]] = {
    "download": {"facecolor": "#56B4E9", "hatch": "\\\\\\\\"},
    "receive": {"facecolor": "#004C78", "hatch": ""},
    "fit": {"facecolor": "#E69F00", "hatch": ""},
    "send": {"facecolor": "#B9692B", "hatch": "----"},
    "upload": {"facecolor": "#F0E442", "hatch": "////"},
    "evaluate": {"facecolor": "#009E73", "hatch": "||||"},
    "straggler_wait": {"facecolor": "#F3C6B1", "hatch": "xxxx"},
    "wait": {"facecolor": "#E8E8E8", "hatch": ""},
}
"""Phase of a client in a round -> how its bar is filled."""


@dataclass(frozen=True, slots=True)
class Material:
    """What figures are drawn from: loaded results, and files of `harness.calibrate`.

    The spans of `results` are its fits, in few columns; those of `fits` the calls that cutoffs are learnt from, of
    very many a part. `spans` has sums of all. A figure of yours that needs others reads them by `load.each_batch`.
    """

    results: Results
    fits: Results
    spans: PageSpans
    calibrations: tuple[Path, ...] = ()

    @classmethod
    def of(cls, paths: Sequence[Path], calibrations: Sequence[Path] = ()) -> Material:
        """Load it, so that ten million spans fit into memory. Raises ResultsError as `analysis.load.load`."""
        fits, results = load_each(paths, [FIT_CALLS, FIT_WORK])
        spans = PageSpans.of(each_batch(results, PAGE_SPANS), choice.drawn_rounds(results))
        return cls(results, fits, spans, tuple(calibrations))


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn figure. `name` is the stem of its files, `caption` says what is seen and where it comes from."""

    name: str
    title: str
    caption: str
    figure: Figure

    def encoded(self, format_: str) -> bytes:
        """The figure as `png`, `svg` or `pdf`: the same results give the same bytes, for no date is in them."""
        sink = io.BytesIO()
        with styled():
            if self.figure.get_layout_engine() is not None:  # which would move things a little with every drawing
                self.figure.draw_without_rendering()
                self.figure.set_layout_engine("none")
            self.figure.savefig(sink, format=format_, dpi=_DPI, metadata={"Date": None} if format_ == "svg" else None)
        return sink.getvalue()

    def write(self, folder: Path, formats: Iterable[str] = ("png", "svg")) -> list[Path]:
        """Write NAME.png and NAME.svg. Raises OSError."""
        written = [folder / f"{self.name}.{format_}" for format_ in formats]
        for path in written:
            write_atomically(path, self.encoded(path.suffix.lstrip(".")))
        return written


Draw = Callable[[Material], list[Picture]]
"""A figure of the entry points `fedmeter.figures`. Raises ResultsError where the material has nothing to draw."""


def names() -> list[str]:
    """The installed figures."""
    return sorted({entry.name for entry in entry_points(group=FIGURE_GROUP)})


def figure(name: str) -> Draw:
    """A figure by the name of its entry point. Raises ResultsError where none is installed under it."""
    for entry in entry_points(group=FIGURE_GROUP, name=name):
        draw: Draw = entry.load()
        return draw
    raise ResultsError(f"no figure {name!r} is installed.", remedy=nearest(name, names()))


def drawn(material: Material, chosen: Sequence[str]) -> tuple[list[Picture], dict[str, str]]:
    """The pictures of some figures, and why the others have none."""
    pictures: list[Picture] = []
    absent: dict[str, str] = {}
    for name in chosen:
        try:
            pictures += figure(name)(material)
        except ResultsError as error:
            absent[name] = str(error)
    return _named_apart(pictures), absent


def _named_apart(pictures: Sequence[Picture]) -> list[Picture]:
    """Two workloads can be the same but for signs that no file name has."""
    seen: Counter[str] = Counter()
    apart = []
    for picture in pictures:
        seen[picture.name] += 1
        n_alike = seen[picture.name]
        apart.append(picture if n_alike == 1 else replace(picture, name=f"{picture.name}.{n_alike}"))
    return apart


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib in our look, and as it was afterwards."""
    with mpl.rc_context(), sns.axes_style("whitegrid"):
        mpl.rcParams.update(_RC)
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches. Its own canvas: nothing depends on a display or on pyplot's state."""
    made = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(made)
    return made


def line_style(number: int) -> dict[str, Any]:
    """Colour, dashes and mark of the n-th line of a panel: no two of `MAX_LINES` are alike, in grey neither."""
    return {
        "color": _OKABE_ITO[number % 6],
        "linestyle": _DASHES[number % len(_DASHES)],
        "marker": _MARKS[number % len(_MARKS)],
    }


def phase_legend(figure: Figure, phases: Collection[str]) -> None:
    """Say below all panels how phases are filled."""
    handles = [
        Patch(**PHASE_STYLE[phase], edgecolor="0.25", linewidth=0.5, label=phase.replace("_", " "))
        for phase in PHASES
        if phase in phases
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)


def nothing(what: str, why: str) -> ResultsError:
    """The error of a figure that has nothing to show."""
    return ResultsError(f"no figure of {what}: {why}.")


def time_label(text: str, clocks: Iterable[str]) -> str:
    """An axis label that says so where its times are simulated."""
    kinds = {TIME_PROVENANCE[clock] for clock in clocks}
    if kinds == {"measured"}:
        return text
    return f"{'partly ' if len(kinds) > 1 else ''}simulated {text}"


def energy_words(provenances: Iterable[str | None]) -> str:
    """`measured (counter)`, `estimated`, ... of all that are drawn."""
    kinds = sorted({Provenance(value or "missing") for value in provenances})
    return " and ".join(f"measured ({kind.value})" if kind.is_measured else kind.value for kind in kinds) or "missing"


def unit_of(largest: float, unit: str, larger: str, factor: float) -> tuple[str, float]:
    """The unit that reads well for values up to `largest`, and what to divide by."""
    return (larger, factor) if largest >= 10 * factor else (unit, 1.0)


def thinned(values: Sequence[Any], limit: int = MAX_POINTS) -> list[int]:
    """Indices of at most `limit` evenly spaced values, first and last among them."""
    n = len(values)
    if n <= limit:
        return list(range(n))
    return sorted({round(index * (n - 1) / (limit - 1)) for index in range(limit)})


def shortened(text: str, limit: int = 42) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def by_number(name: str) -> tuple[tuple[str, int], ...]:
    """The key by which device 2 comes before device 10."""
    parts = [(word, int(digits or -1)) for word, digits in _WORD_AND_NUMBER.findall(name)]
    return (*parts, (name, -1))  # so that 01 and 1 have an order, too


def slug(text: str) -> str:
    """A name out of a file as part of a file's name: no separators, no dots that lead elsewhere."""
    return _UNFIT.sub("-", text)[:60].strip("-.") or "unnamed"


def clock_words(task: Row) -> str:
    """What must stand beside a panel of a task whose times are simulated."""
    return " (simulated)" if task["clock"] == SIMULATED else ""

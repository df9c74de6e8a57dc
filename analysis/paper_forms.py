"""How the paper's tables are laid out, and which row of them a run of ours is of. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analysis.cli import printable
from analysis.configurations import DERIVED_KINDS, EnergyKind, cutoff_text
from profiler.published import Published
from profiler.records import Row

MIN_S, KJ = 60.0, 1000.0
NO_CUTOFF = "none"

Key = tuple[str, ...]
"""What tells the rows of a table apart, as it is shown: `("5",)`, `("CPU", "1.99")`."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a table of the paper is laid out. `key_of` and `paper_key_of` give the row that a run, or a line, is of.

    `energy` is the kind that the paper's energies are compared with by default, and `energy_note` why.
    """

    table: str
    title: str
    headers: tuple[str, ...]
    paper_key_of: Callable[[Published], Key]
    key_of: Callable[[Row, Sequence[Published]], Key]
    energy: EnergyKind | None = None
    energy_note: str = ""
    has_cutoffs: bool = False

    def named(self, key: Key) -> str:
        """A row in words: `E=5`."""
        return ", ".join(f"{name}={cell}" for name, cell in zip(self.headers, key, strict=True))


def _epochs_key(run: Row, lines: Sequence[Published]) -> Key:
    return (str(run["epochs"]),)


def _clients_key(run: Row, lines: Sequence[Published]) -> Key:
    return (str(run["clients"]),)


def _paper_cutoff_key(line: Published) -> Key:
    return line.processor, f"{line.tau_s / MIN_S:.2f}" if line.tau_s else NO_CUTOFF


def _cutoff_key(run: Row, lines: Sequence[Published]) -> Key:
    """The paper's row where there is one: by the word GPU or CPU in our label, and by τ in minutes, to two decimals.

    A τ of parity is compared with the paper's own parity, whatever its seconds: the row as fast as its fastest.
    """
    if len(run["processors"]) != 1:
        return printable("+".join(sorted(run["processors"]))), cutoff_text(run["cutoffs"])
    (label,) = run["processors"]
    cutoff = run["cutoffs"].get(label, {"tau_s": 0.0, "kind": NO_CUTOFF})
    kinds = {"gpu", "cpu"} & set(re.split(r"[^a-z0-9]+", label.lower()))
    for line in lines:
        if kinds == {line.processor.lower()} and _is_same_cutoff(cutoff, line, lines):
            return _paper_cutoff_key(line)
    return printable(label), _tau_text(cutoff)


def _is_same_cutoff(cutoff: Row, line: Published, lines: Sequence[Published]) -> bool:
    if not cutoff["tau_s"] or not line.tau_s:
        return not cutoff["tau_s"] and not line.tau_s
    if cutoff["kind"] == "parity":
        return line is _parity_line(lines)
    return bool(round(cutoff["tau_s"] / MIN_S, 2) == round(line.tau_s / MIN_S, 2))


def _parity_line(lines: Sequence[Published]) -> Published:
    fastest_s = min(line.time_s for line in lines if line.time_s is not None)
    return min((line for line in lines if line.tau_s), key=lambda line: abs((line.time_s or 0.0) - fastest_s))


def _tau_text(cutoff: Row) -> str:
    if not cutoff["tau_s"]:
        return NO_CUTOFF
    return str(cutoff["kind"]) if cutoff["kind"] in DERIVED_KINDS else f"{cutoff['tau_s'] / MIN_S:.4g}"


FORMS: Mapping[str, Form] = {
    "table2a": Form(
        "2a",
        "local epochs E",
        ("E",),
        lambda line: (str(line.epochs),),
        _epochs_key,
        "net",
        "they come to 1.0 to 2.3 W a board over the rounds, less than a whole TX2 draws, so the net energy is the one "
        "to compare",
    ),
    "table2b": Form(
        "2b",
        "clients C",
        ("C",),
        lambda line: (str(line.clients),),
        _clients_key,
        "gross",
        "they come to 1.4 to 1.5 W a phone over the rounds, which a whole phone may draw, so the gross energy is the "
        "one to compare",
    ),
    "table3": Form(
        "3", "processors and cutoffs τ", ("processor", "τ (min)"), _paper_cutoff_key, _cutoff_key, has_cutoffs=True
    ),
}
"""The name that `--like` takes -> the form."""

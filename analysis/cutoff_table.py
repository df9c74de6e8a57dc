"""Cutoffs as text for a terminal: τ of every kind, what is not available and why, and the inputs of the formulas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

from analysis.cli import printable
from analysis.cutoff_resampling import ENOUGH_UNITS
from analysis.words import PROVENANCE_TEXT
from profiler.quantities import Provenance

if TYPE_CHECKING:
    from analysis.cutoff_choice import Cutoff
    from analysis.cutoff_evaluations import Evaluation

FORMULAS = (
    "parity: tau = W_ref - max(0, c - c_ref); W: median fit window, c: median communication of the fit call.",
    "time: tau = y T_ref - q(c) - o; o: what a round takes beside. energy: tau = (J - communication and waiting) / P.",
    "joint: all clients of a round are through by tau with probability beta.",
    "accuracy, knee: from runs with cutoffs (each processor its own tau) or from the sweep of E (one tau for all).",
    "recommended: the knee, clipped to what accuracy, time and energy allow.",
)


def table(cutoffs: Sequence[Cutoff], evaluated: Sequence[Evaluation] = ()) -> str:
    """One block a workload, batch size and origin of the times; then the clients' own evaluations."""
    groups: defaultdict[tuple[str, int, str], list[Cutoff]] = defaultdict(list)
    for cutoff in cutoffs:
        groups[cutoff.workload, cutoff.batch_size, cutoff.time_provenance].append(cutoff)
    blocks = [_block(group) for group in groups.values()]
    own = [f"accuracy of the clients' own evaluations, last round\n\n{_tabulate(map(_evaluated_cells, evaluated))}"]
    return "\n\n".join([*blocks, *(own if evaluated else []), "\n".join([*_trust(cutoffs), *FORMULAS])])


def _trust(cutoffs: Sequence[Cutoff]) -> list[str]:
    """Every interval says what it is from; those that are too narrow are named as such."""
    given = [cutoff for cutoff in cutoffs if cutoff.interval is not None]
    doubted = sorted({str(cutoff.interval_from) for cutoff in given if not cutoff.interval_trusted})
    said = f"Intervals that are not from {ENOUGH_UNITS} runs or more are too narrow to trust: {', '.join(doubted)}."
    return [said, ""] if doubted else []


def _evaluated_cells(one: Evaluation) -> dict[str, str]:
    return {
        "workload": printable(one.workload),
        "configuration": printable(one.label),
        "n": str(one.n),
        "by processor": printable(
            ", ".join(f"{name} {value:.4f}" for name, value in one.accuracy_by_processor.items())
        ),
        "worst": f"{printable(one.worst_processor)} {one.worst_accuracy:.4f}",
    }


def _block(cutoffs: Sequence[Cutoff]) -> str:
    title = f"{printable(cutoffs[0].workload)}, batch size {cutoffs[0].batch_size}{_origin(cutoffs[0])}"
    given = [cutoff for cutoff in cutoffs if cutoff.tau_s is not None]
    lacking = dict.fromkeys(
        f"E={cutoff.epochs} {cutoff.kind}, {printable(cutoff.processor)}: {cutoff.note}"
        for cutoff in cutoffs
        if cutoff.tau_s is None
    )
    parts = [title, _tabulate(_tau_cells(cutoff) for cutoff in given), *(["\n".join(lacking)] if lacking else [])]
    inputs = {(cutoff.epochs, cutoff.processor): _input_cells(cutoff) for cutoff in cutoffs}
    return "\n\n".join([*parts, "inputs", _tabulate(inputs.values())])


def _origin(cutoff: Cutoff) -> str:
    return ": every time is " + PROVENANCE_TEXT[Provenance.SIMULATED] if cutoff.time_provenance == "simulated" else ""


def _tau_cells(cutoff: Cutoff) -> dict[str, str]:
    now = "" if cutoff.round_ratio is None else f" -> {cutoff.round_ratio:.2f}"
    accuracy = cutoff.inputs.get("predicted_accuracy")
    return {
        "E": str(cutoff.epochs),
        "kind": cutoff.kind,
        "processor": printable(cutoff.processor),
        "tau (s)": f"{cutoff.tau_s:.4g}" if cutoff.tau_s else "none",
        "90 %": "" if cutoff.interval is None else f"{cutoff.interval[0]:.4g}..{cutoff.interval[1]:.4g}",
        "from": cutoff.interval_from or "",
        "work": "" if cutoff.work_fraction is None else f"{cutoff.work_fraction:.3f}",
        "round (s)": "" if cutoff.expected_round_s is None else f"{cutoff.expected_round_s:.4g}",
        "round/ref": f"{cutoff.round_ratio_uncut:.2f}{now}",
        "accuracy": f"{accuracy:.4f}" if isinstance(accuracy, float) else "",
        "note": printable(cutoff.note),
    }


def _input_cells(cutoff: Cutoff) -> dict[str, str]:
    inputs = cutoff.inputs
    return {
        "E": str(cutoff.epochs),
        "processor": printable(cutoff.processor),
        "W (s)": f"{inputs['median_window_s']:.4g}",
        "n": str(inputs["n"]),
        "c (s)": f"{inputs['median_comm_s']:.3g}",
        "reference": printable(cutoff.reference),
        "W_ref (s)": f"{inputs['median_window_ref_s']:.4g}",
        "c_ref (s)": f"{inputs['median_comm_ref_s']:.3g}",
    }


def _tabulate(rows: Iterable[dict[str, str]]) -> str:
    kept = list(rows)
    if not kept:
        return "no cutoff can be given"
    if not any(row.get("note") for row in kept):
        kept = [{name: cell for name, cell in row.items() if name != "note"} for row in kept]
    return tabulate(kept, headers="keys", disable_numparse=True, tablefmt="simple")

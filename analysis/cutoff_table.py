"""Cutoffs in words and columns: τ of every kind, what is not available and why, and the inputs of the formulas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.cli import printable
from analysis.cutoff_resampling import ENOUGH_UNITS
from analysis.formats import Block, Grid
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


def blocks(cutoffs: Sequence[Cutoff], evaluated: Sequence[Evaluation] = ()) -> list[Block]:
    """Those of one workload, batch size and origin of the times together; then the clients' own evaluations."""
    groups: defaultdict[tuple[str, int, str], list[Cutoff]] = defaultdict(list)
    for cutoff in cutoffs:
        groups[cutoff.workload, cutoff.batch_size, cutoff.time_provenance].append(cutoff)
    told = [block for group in groups.values() for block in _group(group)]
    if evaluated:
        told += ["accuracy of the clients' own evaluations, last round", Grid([*map(_evaluated_cells, evaluated)])]
    return [*told, *_trust(cutoffs), "\n".join(FORMULAS)]


def _trust(cutoffs: Sequence[Cutoff]) -> list[str]:
    """Every interval says what it is from; those that are too narrow are named as such."""
    given = [cutoff for cutoff in cutoffs if cutoff.interval is not None]
    doubted = sorted({str(cutoff.interval_from) for cutoff in given if not cutoff.interval_trusted})
    said = f"Intervals that are not from {ENOUGH_UNITS} runs or more are too narrow to trust: {', '.join(doubted)}."
    return [said] if doubted else []


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


def _group(cutoffs: Sequence[Cutoff]) -> list[Block]:
    title = f"{printable(cutoffs[0].workload)}, batch size {cutoffs[0].batch_size}{_origin(cutoffs[0])}"
    given = [_tau_cells(cutoff) for cutoff in cutoffs if cutoff.tau_s is not None]
    lacking = dict.fromkeys(
        f"E={cutoff.epochs} {cutoff.kind}, {printable(cutoff.processor)}: {cutoff.note}"
        for cutoff in cutoffs
        if cutoff.tau_s is None
    )
    inputs = {(cutoff.epochs, cutoff.processor): _input_cells(cutoff) for cutoff in cutoffs}
    taus: Block = Grid(_without_empty_notes(given)) if given else "no cutoff can be given"
    return [title, taus, "\n".join(lacking), "inputs", Grid([*inputs.values()])]


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


def _without_empty_notes(rows: Sequence[dict[str, str]]) -> Sequence[dict[str, str]]:
    if any(row["note"] for row in rows):
        return rows
    return [{name: cell for name, cell in row.items() if name != "note"} for row in rows]

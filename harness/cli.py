"""`fedmeter VERB`: one console script over the mains of all rooms, each loaded only when asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from profiler.errors import nearest

_VERBS = {
    "run": ("harness.run", "run an experiment over a fleet"),
    "calibrate": ("harness.calibrate", "what training takes on this device, for a cutoff on new hardware"),
    "pareto": ("analysis.pareto", "accuracy/time/energy fronts of results"),
    "cutoff": ("analysis.cutoff", "a cutoff for each processor"),
    "recommend": ("analysis.recommend", "a cutoff for a device that never took part, from its calibration"),
    "tables": ("analysis.tables", "results in the form of the paper's tables, beside its figures"),
    "figures": ("analysis.figures.__main__", "figures of results as PNG and SVG"),
    "report": ("analysis.report", "one page: what was run, what to choose and why, figures, failures, provenance"),
    "load": ("analysis.load", "write results as Parquet tables"),
    "profiler": ("profiler.__main__", "sensors of this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The console script."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {verb:10} {help_}" for verb, (_, help_) in _VERBS.items())
        sys.stdout.write(f"usage: fedmeter VERB [-h] ...\n\n{verbs}\n")
        return 0 if words else 2
    if words[0] not in _VERBS:
        sys.stderr.write(f"error: no verb '{words[0]}'. {nearest(words[0], _VERBS)}\n")
        return 2
    # By name, so that no room is imported for another's sake.
    status = import_module(_VERBS[words[0]][0]).main(words[1:])
    return int(status)

"""`python -m profiler list`: which sensors this machine has, and what to do about those it has not."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from profiler.clock import SystemClock
from profiler.commands.common import add_probing, ask_all
from profiler.commands.figures import aligned, plain
from profiler.sensor import Available, Probe, best

HELP = "the sensors of this machine: available, or why not and what to do"
COMMAND = ""
_COLUMNS = ("sensor", "available", "provenance", "scope", "total", "remarks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_probing(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(options: argparse.Namespace) -> int:
    """0, or 3 where no sensor at all can be used. Raises UsageError where the root is no folder."""
    probes = ask_all(options, SystemClock())
    used = best(probes)
    rows = [_row(probe, probe in used) for probe in probes]
    print(json.dumps({"sensors": rows}, ensure_ascii=False) if options.json else _table(rows))
    if not used:
        print("No sensor can be used here: energy would be missing. The remarks say what to do.", file=sys.stderr)
        return 3
    return 0


def _row(probe: Probe, is_chosen: bool) -> dict[str, Any]:
    outcome = probe.outcome
    row: dict[str, Any] = {"sensor": probe.sensor.name, "available": isinstance(outcome, Available)}
    row["chosen"] = is_chosen
    if isinstance(outcome, Available):
        rails = [{"name": r.name, "scope": r.scope.value, "kind": r.kind.value} for r in outcome.rails]
        row |= {"provenance": outcome.provenance.value, "scope": outcome.scope.value, "total": list(outcome.total)}
        return row | {"rails": rails, "notes": outcome.notes}
    return row | {"reason": outcome.reason, "remedy": outcome.remedy}


def _table(rows: list[dict[str, Any]]) -> str:
    return "\n".join(aligned([_COLUMNS, *(tuple(map(plain, _cells(row))) for row in rows)]))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    name = f"{row['sensor']} *" if row["chosen"] else row["sensor"]
    if row["available"]:
        return name, "yes", row["provenance"], row["scope"], "+".join(row["total"]), row["notes"]
    return name, "no", "", "", "", f"{row['reason']}. {row['remedy']}"

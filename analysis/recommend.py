"""A cutoff for a device that never took part, from its calibration.

python -m analysis.recommend results/ --calibration new-board.json [-o cutoffs.json] [--kind parity|work|accuracy]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from analysis import cli
from analysis.calibrated import Told, add_calibration, checked_speed, checked_wish, entry, parse_speed, recommend
from analysis.cutoff import MAX_DROP, SCHEMA_VERSION, accuracy_models
from analysis.files import write_atomically
from analysis.formats import add_format, format_of, rendered
from analysis.load import load, rows
from analysis.new_hardware import KINDS, Recommendation, Wish
from analysis.new_hardware_table import blocks
from analysis.runs import runs_table
from analysis.spans import FIT_CALLS
from analysis.step_estimates import HORIZON_S
from analysis.windows import fit_windows, uncut_tasks
from profiler.errors import ResultsError
from profiler.records import Row

REFUSED = 3


def parser() -> argparse.ArgumentParser:
    made = cli.parser("analysis.recommend", "Recommend a cutoff for a device that never took part.")
    add_calibration(made)
    made.add_argument("-o", "--output", type=Path, help="write the entries of --kind there, for harness.run --cutoffs")
    made.add_argument("--kind", choices=KINDS, default="parity", help="which kind -o writes (default parity)")
    made.add_argument("--reference", help="processor to be level with (default the one with the shortest fit)")
    made.add_argument("--known", nargs="+", type=Path, default=[], metavar="FILE", help="calibrations of other devices")
    made.add_argument("--processor", metavar="P", help="the new device's label, where nothing was calibrated")
    made.add_argument(
        "--speed", metavar="X", help="its speed, such as peak GFLOP/s, for an estimate where all else fails"
    )
    made.add_argument(
        "--known-speed", action="append", default=[], metavar="P=X", help="the speed of a processor of the results"
    )
    made.add_argument(
        "--horizon-minutes", type=float, default=HORIZON_S / 60, metavar="M", help="of training (%(default)g)"
    )
    made.add_argument("--communication-s", type=float, metavar="S", help="of its fit call (default: the reference's)")
    made.add_argument("--max-drop", type=float, default=MAX_DROP, help="accuracy to give up at most (%(default)s)")
    add_format(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(parser(), _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    """0, or 3 where every recommendation is refused: the table says why."""
    how = format_of(arguments)
    told = Told(
        calibrations=arguments.calibration,
        known=arguments.known,
        processor=arguments.processor,
        speed=None if arguments.speed is None else checked_speed(arguments.speed, f"--speed {arguments.speed}"),
        speeds=dict(map(parse_speed, arguments.known_speed)),
    )
    horizon_s = arguments.horizon_minutes * 60
    wish = checked_wish(Wish(arguments.reference, arguments.max_drop, horizon_s, arguments.communication_s))
    results = load(arguments.results, FIT_CALLS)
    groups, left_out = fit_windows(results)
    cli.say(*(f"note: {warning}" for warning in (*results.warnings, *left_out)))
    if wish.reference is not None:
        cli.choose("--reference", wish.reference, {name for by in groups.values() for name in by})
    uncut = uncut_tasks(results)
    runs = [run for run in rows(runs_table(results)) if (run["run_id"], run["task"]) in uncut]
    made = recommend(results, groups, accuracy_models(runs), told, wish)
    document = _document(arguments.kind, made, [run.run_id for run in results.runs])
    try:  # the file first, for a reader of the table may leave early (`| head`)
        if arguments.output is not None:
            _write(arguments.output, document, made, arguments.kind)
    finally:
        entries = [entry(one) for one in made]
        print(rendered(how, blocks(made), lambda: entries, {**document, "cutoffs": entries}), end="", flush=True)
    return 0 if any(one.tau_s is not None for one in made) else REFUSED


def _document(kind: str, made: Sequence[Recommendation], run_ids: Sequence[str]) -> Row:
    references = {one.reference for one in made}
    return {
        "schema": SCHEMA_VERSION,
        "wall_time": datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "kind": kind,
        "reference": references.pop() if len(references) == 1 else None,  # else it differs, see the entries
        "inputs": {"runs": sorted(run_ids)},
    }


def _write(path: Path, document: Row, made: Sequence[Recommendation], kind: str) -> None:
    chosen = [one for one in made if one.kind == kind]
    given = [one for one in chosen if one.tau_s is not None]
    if not given:
        raise ResultsError(f"no {kind} cutoff can be given, {path} is not written.", remedy="The table says why.")
    write_atomically(path, json.dumps({**document, "cutoffs": [entry(one) for one in given]}, indent=2) + "\n")
    cli.say(f"wrote {path}: {len(given)} of {len(chosen)} {kind} cutoffs")


if __name__ == "__main__":
    raise SystemExit(main())

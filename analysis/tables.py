"""Our results in the form of one of the paper's tables, beside the paper's own figures.

python -m analysis.tables results/ --like table2a|table2b|table3 [--format text|markdown|latex|csv|json] [-o FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis import cli
from analysis.configurations import ENERGY_COLUMNS
from analysis.files import write_atomically
from analysis.formats import add_format, format_of
from analysis.load import load, rows
from analysis.paper import compare
from analysis.paper_forms import FORMS
from analysis.paper_table import FORMATS
from analysis.runs import runs_table
from analysis.spans import FIT_WORK
from analysis.where import add_where, where
from profiler.records import Row


def main(argv: Sequence[str] | None = None) -> int:
    made = cli.parser("analysis.tables", "Results in the form of a table of the paper, beside the paper's figures.")
    made.add_argument("--like", choices=list(FORMS), required=True, help="which table of the paper")
    add_format(made)
    made.add_argument(
        "--energy",
        choices=list(ENERGY_COLUMNS),
        help="which energy (default net for table2a, gross for table2b, none for table3)",
    )
    add_where(made)
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="write it there, too")
    return cli.run(made, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    how = format_of(arguments)
    results = load(arguments.results, FIT_WORK)
    cli.say(*(f"note: {warning}" for warning in results.warnings))
    runs = where(rows(runs_table(results)), arguments.where)
    runs = _of_its_experiment(runs, arguments.like)
    found = compare(runs, arguments.like, arguments.energy)
    text = FORMATS[how](found)
    try:  # the file first, for a reader of the table may leave early (`| head`)
        if arguments.output is not None:
            write_atomically(arguments.output, text)
            cli.say(f"wrote {arguments.output}")
    finally:
        print(text, end="", flush=True)
    return 0


def _of_its_experiment(runs: Sequence[Row], like: str) -> list[Row]:
    """Where experiments that are made after the table are among the runs, those of the newest; else all.

    The others of a results folder are of other questions. Said on stderr, with how to choose another.
    """
    made_after = [run for run in runs if str(run["experiment"] or "").startswith(f"paper-{like}")]
    if not made_after:
        return list(runs)
    chosen = max(made_after, key=lambda run: str(run["run_id"]))["experiment"]
    kept = [run for run in runs if run["experiment"] == chosen]
    left_out = [run for run in runs if run["experiment"] != chosen]
    if left_out:
        names = ", ".join(sorted({cli.printable(str(run["experiment"])) for run in left_out}))
        cli.say(
            f"note: of experiment {cli.printable(str(chosen))} alone; {len(left_out)} runs of {names} are left out "
            "(--where experiment=NAME chooses)."
        )
    return kept


if __name__ == "__main__":
    raise SystemExit(main())

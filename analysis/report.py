"""One page about results: what was run, what to choose and why, figures, failures, what was measured, how to repeat it.

python -m analysis.report results/ [-o report.html] [--calibration FILE...] [--json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from analysis import cli
from analysis.figures.drawing import Material
from analysis.files import write_atomically
from analysis.report_content import Report, document, report
from analysis.report_page import page


def main(argv: Sequence[str] | None = None) -> int:
    made = cli.parser("analysis.report", "Write one self-contained HTML page about results.")
    made.add_argument("--calibration", nargs="+", type=Path, default=[], metavar="FILE", help="of harness.calibrate")
    made.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the page (default RESULTS/analysis/report.html)"
    )
    return cli.run(made, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    material = Material.of(arguments.results, arguments.calibration)
    cli.say(*(f"note: {warning}" for warning in material.fits.warnings))
    made = report(material)
    path = arguments.output or arguments.results[0] / "analysis" / "report.html"
    text = page(made, _title(made))
    write_atomically(path, text)
    cli.say(f"report: {path} ({len(text.encode()) / 1e6:.1f} MB)")
    print(json.dumps(document(made), indent=2, ensure_ascii=False, allow_nan=False) if arguments.json else _said(made))
    return 0


def _title(made: Report) -> str:
    return "What it cost: " + ", ".join(one.name for one in made.workloads)


def _said(made: Report) -> str:
    """The page's first lines, for a terminal."""
    chosen = [f"{one.name}: {line}" for one in made.workloads for line in (one.recommendation, *one.reasons)]
    return "\n".join([*made.summary, *chosen])


if __name__ == "__main__":
    raise SystemExit(main())

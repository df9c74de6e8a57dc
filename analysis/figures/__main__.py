"""Figures of results as PNG and SVG.

python -m analysis.figures results/ [NAME...] [-o DIR] [--calibration FILE...]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from analysis import cli
from analysis.figures.drawing import Material, drawn, names
from profiler.errors import ResultsError


def main(argv: Sequence[str] | None = None) -> int:
    made = cli.parser("analysis.figures", "Draw figures of results, as PNG and SVG.")
    made.add_argument("--only", nargs="+", metavar="NAME", default=[], help=f"some of {', '.join(names())}")
    made.add_argument("--calibration", nargs="+", type=Path, default=[], metavar="FILE", help="of harness.calibrate")
    made.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder (default RESULTS/analysis)")
    return cli.run(made, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    chosen = [cli.choose("--only", name, names()) for name in arguments.only] or names()
    material = Material.of(arguments.results, arguments.calibration)
    cli.say(*(f"note: {warning}" for warning in material.fits.warnings))
    pictures, absent = drawn(material, chosen)
    cli.say(*(f"note: {why}" for why in absent.values()))
    if not pictures:
        raise ResultsError("there is nothing to draw.", remedy="The notes above say why, figure by figure.")
    folder = arguments.output or arguments.results[0] / "analysis"
    written = {picture.name: [str(path) for path in picture.write(folder)] for picture in pictures}
    print(json.dumps({"figures": written, "not_drawn": absent}) if arguments.json else _listed(written), flush=True)
    return 0


def _listed(written: dict[str, list[str]]) -> str:
    return "\n".join(path for paths in written.values() for path in paths)


if __name__ == "__main__":
    raise SystemExit(main())

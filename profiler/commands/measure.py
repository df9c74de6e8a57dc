"""`python -m profiler measure -- CMD`: joules and watts of a command, like `perf stat`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from profiler.clock import SystemClock
from profiler.commands.child import run_command
from profiler.commands.common import add_sensor, choose
from profiler.commands.figures import Figures
from profiler.commands.meter import Meter
from profiler.errors import FedmeterError, UsageError
from profiler.resources import ResourceReader

HELP = "joules and watts of a command, like perf stat"
COMMAND = "-- CMD ..."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sensor(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the figures to a new FILE instead of to stderr"
    )


def run(options: argparse.Namespace) -> int:
    """The command's own exit status, or 1 where that is 0 and the figures could not be written.

    stdout stays the command's: the figures go to stderr or to a file.

    Raises UsageError where the file exists or no command is given, CommandError where it cannot be started, and
    SensorError where nothing can meter it.
    """
    if not options.command:
        raise UsageError("measure needs a command.", remedy="Put it last: python -m profiler measure -- CMD ...")
    clock = SystemClock()
    sensor, _ = choose(options, clock)
    meter = Meter(sensor, clock, options.rate, ResourceReader(clock, options.sysfs_root))
    output = None if options.output is None else created(options.output)  # before there is anything to lose
    try:
        figures = meter.run(lambda: run_command(options.command), command=options.command)
        is_shown = show(figures, options.json, sys.stderr if output is None else output)
    except FedmeterError:  # nothing ran, so there is nothing to keep
        if output is not None:
            options.output.unlink()
        raise
    finally:
        if output is not None:
            with suppress(OSError):  # of what could not be written, `show` has told
                output.close()
    status = figures.finished.exit_status if figures.finished is not None else 0
    return status or int(not is_shown)


def created(path: Path) -> TextIO:
    """A new file to write to. Raises UsageError where there is one already, or none can be."""
    try:
        return path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists, and is not overwritten.", remedy="Name another file, or remove it."
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: {error}.", remedy="Name a file that can be written.") from error


def show(figures: Figures, as_json: bool, stream: TextIO) -> bool:
    """Whether the figures got out. A reader that has left does not want them; a full disk is told."""
    text = json.dumps(figures.as_json(), ensure_ascii=False) if as_json else f"\n{figures.as_table()}"
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        return True
    except OSError as error:
        with suppress(OSError):
            print(f"The figures are lost: {error}.", file=sys.stderr)
        return False
    return True

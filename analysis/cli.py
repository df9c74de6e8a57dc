"""What the mains of analysis share: arguments, how an error is shown, exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from profiler.errors import FedmeterError, UsageError, nearest

INTERRUPTED = 130
Command = Callable[[argparse.Namespace], int]


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser with what every main takes: results folders, --json and -v."""
    made = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    made.add_argument("results", nargs="+", type=Path, help="a run's folder, or a root of many")
    made.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    made.add_argument("-v", "--verbose", action="store_true", help="show the traceback of an error")
    return made


def run(made: argparse.ArgumentParser, command: Command, argv: Sequence[str] | None) -> int:
    """Parse, do, and turn whatever goes wrong into one line on stderr and an exit code."""
    try:
        arguments = made.parse_args(argv)
    except SystemExit as stop:  # argparse has said what it had to say
        return stop.code if isinstance(stop.code, int) else 2
    try:
        code = command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _close_stdout()
    except (FedmeterError, OSError) as error:
        if arguments.verbose:
            traceback.print_exc()
        say(f"error: {error}")
        return error.exit_code if isinstance(error, FedmeterError) else 3
    return code


def _close_stdout() -> int:
    """The reader of our output has gone (`| head`): keep the interpreter from failing on its last flush."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return 0


def say(*lines: str) -> None:
    """Progress, notes and paths: everything that is not the result goes to stderr."""
    for line in lines:
        print(printable(line), file=sys.stderr)


def choose(what: str, given: str, valid: Iterable[str]) -> str:
    """`given`, if it is one of the valid names. Raises UsageError that lists them and names the nearest."""
    names = sorted(valid)
    if given in names:
        return given
    raise UsageError(f"{what}: {given!r} is unknown.", remedy=nearest(given, names))


def printable(text: str) -> str:
    """Text from a file without control characters, which a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)

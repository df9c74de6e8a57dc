"""`python -m profiler VERB`: what can be measured here, and the joules of a command."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from profiler.commands import calibrate, doctor, list_sensors, measure, record, replay, watch
from profiler.errors import FedmeterError

_VERBS = {
    "list": list_sensors,
    "doctor": doctor,
    "watch": watch,
    "measure": measure,
    "record": record,
    "calibrate": calibrate,
    "replay": replay,
}
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 an incomplete trace, 2 wrong usage, 3 no sensor, or not the named one, can be used.

    `measure` and `record` return their command's status: 127 not found, 126 not executable, 128 + n ended by signal n.
    """
    _open_streams()
    arguments, command = _split(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    verb = _VERBS[options.verb]
    if unknown:
        hint = " (a command comes after --)" if verb.COMMAND else ""
        parser.error(f"{options.verb} does not know {' '.join(unknown)}{hint}")
    if command is not None and not (verb.COMMAND and command):
        parser.error(f"{options.verb} -- needs a command" if verb.COMMAND else f"{options.verb} takes no command")
    options.command = command or []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "±" must not cost the figures
    try:
        status: int = verb.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader has gone (`| head`)
        _drop_stdout()
        return 0
    except FedmeterError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:  # where our output goes is full or gone
        _drop_stdout()
        print(f"{error}. Look where the output goes.", file=sys.stderr)
        return 1
    return status


def _open_streams() -> None:
    """A standard stream that was closed (`2>&-`) becomes /dev/null: else the next file to be opened takes its place."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)
            os.set_inheritable(number, True)  # the command gets it as well
            if null != number:
                os.close(null)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def _drop_stdout() -> None:
    """Nothing more can be printed there, least of all at the interpreter's last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _split(argv: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Our arguments, and the command after the first `--`, which argparse must not look into."""
    if "--" not in argv:
        return list(argv), None
    at = list(argv).index("--")
    return list(argv[:at]), list(argv[at + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m profiler", description="Joules and seconds of a piece of work.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, verb in _VERBS.items():
        made = verbs.add_parser(name, help=verb.HELP, description=verb.HELP)
        verb.add_arguments(made)
        made.usage = f"{made.format_usage().removeprefix('usage: ').rstrip()} {verb.COMMAND}".rstrip()
    return parser


if __name__ == "__main__":
    sys.exit(main())

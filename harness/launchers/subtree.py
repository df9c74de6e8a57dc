"""Run a command, and end all that it has started when it ends or this is told to end: `python -m ... COMMAND...`.

SuperLinks and SuperNodes start processes that start processes, some of them in sessions of their own. As a subreaper
(prctl(2)) this one is the parent of whoever loses its own, so that none escapes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

from harness.launchers.device_side import PR_SET_CHILD_SUBREAPER, end_descendants, prctl
from harness.launchers.tether import tethered

GRACE_S = 2.0


class _Told(Exception):
    """This process is to end."""


def tethered_subtree(command: list[str]) -> list[str]:
    """The command that runs `command` so that neither it nor what it starts outlives this process."""
    return tethered([sys.executable, "-m", __name__, *command], signal.SIGTERM)


def main(command: list[str]) -> int:
    """The command's exit status, as a shell has it where a signal ended it."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    _on_signals(_end)
    status = 128 + signal.SIGTERM
    process = None
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        status = process.wait()
    except _Told:
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
    end_descendants()
    return 128 - status if status < 0 else status


def _end(number: int, frame: FrameType | None) -> None:
    """Once: a parent with several threads dies several times, and each time its child is told."""
    _on_signals(signal.SIG_IGN)
    raise _Told


def _on_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handler)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # nothing is left to end in order

"""Running the command that is to be metered: as it would run without us, its signals and its exit status included."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from profiler.errors import FedmeterError

NOT_FOUND = 127  # as POSIX shells say it (XCU 2.8.2)
NOT_EXECUTABLE = 126
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CommandError(FedmeterError):
    """A command that could not be started."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended, and what it and those of its descendants that were waited for have used (wait4(2)).

    Not its peak memory: `ru_maxrss` survives exec, so that of a small command would be ours.

    `exit_status` is the shell's: 128 + n where signal n killed it.
    """

    exit_status: int
    user_s: float
    system_s: float


def run_command(command: Sequence[str]) -> Finished:
    """Run an argument list to its end, without a shell. Raises CommandError where it cannot be started.

    Every descriptor that we were given is handed on; ours are closed on exec. Signals that would end us go to the
    command instead, so that its end, not ours, ends the measurement.
    """
    with _signals_to_child() as (target, missed):
        try:
            process = subprocess.Popen(command, close_fds=False)
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in an argument
            found = not isinstance(error, FileNotFoundError)
            raise CommandError(f"{command[0]}: {error}.", NOT_EXECUTABLE if found else NOT_FOUND) from error
        target.append(process.pid)
        for number in missed:
            os.kill(process.pid, number)
        _, status, used = os.wait4(process.pid, 0)
        target.clear()
        process.returncode = code = os.waitstatus_to_exitcode(status)  # else Popen believes that it still runs
    return Finished(code if code >= 0 else 128 - code, used.ru_utime, used.ru_stime)


@contextmanager
def _signals_to_child() -> Iterator[tuple[list[int], list[int]]]:
    """Signals that would end us are passed on to the pid in the first list; before there is one, the second has them.

    A handler, not SIG_IGN: the command would inherit that. What was ignored before (nohup) stays ignored.
    """
    target: list[int] = []
    missed: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if target and number == signal.SIGINT and _is_in_foreground():
            return  # the terminal has sent Ctrl-C to the command as well; two in a row mean something else to many
        if not target:
            missed.append(number)
        for pid in target:
            os.kill(pid, number)

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield target, missed
        return
    before = {number: signal.getsignal(number) for number in _PASSED_ON}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, pass_on)
    try:
        yield target, missed
    finally:
        for number in caught:
            signal.signal(number, before[number])


def _is_in_foreground() -> bool:
    """Whether a Ctrl-C at the controlling terminal goes to our process group, and so to the command."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)

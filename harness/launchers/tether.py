"""Run a command that dies with its parent: `tether.py PARENT_PID SIGNAL COMMAND...`.

Run by path, with nothing but the standard library, so that it costs some 20 ms. PR_SET_PDEATHSIG (prctl(2)) survives
the exec; it is set here, in the child, because running Python between fork and exec in a process with threads can
deadlock.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent_pid: int, by: int = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when its parent ends. Exits where that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(by))
    if os.getppid() != parent_pid:
        sys.exit("the parent ended before its child could start")


def tethered(command: "list[str]", by: signal.Signals = signal.SIGKILL) -> "list[str]":
    """The command that runs `command` so that it gets a signal when this process ends: by default, dies with it."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(by)), *command]


def main(argv: "list[str]") -> None:
    parent_pid, by, command = int(argv[0]), int(argv[1]), argv[2:]
    die_with(parent_pid, by)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])

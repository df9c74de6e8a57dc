"""Runs of `python -m profiler` in processes of its own, with pipes or at a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
_TIMEOUT_S = 60.0

# The terminal must be the session's own for Ctrl-C to become SIGINT.
_AT_TERMINAL = "import fcntl,os,sys,termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "profiler", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}


def finish(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=environment() if env is None else env,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        **options,
    )


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, so without a terminal; killed at the end where it still runs."""
    process = subprocess.Popen(
        command(*arguments),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Terminal:
    """A process with a pseudo-terminal as its stdin, stdout, stderr and controlling terminal."""

    def __init__(self, *arguments: object) -> None:
        self.fd, self.slave = pty.openpty()
        self.shown = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _AT_TERMINAL, *command(*arguments)],
            env=environment(TERM="xterm", COLUMNS="100", LINES="30"),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.fd)

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def wait_for(self, text: bytes, count: int = 1) -> None:
        deadline_s = time.monotonic() + _TIMEOUT_S
        while self.shown.count(text) < count:
            assert time.monotonic() < deadline_s, self.shown
            self._read(0.1)

    def end(self) -> int:
        """Exit status, with everything shown until then."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, self.shown
            self._read(0.05)
        while self._read(0.0):
            pass
        return self.process.returncode

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self.fd], [], [], timeout_s)[0]:
            return False
        self.shown += os.read(self.fd, 65536)
        return True

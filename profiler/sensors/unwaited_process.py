"""A short program whose answer is fetched later, so that nobody waits for it who only wants to sample."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence


class UnwaitedProcess:
    """Started at once, without input, in a session of its own. Its output must fit into a pipe (64 KiB by default).

    After `timeout_s` of real time it is killed with all that it started. Raises OSError where it cannot be started.
    """

    def __init__(self, argv: Sequence[str], *, timeout_s: float, max_bytes: int) -> None:
        import subprocess  # 10 ms at start-up, and not every sensor needs it

        self._name = argv[0]
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._deadline_s = time.monotonic() + timeout_s
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Until it has ended or its time is up."""
        import subprocess

        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=max(0.0, self._deadline_s - time.monotonic()))

    def result(self) -> bytes | None:
        """What it printed, None while it runs and has time.

        Raises TimeoutError where it had none left, OSError with what it said where it failed, ValueError where it said
        more than `max_bytes`. Then, or with a result, it is closed.
        """
        if self._process.poll() is None:
            if time.monotonic() < self._deadline_s:
                return None
            self.close()
            raise TimeoutError(f"{self._name} gave no answer within {self._timeout_s:g} s")
        output = self._output()
        status = self._process.returncode
        self.close()
        if status != 0:
            said = output[:200].decode("utf-8", errors="replace").strip()
            raise OSError(f"{self._name} failed with status {status}: {said!r}")
        if len(output) > self._max_bytes:
            raise ValueError(f"{self._name} printed more than {self._max_bytes} bytes")
        return output

    def _output(self) -> bytes:
        """What is in the pipe: a helper that was left behind may keep that open."""
        pipe = self._process.stdout
        if pipe is None:
            return b""
        os.set_blocking(pipe.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            return os.read(pipe.fileno(), self._max_bytes + 1)
        return b""

    def close(self) -> None:
        """Kill it, and all that it started, where it still runs."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # not yet waited for: nobody else has the number
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

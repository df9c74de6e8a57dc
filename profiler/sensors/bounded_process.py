"""A child process that can neither hang nor fill the memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_CHUNK_BYTES = 65_536
_MAX_ERROR_BYTES = 4_096
_LOOK_S = 0.1  # how often to look whether it still runs while it says nothing


@dataclass(frozen=True, slots=True)
class Finished:
    """`status` as subprocess gives it: negative where a signal ended the process. `stderr` is cut off at 4 KiB."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def complaint(self) -> str:
        """Its last line on stderr, else on stdout, in printable characters."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        text = lines[-1].decode("utf-8", errors="replace") if lines else ""
        return "".join(c if c.isprintable() else "?" for c in text[:200])


def run_bounded(argv: Sequence[str], *, timeout_s: float, max_bytes: int, whole_session: bool = False) -> Finished:
    """Run a program to its end, without input, in a session of its own, so that Ctrl-C does not reach it.

    It is killed, and TimeoutError raised, where it is not done after `timeout_s`; and OverflowError where it prints
    more than `max_bytes`. Only the process itself is waited for and killed: one that it leaves behind as a service, as
    adb does, lives on. With `whole_session` what a script started is killed along with it. Raises OSError where it
    cannot be started.
    """
    import subprocess  # 10 ms at start-up, and not every sensor needs it

    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        stdout, stderr = _drain(process, time.monotonic() + timeout_s, max_bytes)
        return Finished(process.wait(timeout=timeout_s), stdout, stderr)
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        raise TimeoutError(f"{argv[0]} gave no answer within {timeout_s:g} s") from error
    finally:
        _end(process, whole_session)


def _drain(process: subprocess.Popen[bytes], deadline_s: float, max_bytes: int) -> tuple[bytes, bytes]:
    """All that it writes until it closes both ends, or is gone. Time is real time: a child knows no other."""
    import selectors

    assert process.stdout is not None
    assert process.stderr is not None
    texts = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    out, err = texts.values()
    with selectors.DefaultSelector() as selector:
        for descriptor in texts:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(_LOOK_S)
            if not ready and process.poll() is not None:
                break  # what still holds the pipes is a service that it left behind
            if time.monotonic() > deadline_s:
                raise TimeoutError
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK_BYTES)
                if not chunk:
                    selector.unregister(key.fd)
                texts[key.fd] += chunk
            del err[_MAX_ERROR_BYTES:]
            if len(out) > max_bytes:
                raise OverflowError(f"it prints more than {max_bytes} bytes")
    return bytes(out), bytes(err)


def _end(process: subprocess.Popen[bytes], whole_session: bool) -> None:
    if process.poll() is None:
        if whole_session:
            os.killpg(process.pid, signal.SIGKILL)  # its number is the group's, and not yet anybody else's
        process.kill()
        process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()

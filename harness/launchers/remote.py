"""One connection to a device, whatever carries it: requests to the device's half (`device_side`), and their answers.

Values go as arguments, never through a shell here, and quoted (`shlex.join`) to the shell there. What is told to the
device, secrets included, goes through stdin.
"""

from __future__ import annotations

import json
import queue
import shlex
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, cast

from harness.launchers.device_side import MARK
from harness.launchers.tether import tethered
from profiler.errors import DeviceError
from profiler.files import printable

MAX_ANSWER_BYTES = 1024 * 1024
MAX_ANSWERS = 1000
END_S = 3.0
_MAX_COMPLAINT = 600

Sink = Callable[[bytes], None]
Answer = Mapping[str, Any]


class Tail:
    """The last bytes of what is written to it."""

    def __init__(self, limit_bytes: int = 16 * 1024) -> None:
        self._limit_bytes = limit_bytes
        self._kept = b""

    def write(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-self._limit_bytes :]

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", errors="replace")


class RemoteCommand:
    """A running request to the device's half (`device_side`): lines and bytes in, answers out, the rest to a sink."""

    def __init__(self, command: list[str], sink: Sink) -> None:
        self._process = subprocess.Popen(
            tethered(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._answers: queue.Queue[Answer | None] = queue.Queue(MAX_ANSWERS)
        self._sink = sink
        self._complaint = Tail()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._pump)]
        for thread in self._threads:
            thread.start()

    @property
    def complaint(self) -> str:
        """The end of what came on stderr."""
        return self._complaint.text

    @property
    def status(self) -> int | None:
        """How the process on this machine has ended; None while it runs."""
        return self._process.poll()

    def send(self, data: bytes) -> None:
        """Harmless where nobody is there any more: that shows in the answers."""
        stdin = self._process.stdin
        try:
            if stdin is not None and not stdin.closed:
                stdin.write(data)
                stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def close_input(self) -> None:
        stdin = self._process.stdin
        try:
            if stdin is not None:
                stdin.close()
        except BrokenPipeError:
            pass

    def receive(self, timeout_s: float) -> Answer | None:
        """The next answer; None where there will be none. Raises TimeoutError."""
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None
        if answer is None:
            self._answers.put(None)
        return answer

    def end(self) -> None:
        """Nothing of it is left on this machine when this returns."""
        self.close_input()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(END_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def kill(self) -> None:
        """From any thread: whoever receives is told that there will be no more."""
        self._process.kill()

    def _read(self) -> None:
        stdout = self._process.stdout
        while stdout is not None and (line := stdout.readline(MAX_ANSWER_BYTES)):
            answer = _answer(line)
            if answer is not None:
                self._answers.put(answer)
        self._process.wait()
        self._answers.put(None)

    def _pump(self) -> None:
        stderr = self._process.stderr
        while stderr is not None and (data := stderr.read1(65536)):  # type: ignore[attr-defined]
            self._complaint.write(data)
            self._sink(data)


def _answer(line: bytes) -> Answer | None:
    if not line.startswith(MARK.encode()):
        return None
    try:
        answer = json.loads(line[len(MARK) :])
    except ValueError:
        return None
    return cast(Answer, answer) if isinstance(answer, dict) else None


class RemoteConnection(ABC):
    """`python` is the device's interpreter, as the words of a command; `sink` is given what its commands print."""

    def __init__(self, device: str, python: Sequence[str], sink: Sink) -> None:
        self._device = device
        self._python = python
        self._sink = sink
        self._commands: list[RemoteCommand] = []
        self._aborted = threading.Event()

    @abstractmethod
    def open(self) -> None:
        """Raises DeviceError."""

    @abstractmethod
    def forward(self, address: str) -> int:
        """A port of the device's own loopback that leads to HOST:PORT, seen from here. Raises DeviceError."""

    @abstractmethod
    def is_lost(self) -> bool:
        """Whether it had been open and has ended by itself. What it carries can notice a moment earlier."""

    @abstractmethod
    def _reaching(self, there: str) -> list[str]:
        """The command here that runs a line of the device's shell there."""

    @abstractmethod
    def _explain(self, complaint: str) -> tuple[str, str]:
        """The reason and the remedy in what the way there has printed."""

    def failure(self, phase: str, reason: str, remedy: str) -> DeviceError:
        """An error in one line. Much of a reason, and of a remedy, can be the device's words."""
        reason, remedy = (printable(" ".join(text.split()), _MAX_COMPLAINT) for text in (reason, remedy))
        return DeviceError(f"{self._device}: {phase}: {reason}.", remedy=remedy)

    def command(self, request: Answer, *, isolated: bool = True) -> RemoteCommand:
        """Begin a request. `isolated`: without the interpreter's site packages, which the request does not need."""
        source = files("harness.launchers").joinpath("device_side.py").read_bytes()
        # What lies in the home folder, where it runs, must not pass for modules.
        flags, path = (["-I", "-S"], "") if isolated else ([], "sys.path.pop(0);")
        bootstrap = f"import sys;{path}exec(compile(sys.stdin.buffer.read({len(source)}),'fedmeter','exec'))"
        there = shlex.join([*self._python, *flags, "-c", bootstrap])
        started = RemoteCommand(self._reaching(there), self._sink)
        self._commands.append(started)
        if self._aborted.is_set():
            started.kill()
        started.send(source + json.dumps(request).encode() + b"\n")
        return started

    def ask(
        self, phase: str, request: Answer, *, timeout_s: float, payload: Iterable[bytes] = (), isolated: bool = True
    ) -> Answer:
        """One request and its answer. Raises DeviceError."""
        running = self.command(request, isolated=isolated)
        timer = threading.Timer(timeout_s, running.kill)  # also where it does not take the payload
        timer.start()
        try:
            for data in payload:
                running.send(data)
            answer = running.receive(timeout_s + END_S)
        except TimeoutError:
            answer = None
        finally:
            is_late = not timer.is_alive()
            timer.cancel()
            self.end(running)
        return self.checked(phase, answer, running, f"no answer within {timeout_s:g} s" if is_late else "")

    def checked(self, phase: str, answer: Answer | None, running: RemoteCommand, late: str = "") -> Answer:
        """The answer, where it is one. Raises DeviceError."""
        if answer is None:
            raise self._unanswered(phase, running.complaint, late)
        if "error" in answer:
            raise self._refused(phase, answer)
        return answer

    def _unanswered(self, phase: str, complaint: str, late: str) -> DeviceError:
        if "not found" in complaint or "No such file" in complaint:
            python = self._python[-1]
            return self.failure(
                phase, f"there is no interpreter {python}", "Install Python 3.10 or later, or set 'python' to its path."
            )
        reason, remedy = self._explain(complaint)
        return self.failure(phase, late or reason, remedy)

    def _refused(self, phase: str, answer: Answer) -> DeviceError:
        where = f" {answer['path']}" if answer.get("path") else ""
        no_space = answer.get("errno") in (28, 122)  # ENOSPC, EDQUOT of Linux, whatever this machine's are
        remedy = (
            "Free some, or set 'folder' to a place with more." if no_space else "Check 'folder' and its permissions."
        )
        return self.failure(phase, f"{answer['error']}{where}", remedy)

    def end(self, running: RemoteCommand) -> None:
        running.end()
        if running in self._commands:
            self._commands.remove(running)

    def abort(self) -> None:
        """From any thread: whatever waits here ends soon."""
        self._aborted.set()
        for running in list(self._commands):
            running.kill()

    def close(self) -> None:
        """End the connection and all it carries; harmless where it has ended."""
        for running in list(self._commands):
            running.kill()
            self.end(running)

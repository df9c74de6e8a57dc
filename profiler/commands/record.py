"""`python -m profiler record -o FILE`: a trace of every sample, which `ReplaySensor` plays back to the same joules."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from profiler.clock import Clock, SystemClock
from profiler.commands.child import Finished, run_command
from profiler.commands.common import add_seconds, add_sensor, choose, sigterm_interrupts
from profiler.commands.measure import show
from profiler.commands.meter import Meter
from profiler.errors import FedmeterError, UsageError
from profiler.machine import kind_of_machine
from profiler.resources import ResourceReader
from profiler.sampler import Sample
from profiler.sensor import Available
from profiler.sensors.replay import header

HELP = "write a trace of every sample, for the time given or as long as a command runs"
COMMAND = "[-- CMD ...]"
INTERRUPTED = 130


class TraceWriter:
    """Appends every sample to a new file as it comes, in the format of `profiler.sensors.replay`.

    Each line is one unbuffered write, so that a crash costs the line it falls into at most. What cannot be written is
    remembered as `failure` instead of raised, and ends the writing: the sampler must not be stopped by a full disk.
    Samples from before `begin` are dropped, as the figures do not have them either.

    Raises UsageError where the file exists or cannot be made.
    """

    def __init__(self, path: Path, available: Available, recorded: Mapping[str, str | float] | None = None) -> None:
        self.failure: str | None = None
        self.n_samples = 0
        self._path = path
        self._held: list[Sample] | None = []
        self._last_ns: int | None = None
        self._lock = threading.Lock()
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except FileExistsError as error:
            raise UsageError(f"{path} exists, and is not overwritten.", remedy="Name another file.") from error
        except OSError as error:
            raise UsageError(f"{path}: {error}.", remedy="Name a file that can be written.") from error
        self._write(header(available, recorded))

    def begin(self, opened_ns: int) -> None:
        """Keep samples from this time on."""
        with self._lock:
            held, self._held = self._held or [], None
            for sample in held:
                if sample.t_ns >= opened_ns:
                    self._append(sample)

    def __call__(self, sample: Sample) -> None:
        with self._lock:
            if self._held is None:
                self._append(sample)
            else:
                self._held.append(sample)

    def _append(self, sample: Sample) -> None:
        if self.failure is not None or (self._last_ns is not None and sample.t_ns <= self._last_ns):
            return  # a trace has one sample a moment
        self._write({"t_ns": sample.t_ns, "values": sample.values})
        self._last_ns = sample.t_ns
        self.n_samples += self.failure is None

    def _write(self, row: dict[str, object]) -> None:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written != len(line):
                self.failure = f"{self._path}: no space for more"
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)  # a torn line spoils a trace
        except OSError as error:
            self.failure = f"{self._path}: {error}"

    def close(self) -> None:
        os.close(self._file)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sensor(parser)
    add_seconds(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the trace, a new file")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object instead of a table")


def run(options: argparse.Namespace) -> int:
    """Record until the command, or the time, or without either Ctrl-C ends it; then print the figures to stderr.

    The command's exit status; 130 where Ctrl-C came before the time was over; 1 where the trace is incomplete.
    """
    if options.command and options.seconds is not None:
        raise UsageError("record takes --seconds or a command, not both.", remedy="A command ends by itself.")
    clock = SystemClock()
    sensor, _ = choose(options, clock)
    meter = Meter(sensor, clock, options.rate, ResourceReader(clock, options.sysfs_root))
    writer = TraceWriter(options.output, meter.available, _recorded(sensor.name, options, clock))
    meter.listeners.append(writer)
    waiting = _Waiting(options.seconds)
    work = (lambda: run_command(options.command)) if options.command else waiting
    try:
        figures = meter.run(work, command=options.command, on_open=writer.begin)
    except FedmeterError:  # nothing ran, so there is nothing to keep
        options.output.unlink()
        raise
    finally:
        writer.close()
    is_shown = show(figures, options.json, sys.stderr)
    if writer.failure is not None:
        print(f"The trace ends early, after {writer.n_samples} samples: {writer.failure}.", file=sys.stderr)
    status = figures.finished.exit_status if figures.finished is not None else waiting.status
    return status or int(writer.failure is not None or not is_shown)


def _recorded(sensor: str, options: argparse.Namespace, clock: Clock) -> dict[str, str | float]:
    """By what, when and on what kind of machine: what a report of a bug needs, and no name of a person or a host.

    `wall_time` is that of `monotonic_ns`, the clock of the samples.
    """
    from importlib.metadata import PackageNotFoundError, version  # costs 20 ms

    try:
        release = version("fedmeter")
    except PackageNotFoundError:  # run from a copy that was never installed, as on a phone
        release = "not installed"
    facts: dict[str, str | float] = {"fedmeter": release, "sensor": sensor, "rate_hz": options.rate}
    now_ns, wall_time = clock.monotonic_ns(), clock.wall_time()
    return facts | {"wall_time": wall_time, "monotonic_ns": now_ns} | kind_of_machine(options.sysfs_root)


class _Waiting:
    """The work of metering without a command: to wait. Without a time, being interrupted is how it ends."""

    def __init__(self, duration_s: float | None) -> None:
        self.status = 0
        self._duration_s = duration_s

    def __call__(self) -> Finished | None:
        try:
            with sigterm_interrupts():
                threading.Event().wait(self._duration_s)
        except KeyboardInterrupt:
            self.status = 0 if self._duration_s is None else INTERRUPTED
        return None

"""The only writer of a results folder. Records are appended and never changed; whatever is derived can be rebuilt.

One complete line per os.write on an O_APPEND descriptor, so that a crash can tear at most the last line; fsync at the
end of a round and of a task, never inside a span. Layout: docs/results.md.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from fl.instrument import MAX_SENT_SPANS
from fl.messages import Array
from fl.receipts import SpanKey
from harness.sample_files import ClientTable, SampleFile
from profiler.errors import PreconditionError, SpecError, StorageError
from profiler.records import LATE, SCHEMA_VERSION, Row, TornLine, encode_line, read_lines

WRITER = "harness"
MAX_LATEST_SPANS = 4 * MAX_SENT_SPANS  # of a device: those of its last reply, and what may have been written after them


def new_run_id(now_s: float | None = None) -> str:
    """UTC time and a random suffix: never reused, sorts by time."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    return f"{stamp}-{secrets.token_hex(3)}"


def write_atomic(path: Path, content: bytes) -> None:
    """All of it or nothing: a temporary file beside it, fsync, rename, fsync of the folder."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)
    _fsync_folder(path.parent)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


@dataclass(slots=True)
class Done:
    """What a run has already: per task its attempts, the record of each round and how many replies came late; what
    failed, ended and idled; and the latest spans that each device has sent."""

    attempts: dict[str, int] = field(default_factory=dict)
    rounds: dict[str, dict[int, Row]] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    failures: list[Row] = field(default_factory=list)
    idle: list[Row] = field(default_factory=list)
    late: dict[str, int] = field(default_factory=dict)
    latest_spans: dict[str, deque[SpanKey]] = field(default_factory=dict)

    def note(self, row: Row) -> None:
        """Take one record in, in the order of writing: a later attempt's round replaces an earlier one's."""
        if "attempt" in row and row["kind"] != "failure":  # one can precede its task
            self.attempts[row["task"]] = max(self.attempts.get(row["task"], 0), row["attempt"])
        if row["kind"] == "round":
            self.rounds.setdefault(row["task"], {})[row["round"]] = row
        elif row["kind"] == "failure":
            self.failures.append(row)
        elif row["kind"] == "span":
            self._note_span(row)
        elif row["kind"] == "idle":
            self.idle.append(row)
        elif row["kind"] == "task_finished" and row["status"] == "completed":
            self.finished.add(row["task"])

    def _note_span(self, row: Row) -> None:
        if row["name"] == LATE:
            self.late[row["task"]] = self.late.get(row["task"], 0) + 1
        if row["clock"] == "device" and "device" in row and "start_ns" in row:
            latest = self.latest_spans.setdefault(row["device"], deque(maxlen=MAX_LATEST_SPANS))
            latest.append((row["span_id"], row["start_ns"]))


class Store:
    """One run folder, open for appending."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_id = folder.name
        self.logs = folder / "logs"
        self._records = folder / "records" / f"{WRITER}.jsonl"
        cut_torn_line(self._records)
        self._samples: dict[tuple[str, int, str], SampleFile] = {}
        self._descriptor = os.open(self._records, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @classmethod
    def create(cls, root: Path, run: Mapping[str, Any], fleet_text: str, plan: Sequence[Row]) -> Store:
        """A new run folder below `root`, which may exist. `run.json` is written first, so that an early end shows.

        Raises PreconditionError where the folder cannot be written.
        """
        folder = root / new_run_id()
        try:
            root.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            write_json(
                folder / "run.json", {"schema": SCHEMA_VERSION, "run_id": folder.name, **run, "n_tasks": len(plan)}
            )
            for name in ("records", "devices", "samples", "checkpoints", "logs"):
                (folder / name).mkdir()
            write_atomic(folder / "fleet.toml", fleet_text.encode())
            write_atomic(folder / "plan.jsonl", b"".join(encode_line(row) for row in plan))
            return cls(folder)
        except OSError as error:
            raise _not_writable(root, error) from error

    @classmethod
    def resume(cls, folder: Path) -> Store:
        """An earlier run's folder, which counts as interrupted again until it is finished."""
        (folder / "end.json").unlink(missing_ok=True)
        return cls(folder)

    def append(self, rows: Sequence[Row], written: Callable[[Row], None] = lambda row: None) -> None:
        """Each row as one line, in one write; `written` is told of each, also where the disk is full after it.

        Raises ValueError where a row is no record; then nothing is written.
        """
        lines = [encode_line(row) for row in rows]
        with self._to_disk():
            for row, line in zip(rows, lines, strict=True):
                self._write_line(line)
                written(row)

    def _write_line(self, line: bytes) -> None:
        """All of it or nothing: half a line would spoil the next."""
        size = os.fstat(self._descriptor).st_size
        if os.write(self._descriptor, line) != len(line):
            os.ftruncate(self._descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._records))

    @contextmanager
    def _to_disk(self) -> Iterator[None]:
        """Raises StorageError where something cannot be written: what was written before is there."""
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"results cannot be written to {self.folder}: {error.strerror or error}.",
                remedy=f"Make room, then go on with: python -m harness.run --resume {self.folder}",
            ) from error

    def sync(self) -> None:
        with self._to_disk():
            os.fsync(self._descriptor)

    def write_device(self, device: str, facts: Mapping[str, Any]) -> None:
        with self._to_disk():
            write_json(self.folder / "devices" / f"{device}.json", facts)

    def write_checkpoint(self, task: str, checkpoint: Checkpoint) -> None:
        """The global model after a round, for --resume."""
        with self._to_disk():
            write_checkpoint(self._checkpoint(task), checkpoint)

    def read_checkpoint(self, task: str, like: Sequence[Array]) -> Checkpoint | None:
        """None where there is none. Raises PreconditionError where it cannot be read or is of another model."""
        return read_checkpoint(self._checkpoint(task), like)

    def _checkpoint(self, task: str) -> Path:
        return self.folder / "checkpoints" / f"{task}.npz"

    def append_samples(self, task: str, attempt: int, device: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Raw samples of one device in one task, columns of a `SampleFile`; there once `close_samples` has run."""
        key = (task, attempt, device)
        with self._to_disk():
            if key not in self._samples:
                folder = self.folder / "samples" / task
                folder.mkdir(exist_ok=True)
                self._samples[key] = SampleFile(_attempted(folder, device, attempt))
            self._samples[key].write(columns)

    def close_samples(self) -> None:
        """The task is over: its files are whole, each with what was appended."""
        files, self._samples = self._samples, {}
        with self._to_disk():
            for file in files.values():
                file.keep()

    def clients(self, task: str, attempt: int) -> ClientTable:
        """A table of all clients of all rounds of a task that is simulated without training."""
        folder = self.folder / "samples" / task
        folder.mkdir(exist_ok=True)
        return ClientTable(_attempted(folder, "clients", attempt))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """end.json, written last: without it a run counts as interrupted."""
        self.sync()
        with self._to_disk():
            write_json(self.folder / "end.json", {"schema": SCHEMA_VERSION, **summary})

    def close(self) -> None:
        try:
            self.close_samples()
        finally:
            os.close(self._descriptor)


def _attempted(folder: Path, name: str, attempt: int) -> Path:
    return folder / f"{name}{'' if attempt == 1 else f'.{attempt}'}.parquet"


def check_root(root: Path) -> None:
    """Make it where it is not there. Raises PreconditionError where nothing can be written below it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise _not_writable(root, error) from error


def _not_writable(root: Path, error: OSError) -> PreconditionError:
    return PreconditionError(
        f"results cannot be written below {root}: {error}.", remedy="Choose another folder with -o."
    )


def open_for_resume(folder: Path) -> tuple[dict[str, Any], str, list[Row], Done]:
    """run.json, fleet.toml, the plan, and what is done already. Raises SpecError or ResultsError."""
    try:
        run = json.loads((folder / "run.json").read_bytes())
        fleet_text = (folder / "fleet.toml").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{folder} is not a run that can be resumed: {error}.", remedy="Give a folder results/<run-id>."
        ) from None
    if not isinstance(run, dict) or run.get("schema") != SCHEMA_VERSION:
        raise SpecError(f"{folder}/run.json is of another version of fedmeter.", remedy="Resume with that version.")
    plan = list(read_lines(folder / "plan.jsonl"))
    done = Done()
    for path in sorted((folder / "records").glob("*.jsonl")):
        for row in read_lines(path, TornLine()):
            done.note(row)
    return run, fleet_text, plan, done


def cut_torn_line(path: Path) -> None:
    """Cut a file back to its last newline, if a crash tore the line after it."""
    if not path.exists():
        return
    with path.open("rb+") as lines:
        size = lines.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 65536)
            lines.seek(start)
            newline = lines.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            lines.truncate(end)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

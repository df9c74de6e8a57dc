"""Runs of the real command in processes of its own, for the end-to-end tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.run import main
from profiler.records import Row, TornLine, read_lines

REPOSITORY = Path(__file__).parents[2]
SHARDS = 6  # the clients are the first two of so many devices: small shards make short rounds
FLEET = """name = "pair"
[[device]]
id = "fast"
processor = "cpu"
{fast}
[[device]]
id = "slow"
processor = "cpu@0.4"
cpu_limit = 0.4
[[device]]
id = "unused-{{n}}"
count = {unused}
processor = "cpu"
"""
EXPERIMENT = """name = "short"
workload = "digits"
rounds = {rounds}
idle_s = {idle_s}
[sweep]
epochs = {epochs}
clients = [2]
"""


@dataclass
class Bench:
    """A folder with a fleet, an experiment and results."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def write(
        self, *, rounds: int = 2, epochs: Sequence[int] = (1,), idle_s: float = 0.5, fast: str = "", more: str = ""
    ) -> None:
        """`fast` is added to the entry of the fast device, `more` to the end of the fleet file."""
        fleet = FLEET.format(fast=fast, unused=SHARDS - 2)
        (self.folder / "fleet.toml").write_text(fleet + more)
        text = EXPERIMENT.format(rounds=rounds, epochs=list(epochs), idle_s=idle_s)
        (self.folder / "experiment.toml").write_text(text)

    def command(self, *arguments: object) -> list[str]:
        fixed = ["fleet.toml", "--experiment", "experiment.toml", "-o", "results"]
        return module("harness.run", *([] if "--resume" in arguments else fixed), *arguments)

    def main(self, *arguments: object) -> int:
        """In this process; the current folder must be the bench's."""
        return main(self.command(*arguments)[3:])

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return finish(self.command(*arguments), self.folder)

    def run_ok(self, *arguments: object) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()

    def run_folders(self) -> list[Path]:
        return sorted(path for path in self.results.iterdir() if (path / "run.json").exists())

    def records(self, kind: str, run: int = -1) -> list[Row]:
        path = self.run_folders()[run] / "records" / "harness.jsonl"
        return [row for row in read_lines(path, TornLine()) if row["kind"] == kind]

    def device_file(self, device: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.run_folders()[-1] / "devices" / f"{device}.json").read_text())
        return content


def device_entry(**values: object) -> str:
    """A `[[device]]` of a fleet file."""
    return "[[device]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", name, *(str(argument) for argument in arguments)]


def environment() -> dict[str, str]:
    """The repository's own packages, wherever the test's folder is."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def finish(command: Sequence[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = environment() | variables
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=150, check=False)


def wait_until(condition: Any, timeout_s: float = 60.0) -> Any:
    """The first true value of `condition()`."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            if value := condition():
                return value
        except (OSError, IndexError, ValueError):
            pass
        time.sleep(0.02)
    raise AssertionError("waited in vain")

"""The Java client in a process of its own, as it is started on a desktop."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fl.messages import Array
from fl.workload import Partition, load_workload
from fl.workloads.export import export
from fl.workloads.training import TorchWorkload

HIDDEN, CLASSES = 32, 10
DIGITS = ("--workload", "digits", "--classes", str(CLASSES), "--hidden", str(HIDDEN))


@dataclass(frozen=True, slots=True)
class Built:
    """What `make jar` and `make test` made of fl/android/core."""

    jar: Path
    test_classes: Path


class JavaClient:
    """One process; `wait` gives its exit code and what it logged. `head` says what it trains."""

    def __init__(
        self,
        built: Built,
        address: str,
        device: str,
        shards: Path,
        *words: str,
        shard: int = 0,
        head: Sequence[str] = DIGITS,
    ) -> None:
        files = ("--features", str(shards / f"features-{shard}.npy"), "--labels", str(shards / f"labels-{shard}.npy"))
        self._process = subprocess.Popen(
            # one processor: more would only start more threads that wait
            ["java", "-XX:ActiveProcessorCount=1", "-jar", str(built.jar), "--server", address, *files]
            + ["--shard", str(shard), *head]
            + (["--device", device] if device else [])
            + list(words),
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self, timeout_s: float = 60.0) -> tuple[int, str]:
        _, log = self._process.communicate(timeout=timeout_s)
        return self._process.returncode, log

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


@contextmanager
def java_clients() -> Iterator[list[JavaClient]]:
    """Whatever a test puts in is gone afterwards."""
    clients: list[JavaClient] = []
    try:
        yield clients
    finally:
        for client in clients:
            client.kill()


def digits() -> TorchWorkload:
    """The workload whose model is a head: 64 pixels, one hidden layer, ten digits."""
    workload = load_workload("digits", hidden=HIDDEN)
    assert isinstance(workload, TorchWorkload)
    return workload


def export_digits(folder: Path, shards: int) -> Path:
    export(digits(), Partition("iid", shards), folder)
    return folder


def initial(seed: int = 0) -> list[Array]:
    return [np.asarray(array) for array in digits().initial_parameters(seed)]

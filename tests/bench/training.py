"""Training through the client, and features that are kept, beside the bare loops that they stand for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fl.datasets import ROOT_VARIABLE
from fl.datasets.images import scan
from fl.instrument import instrument
from fl.messages import Config
from fl.workload import Option, Partition, load_workload
from fl.workloads.features import compute
from fl.workloads.model import set_arrays
from fl.workloads.training import Examples, TorchWorkload
from tests.bench.figures import Figure, compare, cpu_ms
from tests.fixtures.data import made_cifar10, write_cifar10, write_mobilenetv2, write_office31
from tests.fixtures.threads import one_thread

PAIRS = 15


@dataclass(frozen=True)
class Case:
    """A workload, and as much of its training as one leg does. `inputs` are what a bare loop would hold ready."""

    name: str
    batch_size: int
    epochs: int
    options: tuple[tuple[str, Option], ...] = ()
    goal: str = ""


CASES = (
    Case("cifar10-resnet18", 32, 1, (("width", 16), ("device", "cpu")), ">= 0.9"),
    Case("digits", 16, 1, goal=">= 0.9"),
    Case("digits", 8, 4, (("hidden", 32),), "no goal: 0.1 ms of work a step"),
)


def training() -> list[Figure]:
    """On one core, in CPU time, so that other processes disturb little."""
    with _data_sets() as root, one_thread():
        return [*map(_beside_a_bare_loop, CASES), _kept_features(root)]


def _beside_a_bare_loop(case: Case) -> Figure:
    """Images a second through an instrumented client, and in the barest loop there is over the same examples.

    That has the same model, optimizer, precision, memory format and batches; it neither augments nor keeps score, and
    its inputs are normalised beforehand.
    """
    workload = load_workload(case.name, **dict(case.options))
    assert isinstance(workload, TorchWorkload)
    client = instrument(workload.client(0, Partition()))
    start = workload.initial_parameters(0)
    config: Config = {"epochs": case.epochs, "batch_size": case.batch_size, "lr": workload.defaults.lr, "round": 1}
    source = workload.data().train
    examples = source.at(torch.arange(len(source.labels)))
    bare = _bare_loop(workload, examples, case)
    n_images = len(examples) * case.epochs
    options = "".join(f" {key}={value}" for key, value in case.options if key != "device")
    return compare(
        f"{case.name}{options}, batches of {case.batch_size}",
        "images/s",
        lambda: 1e3 * n_images / cpu_ms(lambda: client.fit(start, config)),
        "bare PyTorch loop",
        lambda: 1e3 * n_images / cpu_ms(bare),
        goal=case.goal,
        repeats=PAIRS,
    )


def _bare_loop(workload: TorchWorkload, examples: Examples, case: Case) -> Callable[[], None]:
    model = workload.build()
    set_arrays(workload.name, model, workload.initial_parameters(0))
    inputs, labels = workload.prepare(examples.inputs), examples.labels
    rng = np.random.default_rng(0)

    def loop() -> None:
        model.train()
        optimizer = torch.optim.SGD(
            model.parameters(), workload.defaults.lr, workload.momentum, weight_decay=workload.weight_decay
        )
        for _ in range(case.epochs):
            for batch in torch.split(torch.from_numpy(rng.permutation(len(labels))), case.batch_size):
                with workload.runtime.autocast():
                    logits = model(inputs[batch])
                optimizer.zero_grad()
                cross_entropy(logits.float(), labels[batch]).backward()
                optimizer.step()

    loop()
    return loop


def _kept_features(root: Path) -> Figure:
    """A round of office31-mobilenetv2, one epoch of one client, on kept features and on such as are computed for it."""
    weights = root / "made.pth"
    workload = load_workload("office31-mobilenetv2", weights=str(weights), device="cpu")
    client = workload.client(0, Partition("iid", 2))
    paths = scan(root / "office31").paths[: int(client.get_properties({})["examples"])]

    def train() -> None:
        client.fit(workload.initial_parameters(0), {"epochs": 1, "round": 1})

    def recomputed() -> None:
        compute(paths, 160, weights, "cpu")
        train()

    name = f"office31-mobilenetv2, a round of {len(paths)} images (CPU)"
    peer = "features computed anew"
    return compare(name, "ms", lambda: cpu_ms(train), peer, lambda: cpu_ms(recomputed), goal="ratio <= 0.05")


@contextmanager
def _data_sets() -> Iterator[Path]:
    """Made ones: what images show does not change how long they take."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        write_cifar10(root, made_cifar10(n_train=640))
        write_office31(root / "office31", per_class=20)
        write_mobilenetv2(root / "made.pth")
        patch.setenv(ROOT_VARIABLE, folder)
        yield root

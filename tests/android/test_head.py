"""Java's head against PyTorch's, step by step from the same weights on the same batches; and what both train on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fl.messages import Array
from fl.workload import Partition
from fl.workloads.export import export, main
from tests.android.java_client import Built, digits

STEPS, BATCH, LR = 100, 32, 0.01
INPUTS, HIDDEN, CLASSES = 1280, 256, 31  # of office31-mobilenetv2


def saved(folder: Path, rng: np.random.Generator) -> tuple[Array, Array, Array, list[Array]]:
    """Features like MobileNetV2's, which are means of ReLU6: from 0 on, most of them small."""
    features = np.abs(rng.standard_normal((400, INPUTS))).astype(np.float32) * 0.5
    labels = rng.integers(0, CLASSES, 400)
    order = rng.integers(0, 400, STEPS * BATCH)
    shapes = ((HIDDEN, INPUTS), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,))
    bounds = (INPUTS**-0.5, INPUTS**-0.5, HIDDEN**-0.5, HIDDEN**-0.5)
    weights = [rng.uniform(-b, b, shape).astype(np.float32) for b, shape in zip(bounds, shapes, strict=True)]
    arrays = {"features": features, "labels": labels, "order": order, **{f"w{i}": w for i, w in enumerate(weights)}}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return features, labels, order, weights


def by_torch(features: Array, labels: Array, order: Array, weights: list[Array], mu: float) -> list[Array]:
    head = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    with torch.no_grad():
        for parameter, array in zip(head.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(array))
    optimizer = torch.optim.SGD(head.parameters(), lr=LR, momentum=0.9)
    starts = [torch.from_numpy(array) for array in weights]
    for batch in np.split(order, STEPS):
        loss = nn.functional.cross_entropy(head(torch.from_numpy(features[batch])), torch.from_numpy(labels[batch]))
        for parameter, start in zip(head.parameters(), starts, strict=True):
            loss = loss + mu / 2 * ((parameter - start) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return [parameter.detach().numpy() for parameter in head.parameters()]


@pytest.mark.serial
@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_java_and_torch_agree_after_a_hundred_steps(java: Built, tmp_path: Path, mu: float) -> None:
    features, labels, order, weights = saved(tmp_path, np.random.default_rng(11))
    expected = by_torch(features, labels, order, weights, mu)
    command = ["java", "-cp", f"{java.test_classes}:{java.jar}", "fedmeter.client.HeadTrace"]
    subprocess.run([*command, str(tmp_path), str(BATCH), str(LR), str(mu)], check=True, timeout=120)
    for i, (array, start) in enumerate(zip(expected, weights, strict=True)):
        trained = np.load(tmp_path / f"out{i}.npy")
        scale = np.abs(array).max()
        assert np.abs(trained - array).max() <= 1e-4 * scale
        assert np.abs(array - start).max() > 1e-2 * scale, "and they have moved"


def test_shards_are_what_a_python_client_trains_on(tmp_path: Path) -> None:
    paths = export(digits(), Partition("iid", 3), tmp_path)
    sizes = [digits().client(shard, Partition("iid", 3)).get_properties({})["examples"] for shard in range(3)]
    assert [np.load(path).shape for path in paths] == [(size, 64) for size in sizes]
    for path in paths:
        features = np.load(path)
        labels = np.load(path.with_name(path.name.replace("features", "labels")))
        assert (features.dtype, labels.dtype, len(labels)) == (np.float32, np.int64, len(features))
    rows = {row.tobytes() for path in paths for row in np.load(path)}
    train = digits().data().train
    assert rows == {row.tobytes() for row in train.at(torch.arange(len(train.labels))).inputs.flatten(1).numpy()}


def test_the_command_writes_and_refuses(tmp_path: Path) -> None:
    words = ["--workload", "digits", "--workload-option", "hidden=8", "-o"]
    assert main([*words, str(tmp_path / "new" / "folder"), "--shards", "2"]) == 0
    assert len(list((tmp_path / "new" / "folder").glob("*.npy"))) == 4
    (tmp_path / "file").write_text("")
    assert main([*words, str(tmp_path / "file" / "folder")]) == 3
    assert main([*words, str(tmp_path), "--shards", "0"]) == 2
    assert main(["--workload", "linear", "-o", str(tmp_path)]) == 2

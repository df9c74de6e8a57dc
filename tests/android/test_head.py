"""Java's head and numpy's against PyTorch's, from the same weights on the same batches; and what both train on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.workload import Partition
from fl.workloads.export import export, main
from fl.workloads.head import Head
from tests.android.heads import BATCH, LR, assert_near, by_torch, course
from tests.android.java_client import Built, digits


@pytest.mark.serial
@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_java_numpy_and_torch_agree_after_a_hundred_steps(java: Built, tmp_path: Path, mu: float) -> None:
    given = course()
    given.save(tmp_path)
    expected, _ = by_torch(given, given.batches(), mu)
    command = ["java", "-cp", f"{java.test_classes}:{java.jar}", "fedmeter.client.HeadTrace"]
    subprocess.run([*command, str(tmp_path), str(BATCH), str(LR), str(mu)], check=True, timeout=120)
    assert_near([np.load(tmp_path / f"out{i}.npy") for i in range(4)], expected, given.weights)
    head = Head(given.weights, mu)
    for batch in given.batches():
        head.step(given.features[batch], given.labels[batch], LR)
    assert_near(head.weights, expected, given.weights)


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

"""CIFAR-10 with ResNet-18: the model's size, what travels, augmentation, the small subset, where it trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.aggregate import WeightedMean
from fl.datasets import ROOT_VARIABLE
from fl.messages import Array, Config, FitRes, Parameters
from fl.workload import Option, Partition, load_workload
from fl.workloads.cifar10_resnet18 import Cifar10ResNet18
from fl.workloads.runtime import Runtime, choose_runtime
from profiler.errors import DataError, PreconditionError, UsageError
from tests.fixtures.data import made_cifar10, published_cifar10, write_cifar10
from tests.fixtures.threads import one_thread


@pytest.fixture(autouse=True)
def on_one_core() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    write_cifar10(root, made_cifar10(n_train=200, n_test=60))
    return root


@pytest.fixture
def small(root: Path, monkeypatch: pytest.MonkeyPatch) -> Cifar10ResNet18:
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    return Cifar10ResNet18(width=2, device="cpu")


def test_the_model_has_the_size_of_the_usual_one() -> None:
    workload = Cifar10ResNet18()
    assert sum(parameter.numel() for parameter in workload.model().parameters()) == 11_173_962
    state = workload.initial_parameters(0)
    assert sum(array.size for array in state if array.dtype == np.float32) == 11_173_962 + 2 * 4_800


def counters(arrays: list[Array]) -> list[int]:
    return [int(array) for array in arrays if array.dtype == np.int64]


def test_running_statistics_travel_and_counters_survive_the_mean(small: Cifar10ResNet18) -> None:
    start = small.initial_parameters(0)
    assert counters(start) == [0] * 20
    updates = [small.client(shard, Partition("iid", 2)).fit(start, {"batch_size": 20})[0] for shard in range(2)]
    assert [counters(update) for update in updates] == [[5] * 20] * 2
    mean = WeightedMean(Parameters(tuple(start)))
    for shard, update in enumerate(updates):
        mean.fold(str(shard), FitRes(Parameters(tuple(update)), 100))
    folded = mean.result()
    assert folded is not None
    assert counters(list(folded.arrays)) == [5] * 20
    changed = [not np.array_equal(*pair) for pair in zip(start, folded.arrays, strict=True)]
    assert all(changed)
    assert np.isfinite(small.evaluate(list(folded.arrays))[0])


def test_a_variance_that_a_servers_optimizer_made_negative_is_cut_off(small: Cifar10ResNet18) -> None:
    state = small.initial_parameters(0)
    keys = list(small.model().state_dict())
    for index, key in enumerate(keys):
        if key.endswith("running_var"):
            state[index] = -state[index]
    assert np.isfinite(small.evaluate(state)[0])


def test_arrays_that_travel_are_contiguous(small: Cifar10ResNet18) -> None:
    arrays, _, _ = small.client(0, Partition()).fit(small.initial_parameters(0), {"batch_size": 100})
    assert all(array.flags.c_contiguous for array in arrays)


def test_augmentation_crops_and_flips_within_the_margin(small: Cifar10ResNet18) -> None:
    ramp = torch.arange(32 * 32, dtype=torch.int64).reshape(1, 1, 32, 32) % 251 + 1
    images = ramp.expand(300, 3, 32, 32).to(torch.uint8)
    crops = small.augment(images, np.random.default_rng(0))
    assert (crops.shape, crops.dtype) == (images.shape, torch.uint8)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    padded = torch.nn.functional.pad(images[0], (4, 4, 4, 4))
    allowed = {
        crop.numpy().tobytes(): (top, left, flipped)
        for top in range(9)
        for left in range(9)
        for flipped, crop in enumerate(
            (padded[:, top : top + 32, left : left + 32], padded[:, top : top + 32, left : left + 32].flip(2))
        )
    }
    drawn = [allowed[crop.numpy().tobytes()] for crop in crops]
    for values, n in zip(zip(*drawn, strict=True), (9, 9, 2), strict=True):
        assert set(values) == set(range(n))


def test_augmentation_follows_from_its_generator(small: Cifar10ResNet18) -> None:
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    one, again, other = (small.augment(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_images_are_normalised(small: Cifar10ResNet18) -> None:
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 32, 32)
    prepared = small.prepare(images)
    assert prepared.is_contiguous(memory_format=torch.channels_last)
    expected = (images / 255 - torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)) / torch.tensor(
        [0.2470, 0.2435, 0.2616]
    ).view(3, 1, 1)
    torch.testing.assert_close(prepared, expected)


def test_global_generators_are_left_alone(small: Cifar10ResNet18) -> None:
    before = torch.get_rng_state()
    small.client(0, Partition()).fit(small.initial_parameters(0), {"batch_size": 100})
    assert torch.equal(torch.get_rng_state(), before)


def test_the_small_subset_is_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = published_cifar10("small-train"), published_cifar10("small-test")
    parts = np.split(train, 5)
    write_cifar10(
        tmp_path,
        {f"data_batch_{n}.bin": part.tobytes() for n, part in enumerate(parts, 1)} | {"test_batch.bin": test.tobytes()},
    )
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    data = Cifar10ResNet18(width=1, per_class=30).data()
    for source, n, packed in ((data.train, 30, train), (data.test, 15, test)):
        assert torch.bincount(source.labels).tolist() == [n] * 10
        [first] = source.at(torch.tensor([0])).inputs
        assert first.numpy().tobytes() == packed[0, 1:].tobytes()


def test_a_data_set_of_another_size_is_told(small: Cifar10ResNet18, caplog: pytest.LogCaptureFixture) -> None:
    small.data()
    assert "200 training and 60 test images, not the official 50000 and 10000" in caplog.text


def test_missing_data_say_how_to_fetch_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    workload = load_workload("cifar10-resnet18")  # the model alone needs none
    with pytest.raises(DataError, match=r"Run: python -m fl\.datasets cifar10"):
        workload.client(0, Partition())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width"),
        ({"per_class": 1}, "per_class is a whole number from 2 to 5000, not 1"),
        ({"device": "gpu"}, "device is one of auto, cpu, cuda, not 'gpu'"),
        ({"precision": "half"}, "precision is one of auto, float32, bfloat16"),
    ],
)
def test_refuses_senseless_options(options: dict[str, Option], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_workload("cifar10-resnet18", **options)


def cpu_with(root: Path, flags: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags} avx2\n\nprocessor\t: 1\n")
    return root


@pytest.mark.parametrize(
    ("flags", "is_bfloat16"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512f", False), ("xamx_bf16", False)]
)
def test_bfloat16_is_taken_where_a_cpu_has_units_for_it(tmp_path: Path, flags: str, is_bfloat16: bool) -> None:
    root = cpu_with(tmp_path, flags)
    assert choose_runtime("w", "cpu", "auto", root) == Runtime("cpu", is_bfloat16)
    assert choose_runtime("w", "cpu", "float32", root) == Runtime("cpu", False)
    assert choose_runtime("w", "cpu", "bfloat16", root) == Runtime("cpu", True)


def test_a_client_tells_on_what_it_trains(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    for precision in ("float32", "bfloat16"):
        client = Cifar10ResNet18(width=1, device="cpu", precision=precision).client(0, Partition())
        assert client.get_properties({})["device.training"] == f"cpu, {precision}"


def test_a_cpu_that_tells_nothing_stays_in_float32(tmp_path: Path) -> None:
    assert choose_runtime("w", "cpu", "auto", tmp_path) == Runtime("cpu", False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    assert choose_runtime("w", "auto", "float32") == Runtime("cpu", False)
    with pytest.raises(PreconditionError, match=r"device is cuda.*Set device to auto or cpu"):
        choose_runtime("w", "cuda", "auto")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_learns_in_both_precisions(root: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    workload = Cifar10ResNet18(width=4, device="cpu", precision=precision)
    config: Config = {"epochs": 12, "batch_size": 10, "lr": 0.02}
    arrays, _, metrics = workload.client(0, Partition()).fit(workload.initial_parameters(0), config)
    assert workload.evaluate(arrays)[1] > 0.5
    assert isinstance(metrics["accuracy"], float)
    assert metrics["accuracy"] > 0.6

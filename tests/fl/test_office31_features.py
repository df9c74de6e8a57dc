"""The head on shipped features: beside its twin on PyTorch, without torch, and what it refuses to read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fl.datasets import ROOT_VARIABLE
from fl.messages import Array, Config
from fl.workload import Partition, Workload, load_workload
from fl.workloads.export import export_whole, main
from fl.workloads.head import MOMENTUM
from fl.workloads.office31_features import Office31Features
from fl.workloads.office31_mobilenetv2 import Office31MobileNetV2
from profiler.errors import DataError, UsageError
from tests.fixtures.data import write_mobilenetv2, write_office31
from tests.fixtures.threads import one_thread

NAME = "office31-mobilenetv2"
TORCH = {"weights": "made.pth", "image_size": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with made images of 3 domains, and with their features."""
    root = tmp_path_factory.mktemp("datasets")
    write_office31(root / "office31", per_class=20)
    write_mobilenetv2(root / "made.pth")
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROOT_VARIABLE, str(root))
        export_whole(Office31MobileNetV2(**TORCH), root / "office31-features")  # type: ignore[arg-type]
    return root


@pytest.fixture
def twins(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workload, Workload]:
    """With numpy and with torch."""
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    return load_workload(NAME, backend="numpy"), load_workload(NAME, **TORCH)  # type: ignore[arg-type]


@pytest.fixture
def copy(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of features in a place of its own, to be damaged."""
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    return Path(shutil.copytree(root / "office31-features", tmp_path / "office31-features"))


def near(left: Array, right: Array) -> bool:
    return bool(np.abs(left - right).max() <= 1e-4 * np.abs(right).max())


# --- beside its twin --------------------------------------------------------------------------------------------------


def test_it_is_chosen_where_there_is_no_torch_and_by_its_option(twins: tuple[Workload, Workload]) -> None:
    assert [type(twin) for twin in twins] == [Office31Features, Office31MobileNetV2]
    assert {twin.name for twin in twins} == {NAME}
    assert twins[0].defaults == twins[1].defaults
    assert Office31MobileNetV2.momentum == MOMENTUM


def test_it_needs_numpy_alone(root: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'sklearn', 'scipy', 'PIL')))\n"  # None: an import of it fails
        "from fl.workload import Partition, load_workload\n"
        "workload = load_workload('office31-mobilenetv2', image_size=64)\n"
        "client = workload.client(1, Partition('iid', 2))\n"
        "start = workload.initial_parameters(0)\n"
        "arrays, n, _ = client.fit(start, {'epochs': 20})\n"
        "print(type(workload).__name__, n, workload.evaluate(arrays)[0] < workload.evaluate(start)[0])"
    )
    environment = {ROOT_VARIABLE: str(root), "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert told.stdout.split() == ["Office31Features", "72", "True"]


def test_both_begin_with_the_same_weights(twins: tuple[Workload, Workload]) -> None:
    for seed in (0, 7):
        for left, right in zip(*(twin.initial_parameters(seed) for twin in twins), strict=True):
            assert left.dtype == right.dtype
            assert np.array_equal(left, right)


@pytest.mark.parametrize("partition", [Partition("iid", 2), Partition("dirichlet", 2, 0.5, 3), Partition("domain", 3)])
def test_both_come_to_the_same_model_from_the_same_shard(
    twins: tuple[Workload, Workload], partition: Partition
) -> None:
    config: Config = {"epochs": 12, "batch_size": 10, "lr": 0.02, "seed": 5, "round": 2}
    start = twins[0].initial_parameters(1)
    with one_thread():
        fits = [twin.client(1, partition).fit(start, config) for twin in twins]
    (arrays, n, told), (torch_arrays, torch_n, torch_told) = fits
    assert n == torch_n
    assert all(map(near, arrays, torch_arrays))
    assert not near(arrays[0], start[0]), "and they have moved"
    assert told == pytest.approx(torch_told, rel=1e-3)


@pytest.mark.parametrize("mu", [0.1, 2.0])
def test_fedprox_pulls_both_alike(twins: tuple[Workload, Workload], mu: float) -> None:
    config: Config = {"epochs": 4, "batch_size": 10, "lr": 0.05, "proximal_mu": mu}
    start = twins[0].initial_parameters(1)
    with one_thread():
        pulled, expected = (twin.client(0, Partition()).fit(start, config)[0] for twin in twins)
    free, _, _ = twins[0].client(0, Partition()).fit(start, {**config, "proximal_mu": 0.0})
    assert all(map(near, pulled, expected))
    assert not near(pulled[0], free[0])


def test_both_test_a_model_alike(twins: tuple[Workload, Workload]) -> None:
    model = twins[1].client(0, Partition()).fit(twins[1].initial_parameters(0), {"epochs": 1, "batch_size": 4})[0]
    assert twins[0].evaluate(model) == pytest.approx(twins[1].evaluate(model), rel=1e-4)
    results = [twin.client(0, Partition("iid", 2)).evaluate(model, {}) for twin in twins]
    assert results[0][:2] == pytest.approx(results[1][:2], rel=1e-4)
    assert results[0][2] == pytest.approx(results[1][2], rel=1e-4)


def test_what_it_trains_with_is_told(twins: tuple[Workload, Workload]) -> None:
    told = [twin.client(0, Partition()).get_properties({}) for twin in twins]
    assert told[0] == {**told[1], "device.training": "numpy, float32"}


def test_a_mu_below_zero_is_refused(twins: tuple[Workload, Workload]) -> None:
    for twin in twins:
        with pytest.raises(UsageError, match="'proximal_mu' must be a number from 0"):
            twin.client(0, Partition()).fit(twin.initial_parameters(0), {"proximal_mu": -1})


def test_a_backend_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="backend is one of auto, torch, numpy"):
        load_workload(NAME, backend="jax")


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_device_that_only_trains_does_without_the_test_set(copy: Path) -> None:
    for path in copy.glob("test-*"):
        path.unlink()
    (copy / "domains.npy").unlink()
    workload = Office31Features()
    assert workload.client(0, Partition()).fit(workload.initial_parameters(0), {})[1] == 144
    with pytest.raises(DataError, match=r"test-features\.npy cannot be read: No such file.*export --whole"):
        workload.evaluate(workload.initial_parameters(0))
    with pytest.raises(UsageError, match="belong to no domains"):
        workload.client(0, Partition("domain", 2))


def test_a_folder_that_is_not_there_is_told_with_what_to_do(copy: Path) -> None:
    with pytest.raises(DataError, match=r"elsewhere is no folder.*export --whole.*option features"):
        Office31Features("elsewhere").initial_parameters(0)


def replaced(name: str, array: Array) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


def claiming(name: str, shape: str) -> Callable[[Path], None]:
    """A header that promises far more than there is."""

    def write(folder: Path) -> None:
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
        (folder / name).write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))

    return write


def written(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "features.npy").write_bytes(content)

    return write


def cut(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-8])

    return write


def pickled(folder: Path) -> None:
    np.save(folder / "labels.npy", np.array([print, print], dtype=object), allow_pickle=True)


N = 144
LABELS = np.zeros(N, np.int64)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (written(b"<html>"), r"features\.npy is no array"),
        (written(b""), r"features\.npy is no array"),
        (cut("features.npy"), r"features\.npy is no array"),
        (claiming("features.npy", "(200000, 1280)"), r"features\.npy is no array"),
        (claiming("features.npy", "(99999999999999999999, 1280)"), r"features\.npy is no array"),
        (pickled, r"labels\.npy is no array"),
        (replaced("features.npy", np.zeros((N, 7), np.float32)), "features of width 1280"),
        (replaced("features.npy", np.zeros((N, 1280))), "holds float64"),
        (replaced("features.npy", np.zeros(N, np.float32)), r"holds float32\[144\]"),
        (replaced("features.npy", np.zeros((0, 1280), np.float32)), r"holds float32\[0, 1280\]"),
        (replaced("features.npy", np.full((N, 1280), np.nan, np.float32)), "a feature is not finite"),
        (replaced("labels.npy", LABELS[1:]), "143 labels"),
        (replaced("labels.npy", LABELS - 1), "labels from -1 to -1 are no classes"),
        (replaced("labels.npy", LABELS + 10**12), "are no classes"),
        (replaced("domains.npy", np.array(["a"])), "not the domains of 144 examples"),
        (replaced("domains.npy", LABELS), "not the domains of 144 examples"),
    ],
)
def test_files_that_are_damaged_or_others_are_named(copy: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(copy)
    with pytest.raises(DataError, match=said):
        Office31Features().client(0, Partition("iid", 2))


def test_a_class_of_the_test_set_alone_is_told(copy: Path) -> None:
    np.save(copy / "test-labels.npy", np.full(36, 3))
    workload = Office31Features()
    with pytest.raises(DataError, match="class 3 is among the test set's alone"):
        workload.evaluate(workload.initial_parameters(0))


def test_the_command_writes_what_it_reads(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    options = [word for key, value in TORCH.items() for word in ("--workload-option", f"{key}={value}")]
    assert main(["--workload", NAME, *options, "--whole", "-o", str(tmp_path / "out")]) == 0
    for made in (tmp_path / "out").iterdir():
        assert made.read_bytes() == (root / "office31-features" / made.name).read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == 5
    with pytest.raises(SystemExit) as ended:
        main(["--workload", NAME, "--whole", "--shards", "3", "-o", str(tmp_path)])
    assert ended.value.code == 2

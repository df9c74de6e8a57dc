"""The data of a workload as NPY files, for clients that train on features without PyTorch.

    python -m fl.workloads.export --workload office31-mobilenetv2 --shards 4 -o shards

writes `features-I.npy` (float32[n, width]) and `labels-I.npy` (int64[n]) of each shard I, for fl/android's clients: the
same examples that `python -m fl.client --shard I --shards 4` trains on.

    python -m fl.workloads.export --workload office31-mobilenetv2 --whole -o office31-features

writes all examples, those held out among them, for Python clients without PyTorch, which split them as all do
(`fl.datasets.features`).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fl.datasets.features import DOMAINS_FILE, FEATURES_FILE, TEST, Features
from fl.messages import Array
from fl.partition import partition
from fl.workload import PARTITIONS, Partition, load_workload, parse_option
from fl.workloads.training import Source, TorchWorkload
from profiler.errors import FedmeterError, PreconditionError, UsageError

_log = logging.getLogger("fl")


def export(workload: TorchWorkload, how: Partition, folder: Path) -> list[Path]:
    """Write every shard; the paths of the features, in order. Inputs are prepared as for training, and flattened.

    Raises UsageError for a partition that cannot be made, PreconditionError where the folder cannot be written.
    """
    data = workload.data()
    labels = data.train.labels.numpy()
    return [
        _save(folder, f"features-{shard}.npy", _features(workload, data.train, indices), labels[indices])
        for shard, indices in enumerate(partition(labels, how, data.domains))
    ]


def export_whole(workload: TorchWorkload, folder: Path) -> list[Path]:
    """Write what is trained on and what is held out, as `fl.datasets.features` reads it; the paths of the features.

    Raises PreconditionError where the folder cannot be written.
    """
    data = workload.data()
    paths = []
    for part, source in (("", data.train), (TEST, data.test)):
        labels = source.labels.numpy()
        features = _features(workload, source, np.arange(len(labels)))
        paths.append(_save(folder, part + FEATURES_FILE, features, labels))
    if data.domains is not None:
        _write(folder / DOMAINS_FILE, data.domains)
    return paths


def _features(workload: TorchWorkload, source: Source, indices: npt.NDArray[np.int64]) -> Features:
    inputs = workload.prepare(source.at(torch.from_numpy(indices)).inputs)
    return inputs.flatten(1).numpy().astype("<f4", order="C")


def _save(folder: Path, name: str, features: Features, labels: npt.NDArray[np.int64]) -> Path:
    """Features under this name, and their labels under its twin."""
    _write(folder / name, features)
    _write(folder / name.replace("features", "labels"), labels.astype("<i8"))
    return folder / name


def _write(path: Path, array: Array) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    except OSError as error:
        raise PreconditionError(f"{path} cannot be written: {error.strerror}.") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as everywhere: 0, 2, 3."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        workload = load_workload(arguments.workload, **dict(map(parse_option, arguments.workload_option)))
        if not isinstance(workload, TorchWorkload):
            raise UsageError(f"{arguments.workload}: only workloads on PyTorch can be exported.")
        for path in _exported(workload, arguments):
            _log.info("%s", path)
    except FedmeterError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


def _exported(workload: TorchWorkload, arguments: argparse.Namespace) -> list[Path]:
    folder = Path(arguments.output)
    if arguments.whole:
        return export_whole(workload, folder)
    how = Partition(arguments.partition, arguments.shards, arguments.alpha, arguments.partition_seed)
    return export(workload, how, folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fl.workloads.export", description="Write data as NPY files.")
    parser.add_argument("--workload", required=True, metavar="NAME")
    parser.add_argument("--workload-option", action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--shards", type=int, default=1, metavar="N", help="parts that the data are split into")
    extent.add_argument("--whole", action="store_true", help="all examples, not split, and those that are held out")
    parser.add_argument("--partition", choices=PARTITIONS, default="iid")
    parser.add_argument("--alpha", type=float, default=0.5, metavar="A", help="concentration of a Dirichlet split")
    parser.add_argument("--partition-seed", type=int, default=0, metavar="S")
    parser.add_argument("-o", "--output", required=True, metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())

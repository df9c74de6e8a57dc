"""Shards of a workload as NPY files, for clients that train on features without PyTorch, such as fl/android's.

    python -m fl.workloads.export --workload office31-mobilenetv2 --shards 4 -o shards

writes `features-I.npy` (float32[n, width]) and `labels-I.npy` (int64[n]) of each shard I: the same examples that
`python -m fl.client --shard I --shards 4` trains on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fl.partition import partition
from fl.workload import PARTITIONS, Partition, load_workload, parse_option
from fl.workloads.training import TorchWorkload
from profiler.errors import FedmeterError, PreconditionError, UsageError

_log = logging.getLogger("fl")


def export(workload: TorchWorkload, how: Partition, folder: Path) -> list[Path]:
    """Write every shard; the paths of the features, in order. Inputs are prepared as for training, and flattened.

    Raises UsageError for a partition that cannot be made, PreconditionError where the folder cannot be written.
    """
    data = workload.data()
    labels = data.train.labels.numpy()
    paths = []
    for shard, indices in enumerate(partition(labels, how, data.domains)):
        inputs = workload.prepare(data.train.at(torch.from_numpy(indices)).inputs)
        path = folder / f"features-{shard}.npy"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            np.save(path, inputs.flatten(1).numpy().astype("<f4", order="C"))
            np.save(folder / f"labels-{shard}.npy", labels[indices].astype("<i8"))
        except OSError as error:
            raise PreconditionError(f"{path} cannot be written: {error.strerror}.") from None
        paths.append(path)
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as everywhere: 0, 2, 3."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        workload = load_workload(arguments.workload, **dict(map(parse_option, arguments.workload_option)))
        if not isinstance(workload, TorchWorkload):
            raise UsageError(f"{arguments.workload}: only workloads on PyTorch can be exported.")
        how = Partition(arguments.partition, arguments.shards, arguments.alpha, arguments.partition_seed)
        for path in export(workload, how, Path(arguments.output)):
            _log.info("%s", path)
    except FedmeterError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fl.workloads.export", description="Write shards as NPY files.")
    parser.add_argument("--workload", required=True, metavar="NAME")
    parser.add_argument("--workload-option", action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="parts that the data are split into")
    parser.add_argument("--partition", choices=PARTITIONS, default="iid")
    parser.add_argument("--alpha", type=float, default=0.5, metavar="A", help="concentration of a Dirichlet split")
    parser.add_argument("--partition-seed", type=int, default=0, metavar="S")
    parser.add_argument("-o", "--output", required=True, metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())

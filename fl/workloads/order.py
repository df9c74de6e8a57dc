"""The order in which a client meets its examples: the same with torch and without."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fl.messages import Config
from fl.workloads.options import at_least_one, number


def epoch_generator(workload: str, config: Config, shard: int, epoch: int) -> np.random.Generator:
    """What shuffles an epoch, and augments its images. Raises UsageError where the config does not hold numbers."""
    seed, round_ = (int(number(workload, config, key, 0)) for key in ("seed", "round"))
    return np.random.default_rng([seed, round_, shard, epoch])


def batches(
    workload: str, config: Config, shard: int, epoch: int, *, n: int, batch_size: int
) -> list[npt.NDArray[np.int64]]:
    """Indices of n examples in an epoch's order; `batch_size` holds where the config has none. Raises UsageError."""
    size = at_least_one(workload, config, "batch_size", batch_size)
    order = epoch_generator(workload, config, shard, epoch).permutation(n)
    return [order[first : first + size] for first in range(0, n, size)]

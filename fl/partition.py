"""Pure splitting of a labelled training set into shards, one a client, the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fl.workload import PARTITIONS, Partition
from profiler.errors import UsageError

Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[Any]
_TEST_SHARE = 0.2
_SPLIT_SEED = 0  # the test set is the same in every run, so that runs compare
_MAX_ALPHA = 1e6  # beyond it every class is split evenly to the last example


def partition(labels: Labels, how: Partition, domains: Labels | None = None) -> list[Indices]:
    """The sorted indices (int64[n_shard]) of each shard: disjoint, complete, none empty.

    `iid` deals shuffled examples out evenly: shard sizes differ by one at most. `dirichlet` splits each class by
    proportions drawn from Dir(alpha): small alpha gives shards of few classes (Hsu, Qi and Brown, "Measuring the
    Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019). `domain` deals the values of
    `domains`, in their order, out to the shards in turn, each split evenly among its shards: with as many shards as
    domains or more a shard holds one domain, with fewer some hold several. Raises UsageError.
    """
    _check(len(labels), how)
    rng = np.random.default_rng(how.seed)
    if how.kind == "iid":
        shards = _iid(len(labels), how.shards, rng)
    elif how.kind == "dirichlet":
        shards = _dirichlet(labels, how, rng)
    else:
        shards = _by_domain(domains, how.shards, rng)
    return [np.sort(shard) for shard in shards]


def shard_of(labels: Labels, how: Partition, shard: int, domains: Labels | None = None) -> Indices:
    """The indices of one shard. Raises UsageError where the partition has no such shard."""
    shards = partition(labels, how, domains)
    if not 0 <= shard < len(shards):
        raise UsageError(f"shard {shard}: the partition has shards 0 to {len(shards) - 1}.")
    return shards[shard]


def held_out(labels: Labels) -> npt.NDArray[np.bool_]:
    """bool[n]: the test set, a fifth of each class, drawn by a fixed seed."""
    rng = np.random.default_rng(_SPLIT_SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        is_test[members[: round(len(members) * _TEST_SHARE)]] = True
    return is_test


def _check(n_examples: int, how: Partition) -> None:
    if how.kind not in PARTITIONS:
        raise UsageError(f"partition kind = {how.kind!r}: it is one of {', '.join(PARTITIONS)}.")
    if not 1 <= how.shards <= n_examples:
        raise UsageError(f"shards = {how.shards}: {n_examples} examples make 1 to {n_examples} shards.")
    if how.kind == "dirichlet" and not 0 < how.alpha <= _MAX_ALPHA:
        raise UsageError(f"alpha = {how.alpha}: it must be above 0 and at most {_MAX_ALPHA:g}.")
    if how.seed < 0:
        raise UsageError(f"partition seed = {how.seed}: it must not be negative.")


def _iid(n_examples: int, shards: int, rng: np.random.Generator) -> list[Indices]:
    return np.array_split(rng.permutation(n_examples), shards)


def _dirichlet(labels: Labels, how: Partition, rng: np.random.Generator) -> list[Indices]:
    parts: list[list[Indices]] = [[] for _ in range(how.shards)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(how.shards, how.alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    return _fill_empty([np.concatenate(part) for part in parts])


def _by_domain(domains: Labels | None, shards: int, rng: np.random.Generator) -> list[Indices]:
    if domains is None:
        raise UsageError(
            "partition kind = 'domain': this workload's examples belong to no domains.", remedy="Use iid or dirichlet."
        )
    names = np.unique(domains)
    parts: list[list[Indices]] = [[] for _ in range(shards)]
    for index, name in enumerate(names):
        takers = range(index % shards, shards, len(names))
        members = rng.permutation(np.flatnonzero(domains == name))
        if len(members) < len(takers):
            raise UsageError(f"shards = {shards}: the {len(members)} examples of domain {name!s:.80} cannot be split.")
        for shard, piece in zip(takers, np.array_split(members, len(takers)), strict=True):
            parts[shard].append(piece)
    return [np.concatenate(part) for part in parts]


def _fill_empty(shards: list[Indices]) -> list[Indices]:
    """A client without data cannot take part: an empty shard gets one example of the largest."""
    for index, shard in enumerate(shards):
        if len(shard) == 0:
            largest = max(range(len(shards)), key=lambda i: len(shards[i]))
            shards[index], shards[largest] = shards[largest][:1], shards[largest][1:]
    return shards

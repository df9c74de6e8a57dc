"""A partition is disjoint, complete, never empty, and follows from its seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.partition import partition
from fl.workload import Partition, load_workload
from profiler.errors import UsageError

LABELS = np.random.default_rng(0).integers(0, 10, 1437)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=120),
    st.data(),
    st.sampled_from(["iid", "dirichlet"]),
    st.floats(1e-6, 1e6),
    st.integers(0, 2**63 - 1),
)
def test_every_example_goes_to_one_shard(
    labels: list[int], data: st.DataObject, kind: str, alpha: float, seed: int
) -> None:
    how = Partition(kind, data.draw(st.integers(1, len(labels))), alpha, seed)
    shards = partition(np.array(labels), how)
    assert len(shards) == how.shards
    assert all(len(shard) > 0 for shard in shards)
    assert sorted(np.concatenate(shards)) == list(range(len(labels)))
    again = partition(np.array(labels), how)
    assert all(np.array_equal(one, other) for one, other in zip(shards, again, strict=True))


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_the_seed_decides(kind: str) -> None:
    first, second = (partition(LABELS, Partition(kind, 3, seed=seed)) for seed in (1, 2))
    assert any(not np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_iid_shards_are_even_in_size_and_alike_in_classes() -> None:
    shards = partition(LABELS, Partition("iid", 3))
    assert [len(shard) for shard in shards] == [479, 479, 479]
    sizes = [len(shard) for shard in partition(LABELS, Partition("iid", 10))]
    assert max(sizes) - min(sizes) == 1
    counts = np.array([np.bincount(LABELS[shard], minlength=10) for shard in shards])
    assert counts.min() > 25


def test_small_alpha_skews_and_large_alpha_does_not() -> None:
    def largest_class_share(alpha: float) -> float:
        shards = partition(LABELS, Partition("dirichlet", 5, alpha))
        return float(np.mean([np.bincount(LABELS[shard]).max() / len(shard) for shard in shards]))

    skewed, mild, even = (largest_class_share(alpha) for alpha in (0.05, 1.0, 1000.0))
    assert skewed > 0.4
    assert skewed > mild > even
    assert even < 0.14


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("adw"), min_size=1, max_size=90), st.integers(1, 12), st.integers(0, 2**63 - 1))
def test_a_shard_by_domain_holds_one_domain_where_there_are_enough_shards(
    drawn: list[str], shards: int, seed: int
) -> None:
    domains = np.array(drawn)
    names, sizes = np.unique(domains, return_counts=True)
    how = Partition("domain", shards, seed=seed)
    takers = [len(range(index, shards, len(names))) for index in range(len(names))]
    if shards > len(domains) or any(size < n for size, n in zip(sizes, takers, strict=True)):
        with pytest.raises(UsageError, match=f"shards = {shards}"):
            partition(domains, how, domains)
        return
    parts = partition(domains, how, domains)
    assert len(parts) == shards
    assert sorted(np.concatenate(parts)) == list(range(len(domains)))
    held = [set(domains[part]) for part in parts]
    if shards >= len(names):
        assert held == [{names[index % len(names)]} for index in range(shards)]
    else:
        assert held == [set(names[index::shards]) for index in range(shards)]
    for name in names:
        of_name = [int((domains[part] == name).sum()) for part in parts if name in domains[part]]
        assert max(of_name) - min(of_name) <= 1


def test_a_domains_examples_are_dealt_out_at_random() -> None:
    domains = np.array(["one"] * 400 + ["other"] * 100)
    labels = np.arange(500) // 50
    first, second, third, fourth = partition(labels, Partition("domain", 4, seed=1), domains)
    assert [len(part) for part in (first, second, third, fourth)] == [200, 50, 200, 50]
    assert np.bincount(labels[first]).min() > 10
    assert not np.array_equal(first, partition(labels, Partition("domain", 4, seed=2), domains)[0])


def test_without_domains_there_is_no_split_by_domain() -> None:
    with pytest.raises(UsageError, match=r"belong to no domains. Use iid or dirichlet"):
        partition(LABELS, Partition("domain", 3))
    with pytest.raises(UsageError, match="belong to no domains"):
        load_workload("digits").client(0, Partition("domain", 3))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Partition("random", 3), "kind = 'random': it is one of iid, dirichlet, domain"),
        (Partition("iid", 0), "shards = 0"),
        (Partition("iid", 1438), "1437 examples make 1 to 1437 shards"),
        (Partition("dirichlet", 3, 0.0), "alpha = 0.0"),
        (Partition("dirichlet", 3, float("nan")), "alpha = nan"),
        (Partition("dirichlet", 3, float("inf")), "alpha = inf"),
        (Partition("iid", 3, seed=-1), "seed = -1"),
    ],
)
def test_refuses_what_is_no_partition(how: Partition, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        partition(LABELS, how)

"""Checkpoints: whole or not at all, refused where damaged or foreign; and `start_server` goes on from one."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from fl.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from fl.client import start_client
from fl.standalone import History, ServerConfig, start_server
from fl.strategies.fedopt import FedAvgM
from profiler.errors import PreconditionError
from tests.fl.clients import Unruly
from tests.fl.test_server import free_address

MODEL = [np.arange(12, dtype=np.float32).reshape(3, 4), np.array(7, dtype=np.int64)]


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert read_checkpoint(path) is None
    write_checkpoint(path, Checkpoint(3, MODEL, [np.full(2, 0.5)]))
    found = read_checkpoint(path, MODEL)
    assert found is not None
    assert found.round == 3
    assert [(a.dtype, a.tolist()) for a in found.arrays] == [(a.dtype, a.tolist()) for a in MODEL]
    assert [a.tolist() for a in found.state] == [[0.5, 0.5]]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"], "no partial file is left"


@pytest.mark.parametrize("damage", ["cut", "junk", "empty", "pickle", "other"])
def test_a_checkpoint_that_is_none_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.npz"
    write_checkpoint(path, Checkpoint(3, MODEL))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "junk":
        path.write_bytes(b"PK\x03\x04 junk")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        np.savez(path, arr_0=np.array([{}], dtype=object), round=1)
    else:
        write_checkpoint(path, Checkpoint(3, MODEL[:1]))
    with pytest.raises(PreconditionError, match=r"run\.npz"):
        read_checkpoint(path, MODEL)


def serve(checkpoint: Path, rounds: int, initial: list[np.ndarray] | None = None) -> History:
    address = free_address()
    client = threading.Thread(target=start_client, args=(address, Unruly()), kwargs={"device": "a", "max_wait_s": 20.0})
    client.start()
    try:
        return start_server(
            address,
            config=ServerConfig(num_rounds=rounds, round_timeout=20.0),
            strategy=FedAvgM(epochs=1, batch_size=1, lr=0.1, server_momentum=0.5),
            min_clients=1,
            initial_parameters=initial,
            wait_s=20.0,
            checkpoint=checkpoint,
        )
    finally:
        client.join(20.0)
        assert not client.is_alive()


def test_a_run_in_three_parts_is_the_run_in_one(tmp_path: Path) -> None:
    whole = serve(tmp_path / "whole.npz", 3)
    parts = [serve(tmp_path / "parts.npz", rounds) for rounds in (1, 3, 3)]
    assert [[result.round for result in part.rounds] for part in parts] == [[1], [2, 3], []]
    assert whole.parameters is not None
    for part in parts[1:]:
        assert part.parameters is not None
        assert part.parameters.arrays[0].tolist() == whole.parameters.arrays[0].tolist() != [3, 3, 3], (
            "momentum is kept"
        )

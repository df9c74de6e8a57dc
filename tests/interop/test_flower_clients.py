"""Unmodified Flower clients join our server: every version, every scalar, NumPyClient and Client, with TLS and without.

`make test` has seconds for this and runs one version, and another where it is installed; `make interop` runs them all.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from fl import FedAvg, History, ServerConfig, ndarrays_to_parameters, start_server
from fl.messages import Scalar
from tests.interop.flower import (
    SCRIPTS,
    VERSIONS,
    finish,
    flower_python,
    free_port,
    make_certificate,
    running,
    until_listening,
)

TOLD: dict[str, Scalar] = {"yes": True, "zero": 0, "less": -3, "least": -(2**63), "most": 2**63 - 1, "half": 0.5}
TOLD |= {"text": "größer", "raw": b"\x00\xff"}
ASKED: dict[str, Scalar] = {"yes": True, "no": False, "less": -3, "most": 2**63 - 1, "half": 0.5, "text": "größer"}
ASKED |= {"raw": b"\x00\xff"}
HUGE: dict[str, Scalar] = {"huge": 2**64 - 1}


def serve(python: Path, folder: Path, *, tls: bool, huge: dict[str, Scalar]) -> History:
    """Three rounds with two clients of 10 and 30 examples, one a NumPyClient, the other a Client."""
    port = free_port()
    certificates = make_certificate(folder) if tls else None
    strategy = FedAvg(
        on_fit_config_fn=lambda round_: {**ASKED, **huge},
        initial_parameters=ndarrays_to_parameters([np.zeros((2, 3), dtype=np.float32), np.array(0)]),
    )
    config = ServerConfig(num_rounds=3, round_timeout=50.0)
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        serving = pool.submit(
            start_server,
            f"127.0.0.1:{port}",
            config=config,
            strategy=strategy,
            certificates=certificates,
            wait_s=50.0,
        )
        until_listening(port)
        clients = []
        for examples, kind in ((10, "numpy"), (30, "client")):
            log = folder / f"{kind}.log"
            arguments = [port, examples, folder / "server.pem" if tls else "-", kind]
            clients.append((stack.enter_context(running(python, SCRIPTS / "flower_client.py", arguments, log)), log))
        for client, log in clients:
            finish(client, log)
        return serving.result(60.0)


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_flower_clients_train_at_our_server(version: str, tls: bool, tmp_path: Path) -> None:
    python = flower_python(version, is_short=tls, is_quick=tls)
    huge = {} if version == "1.8.0" else HUGE  # uint64 came with 1.12
    history = serve(python, tmp_path, tls=tls, huge=huge)
    assert [result.round for result in history.rounds] == [1, 2, 3]
    assert [call.failure for result in history.rounds for call in result.calls] == [None] * 12
    assert {call.device for result in history.rounds for call in result.calls} == {"board-10", "client-1"}
    assert history.parameters is not None
    weights, counter = history.parameters.arrays
    # 10 examples add 1 and 30 add 3, so a round adds (10 * 1 + 30 * 3) / 40; the integer counter stays an integer
    np.testing.assert_allclose(weights, np.full((2, 3), 3 * 2.5, dtype=np.float32))
    assert (counter.item(), counter.dtype) == (3, np.int64)
    assert dict(history.losses_distributed) == pytest.approx({1: 2.5, 2: 5.0, 3: 7.5})
    for call in (call for result in history.rounds for call in result.calls if call.call == "fit"):
        assert call.answer is not None
        told = call.answer.result.metrics
        assert told == TOLD | huge
        assert {key: type(value) for key, value in told.items()} == {k: type(v) for k, v in (TOLD | huge).items()}
        assert call.answer.timing.device_s is None, "a foreign client does not tell its own time"
        assert call.answer.timing.round_trip_s > 0

"""The Java client joins unmodified Flower servers, trains, and is ended by them, with NPY and with raw tensors.

`make test` runs one version, where it can be had; `make interop` runs them all.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.wire.measurement import RECORD_KEY, decode_spans
from tests.android.java_client import Built, JavaClient, export_digits, initial, java_clients
from tests.interop.flower import SCRIPTS, VERSIONS, finish, flower_python, free_port, make_certificate, running

pytestmark = [pytest.mark.serial, pytest.mark.timeout(700)]


@pytest.fixture
def clients() -> Iterator[list[JavaClient]]:
    with java_clients() as started:
        yield started


def train(
    java: Built,
    python: Path,
    clients: list[JavaClient],
    folder: Path,
    mode: str,
    telemetry: str = "-",
    tls: bool = False,
) -> dict[str, Any]:
    """Two rounds with two clients, to the end of all three processes; what the server wrote down."""
    port, log = free_port(), folder / "server.log"
    shards = export_digits(folder / "shards", 2)
    for i, array in enumerate(initial()):
        np.save(folder / f"initial-{i}.npy", array)
    if tls:
        make_certificate(folder)
    words = ["--max-wait", "50", *(["--root-certificates", str(folder / "server.pem")] if tls else [])]
    arguments = [port, 2, folder, "TLS" if tls else "plain", mode, telemetry]
    with ExitStack() as stack:
        server = stack.enter_context(running(python, SCRIPTS / "flower_server.py", arguments, log))
        for shard in range(2):
            clients.append(JavaClient(java, f"localhost:{port}", f"java-{shard}", shards, *words, shard=shard))
        finish(server, log)
    for client in clients:
        code, said = client.wait()
        assert code == 0, said
    told: dict[str, Any] = json.loads((folder / "captured.json").read_text())
    first, second = told["losses"]
    assert second < first < 2.4, "it learns: a model that knows nothing has a loss of ln 10"
    return told


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_it_trains_there_with_its_measurements_and_is_sent_home(
    version: str, tls: bool, java: Built, clients: list[JavaClient], tmp_path: Path
) -> None:
    python = flower_python(version, is_short=not tls)
    told = train(java, python, clients, tmp_path, "capture", "full", tls)
    fits = [metrics for calls in told["captured"] for _, metrics in calls if "fit.duration_s" in metrics]
    assert len(fits) == 4
    for metrics in fits:
        assert metrics["fit.steps_done"] == metrics["fit.steps_planned"] == 2 * -(-719 // 16)
        assert metrics["fit.stopped_by"] == "completed"
        spans = decode_spans(base64.b64decode(metrics[RECORD_KEY]["bytes"]))
        [fit] = [span for span in spans if span.name == "fit"]
        assert (len(fit.steps_s), fit.duration_s) == (metrics["fit.steps_done"], metrics["fit.duration_s"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["default", "android"])
def test_it_gives_the_first_model_and_takes_raw_tensors(
    version: str, mode: str, java: Built, clients: list[JavaClient], tmp_path: Path
) -> None:
    train(java, flower_python(version, is_short=mode == "android"), clients, tmp_path, mode)

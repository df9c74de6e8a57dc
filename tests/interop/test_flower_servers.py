"""Our client joins unmodified Flower servers, and its measurements pass through them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fl.wire.measurement import RECORD_KEY, decode_spans
from fl.wire.samples import SAMPLES_KEY, decode_samples
from tests.fixtures.powercap import Driver, build_tree
from tests.interop.flower import (
    OURS,
    ROOT,
    SCRIPTS,
    VERSIONS,
    finish,
    flower_python,
    free_port,
    make_certificate,
    running,
)

Told = dict[str, Any]


def train(python: Path, folder: Path, *, tls: bool, mode: str, telemetry: str, meter: Sequence[Path] = ()) -> Told:
    """Two rounds of Flower's server with two clients of ours; what its aggregation function got."""
    port, log = free_port(), folder / "server.log"
    if tls:
        make_certificate(folder)
    arguments = [port, 2, folder, "TLS" if tls else "plain", mode, telemetry]
    with ExitStack() as stack:
        server = stack.enter_context(running(python, SCRIPTS / "flower_server.py", arguments, log))
        clients = []
        for examples in (10, 30):
            out = folder / f"client-{examples}.log"
            arguments = [port, examples, folder / "server.pem" if tls else "-", *meter]
            clients.append((stack.enter_context(running(OURS, SCRIPTS / "our_client.py", arguments, out)), out))
        for process, out in [(server, log), *clients]:
            finish(process, out)
    told = json.loads((folder / "captured.json").read_text())
    assert told["losses"] == pytest.approx([1.0, 2.0], abs=1e-5), log.read_text()[-3000:]
    return Told(told)


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_measurements_pass_through_a_flower_server(version: str, tls: bool, tmp_path: Path) -> None:
    told = train(flower_python(version, is_short=not tls), tmp_path, tls=tls, mode="capture", telemetry="full")
    fits = [metrics for calls in told["captured"] for _, metrics in calls if "fit.duration_s" in metrics]
    assert len(fits) == 4
    for metrics in fits:
        assert (metrics["fit.steps_done"], metrics["fit.steps_planned"], metrics["loss"]) == (10, 10, 0.25)
        assert metrics["fit.stopped_by"] == "completed"
        spans = decode_spans(base64.b64decode(metrics[RECORD_KEY]["bytes"]))
        [fit] = [span for span in spans if span.name == "fit"]
        assert len(fit.steps_s) == 10
        assert fit.duration_s == metrics["fit.duration_s"]


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
def test_samples_pass_through_a_flower_server_that_asks_for_them(version: str, tmp_path: Path) -> None:
    python, root = flower_python(version, is_short=True), tmp_path / "root"
    with Driver(build_tree(root), 20.0, dram_w=3.0):
        told = train(python, tmp_path, tls=False, mode="capture", telemetry="samples", meter=[root])
    for metrics in (metrics for calls in told["captured"] for _, metrics in calls):
        data = base64.b64decode(metrics[SAMPLES_KEY]["bytes"])
        assert len(data) <= 65_536
        samples = decode_samples(data)
        assert samples.span_id in {
            span.span_id for span in decode_spans(base64.b64decode(metrics[RECORD_KEY]["bytes"]))
        }
        assert {"package-0", "dram-0"} <= {rail.rail for rail in samples.rails}
        assert all(len(rail.t_ns) >= 2 for rail in samples.rails), "both edges at least"


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_averages_every_metric_gets_numbers_alone(version: str, tmp_path: Path) -> None:
    told = train(flower_python(version, is_short=True), tmp_path, tls=False, mode="average", telemetry="-")
    [[_, first], _] = told["fit"]["fit.steps_done"]
    assert first == 10
    assert all(isinstance(value, (int, float)) for series in told["fit"].values() for _, value in series)


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS)
def test_our_main_trains_a_workload_at_a_flower_server(version: str, tmp_path: Path) -> None:
    """Flower asks it for the first model; nothing of the server's config is ours but what the workload needs."""
    port, log, out = free_port(), tmp_path / "server.log", tmp_path / "client.log"
    arguments = [port, 1, tmp_path, "plain", "default", "-"]
    options = ["--server", f"127.0.0.1:{port}", "--device", "pi-1", "--workload", "digits", "--max-wait", "40"]
    with (
        running(flower_python(version), SCRIPTS / "flower_server.py", arguments, log) as server,
        running(OURS, ROOT / "fl" / "client.py", [*options, "--meter", "none"], out) as client,
    ):
        finish(server, log)
        finish(client, out)
    first, second = json.loads((tmp_path / "captured.json").read_text())["losses"]
    assert second < first, "it learns"

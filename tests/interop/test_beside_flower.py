"""Ours in one process with Flower: messages, clients of its classes, and a whole script moved by its imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.flower import EVERY_DAY, OURS, ROOT, SCRIPTS, VERSIONS, finish, flower_python, free_port, running

BESIDE = """
from google.protobuf import __version__
import flwr.proto.transport_pb2 as theirs
from fl.wire import codec
from fl.wire import transport_pb2 as ours
from fl.messages import GetPropertiesIns

message = theirs.ServerMessage()
message.ParseFromString(codec.encode_instruction(GetPropertiesIns({"lr": 0.5, "n": -3})))
assert message.get_properties_ins.config["lr"].double == 0.5
assert message.get_properties_ins.config["n"].sint64 == -3
assert codec.decode_instruction(message.SerializeToString()) == GetPropertiesIns({"lr": 0.5, "n": -3})
assert ours.DESCRIPTOR.package == "fedmeter.wire"
print(__version__)
"""

WRAPPED = """
import flwr
import numpy as np
from flwr.common import Code, EvaluateRes, FitRes, GetParametersRes, Status
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from fl.instrument import instrument
from fl.steps import steps
from profiler.errors import FedmeterError


class Numpy(flwr.client.NumPyClient):
    def fit(self, parameters, config):
        for _ in steps(range(4)):
            pass
        return [array + 1 for array in parameters], 7, {"loss": 0.5}

    def evaluate(self, parameters, config):
        return 0.25, 3, {}


class Whole(flwr.client.Client):
    def get_parameters(self, ins):
        return GetParametersRes(Status(Code.OK, ""), ndarrays_to_parameters([np.zeros(2)]))

    def fit(self, ins):
        if ins.config.get("fail"):
            return FitRes(Status(Code.FIT_NOT_IMPLEMENTED, "no power"), ins.parameters, 0, {})
        arrays, n, told = Numpy().fit(parameters_to_ndarrays(ins.parameters), ins.config)
        return FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), n, told)

    def evaluate(self, ins):
        return EvaluateRes(Status(Code.OK, ""), 0.25, 3, {})


for client in (Numpy(), Numpy().to_client(), Whole()):
    wrapped = instrument(client)
    arrays, n, metrics = wrapped.fit([np.zeros(2, dtype=np.float32)], {"epochs": 1})
    assert (arrays[0].tolist(), arrays[0].dtype, n) == ([1, 1], np.float32, 7)
    assert (metrics["fit.steps_done"], metrics["loss"]) == (4, 0.5), metrics
    loss, n, metrics = wrapped.evaluate(arrays, {})
    assert (loss, n) == (0.25, 3) and metrics["evaluate.duration_s"] >= 0
assert instrument(Whole()).get_parameters({})[0].tolist() == [0, 0]
try:
    instrument(Whole()).fit([np.zeros(2)], {"fail": True})
except FedmeterError as error:
    assert "FIT_NOT_IMPLEMENTED" in str(error) and "no power" in str(error), error
else:
    raise AssertionError("a status that is not OK must not pass for an update")
"""


def run_beside(python: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLWR_TELEMETRY_ENABLED": "0"}
    command = [str(python), "-W", "error::UserWarning:google", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(700)
def test_our_messages_load_beside_flowers_and_mean_the_same() -> None:
    """One process with both, on the protobuf that Flower pins, which is older than ours."""
    assert int(run_beside(flower_python(EVERY_DAY, is_short=True), BESIDE).split(".")[0]) < 7


@pytest.mark.timeout(700)
@pytest.mark.parametrize("version", VERSIONS[1:])  # ours needs protobuf 5.28; 1.8.0 pins an older one
def test_clients_of_flowers_classes_are_instrumented_as_they_are(version: str) -> None:
    run_beside(flower_python(version, is_short=True), WRAPPED)


FLOWER_IMPORTS = """\
from flwr.client import NumPyClient, start_client
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerConfig, start_server
from flwr.server.strategy import FedAvg
"""
OUR_IMPORTS = """\
from fl import FedAvg, NumPyClient, ServerConfig, ndarrays_to_parameters, start_client, start_server
"""


def run_script(python: Path, imports: str, folder: Path) -> dict[str, object]:
    """The quickstart with these imports: a server and two clients; what its History says."""
    folder.mkdir()
    script = folder / "quickstart.py"
    text = (SCRIPTS / "quickstart.py").read_text()
    assert FLOWER_IMPORTS in text
    script.write_text(text.replace(FLOWER_IMPORTS, imports))
    port, out = free_port(), folder / "history.json"
    logs = [folder / f"{role}.log" for role in ("server", "client-0", "client-1")]
    with running(python, script, ["server", port, out], logs[0]) as server, ThreadPoolExecutor(2) as pool:

        def train(number: int) -> None:
            with running(python, script, ["client", port, number], logs[1 + number]) as client:
                finish(client, logs[1 + number])

        both = [pool.submit(train, number) for number in range(2)]
        finish(server, logs[0])
        for one in both:
            one.result()
    found = json.loads(out.read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.timeout(700)
def test_a_script_moves_by_changing_its_imports(tmp_path: Path) -> None:
    """A linear regression in numpy: the same losses, round by round, at Flower and here."""
    theirs = run_script(flower_python(EVERY_DAY, is_short=True), FLOWER_IMPORTS, tmp_path / "flower")
    ours = run_script(OURS, OUR_IMPORTS, tmp_path / "ours")
    assert sys.executable == str(OURS)
    for key in ("losses_centralized", "losses_distributed"):
        assert [round_ for round_, _ in ours[key]] == [round_ for round_, _ in theirs[key]], key  # type: ignore[attr-defined]
        values = [value for _, value in theirs[key]]  # type: ignore[attr-defined]
        assert [value for _, value in ours[key]] == pytest.approx(values, rel=1e-5), key  # type: ignore[attr-defined]
        assert values[-1] < values[0] / 2, "it learns"
    for key in ("metrics_distributed", "metrics_distributed_fit", "metrics_centralized"):
        assert ours[key] == theirs[key], key
        assert ours[key], key

"""An unmodified Flower client, from the package index and in its own environment, joins our server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fl.aggregate import WeightedMean
from fl.loop import RoundResult, run_rounds
from fl.messages import Config, Parameters
from fl.proxy import ClientInfo
from fl.server import Server
from fl.strategy import Aggregator, Assignment
from profiler.clock import SystemClock
from tests.fixtures.environments import NotInstalled, python_with

FLWR = "flwr==1.32.1"
ROOT = Path(__file__).parents[2]
N_CLIENTS = 2
ROUNDS = 3

# A client as Flower's own documentation writes it: no import of ours, no key of ours but those in its config.
SCRIPT = """
import sys

import flwr
import numpy as np


class Client(flwr.client.NumPyClient):
    def get_parameters(self, config):
        return [np.zeros((2, 3), dtype=np.float32), np.array(0)]

    def fit(self, parameters, config):
        assert config["name"] == "flower" and config["flag"] is True, config
        weights, counter = parameters
        return [weights + config["step"], counter + 1], int(sys.argv[2]), {"loss": 0.5, "note": "hello"}

    def evaluate(self, parameters, config):
        return float(parameters[0].mean()), int(sys.argv[2]), {"accuracy": 0.75}


flwr.client.start_client(server_address=f"127.0.0.1:{sys.argv[1]}", client=Client().to_client(), insecure=True)
"""


class Steps:
    """Everybody fits and evaluates; client i adds i + 1, so that the weighted mean can be worked out by hand."""

    name = "steps"

    def configure_fit(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        return [
            Assignment(info.device, self._config(float(index + 1)), 60.0)
            for index, info in enumerate(sorted(clients, key=lambda info: info.device))
        ]

    def configure_evaluate(self, round_: int, clients: Sequence[ClientInfo]) -> list[Assignment]:
        return [Assignment(info.device, {}, 60.0) for info in clients]

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator:
        return WeightedMean(parameters)

    def _config(self, step: float) -> Config:
        return {"step": step, "name": "flower", "flag": True, "telemetry": "none"}


@pytest.fixture(scope="module")
def flwr_python() -> Path:
    """The interpreter of an environment with Flower in it, made once and kept in the cache."""
    try:
        return python_with(FLWR)
    except NotInstalled as error:
        pytest.skip(str(error))


@pytest.mark.timeout(700)
@pytest.mark.skipif(sys.version_info < (3, 11), reason="flwr 1.32 needs Python 3.11")
def test_two_flower_clients_complete_three_rounds(flwr_python: Path, tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text(SCRIPT)
    logs = [(tmp_path / f"client-{i}.log") for i in range(N_CLIENTS)]

    async def serve() -> list[RoundResult]:
        server = Server()
        await server.start()
        clients = []
        try:
            for log in logs:
                with log.open("wb") as out:
                    command = [str(flwr_python), str(script), str(server.port), "10"]
                    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(tmp_path)}
                    environment.pop("PYTHONPATH", None)
                    clients.append(
                        await asyncio.create_subprocess_exec(
                            *command, stdout=out, stderr=out, cwd=tmp_path, env=environment
                        )
                    )
            await server.wait_for(N_CLIENTS, 60.0)
            initial = Parameters((np.zeros((2, 3), dtype=np.float32), np.array(0)))
            rounds = run_rounds(
                Steps(),
                server.proxies,
                parameters=initial,
                rounds=range(1, ROUNDS + 1),
                clock=SystemClock(),
                min_clients=N_CLIENTS,
            )
            results = [result async for result in rounds]
            await server.farewell(10.0)
            codes = [await asyncio.wait_for(client.wait(), 30.0) for client in clients]
            assert codes == [0] * N_CLIENTS, "\n".join(log.read_text()[-2000:] for log in logs)
            return results
        finally:
            for client in clients:
                if client.returncode is None:
                    client.kill()
                    await client.wait()
            await server.close()

    results = asyncio.run(serve())
    assert [result.round for result in results] == [1, 2, 3]
    for result in results:
        assert [call.failure for call in result.calls] == [None] * (2 * N_CLIENTS)
        weights, counter = result.parameters.arrays
        # steps of 1 and 2 with equal weights add 1.5 a round; the integer counter adds 1 and stays an integer
        np.testing.assert_allclose(weights, np.full((2, 3), 1.5 * result.round, dtype=np.float32))
        assert counter.item() == result.round
        assert counter.dtype == np.int64
        answers = {call.call: call.answer for call in result.calls}
        fit, evaluate = answers["fit"], answers["evaluate"]
        assert fit is not None
        assert evaluate is not None
        assert fit.result.metrics == {"loss": 0.5, "note": "hello"}
        assert evaluate.result.metrics == {"accuracy": 0.75}
        assert fit.timing.device_s is None, "a foreign client does not tell its own time"
        assert fit.timing.round_trip_s > 0


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


@pytest.mark.timeout(700)
@pytest.mark.skipif(sys.version_info < (3, 11), reason="flwr 1.32 needs Python 3.11")
def test_our_messages_load_beside_flowers_and_mean_the_same(flwr_python: Path) -> None:
    """One process with both, on the protobuf that Flower pins, which is older than ours."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLWR_TELEMETRY_ENABLED": "0"}
    command = [str(flwr_python), "-W", "error::UserWarning:google", "-c", BESIDE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split(".")[0]) < 7

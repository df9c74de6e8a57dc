"""A client as a board of another architecture runs it, against a server of this machine. Emulated, opt-in."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fl.messages import FitIns, GetPropertiesIns, Parameters
from fl.server import Server
from fl.workload import Partition, load_workload
from harness.device import DeviceSpec
from harness.launcher import JoinSpec
from harness.launchers.local import client_command, tethered
from harness.launchers.provisioning import own_wheel
from tests.fixtures.arm64 import FOLDER_VARIABLE, site_of, usable_arm64

START_S = 300.0  # emulated, on a machine that is busy
ROUNDS = 2


@pytest.mark.serial
@pytest.mark.timeout(900)
def test_a_client_trains_on_arm64(tmp_path: Path) -> None:
    """Under our own wheel and arm64 wheels of what it needs; what it learns is what is learned here."""
    python = usable_arm64()
    with zipfile.ZipFile(io.BytesIO(own_wheel().content)) as wheel:
        wheel.extractall(tmp_path / "own")
    path = f"{tmp_path / 'own'}:{site_of(Path(os.environ[FOLDER_VARIABLE]))}"
    there, properties = asyncio.run(trained(python, {**os.environ, "PYTHONPATH": path}, tmp_path))
    assert properties["device.machine"] == "aarch64"
    workload = load_workload("linear")
    client = workload.client(0, Partition(shards=4))
    arrays = workload.initial_parameters(1)
    for round_ in range(1, ROUNDS + 1):
        arrays, _, _ = client.fit(arrays, {**CONFIG, "round": round_})
    for ours, theirs in zip(arrays, there, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


CONFIG: dict[str, int | float] = {"epochs": 1, "batch_size": 16, "lr": 0.05, "seed": 1}


async def trained(
    python: Sequence[str], environment: dict[str, str], folder: Path
) -> tuple[Sequence[np.ndarray], dict[str, object]]:
    """The model after two rounds, and what the client told of its machine."""
    device = DeviceSpec("board", "local", "cpu", 0, options={"threads": 1})
    async with Server("127.0.0.1:0") as server:
        spec = JoinSpec(f"127.0.0.1:{server.port}", "linear", Partition(shards=4))
        command = [*python, *client_command(device, spec)[1:]]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(tethered(command), env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            await server.wait_for(["board"], START_S)
            [proxy] = server.proxies()
            told = await proxy.get_properties(GetPropertiesIns({"telemetry": "full"}), START_S)
            arrays = load_workload("linear").initial_parameters(1)
            for round_ in range(1, ROUNDS + 1):
                ins = FitIns(Parameters(tuple(arrays)), {**CONFIG, "round": round_})
                arrays = list((await proxy.fit(ins, START_S)).result.parameters.arrays)
            await server.farewell()
            assert process.wait(60) == 0, (folder / "log").read_text()
        finally:
            process.kill()
            process.wait()
    return arrays, dict(told.result.properties)

"""Options of a workload as a command line gives them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.client import main
from fl.datasets import ROOT_VARIABLE
from fl.messages import FitIns, FitRes, Parameters
from fl.server import Server
from fl.workload import Option, Workload, load_workload, parse_option
from profiler.errors import UsageError
from tests.fixtures.data import made_cifar10, write_cifar10


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16", 16),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("", ""),
        ("/data/a=b", "/data/a=b"),
        ("1_000", "1_000"),
        ("inf", "inf"),
        ("nan", "nan"),
        ("9" * 400, int("9" * 400)),
    ],
)
def test_a_value_is_read_as_what_it_looks_like(text: str, value: Option) -> None:
    key, parsed = parse_option(f"key={text}")
    assert key == "key"
    assert parsed == value
    assert type(parsed) is type(value)


@given(st.one_of(st.integers(-(2**63), 2**63), st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_come_back(value: int | float) -> None:
    assert parse_option(f"key={value!r}") == ("key", value)


@pytest.mark.parametrize("text", ["", "width", "=3", "two words=3", "--width=3"])
def test_what_is_no_option_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_option(text)


def test_a_wrong_option_of_a_command_line_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    command = ["--server", "127.0.0.1:1", "--workload", "digits", "--meter", "none", "--workload-option"]
    assert main([*command, "widht=8"]) == 2
    assert "'widht'" in caplog.text
    assert main([*command, "width"]) == 2
    assert "KEY=VALUE" in caplog.text


async def a_clients_update(workload: Workload, *options: str) -> FitRes:
    """One fit of a client in a process of its own, started from a command line."""
    async with Server() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fl.client", "--server", f"127.0.0.1:{server.port}", "--device", "pi-1"),
            *("--workload", workload.name, "--meter", "none"),
            *(word for option in options for word in ("--workload-option", option)),
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
        )
        try:
            await server.wait_for({"pi-1"}, 60.0)
            start = Parameters(tuple(workload.initial_parameters(0)))
            answer = await server.proxies()[0].fit(FitIns(start, {"batch_size": 50}), 60.0)
            await server.farewell()
            _, log = await asyncio.wait_for(process.communicate(), 20.0)
            assert process.returncode == 0, log
        finally:
            if process.returncode is None:
                process.kill()
        return answer.result


@pytest.mark.serial
def test_a_client_of_a_command_line_trains_the_model_of_its_options() -> None:
    update = asyncio.run(a_clients_update(load_workload("digits", hidden=5), "hidden=5"))
    assert [array.shape for array in update.parameters.arrays] == [(5, 64), (5,), (10, 5), (10,)]


@pytest.mark.serial
def test_counters_and_running_statistics_travel_over_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path, made_cifar10(n_train=200, n_test=20))
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))  # the client's process inherits it
    workload = load_workload("cifar10-resnet18", width=2, device="cpu")
    update = asyncio.run(a_clients_update(workload, "width=2", "device=cpu"))
    arrays = update.parameters.arrays
    assert [int(array) for array in arrays if array.dtype == np.int64] == [4] * 20
    assert np.isfinite(workload.evaluate(list(arrays))[0])

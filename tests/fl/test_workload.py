"""Options of a workload as a command line gives them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.messages import GetParametersIns
from fl.server import Server
from fl.workload import Option, parse_option
from profiler.errors import UsageError


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


@pytest.mark.serial
def test_the_client_of_a_command_line_takes_options() -> None:
    async def test() -> list[tuple[int, ...]]:
        async with Server() as server:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fl.client", "--server", f"127.0.0.1:{server.port}", "--device", "pi-1"),
                *("--workload", "digits", "--workload-option", "hidden=5", "--meter", "none"),
                cwd=Path(__file__).parents[2],
                stderr=subprocess.PIPE,
            )
            try:
                await server.wait_for({"pi-1"}, 60.0)
                answer = await server.proxies()[0].get_parameters(GetParametersIns(), 10.0)
                await server.farewell()
                _, log = await asyncio.wait_for(process.communicate(), 20.0)
                assert process.returncode == 0, log
            finally:
                if process.returncode is None:
                    process.kill()
            return [array.shape for array in answer.result.parameters.arrays]

    assert asyncio.run(test()) == [(5, 64), (5,), (10, 5), (10,)]

"""Options of a workload as a command line gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.client import main
from fl.datasets import ROOT_VARIABLE
from fl.workload import Option, load_workload, parse_option
from profiler.errors import UsageError
from tests.fixtures.data import made_cifar10, write_cifar10
from tests.fl.command_line import fit_of_a_process


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


def test_a_client_of_a_command_line_trains_the_model_of_its_options() -> None:
    words = ("--meter", "none", "--workload-option", "hidden=5")
    answer, _ = fit_of_a_process(load_workload("digits", hidden=5), {}, *words)
    assert [array.shape for array in answer.result.parameters.arrays] == [(5, 64), (5,), (10, 5), (10,)]


def test_counters_and_running_statistics_travel_over_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path, made_cifar10(n_train=200, n_test=20))
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))  # the client's process inherits it
    workload = load_workload("cifar10-resnet18", width=2, device="cpu")
    words = ("--meter", "none", "--workload-option", "width=2", "--workload-option", "device=cpu")
    answer, _ = fit_of_a_process(workload, {"batch_size": 50}, *words)
    arrays = answer.result.parameters.arrays
    assert [int(array) for array in arrays if array.dtype == np.int64] == [4] * 20
    assert np.isfinite(workload.evaluate(list(arrays))[0])

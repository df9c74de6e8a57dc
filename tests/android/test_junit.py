"""The JUnit tests of the Java client's core, so that they run wherever the others do."""

from __future__ import annotations

import subprocess

import pytest

from tests.android.conftest import BUILD, CORE
from tests.android.java_client import Built


@pytest.mark.serial
def test_the_core_s_own_tests_pass(java: Built) -> None:
    command = ["make", "-s", "-C", str(CORE), f"BUILD={BUILD}", "test"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-10_000:]
    assert "OK (" in done.stdout

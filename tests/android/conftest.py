"""The Java client as a jar, built once. Tests that need it skip, saying so, where a JDK or Debian's jars are absent."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.android.java_client import Built

ROOT = Path(__file__).resolve().parents[2]
CORE, BUILD = ROOT / "fl" / "android" / "core", ROOT / "build" / "android"


@pytest.fixture(scope="session")
def java() -> Built:
    return build()


def build() -> Built:
    """Built in the checkout, where `make android-test` has built it already. Skips the test where it cannot be."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    missing = subprocess.run(["make", "-s", "-C", str(CORE), "missing"], capture_output=True, text=True, timeout=30)
    if missing.returncode:
        pytest.skip(f"the Java client is not built: {missing.stderr.splitlines()[0]}")
    subprocess.run(
        ["make", "-s", "-C", str(CORE), f"BUILD={BUILD}", "jar", f"{BUILD}/test-classes"], check=True, timeout=150
    )
    return Built(BUILD / "fedmeter-client.jar", BUILD / "test-classes")

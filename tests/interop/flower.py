"""Real Flower, from the package index and each version in an environment of its own, as processes beside ours."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fixtures.environments import ROOT, NotInstalled, is_ready, python_with

SCRIPTS = Path(__file__).parent / "scripts"
OURS = Path(sys.executable)
# The oldest whose protobuf still installs, one in the middle that phones' servers use, and the newest there is.
VERSIONS = ("1.8.0", "1.32.1", "1.42.0")
EVERY_DAY, OLDEST = "1.32.1", "1.8.0"
WAIT_S = 60.0


def flower_python(version: str, *, is_short: bool = False, is_quick: bool = False) -> Path:
    """The interpreter of that Flower; skips the test where it cannot be had.

    `make test` has seconds for all of this: of the tests that are short it runs 1.32.1, of those that are quick also
    1.8.0 where that is installed already. `make interop` runs every version, every way.
    """
    if sys.version_info < (3, 11):
        pytest.skip("flwr 1.32 and later need Python 3.11")
    is_due = (is_short and version == EVERY_DAY) or (is_quick and version == OLDEST and is_ready(f"flwr=={version}"))
    if not is_due and os.environ.get("FEDMETER_INTEROP") != "full":
        pytest.skip("make interop")
    try:
        return python_with(f"flwr=={version}")
    except NotInstalled as error:
        pytest.skip(str(error))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(python: Path, script: Path, arguments: Sequence[object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A script under an interpreter; ours sees our packages, Flower's does not. Killed at the end if it still runs."""
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(log.parent), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    if python == OURS:
        environment["PYTHONPATH"] = str(ROOT)
    command = [str(python), str(script), *map(str, arguments)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent, env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """It ends by itself, and well."""
    try:
        code = process.wait(WAIT_S)
    except subprocess.TimeoutExpired:
        code = None
    assert code == 0, f"exit {code}\n{log.read_text()[-3000:]}"


def until_listening(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Flower's clients give up at once where no server is up yet."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s and (process is None or process.poll() is None):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on {port}")


def make_certificate(folder: Path) -> tuple[bytes, bytes, bytes]:
    """A certificate for this host that is its own authority: root, certificate and key, as PEM; also as files."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = folder / "server.key", folder / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return certificate.read_bytes(), certificate.read_bytes(), key.read_bytes()

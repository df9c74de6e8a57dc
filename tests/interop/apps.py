"""Flower of several versions with fedmeter in it: its interpreters, its federations, and what runs leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from profiler.records import Row, read_lines
from tests.fixtures.environments import ROOT, NotInstalled, is_ready, python_with
from tests.interop.flower import free_port, until_listening

APP, QUICKSTART = Path(__file__).parent / "app", Path(__file__).parent / "quickstart"
OLDEST, NEWEST = "1.24.0", "1.42.0"
VERSIONS = (OLDEST, NEWEST)
BESIDE = ("psutil", "pyarrow", "tabulate", "tqdm")  # what harness.Recording needs beside Flower
# What the whole harness and PyTorch apps need, and the Ray that each Flower asks for.
ENGINE_BESIDE: Mapping[str, Sequence[str]] = {
    OLDEST: (*BESIDE, "scipy", "ray==2.51.1"),
    NEWEST: (*BESIDE, "ray==2.55.1", "torch==2.13.0", "scikit-learn"),
}


def app_python(version: str, beside: Sequence[str] = BESIDE) -> Path:
    """The interpreter of that Flower; `make test` installs none, and skips where there is none."""
    requirement = f"flwr=={version}"
    if not is_ready(requirement, beside) and os.environ.get("FEDMETER_INTEROP") != "full":
        pytest.skip(f"{requirement} is not installed: make interop")
    try:
        return python_with(requirement, beside)
    except NotInstalled as error:
        pytest.skip(str(error))


def environment(home: Path) -> dict[str, str]:
    offline = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(home), "OMP_NUM_THREADS": "1"}
    offline["RAY_USAGE_STATS_ENABLED"] = "0"
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, APP)))}


def rows(root: Path, **wanted: object) -> list[Row]:
    [path] = (root / "results").glob("*/records/harness.jsonl")
    return [row for row in read_lines(path) if all(row.get(key) == value for key, value in wanted.items())]


@contextmanager
def started(command: Sequence[object], log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, which ends with all that it started."""
    with log.open("wb") as out:
        process = subprocess.Popen([*map(str, command)], stdout=out, stderr=out, env=env, start_new_session=True)
    try:
        yield process
    finally:
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for child in below:  # some have a session of their own
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait()


@dataclass(frozen=True)
class Federation:
    """Where a SuperLink listens: for nodes, and for `flwr run`; since 1.41 both are one port."""

    fleet: str
    control: str

    @classmethod
    def of(cls, version: str) -> Federation:
        fleet = f"127.0.0.1:{free_port()}"
        return cls(fleet, f"127.0.0.1:{free_port()}" if version == OLDEST else fleet)

    def link(self) -> list[str]:
        """Options of `flower-superlink`."""
        if self.control != self.fleet:
            ports = ["--fleet-api-address", self.fleet, "--control-api-address", self.control]
            return [*ports, "--serverappio-api-address", f"127.0.0.1:{free_port()}"]
        host, port = self.fleet.split(":")
        return ["--host", host, "--port", port, "--disable-runtime-dependency-installation"]

    def node(self) -> list[str]:
        """Options of `flower-supernode`."""
        if self.control != self.fleet:
            return ["--superlink", self.fleet, "--clientappio-api-address", f"127.0.0.1:{free_port()}"]
        return ["--superlink", self.fleet, "--port", str(free_port())]

    def tell(self, home: Path, app: Path) -> None:
        """For `flwr run . test`: in the app's own file, later in Flower's."""
        where = f'address = "{self.control}"\ninsecure = true\n'
        if self.control != self.fleet:
            with (app / "pyproject.toml").open("a") as project:
                project.write(f"\n[tool.flwr.federations.test]\n{where}")
        else:
            (home / "config.toml").write_text(f'[superlink]\ndefault = "test"\n\n[superlink.test]\n{where}')


@contextmanager
def running_federation(
    here: Federation, binaries: Path, home: Path, nodes: Sequence[str], *, is_simulated: bool = False
) -> Iterator[Mapping[str, str]]:
    """A SuperLink and a SuperNode for each config, or none in a simulation; the environment for `flwr run`."""
    env = {**environment(home), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        link = [binaries / "flower-superlink", "--insecure", *here.link(), *(["--simulation"] if is_simulated else [])]
        process = stack.enter_context(started(link, home / "superlink.log", env))
        until_listening(int(here.control.rpartition(":")[2]), process)
        for n, config in enumerate(nodes):
            node = [binaries / "flower-supernode", "--insecure", *here.node(), "--node-config", config]
            stack.enter_context(started(node, home / f"node-{n}.log", env))
        yield env


def run_to_the_end(binaries: Path, app: Path, env: Mapping[str, str], results: Path, *options: str) -> None:
    """Submit the app and wait until its results are whole."""
    command = [str(binaries / "flwr"), "run", ".", "test", "--run-config", f'results="{results}"', *options]
    submitted = subprocess.run(command, cwd=app, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    until_s = time.monotonic() + 200
    while not list(results.glob("*/end.json")):
        logs = "\n".join(log.read_text()[-1500:] for log in results.parent.glob("*.log"))
        assert time.monotonic() < until_s, logs
        time.sleep(0.2)

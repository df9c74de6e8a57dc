"""How a SuperNode is started where Flower's programs are not in the PATH: beside a package that stands for Flower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.environments import ROOT

# Tells what it was told and which environment it has, by itself and by another of its programs.
PACKAGE = """
import json, os, subprocess, sys

def supernode():
    names = ("FLWR_HOME", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK")
    told = {"argv": sys.argv, "environment": {name: os.environ.get(name) for name in names}}
    told["below"] = json.loads(subprocess.run(["flower-superexec", "a b"], capture_output=True, check=True).stdout)
    print(json.dumps(told))

def superexec():
    print(json.dumps([sys.argv, sys.executable]))
    return 0
"""
PROGRAMS = "[console_scripts]\nflower-supernode = stand_in:supernode\nflower-superexec=stand_in:superexec\n"


def with_flower(folder: Path, version: str) -> Path:
    """A folder of packages, as pip fills one: nothing in it is in the PATH."""
    facts = folder / f"flwr-{version}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flwr\nVersion: {version}\n")
    (facts / "entry_points.txt").write_text(PROGRAMS)
    (folder / "stand_in.py").write_text(PACKAGE)
    return folder


def started(packages: Path, folder: Path, version: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    return subprocess.run(
        [sys.executable, "-m", "fl.flower.supernode", "127.0.0.1:7", "pi-1", version],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(packages), str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("version", "port"), [("1.24.0", "--clientappio-api-address"), ("1.42.0", "--port")])
def test_it_finds_its_programs_and_keeps_all_in_one_folder(version: str, port: str, tmp_path: Path) -> None:
    folder = tmp_path / "a run's folder"
    done = started(with_flower(tmp_path / "packages", version), folder, version)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    name, *words = told["argv"]
    assert name == "flower-supernode"
    assert words[words.index("--superlink") + 1] == "127.0.0.1:7"
    assert words[words.index("--node-config") + 1] == 'device="pi-1"'
    assert port in words
    assert told["environment"] == {
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    assert told["below"] == [["flower-superexec", "a b"], sys.executable]
    assert {path.name for path in folder.iterdir()} == {"flower"}


def test_a_flower_that_is_too_old_is_told(tmp_path: Path) -> None:
    done = started(with_flower(tmp_path / "packages", "1.8.0"), tmp_path / "run", "1.8.0")
    assert done.returncode == 3
    assert "fl.flower cannot work with flwr 1.8.0. Supported are 1.24 to 1.42" in done.stderr


def test_one_that_is_not_the_superlinks_is_told(tmp_path: Path) -> None:
    done = started(with_flower(tmp_path / "packages", "1.41.0"), tmp_path / "run", "1.42.0")
    assert done.returncode == 3
    assert "flwr 1.41.0 is here, and the SuperLink is of flwr 1.42.0" in done.stderr
    assert "pip install 'flwr==1.42.0'" in done.stderr
    assert not list((tmp_path / "run").iterdir())

from __future__ import annotations

import json
from pathlib import Path

import pytest

from profiler.__main__ import main
from tests.fixtures.powercap import build_tree


def test_list_tells_what_is_there_and_what_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_tree(tmp_path)
    assert main(["list", "--sysfs-root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("rapl *") and "counter" in line and "package-0+dram-0" in line for line in lines)
    assert any(line.startswith("cpu_model") and "proc/stat" in line for line in lines)


def test_list_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_tree(tmp_path)
    assert main(["list", "--sysfs-root", str(tmp_path / "sys"), "--json"]) == 0
    rows = {row["sensor"]: row for row in json.loads(capsys.readouterr().out)["sensors"]}
    assert rows["rapl"]["chosen"] is True
    assert rows["rapl"]["scope"] == "host"
    assert rows["cpu_model"]["available"] is False
    assert rows["cpu_model"]["remedy"]


def test_list_where_nothing_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--sysfs-root", str(tmp_path)]) == 3
    streams = capsys.readouterr()
    assert "virtual machine" in streams.out
    assert "No sensor" in streams.err


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--sysfs-root", str(tmp_path / "none")]) == 2
    assert "not a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as raised:
        main(["dance"])
    assert raised.value.code == 2

from __future__ import annotations

import os
import socket
from pathlib import Path

from profiler.machine import cpu_name, kind_of_machine


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_processor_and_board_of_a_laptop(tmp_path: Path) -> None:
    _write(tmp_path / "proc/cpuinfo", "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i5-8250U\nmodel name\t: other\n")
    _write(tmp_path / "sys/class/dmi/id/product_name", "X1 Carbon\n")
    _write(tmp_path / "sys/class/dmi/id/product_serial", "SECRET\n")
    found = kind_of_machine(tmp_path)
    assert found["processor"] == "Intel(R) Core(TM) i5-8250U"
    assert found["board"] == "X1 Carbon"
    assert "SECRET" not in str(found)


def test_a_board_of_the_device_tree(tmp_path: Path) -> None:
    _write(tmp_path / "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    assert kind_of_machine(tmp_path)["board"] == "Raspberry Pi 5 Model B Rev 1.0"


def test_what_is_not_told_is_left_out_and_nothing_tells_which_machine(tmp_path: Path) -> None:
    _write(tmp_path / "proc/cpuinfo", "model name\n")
    found = kind_of_machine(tmp_path)
    assert set(found) == {"system", "release", "machine"}
    assert cpu_name(tmp_path / "none") == ""
    assert socket.gethostname() not in found.values()
    assert os.uname().nodename not in found.values()


def test_files_are_bounded(tmp_path: Path) -> None:
    _write(tmp_path / "proc/cpuinfo", "model name : " + "x" * 10_000)
    assert len(cpu_name(tmp_path)) == 120

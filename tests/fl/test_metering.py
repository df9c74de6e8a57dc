"""What tells clients of one machine from those of others, and how busy it was."""

from __future__ import annotations

from pathlib import Path

from fl.metering import host_busy_s, machine_id


def booted(root: Path, boot_id: str) -> Path:
    folder = root / "proc/sys/kernel/random"
    folder.mkdir(parents=True)
    (folder / "boot_id").write_text(f"{boot_id}\n")
    return root


def test_clients_of_one_boot_are_of_one_machine(tmp_path: Path) -> None:
    boot_id = "6a0ff4f4-5d4a-4a0e-9d0e-0f2a5b0c1d2e"
    same = [machine_id(booted(tmp_path / name, boot_id)) for name in ("a", "b")]
    assert same[0] == same[1] != machine_id(booted(tmp_path / "c", "another"))
    assert boot_id not in same[0]


def test_a_kernel_that_tells_none_gives_none(tmp_path: Path) -> None:
    assert machine_id(tmp_path) == ""


def test_work_makes_the_host_busy() -> None:
    before_s = host_busy_s()
    for _ in range(10_000):
        if sum(range(10_000)) < 0 or host_busy_s() > before_s:
            break
    assert host_busy_s() > before_s

"""Features on disk: made once, by one process, kept under what they were made of, and never half written."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fl.datasets.cache import Features, cached
from fl.workloads.features import content_hash

SHAPE = (3, 4)


def made() -> Features:
    return np.arange(12, dtype=np.float32).reshape(SHAPE)


def never() -> Features:
    raise AssertionError("is there already")


def test_is_made_once_and_mapped_then(tmp_path: Path) -> None:
    path = tmp_path / "new" / "features.npy"
    assert np.array_equal(cached(path, SHAPE, made), made())
    again = cached(path, SHAPE, never)
    assert isinstance(again, np.memmap)
    assert np.array_equal(again, made())
    assert [file.name for file in path.parent.iterdir()] == ["features.npy"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04 no archive", b"\x80\x04K\x01.", "cut", "other shape", "other type"],
)
def test_what_is_damaged_is_made_again(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "features.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(
            path, made().astype(np.float64) if content == "other type" else made()[: 2 if "shape" in content else 3]
        )
        if content == "cut":
            path.write_bytes(path.read_bytes()[:-5])
    assert np.array_equal(cached(path, SHAPE, made), made())
    assert np.array_equal(cached(path, SHAPE, never), made())


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="already"):
        cached(tmp_path / "features.npy", SHAPE, never)
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(cached(tmp_path / "features.npy", SHAPE, made), made())


def test_where_nothing_can_be_kept_they_are_made_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING, "fl"):
        assert np.array_equal(cached(tmp_path / "file" / "features.npy", SHAPE, made), made())
    assert "features.npy cannot be kept: Not a directory" in caplog.text


_ONE_OF_MANY = """
import os, sys, time
from pathlib import Path
import numpy as np
from fl.datasets.cache import cached

def make():
    with open(sys.argv[2], "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(0.5)
    return np.ones((3, 4), np.float32)

print("ready", flush=True)
sys.stdin.readline()
assert cached(Path(sys.argv[1]), (3, 4), make).sum() == 12
"""


def test_of_several_processes_one_computes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ONE_OF_MANY, str(tmp_path / "features.npy"), str(log)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # all have been loaded: they meet within the half second that one of them takes
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(log.read_text().splitlines()) == 1


def test_the_hash_is_of_contents(tmp_path: Path) -> None:
    def file(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    one, two, weights = file("one.jpg", b"1"), file("two.jpg", b"2"), file("weights.pth", b"w")
    base = content_hash([one, two], 160, weights, "cpu")
    assert content_hash([file("renamed.jpg", b"1"), two], 160, file("moved.pth", b"w"), "cpu") == base
    others = [
        content_hash([two, one], 160, weights, "cpu"),
        content_hash([one], 160, weights, "cpu"),
        content_hash([one, file("changed.jpg", b"3")], 160, weights, "cpu"),
        content_hash([one, two], 160, weights, "cuda"),
        content_hash([one, two], 128, weights, "cpu"),
        content_hash([one, two], 160, file("other.pth", b"v"), "cpu"),
        content_hash([file("joined.jpg", b"12")], 160, weights, "cpu"),
    ]
    assert len({base, *others}) == 1 + len(others)

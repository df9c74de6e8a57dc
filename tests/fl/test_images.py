"""Folders of labelled images: layouts, what is refused, and images that would hurt."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl.datasets.images import MAX_IMAGE_BYTES, decode, read_bytes, scan
from profiler.errors import DataError
from tests.fixtures.data import write_images, write_office31


def test_domains_and_classes_come_from_the_folders(tmp_path: Path) -> None:
    write_office31(tmp_path, per_class=2, domains=("webcam", "amazon"))
    (tmp_path / "amazon/images/class_0/notes.txt").write_text("no image")
    (tmp_path / "README").write_text("no folder")
    (tmp_path / ".git").mkdir()
    found = scan(tmp_path)
    assert found.classes == ("class_0", "class_1", "class_2")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert found.domains is not None
    assert found.domains.tolist() == ["amazon"] * 6 + ["webcam"] * 6
    assert [path.name for path in found.paths[:2]] == ["frame_0000.png", "frame_0001.png"]


def test_without_domains_there_is_one_set(tmp_path: Path) -> None:
    write_images(tmp_path, per_class=1)
    (tmp_path / "class_1/frame_0000.png").rename(tmp_path / "class_1/frame_0000.JPeG")
    found = scan(tmp_path)
    assert found.labels.tolist() == [0, 1, 2]
    assert found.domains is None


def test_a_domain_may_lack_a_class(tmp_path: Path) -> None:
    write_images(tmp_path / "one/images", per_class=1, classes=3)
    write_images(tmp_path / "two/images", per_class=1, classes=2)
    assert scan(tmp_path).labels.tolist() == [0, 1, 2, 0, 1]


def nothing(folder: Path) -> None:
    pass


def empty_class(folder: Path) -> None:
    write_images(folder, per_class=1)
    (folder / "class_1/frame_0000.png").unlink()


def one_class(folder: Path) -> None:
    write_images(folder, per_class=1, classes=1)


def strange_domain(folder: Path) -> None:
    write_office31(folder, per_class=1)
    (folder / "features").mkdir()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (nothing, r"cannot be read: No such file.*Put images into CLASS/\*\.jpg"),
        (empty_class, r"class_1 holds no images\. Remove it"),
        (one_class, r"images of 1 classes; it takes two"),
        (strange_domain, r"features has no folder 'images', unlike the other domains"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path, build: Callable[[Path], None], message: str) -> None:
    build(tmp_path / "set")
    with pytest.raises(DataError, match=message):
        scan(tmp_path / "set")


def test_an_image_becomes_a_square_of_colours(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((50, 90), 77, np.uint8))
    for name in ("a.png", "a.jpg"):
        grey.save(tmp_path / name)
        square = decode(tmp_path / name, 32)
        assert (square.shape, square.dtype) == ((32, 32, 3), np.uint8)
        assert np.abs(square.astype(int) - 77).max() <= 1


def png_that_claims(width: int, height: int) -> bytes:
    """A few bytes that unpack to width x height pixels, as far as their header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def whole_jpeg(path: Path) -> bytes:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


BROKEN: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda path: b"",
    "text": lambda path: b"<html>not found</html>",
    "cut off": lambda path: whole_jpeg(path)[:1500],
    "another format": lambda path: b"GIF89a" + bytes(100),
    "8,000 x 8,000": lambda path: png_that_claims(8_000, 8_000),
    "10,000 x 10,000": lambda path: png_that_claims(10_000, 10_000),
    "60,000 x 60,000": lambda path: png_that_claims(60_000, 60_000),
    "too few pixels": lambda path: png_that_claims(64, 64),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_image_and_a_bomb_are_told_by_name(tmp_path: Path, what: str) -> None:
    path = tmp_path / "frame_0001.jpg"
    path.write_bytes(BROKEN[what](path))
    with pytest.raises(DataError, match=r"frame_0001\.jpg is no image that can be used: .*Remove or replace it"):
        decode(path, 32)


def test_a_file_larger_than_any_photograph_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)  # takes no room on disk
    with pytest.raises(DataError, match=r"large\.jpg has more than"):
        read_bytes(path)

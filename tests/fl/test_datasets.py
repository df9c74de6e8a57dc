"""Fetching, checking and reading data sets, over a real web server on loopback."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.datasets import ROOT_VARIABLE, cifar10, data_root
from fl.datasets.__main__ import main
from fl.datasets.download import Checksum, fetched, parse_checksum, require_safe
from profiler.errors import DataError, UsageError
from tests.fixtures.data import (
    cifar10_archive,
    made_cifar10,
    published_cifar10,
    served,
    write_cifar10,
)

SMALL = made_cifar10(n_train=50, n_test=10)
ARCHIVE = cifar10_archive(SMALL)


def md5(data: bytes) -> Checksum:
    return Checksum("md5", hashlib.md5(data).hexdigest())


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("environment", "root"),
    [
        ({ROOT_VARIABLE: "/data", "XDG_CACHE_HOME": "/cache"}, Path("/data")),
        ({"XDG_CACHE_HOME": "/cache"}, Path("/cache/fedmeter/datasets")),
        ({"XDG_CACHE_HOME": "cache"}, Path.home() / ".cache/fedmeter/datasets"),
        ({ROOT_VARIABLE: ""}, Path.home() / ".cache/fedmeter/datasets"),
    ],
)
def test_where_data_sets_lie(environment: dict[str, str], root: Path) -> None:
    assert data_root(environment) == root


# --- download ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pages = {"archive": ARCHIVE, "archive.cut": ARCHIVE}
    redirects = {"moved": "/archive", "away": "http://192.0.2.1/archive"}
    with served(pages, redirects) as address:
        yield address


@pytest.mark.parametrize("name", ["archive", "moved"])
def test_a_checked_copy_is_there_until_it_is_done_with(server: str, tmp_path: Path, name: str) -> None:
    with fetched(f"{server}/{name}", tmp_path / "new", md5(ARCHIVE), len(ARCHIVE)) as path:
        assert path.read_bytes() == ARCHIVE
    assert left_over(tmp_path / "new") == []


@pytest.mark.parametrize(
    ("name", "checksum", "max_bytes", "message"),
    [
        ("archive", md5(b"another"), 10**9, r"checksum of its \d+ bytes is md5:\w+, not md5:\w+.*try again"),
        ("archive.cut", md5(ARCHIVE), 10**9, r"(checksum of its|cannot be read)"),
        ("archive", md5(ARCHIVE), len(ARCHIVE) - 1, "longer than"),
        ("nothing", md5(ARCHIVE), 10**9, r"answered 404.*--from FILE"),
    ],
)
def test_what_is_not_right_leaves_nothing_behind(
    server: str, tmp_path: Path, name: str, checksum: Checksum, max_bytes: int, message: str
) -> None:
    with pytest.raises(DataError, match=message), fetched(f"{server}/{name}", tmp_path, checksum, max_bytes):
        pass
    assert left_over(tmp_path) == []


def test_nobody_there(tmp_path: Path) -> None:
    with served({}) as gone:
        pass
    with pytest.raises(DataError, match=r"cannot be read: .*refused"), fetched(f"{gone}/x", tmp_path, md5(b""), 1):
        pass


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_only_https_leaves_the_machine(url: str) -> None:
    with pytest.raises(UsageError, match="only https"):
        require_safe(url)


def test_nor_does_a_redirect_leave_it(server: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only https"), fetched(f"{server}/away", tmp_path, md5(ARCHIVE), 10**9):
        pass


def test_checksums_are_read_and_shown() -> None:
    assert str(parse_checksum(f"MD5:{'AB' * 16}")) == f"md5:{'ab' * 16}"
    for text in ("", "ab" * 16, "md5:", f"md5:{'g' * 32}", f"sha256:{'a' * 32}", f"sha1:{'a' * 40}"):
        with pytest.raises(UsageError, match="no checksum"):
            parse_checksum(text)


# --- cifar10 ----------------------------------------------------------------------------------------------------------


def test_the_command_fetches_unpacks_and_says_where(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cifar10", "--from", f"{server}/archive", "--checksum", str(md5(ARCHIVE)), "--root", str(tmp_path)]
    assert main(command) == 0
    folder = tmp_path / cifar10.FOLDER
    assert capsys.readouterr().out == f"{folder}\n"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == SMALL
    assert left_over(tmp_path) == [cifar10.FOLDER]
    elsewhere = ["cifar10", "--from", "/nothing", "--root", str(tmp_path)]
    assert main([*elsewhere, "--checksum", str(md5(ARCHIVE))]) == 0  # is there, and whole
    assert main(elsewhere) == 3  # but it is not what was published
    assert re.search(r"data_batch_1\.bin has the checksum md5:\w+, not md5:5dd7e06a14cb", capsys.readouterr().err)


def test_the_command_fails_with_the_exit_codes_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(ARCHIVE)
    root = ["--root", str(tmp_path / "root")]
    assert main(["cifar10", "--from", str(archive), *root]) == 3
    assert "not md5:c32a1d4ab5d03f1284b67883e8d87530" in capsys.readouterr().err
    assert main(["cifar10", "--from", "http://example.org/x", *root]) == 2
    assert main(["cifar10", "--checksum", "md5", *root]) == 2
    assert left_over(tmp_path / "root") == []


def test_the_published_images_make_the_published_files(tmp_path: Path) -> None:
    train = published_cifar10("small-train")
    parts = dict(zip(cifar10.TRAIN, np.split(train, 5), strict=True))
    files = {name: part.tobytes() for name, part in parts.items()}
    files["test_batch.bin"] = published_cifar10("test").tobytes()
    archive = cifar10_archive(files)
    (tmp_path / "packed").write_bytes(archive)
    folder = cifar10.fetch(tmp_path / "root", str(tmp_path / "packed"), md5(archive))
    assert md5((folder / "test_batch.bin").read_bytes()) == Checksum("md5", "803d5f7f4d78ea53de84dbe85f74fb6d")
    loaded_train, loaded_test = cifar10.load(tmp_path / "root")
    assert loaded_test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(loaded_train.labels).tolist() == [200] * 10
    some = np.array([1999, 3, 399, 400])
    assert np.array_equal(loaded_train.images(some).reshape(4, -1), train[some, 1:])


def test_folder_and_archive_give_the_same(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "folder", SMALL)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / cifar10.ARCHIVE).write_bytes(ARCHIVE)
    for one, other in zip(cifar10.load(tmp_path / "folder"), cifar10.load(tmp_path / "packed"), strict=True):
        assert np.array_equal(one.labels, other.labels)
        order = np.random.default_rng(0).permutation(len(one.labels))
        assert np.array_equal(one.images(order), other.images(order))


def test_nothing_there_says_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CIFAR-10 is not in .*Run: python -m fl.datasets cifar10"):
        cifar10.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("data_batch_2.bin", SMALL["data_batch_2.bin"][:-1], r"data_batch_2.bin has 30729 bytes: not 1 to 10000 whole"),
        ("test_batch.bin", b"", "has 0 bytes"),
        ("test_batch.bin", bytes(10_001 * 3073), "not 1 to 10000 whole records"),
        ("data_batch_5.bin", bytes(3073) + b"\x0a" + bytes(3072), "record 1 has label 10, not 0 to 9"),
        (
            "data_batch_1.bin",
            None,
            r"data_batch_1.bin cannot be read: No such.*Remove cifar-10-batches-bin and run",
        ),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    folder = write_cifar10(tmp_path, SMALL)
    (folder / name).unlink()
    if data is not None:
        (folder / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        cifar10.load(tmp_path)


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.SYMTYPE
    member.linkname = target
    return member


FIRST = f"{cifar10.FOLDER}/data_batch_1.bin"
HOSTILE: dict[str, Callable[[], bytes]] = {
    "cut off": lambda: ARCHIVE[: len(ARCHIVE) // 2],
    "changed": lambda: ARCHIVE[:1000] + bytes(1000) + ARCHIVE[2000:],
    "no gzip": lambda: b"<html>" * 1000,
    "empty": lambda: b"",
    "a file short": lambda: cifar10_archive({name: SMALL[name] for name in cifar10.TRAIN}),
    "a link": lambda: packed((link(FIRST, "/etc/passwd"), b"")),
    "elsewhere": lambda: packed((tarfile.TarInfo("../data_batch_1.bin"), SMALL["data_batch_1.bin"])),
    "large": lambda: packed((tarfile.TarInfo("padding"), bytes(40_000_000))),
    "many": lambda: packed(*((tarfile.TarInfo(f"{n}"), b"") for n in range(100))),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing_behind(tmp_path: Path, what: str) -> None:
    archive = HOSTILE[what]()
    path = tmp_path / "packed"
    path.write_bytes(archive)
    root = tmp_path / "root"
    with pytest.raises(DataError, match=r"archive|lacks|whole records"):
        cifar10.fetch(root, str(path), md5(archive))
    assert left_over(root) == []
    assert left_over(tmp_path) == ["packed", "root"]


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 8))
def test_the_small_subset_takes_the_first_of_each_class(labels: list[int], n: int) -> None:
    chosen = cifar10.first_of_each_class(np.array(labels, dtype=np.int64), n).tolist()
    assert chosen == sorted(set(chosen))
    for index, label in enumerate(labels):
        assert (index in chosen) == (labels[:index].count(label) < n)


def test_an_unpacked_folder_can_be_read_by_others(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(ARCHIVE)
    folder = cifar10.fetch(tmp_path / "root", str(tmp_path / "packed"), md5(ARCHIVE))
    assert os.stat(folder).st_mode & 0o777 == 0o755  # noqa: PTH116

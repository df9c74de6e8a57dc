"""CIFAR-10 in its binary version: 60,000 colour photographs of 32 x 32 pixels in ten classes.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Format, from
https://www.cs.toronto.edu/~kriz/cifar.html: five files of 10,000 training records and one of 10,000 test records; a
record is a label byte (0 to 9) and 3,072 bytes of red, green and blue planes, each row by row.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.datasets.download import Checksum, fetched, require_checksum
from profiler.errors import DataError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CHECKSUM = Checksum("md5", "c32a1d4ab5d03f1284b67883e8d87530")
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = ("test_batch.bin",)
CLASSES = 10
IMAGE_SHAPE = (3, 32, 32)
_PUBLISHED = dict(
    zip(
        (*TRAIN, *TEST),
        (
            "5dd7e06a14cb22eb9f671a540d1b7c25",
            "5ea93a67294ea407fff1d09f752e9692",
            "942cd6a4bcdd0dd3c604fbe906cb4421",
            "ae636b3ba5c66a11e91e8cb52e771fcb",
            "53f37980c15c3d472c316c40844f3f0d",
            "803d5f7f4d78ea53de84dbe85f74fb6d",
        ),
        strict=True,
    )
)
MAX_ARCHIVE_BYTES = 200_000_000  # the official one has 170 million
RECORD_BYTES = 1 + 3 * 32 * 32
_MAX_RECORDS = 10_000  # of a file
_MAX_MEMBERS = 64  # the official archive has 9
_COMMAND = "python -m fl.datasets cifar10"
_REFETCH = f"Remove {FOLDER} and run: {_COMMAND}"

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Records:
    """uint8[n, 3073] of each file, one after another; those of a folder are mapped, not read."""

    files: tuple[Bytes, ...]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return np.concatenate([file[:, 0] for file in self.files]).astype(np.int64)

    def images(self, indices: npt.NDArray[np.int64]) -> Bytes:
        """uint8[len(indices), 3, 32, 32]."""
        images = np.empty((len(indices), RECORD_BYTES - 1), np.uint8)
        start = 0
        for file in self.files:
            here = (start <= indices) & (indices < start + len(file))
            images[here] = file[indices[here] - start, 1:]
            start += len(file)
        return images.reshape(-1, *IMAGE_SHAPE)


def load(root: Path) -> tuple[Records, Records]:
    """Training and test records of the folder or, without one, the archive below the data root. Raises DataError."""
    folder, archive = root / FOLDER, root / ARCHIVE
    if folder.is_dir():
        files = {name: _mapped(folder / name) for name in (*TRAIN, *TEST)}
    elif archive.is_file():
        files = {name: _records(f"{archive}: {name}", data) for name, data in _members(archive)}
    else:
        raise DataError(f"CIFAR-10 is not in {root}.", remedy=f"Run: {_COMMAND}")
    return Records(tuple(files[name] for name in TRAIN)), Records(tuple(files[name] for name in TEST))


def fetch(root: Path, source: str = URL, checksum: Checksum = CHECKSUM) -> Path:
    """The folder of a checked archive, below the data root. Raises DataError; leaves nothing half done behind.

    One that is there already is kept. Either is read, and compared with the published files unless `checksum` is that
    of something else.
    """
    folder = root / FOLDER
    if not folder.exists():
        with fetched(source, root, checksum, MAX_ARCHIVE_BYTES) as archive:
            _unpack(archive, source, folder)
    load(root)
    if checksum == CHECKSUM:
        for name, digest in _PUBLISHED.items():
            require_checksum(folder / name, Checksum("md5", digest), _REFETCH)
    return folder


def _unpack(archive: Path, source: str, folder: Path) -> None:
    unpacked = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
    try:
        for name, data in _members(archive, source):
            (unpacked / name).write_bytes(data)
        unpacked.chmod(0o755)  # mkdtemp's is the owner's alone
        unpacked.replace(folder)  # an empty folder in its place, too
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _members(archive: Path, shown: str = "") -> Iterator[tuple[str, bytes]]:
    """Name and content of the six files, whatever else is in the archive: nothing of that is read or written."""
    shown = shown or str(archive)
    wanted = {f"{FOLDER}/{name}": name for name in (*TRAIN, *TEST)}
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for count, member in enumerate(tar):
                if count >= _MAX_MEMBERS or member.size > _MAX_RECORDS * RECORD_BYTES:
                    raise DataError(f"{shown} is no CIFAR-10 archive: {member.name!r:.80} has no place in one.")
                content = tar.extractfile(member) if member.isreg() and member.name in wanted else None
                if content is not None:
                    yield wanted.pop(member.name), content.read()
                if not wanted:
                    return
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{shown} is no whole archive: {error}.", remedy=_REFETCH) from None
    raise DataError(f"{shown} lacks {', '.join(sorted(wanted))}.", remedy=_REFETCH)


def _mapped(path: Path) -> Bytes:
    try:
        n_bytes = path.stat().st_size
        _require_whole(str(path), n_bytes)
        # Mapped, so that the clients of one host share the pages. Copied on write: torch warns of read-only arrays.
        mapped: Bytes = np.memmap(path, np.uint8, "c", shape=(n_bytes // RECORD_BYTES, RECORD_BYTES))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", remedy=_REFETCH) from None
    return _with_labels(str(path), mapped)


def _records(where: str, data: bytes) -> Bytes:
    _require_whole(where, len(data))
    return _with_labels(where, np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES))


def _require_whole(where: str, n_bytes: int) -> None:
    records, rest = divmod(n_bytes, RECORD_BYTES)
    if rest or not 1 <= records <= _MAX_RECORDS:
        raise DataError(
            f"{where} has {n_bytes} bytes: not 1 to {_MAX_RECORDS} whole records of {RECORD_BYTES}.", remedy=_REFETCH
        )


def _with_labels(where: str, records: Bytes) -> Bytes:
    wrong = np.flatnonzero(records[:, 0] >= CLASSES)
    if len(wrong):
        raise DataError(f"{where}: record {wrong[0]} has label {records[wrong[0], 0]}, not 0 to 9.", remedy=_REFETCH)
    return records


def first_of_each_class(labels: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Sorted indices of the first n examples of every class, of all where there are fewer."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:n] for label in range(CLASSES)]))

"""Fetching one file: https, bounded in size, checked, and only then in its place."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from fl.security import is_loopback
from profiler.errors import DataError, UsageError

SILENCE_S = 30.0  # without a byte
Readable = BinaryIO | http.client.HTTPResponse

_CHUNK_BYTES = 1 << 20
_ALGORITHMS = {"md5": 32, "sha256": 64}  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Checksum:
    """`algorithm` is md5, for what was published with no better one, or sha256."""

    algorithm: str
    digest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


def parse_checksum(text: str) -> Checksum:
    """`md5:HEX` or `sha256:HEX`. Raises UsageError."""
    algorithm, _, digest = text.lower().partition(":")
    if len(digest) != _ALGORITHMS.get(algorithm) or set(digest) - set("0123456789abcdef"):
        raise UsageError(f"{text!r:.80} is no checksum.", remedy="Write md5:HEX or sha256:HEX.")
    return Checksum(algorithm, digest)


@contextmanager
def fetched(source: str, folder: Path, checksum: Checksum, max_bytes: int) -> Iterator[Path]:
    """A checked copy of a URL or a file in `folder`, which is made; removed afterwards unless it was moved away.

    Raises UsageError for a source that is no https URL, DataError where it cannot be read, is longer than `max_bytes`,
    or has another checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".fetching-", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as copy, _opened(source) as original:
            _copy(source, original, copy, checksum, max_bytes)
            copy.flush()
            os.fsync(copy.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _opened(source: str) -> Iterator[Readable]:
    try:
        if "://" in source:
            require_safe(source)
            opener = urllib.request.build_opener(_SafeRedirects)
            with opener.open(source, timeout=SILENCE_S) as response:
                yield response
        else:
            with Path(source).open("rb") as file:
                yield file
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"{source}: the server answered {error.code} {error.reason}.", remedy=_OTHER_SOURCE) from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DataError(f"{source} cannot be read: {reason}.", remedy=_OTHER_SOURCE) from None


_OTHER_SOURCE = "Fetch it in another way and give the file with --from FILE."


def require_safe(url: str) -> None:
    """Raises UsageError unless a URL is https, or plain http to this machine."""
    parts = urlsplit(url)
    is_ours = parts.scheme == "http" and is_loopback(f"{parts.hostname}:0")
    if parts.scheme != "https" and not is_ours:
        raise UsageError(f"{url}: only https is fetched.", remedy=_OTHER_SOURCE)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        require_safe(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def require_checksum(path: Path, checksum: Checksum, remedy: str) -> None:
    """Raises DataError where a file cannot be read or has another checksum."""
    try:
        with path.open("rb") as file:
            found, _ = _digest(file, checksum.algorithm)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", remedy=remedy) from None
    if found != checksum:
        raise DataError(f"{path} has the checksum {found}, not {checksum}.", remedy=remedy)


def _copy(source: str, original: Readable, copy: BinaryIO, checksum: Checksum, max_bytes: int) -> None:
    def write(chunk: bytes) -> None:
        copy.write(chunk)
        if copy.tell() > max_bytes:
            raise DataError(f"{source} is longer than {max_bytes} bytes: it is not what was asked for.")

    found, n_bytes = _digest(original, checksum.algorithm, write)
    if found != checksum:
        raise DataError(
            f"{source}: the checksum of its {n_bytes} bytes is {found}, not {checksum}.",
            remedy="It is another file, or was cut off or changed on its way: try again, or another --from.",
        )


def _digest(stream: Readable, algorithm: str, each: Callable[[bytes], None] | None = None) -> tuple[Checksum, int]:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    n_bytes = 0
    while chunk := stream.read(_CHUNK_BYTES):
        n_bytes += len(chunk)
        digest.update(chunk)
        if each is not None:
            each(chunk)
    return Checksum(algorithm, digest.hexdigest()), n_bytes

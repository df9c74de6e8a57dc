"""What a client has measured and its server has not confirmed, on disk: for whoever starts it, should it end before.

A line a span, as base64 of a Measurement (measurement.proto): one format, and one reader that trusts nothing, whichever
way a span comes. A confirmation empties the file, so it holds what the last reply carried and what waits, not more than
`MAX_SPOOL_BYTES`. It is written while the client waits for its next instruction, and never synced.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from fl.wire.measurement import decode_spans, encode_spans
from profiler.errors import WireError
from profiler.records import SpanRecord

MAX_SPOOL_BYTES = 4 * 1024 * 1024

_log = logging.getLogger("fl")


class SpoolFile:
    """Begins anew where there was one. Where the disk refuses, it is given up, and training goes on. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor: int | None = os.open(path, flags, 0o600)
        self._n_bytes = 0

    def append(self, spans: Iterable[SpanRecord]) -> None:
        """In one write; what is more than the bound is left out."""
        data = b""
        for span in spans:
            line = _line(span)
            if self._n_bytes + len(data) + len(line) <= MAX_SPOOL_BYTES:
                data += line
        if self._descriptor is None or not data:
            return
        try:
            self._n_bytes += os.write(self._descriptor, data)
        except OSError as error:
            _log.warning("%s is given up: %s", self._path, error.strerror)
            self.remove()

    def clear(self) -> None:
        """All of it has arrived."""
        if self._descriptor is not None and self._n_bytes:
            os.ftruncate(self._descriptor, 0)
            self._n_bytes = 0

    def remove(self) -> None:
        """It is not needed any more. Harmless where it is gone."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._path.unlink(missing_ok=True)


def _line(span: SpanRecord) -> bytes:
    """Empty for a span that cannot be sent either."""
    try:
        return base64.b64encode(encode_spans([span])) + b"\n"
    except WireError:
        return b""


def read_spool(data: bytes) -> list[SpanRecord]:
    """The spans of such a file, from a device that nobody trusts: what is damaged is left out, a torn last line too."""
    spans: list[SpanRecord] = []
    n_damaged = 0
    for line in data[:MAX_SPOOL_BYTES].split(b"\n")[:-1]:
        try:
            spans += decode_spans(base64.b64decode(line, validate=True))
        except (WireError, binascii.Error):
            n_damaged += 1
    if n_damaged:
        _log.warning("%d lines of a client's spool are damaged, and left out", n_damaged)
    return spans

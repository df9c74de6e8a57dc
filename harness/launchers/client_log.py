"""The log of a client that runs elsewhere: as large as a bound, its beginning and its end where there was more."""

from __future__ import annotations

import threading
from pathlib import Path

LIMIT_BYTES = 16 * 1024 * 1024
TAIL_BYTES = 64 * 1024


class ClientLog:
    """Appends. Past the limit only the newest bytes are kept, in memory, until `close` adds them to the file."""

    def __init__(self, path: Path, *, limit_bytes: int = LIMIT_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("ab", buffering=0)
        self._left_bytes = max(0, limit_bytes - self._file.tell())
        self._tail_bytes = tail_bytes
        self._tail = b""
        self._n_dropped = 0

    def write(self, data: bytes) -> None:
        """From any thread; harmless once closed."""
        with self._lock:
            if self._file.closed:
                return
            head, rest = data[: self._left_bytes], data[self._left_bytes :]
            if head:
                self._file.write(head)
                self._left_bytes -= len(head)
            tail = self._tail + rest
            self._tail = tail[-self._tail_bytes :]
            self._n_dropped += len(tail) - len(self._tail)

    def note(self, text: str) -> None:
        """A line of ours."""
        self.write(f"fedmeter: {text}\n".encode())

    def close(self) -> None:
        with self._lock:
            if self._n_dropped:
                self._file.write(f"\nfedmeter: {self._n_dropped} bytes of the log left out here\n".encode())
            if self._tail:
                self._file.write(self._tail)
            self._tail, self._n_dropped = b"", 0
            self._file.close()

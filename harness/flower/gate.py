"""What nodes elsewhere reach of a SuperLink that has one port: its Fleet API, and nothing that would run an app.

Nodes, apps and `flwr run` share that port by HTTP/1.1 since flwr 1.41, and an app that is handed in there runs as we
do. A tunnel's other end is open to every user of a device, so it leads here. Whatever is no plain call of the Fleet API
is refused, each connection carries one call, and of its body as much goes on as its head has said (RFC 9112, 6):
nothing can follow unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

FLEET_CALL = re.compile(r"POST /v1/fleet/[a-z-]{1,64} HTTP/1\.1")
MAX_HEAD_BYTES = 64 * 1024
CALL_S = 600.0
"""By when a call is over: a node asks every few seconds, and sends its models in parts."""
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")
_NOT_PASSED = ("connection", "keep-alive", "proxy-connection")
_REFUSED = ("transfer-encoding", "upgrade", "expect", "trailer", "te")
_HEAD_END = b"\r\n\r\n"
_FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_CHUNK_BYTES = 64 * 1024


class FleetGate:
    """Listens on this machine alone, and passes calls on to the SuperLink at `target`, HOST:PORT."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """Where it listens."""
        server = self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Nobody is let in any more, and who is there has to go."""
        if self._server is not None:
            self._server.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.create_task(self._call(reader, writer))
        self._calls.add(call)
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(call, CALL_S)
        finally:
            self._calls.discard(call)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head, n_bytes = passed_head(await reader.readuntil(_HEAD_END))
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.write(_FORBIDDEN)
            await writer.drain()
            return
        answers, asked = await asyncio.open_connection(self._host, self._port)
        try:
            asked.write(head)
            await asyncio.gather(_pass(reader, asked, n_bytes), _pass(answers, writer))
        finally:
            asked.transport.abort()


def passed_head(head: bytes) -> tuple[bytes, int]:
    """The head of a call as it goes on, and how many bytes its body has. Raises ValueError for what is refused."""
    first, *lines = head.removesuffix(_HEAD_END).decode("latin-1").split("\r\n")
    if not FLEET_CALL.fullmatch(first):
        raise ValueError("no call of the Fleet API")
    fields = [_field(line) for line in lines]
    names = [name for name, _ in fields]
    lengths = [value for name, value in fields if name == "content-length"]
    if len(lengths) > 1 or any(name in _REFUSED for name in names):
        raise ValueError("its body has no plain length")
    if lengths and not re.fullmatch(r"[0-9]{1,18}", lengths[0]):
        raise ValueError("no length")
    kept = [f"{name}: {value}" for name, value in fields if name not in _NOT_PASSED]
    told = "\r\n".join([first, *kept, "connection: close"])
    return told.encode("latin-1") + _HEAD_END, int(lengths[0]) if lengths else 0


def _field(line: str) -> tuple[str, str]:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise ValueError("no header field")
    return found[1].lower(), found[2].strip(" \t")


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter, n_bytes: int | None = None) -> None:
    """As many bytes, or all to the end. Raises OSError where the end comes before."""
    left = n_bytes
    while left is None or left > 0:
        data = await source.read(_CHUNK_BYTES if left is None else min(_CHUNK_BYTES, left))
        if not data:
            if left is not None:
                raise ConnectionResetError("the call ended within its body")
            return
        sink.write(data)
        await sink.drain()
        left = None if left is None else left - len(data)

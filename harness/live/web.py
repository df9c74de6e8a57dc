"""A small HTTP/1.1 server on a thread of its own: whole answers to GET, one a connection, everything bounded.

Of HTTP (RFC 9112) it takes what a browser and Prometheus send to read a page: no bodies, no reuse of connections. What
is larger, slower or more than the bounds is answered with an error, or cut off. A reader that does not read holds one
of `MAX_CONNECTIONS` places for `WRITE_TIMEOUT_S`, and nothing else.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

MAX_CONNECTIONS = 32
MAX_HEAD_BYTES = 8 * 1024
HEAD_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 10.0
_STOP_S = 5.0
_REQUEST = re.compile(r"([A-Z]{1,16}) (/[!-~]{0,1024}) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e]*?)[ \t]*")
_ONCE = ("host", "authorization", "content-length")
_FIXED = {
    "Connection": "close",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is without its query, `headers` are by their names in small letters."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    status: HTTPStatus
    body: bytes = b""
    type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


class BadRequest(Exception):
    """What was sent is no request that is answered; `status` says why."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


def parse_head(head: bytes) -> Request:
    """Request line and headers, up to the empty line. Raises BadRequest."""
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    request_line = _REQUEST.fullmatch(lines[0])
    if request_line is None:
        raise BadRequest(HTTPStatus.BAD_REQUEST)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None or (header[1].lower() in _ONCE and header[1].lower() in headers):
            raise BadRequest(HTTPStatus.BAD_REQUEST)
        headers[header[1].lower()] = header[2]
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return Request(request_line[1], request_line[2].partition("?")[0], headers)


def error_response(status: HTTPStatus, **headers: str) -> Response:
    """A sentence for people, and no word of what was asked."""
    return Response(status, f"{status.value} {status.phrase}\n".encode(), headers=headers)


class WebServer:
    """Serves `answer` at a listening socket from `start` to `stop`; `every_second` is called beside it.

    `answer` runs on the server's thread and must be quick.
    """

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[Request], Response],
        *,
        every_second: Callable[[], None] = lambda: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listener = listener
        self._answer = answer
        self._every_second = every_second
        self._tls = tls
        self._n_open = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping: asyncio.Event | None = None
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._is_ready.wait()

    def stop(self) -> None:
        """Ends all connections. Returns within seconds, whatever a reader does."""
        if self._loop is not None and self._is_stopping is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._is_stopping.set)
            self._thread.join(_STOP_S)
        self._listener.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._is_ready.set()

    async def _serve(self) -> None:
        self._loop, self._is_stopping = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, sock=self._listener, limit=MAX_HEAD_BYTES, ssl=self._tls)
        ticking = asyncio.create_task(self._tick())
        self._is_ready.set()
        await self._is_stopping.wait()
        ticking.cancel()
        server.close()  # what is still open is cancelled with its task, when the loop ends

    async def _tick(self) -> None:
        while True:
            self._every_second()
            await asyncio.sleep(1.0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._n_open += 1
        try:
            if self._n_open > MAX_CONNECTIONS:
                await _send(writer, error_response(HTTPStatus.SERVICE_UNAVAILABLE, **{"Retry-After": "2"}))
            else:
                await self._exchange(reader, writer)
        except (OSError, asyncio.TimeoutError):
            pass  # the reader has gone, or does not read
        finally:
            self._n_open -= 1
            writer.transport.abort()  # what nobody takes is not waited for

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _read(reader)
            response = self._answer(request)
            has_body = request.method != "HEAD"
        except BadRequest as error:
            response, has_body = error_response(error.status), True
        except asyncio.IncompleteReadError:  # nobody is there any more
            return
        await _send(writer, response, has_body=has_body)


async def _read(reader: asyncio.StreamReader) -> Request:
    """Raises BadRequest, asyncio.IncompleteReadError."""
    try:
        head: Awaitable[bytes] = reader.readuntil(b"\r\n\r\n")
        return parse_head(await asyncio.wait_for(head, HEAD_TIMEOUT_S))
    except asyncio.LimitOverrunError:
        raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
    except asyncio.TimeoutError:
        raise BadRequest(HTTPStatus.REQUEST_TIMEOUT) from None


async def _send(writer: asyncio.StreamWriter, response: Response, *, has_body: bool = True) -> None:
    """Raises asyncio.TimeoutError where it is not taken in time."""
    headers = {"Content-Type": response.type, "Content-Length": str(len(response.body)), **_FIXED, **response.headers}
    lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    writer.transport.set_write_buffer_limits(0)  # so that drain waits until all of it is with the kernel
    writer.write(head + (response.body if has_body else b""))
    await asyncio.wait_for(writer.drain(), WRITE_TIMEOUT_S)
    writer.close()
    await asyncio.wait_for(writer.wait_closed(), WRITE_TIMEOUT_S)

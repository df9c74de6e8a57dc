"""`--live`: who may read the page, under which address, and for how long it is there."""

from __future__ import annotations

import json
import re
import secrets
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path

from fl.addresses import host_and_port
from fl.security import SERVER, SERVER_KEY, TOKEN_BYTES, TOKEN_KEY, is_loopback, is_token
from harness.live.board import Board
from harness.live.exposition import CONTENT_TYPE, exposition
from harness.live.web import Request, Response, WebServer, error_response
from profiler.errors import PreconditionError, UsageError
from profiler.shares import Tick

DEFAULT_ADDRESS = "127.0.0.1:8470"
_BACKLOG = 64
_FRESH_S = 1.0
_WATCHED_S = 5.0
_LAST_LOOK_S, _OTHERS_LOOK_S = 5.0, 1.0
_LOCAL_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.ASCII)
_CSP = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Pages:
    """Answers requests for the page, its figures and the exposition. `token` is None where none is asked for.

    The page itself holds no figure and is for everybody; a browser learns the token from the fragment of the page's
    address, which it does not send, and tells it in a header, so that no log of requests has it.
    """

    def __init__(self, board: Board, token: str | None, now_s: Callable[[], float] = time.monotonic) -> None:
        self._board = board
        self.token = token
        self._now_s = now_s
        self._page = files("harness.live").joinpath("page.html").read_text(encoding="utf-8")
        self._state = b""
        self._state_s = -_FRESH_S
        self._asked_s = -_WATCHED_S
        self._end_seen = threading.Event()

    @property
    def is_watched(self) -> bool:
        """Whether a page asked lately, and is likely to ask again."""
        return self._now_s() - self._asked_s < _WATCHED_S

    def show_end(self) -> None:
        """The run is over: where somebody looks, wait until the end has been seen, but not for long."""
        self._board.finish()
        self._state_s = -_FRESH_S
        if self.is_watched and self._end_seen.wait(_LAST_LOOK_S):
            time.sleep(_OTHERS_LOOK_S)

    def answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return error_response(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
        if self.token is None and not _LOCAL_HOST.fullmatch(request.headers.get("host", "")):
            # A page of elsewhere whose name was made to point to this machine (DNS rebinding) must not read it.
            return error_response(HTTPStatus.MISDIRECTED_REQUEST)
        if request.path == "/":
            return self._page_response()
        if request.path not in ("/state", "/metrics"):
            return error_response(HTTPStatus.NOT_FOUND)
        return self._refusal(request) or self._figures(request.path)

    def _refusal(self, request: Request) -> Response | None:
        if self.token is None:
            return None
        told = request.headers.get(TOKEN_KEY)
        if told is None:
            return error_response(HTTPStatus.UNAUTHORIZED, **{"WWW-Authenticate": "Bearer"})
        return None if is_token(told, self.token) else error_response(HTTPStatus.FORBIDDEN)

    def _figures(self, path: str) -> Response:
        if path == "/metrics":
            return Response(HTTPStatus.OK, exposition(self._board.figures()).encode(), CONTENT_TYPE)
        return Response(HTTPStatus.OK, self._fresh_state(), "application/json")

    def _fresh_state(self) -> bytes:
        """Made once a second at most, however many read it."""
        now_s = self._asked_s = self._now_s()
        if now_s - self._state_s >= _FRESH_S:
            self._state_s = now_s
            state = self._board.state()
            self._state = json.dumps(state, allow_nan=False, separators=(",", ":")).encode()
            if state["run"]["is_over"]:
                self._end_seen.set()
        return self._state

    def _page_response(self) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = {"Content-Security-Policy": _CSP.format(nonce=nonce)}
        return Response(
            HTTPStatus.OK, self._page.replace("{nonce}", nonce).encode(), "text/html; charset=utf-8", policy
        )


def live_address(address: str) -> tuple[str, int]:
    """Host and port. Raises UsageError where it is no address."""
    try:
        return host_and_port(address)
    except ValueError as error:
        raise UsageError(
            f"--live {address}: no address: {error}.",
            remedy=f"Give HOST:PORT, or put a bare --live behind the fleet file for {DEFAULT_ADDRESS}.",
        ) from None


def listen(address: str) -> socket.socket:
    """A socket that listens at HOST:PORT. Raises UsageError where there is none to be had."""
    host, port = live_address(address)
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"--live {address}: cannot listen there: {error.strerror or error}.",
            remedy="Choose another port, or end what uses it; port 0 takes any that is free.",
        ) from None


@contextmanager
def served(
    address: str, board: Board, *, tls: Path | None = None, latest_tick: Callable[[], Tick | None] = lambda: None
) -> Iterator[str]:
    """Serves a board at an address until the end of the block, whatever ends it; the page's address, without a token.

    An address that others can reach needs a token, which is made and printed once, on stderr. With a security folder
    it is served under the server's certificate. Raises UsageError and PreconditionError before anything has begun.
    """
    listener = listen(address)
    is_private = is_loopback(address)
    pages = Pages(board, None if is_private else secrets.token_urlsafe(TOKEN_BYTES))
    try:
        context = None if is_private or tls is None else _tls(tls)
        server = WebServer(listener, pages.answer, every_second=lambda: board.note_tick(latest_tick()), tls=context)
        server.start()
    except BaseException:
        listener.close()
        raise
    url = _url(address, listener.getsockname()[1], "http" if context is None else "https")
    try:
        _announce(url, pages, is_plain=context is None)
        yield url
    finally:
        try:
            pages.show_end()
        finally:
            server.stop()


def _announce(url: str, pages: Pages, *, is_plain: bool) -> None:
    """To stderr alone: it goes to no log, no record and no page."""
    token = pages.token
    print(f"live: {url}" + (f"#token={token}" if token else ""), file=sys.stderr, flush=True)
    if token and is_plain:
        print("live: in plain text, which others on the network can read; [server] tls changes that", file=sys.stderr)


def _url(address: str, port: int, scheme: str) -> str:
    host = address.rpartition(":")[0]
    return f"{scheme}://{socket.gethostname() if host in ('0.0.0.0', '[::]') else host}:{port}/"


def _tls(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(folder / SERVER, folder / SERVER_KEY)
    except (OSError, ssl.SSLError) as error:
        raise PreconditionError(
            f"--live: {folder} holds no certificate of a server: {error}.",
            remedy="Make one with: python -m harness.run --init",
        ) from None
    return context

"""The HTTP side over real sockets: who may read, what is refused, and that nobody can hold it up."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.live import web
from harness.live.serving import Pages, listen, served
from harness.live.web import BadRequest, Response, WebServer, parse_head
from harness.run import main
from profiler.errors import PreconditionError, UsageError
from tests.harness.live.boards import NASTY, told_board
from tests.harness.running import wait_until

TOKEN = "a-token-of-enough-characters"


@contextmanager
def serving(token: str | None = None) -> Iterator[int]:
    listener = listen("127.0.0.1:0")
    server = WebServer(listener, Pages(told_board(), token).answer)
    server.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.stop()


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def exchange(port: int, sent: bytes, *, close: bool = False) -> bytes:
    """All that comes back for raw bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        received = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
            if close:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                received += part
        return received


def test_the_page_its_figures_and_the_exposition() -> None:
    with serving() as port:
        response, body = get(port, "/")
        assert response.status == 200
        policy = response.headers["Content-Security-Policy"]
        nonce = policy.partition("'nonce-")[2].partition("'")[0]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert body.count(f'nonce="{nonce}"'.encode()) == 2
        assert get(port, "/")[0].headers["Content-Security-Policy"] != policy, "a nonce is used once"
        state = json.loads(get(port, "/state?now")[1])
        assert state["tasks"][0]["rounds_done"] == 1
        response, body = get(port, "/metrics")
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b"fedmeter_rounds_total 1\n" in body
        assert get(port, "/state", "HEAD")[1] == b""
        assert response.headers["Cache-Control"] == "no-store"


def test_the_page_itself_holds_nothing_of_the_run() -> None:
    with serving() as port:
        body = get(port, "/")[1].decode()
        assert "http:" not in body.replace("http://www.w3.org/2000/svg", "")
        assert "https:" not in body
        assert "innerHTML" not in body
        assert NASTY[:10] not in body


@pytest.mark.parametrize("path", ["/state", "/metrics"])
def test_figures_for_others_need_the_token(path: str) -> None:
    with serving(TOKEN) as port:
        assert get(port, "/")[0].status == 200
        response, body = get(port, path)
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert b"fedmeter" not in body
        for wrong in ("Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN):
            assert get(port, path, Authorization=wrong)[0].status == 403
        assert get(port, f"{path}?token={TOKEN}")[0].status == 401, "an address would land in logs"
        assert get(port, path, Authorization=f"Bearer {TOKEN}")[0].status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1:80:80", ""])
def test_a_page_of_elsewhere_cannot_read_by_a_name_that_points_here(host: str) -> None:
    with serving() as port:
        assert get(port, "/state", Host=host)[0].status == 421
        assert get(port, "/state", Host=f"localhost:{port}")[0].status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /state HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET http://localhost/state HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /state HTTP/2.0\r\n\r\n", 400),
        (b"GET /state HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /state HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"GET /state HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"GET /state HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET /state HTTP/1.1\r\nX: " + b"a" * web.MAX_HEAD_BYTES + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_for_a_page_is_refused(sent: bytes, status: int) -> None:
    with serving() as port:
        answer = exchange(port, sent)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"passwd" not in answer
        assert get(port, "/state")[0].status == 200, "others are served as before"


@given(st.binary(max_size=600))
def test_a_head_is_read_or_refused(head: bytes) -> None:
    with contextlib.suppress(BadRequest):
        request = parse_head(head)
        assert request.path.startswith("/")
        assert all(name == name.lower() for name in request.headers)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=400), st.binary(max_size=200).map(lambda rest: b"GET /state HTTP/1.1\r\n" + rest)))
def test_whatever_is_sent_the_server_goes_on(fuzzed: int, sent: bytes) -> None:
    answer = exchange(fuzzed, sent, close=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert get(fuzzed, "/state")[0].status == 200


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[int]:
    with serving() as port:
        yield port


def test_no_more_than_so_many_connections_and_slow_ones_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "HEAD_TIMEOUT_S", 1.0)
    with serving() as port, contextlib.ExitStack() as held:
        idle = [held.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(web.MAX_CONNECTIONS)]
        assert wait_until(lambda: exchange(port, b"").startswith(b"HTTP/1.1 503 "))
        idle[0].settimeout(20)
        assert idle[0].recv(1000).startswith(b"HTTP/1.1 408 ")
        assert wait_until(lambda: get(port, "/state")[0].status == 200)


def test_a_reader_that_does_not_read_is_cut_off_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "WRITE_TIMEOUT_S", 1.0)
    listener = listen("127.0.0.1:0")
    port = listener.getsockname()[1]
    large = Response(HTTPStatus.OK, b"x" * 50_000_000)
    small = Response(HTTPStatus.OK, b"small")
    server = WebServer(listener, lambda request: large if request.path == "/large" else small)
    server.start()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        assert slow.recv(1) == b"H"
        began_s = time.monotonic()
        assert get(port, "/")[1] == b"small"
        server.stop()
        assert time.monotonic() - began_s < 10
        received = 0
        with contextlib.suppress(ConnectionError):
            while part := slow.recv(1 << 20):
                received += len(part)
    assert received < len(large.body)


def test_a_port_in_use_is_told_before_the_run_begins(tmp_path_factory: pytest.TempPathFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        root = tmp_path_factory.mktemp("results") / "none"
        assert main(["--live", address, "-o", str(root), "--rounds", "1"]) == 2
        assert not root.exists()
        with pytest.raises(UsageError, match=r"cannot listen there: Address already in use.*Choose another port"):
            listen(address)


@pytest.mark.parametrize("address", ["fleet.toml", "127.0.0.1", ":80", "127.0.0.1:x", "127.0.0.1:65536", "1:2:-3"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        listen(address)


def test_an_address_for_others_gets_a_token_which_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    board = told_board()
    with served("0.0.0.0:0", board) as url:
        told = capsys.readouterr().err
        token = told.partition("#token=")[2].split()[0]
        assert len(token) >= 43
        assert "in plain text" in told
        assert token not in url
        port = int(url.rstrip("/").rpartition(":")[2])
        assert get(port, "/state")[0].status == 401
        state = get(port, "/state", Authorization=f"Bearer {token}")[1]
        assert token.encode() not in state
    assert token not in capsys.readouterr().err
    assert board.state()["run"]["is_over"]
    with pytest.raises(OSError, match=r"refused"):
        get(port, "/")


def test_it_ends_with_the_block_whatever_happens() -> None:
    def fail() -> None:
        with served("127.0.0.1:0", told_board()) as url:
            urls.append(url)
            raise PreconditionError("the run failed")

    urls: list[str] = []
    with pytest.raises(PreconditionError, match="the run failed"):
        fail()
    with pytest.raises(OSError, match=r"refused"):
        get(int(urls[0].rstrip("/").rpartition(":")[2]), "/")


def test_the_state_is_made_once_a_second_at_most() -> None:
    now_s = [0.0]
    board = told_board()
    pages = Pages(board, None, lambda: now_s[0])
    ask: Callable[[], bytes] = lambda: pages.answer(parse_head(b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n")).body  # noqa: E731
    first = ask()
    board.say("news")
    assert ask() == first
    now_s[0] = 1.1
    assert b"news" in ask()
    assert pages.is_watched
    now_s[0] = 9.0
    assert not pages.is_watched


def test_tls_comes_from_the_fleet_s_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("cryptography", reason="making certificates needs the package cryptography")
    import ssl
    from http.client import HTTPSConnection

    from fl.certificates import make

    folder = tmp_path_factory.mktemp("keys") / "keys"
    made = make(folder)
    with served("0.0.0.0:0", told_board(), tls=made.folder) as url:
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile=made.folder / "ca.pem")
        connection = HTTPSConnection("localhost", int(url.rstrip("/").rpartition(":")[2]), context=context, timeout=20)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200
        assert response.read().rstrip().endswith(b"</html>")
        connection.close()
    with (
        pytest.raises(PreconditionError, match="no certificate"),
        served("0.0.0.0:0", told_board(), tls=tmp_path_factory.mktemp("empty")),
    ):
        pass

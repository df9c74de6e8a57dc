"""Addresses that gRPC would take for others are refused, by client and server."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.addresses import check_target, host_and_port
from fl.client import main, start_client
from fl.server import Server
from profiler.errors import UsageError


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:8443", ("[::1]", 8443)), ("lab-pc.example.:1", ("lab-pc.example.", 1))],
)
def test_addresses_are_hosts_and_ports(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":",
        "a:",
        ":1",
        "a",
        "a:b",
        "a:65536",
        "a:-1",
        "a:１",
        "a b:1",
        "-a:1",
        "1.2.3:4",
        "[::1]",
        "[x]:1",
        "::1:1",
        "a/b:1",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|no port|no host"):
        host_and_port(address)


@given(st.text(max_size=30), st.integers(0, 65535))
def test_a_host_that_is_taken_has_nothing_odd_in_it(host: str, port: int) -> None:
    try:
        found, _ = host_and_port(f"{host}:{port}")
    except ValueError:
        return
    assert found == host
    assert host.isascii()
    assert not set(host) & set(" /\\'\"\n\t@#?")


@pytest.mark.parametrize("address", ["localhost:70000", "localhost", "lab"])
def test_no_client_reaches_for_another_server(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--workload", "linear", "--meter", "none", "--max-wait", "0.1"]
    assert main(["--server", address, *arguments]) == 2
    with pytest.raises(UsageError, match="HOST:PORT"):
        start_client(address, object(), max_wait_s=0.1)


def test_no_server_listens_elsewhere() -> None:
    with pytest.raises(UsageError, match="'70000' is no port"):
        asyncio.run(Server("127.0.0.1:70000").start())


@pytest.mark.parametrize("address", ["unix:/run/fl.sock", "dns:///lab:8443", "ipv4:10.0.0.1:8443", "pi.lab:8443"])
def test_what_grpc_understands_stays(address: str) -> None:
    check_target(address)

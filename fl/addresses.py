"""Addresses that people write: HOST:PORT, checked before anything listens or connects there."""

from __future__ import annotations

import ipaddress
import re

from profiler.errors import UsageError

_SCHEMES = ("unix:", "unix-abstract:", "vsock:", "dns:", "ipv4:", "ipv6:", "xds:")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_PORT = re.compile(r"[0-9]{1,5}")
_NUMBERS = re.compile(r"[0-9.]+")


def host_and_port(address: str) -> tuple[str, int]:
    """Its parts, an IPv6 host in its brackets. Port 0 is any that is free. Raises ValueError with what is wrong."""
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError("it is HOST:PORT")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError(f"'{port}' is no port: 0 to 65535")
    if not _is_host(host):
        raise ValueError(f"'{host}' is no host: a name, an IPv4 address, or an IPv6 one in [brackets]")
    return host, int(port)


def _is_host(host: str) -> bool:
    try:
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
        elif _NUMBERS.fullmatch(host):
            ipaddress.IPv4Address(host)
        else:
            return _NAME.fullmatch(host) is not None
    except ValueError:
        return False
    return True


def check_target(address: str) -> None:
    """Raises UsageError where gRPC would take an address for another one: it counts ports modulo 65,536, and takes 443
    where there is none. One of a scheme, such as `unix:/run/fl.sock`, is gRPC's to understand.
    """
    if address.startswith(_SCHEMES):
        return
    try:
        host_and_port(address)
    except ValueError as error:
        raise UsageError(f"server address '{address}': {error}.", remedy="Give HOST:PORT, as in pi.lab:8443.") from None

"""How the way between server and clients is protected: the files of a security folder, as each side reads them.

A folder is made by `python -m harness.run --init`, or by hand: PEM files from any authority will do. The server needs
ca.pem, server.pem, server.key and token; a device ca.pem, client.pem, client.key and token (`CLIENT_FILES`); nobody but
who makes certificates needs ca.key. Where each device has a certificate of its own, its four files are in devices/ID/,
and the certificate names it in its subjectAltName (`DEVICE_URI`). What is protected and what is not: docs/security.md.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import math
import re
import ssl
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.clock import Clock, SystemClock
from profiler.errors import PreconditionError

if TYPE_CHECKING:
    import grpc
    import grpc.aio

CA, CA_KEY = "ca.pem", "ca.key"
SERVER, SERVER_KEY = "server.pem", "server.key"
CLIENT, CLIENT_KEY = "client.pem", "client.key"
TOKEN = "token"
CLIENT_FILES = (CA, CLIENT, CLIENT_KEY, TOKEN)
DEVICES = "devices"
DEVICE_URI = "fedmeter-device:"
"""The URI in the certificate of one device begins so, and ends with its id."""
FOLDER_VARIABLE = "FEDMETER_TLS"
"""The environment variable that tells a client its security folder. A path, never a secret."""

DEVICE_KEY = "fedmeter-device"
INSTANCE_KEY = "fedmeter-instance"  # a number that each process draws, so that it is known again
"""The gRPC metadata that names a device of ours."""
TOKEN_KEY = "authorization"
TOKEN_BYTES = 32
MAX_FILE_BYTES = 64 * 1024
WARN_BEFORE_S = 30 * 24 * 3600.0
_TOKEN_PATTERN = re.compile(r"[\w.~+/=-]{16,512}", re.ASCII)  # b64token of RFC 6750, section 2.1

_log = logging.getLogger("fl")

Triple = tuple[bytes, bytes, bytes]
"""Flower's `certificates`: the authority's, the server's own and its key, as PEM."""


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """TLS with `certificates`; with `mutual`, our clients must show one of that authority; with a token, tell it."""

    certificates: Triple | None = field(default=None, repr=False)
    mutual: bool = False
    token: str | None = field(default=None, repr=False)

    @property
    def is_open(self) -> bool:
        """Whether anybody may join."""
        return not self.mutual and self.token is None


@dataclass(frozen=True, slots=True)
class ClientSecurity:
    """What a client trusts and what it can show. All None: no TLS."""

    root_certificates: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def server_security(folder: Path, clock: Clock | None = None) -> ServerSecurity:
    """What a server takes from a security folder: TLS, mutual, and the token where there is one.

    Raises PreconditionError, naming the file, for one that is missing, readable by everybody or expired, and for a key
    that is not the certificate's.
    """
    ca, certificate, key = _read(folder / CA), _read(folder / SERVER), _read_secret(folder / SERVER_KEY)
    _check_pair(folder / SERVER, folder / SERVER_KEY)
    _check_authority(folder / CA, clock or SystemClock())
    return ServerSecurity((ca, certificate, key), mutual=True, token=_optional_token(folder))


def client_security(folder: Path, clock: Clock | None = None) -> ClientSecurity:
    """What a client takes from a security folder. Only ca.pem must be there. Raises PreconditionError likewise."""
    ca = _read(folder / CA)
    _check_authority(folder / CA, clock or SystemClock())
    if not (folder / CLIENT).exists() and not (folder / CLIENT_KEY).exists():
        return ClientSecurity(ca, token=_optional_token(folder))
    certificate, key = _read(folder / CLIENT), _read_secret(folder / CLIENT_KEY)
    _check_pair(folder / CLIENT, folder / CLIENT_KEY)
    return ClientSecurity(ca, certificate, key, _optional_token(folder))


def client_folder(folder: Path, device: str) -> Path:
    """Where the files of a device are: in a folder of its own where there are such, else in this one.

    Raises PreconditionError where others have one and this device has none.
    """
    own = folder / DEVICES / device
    if device and own.is_dir():
        return own
    if (folder / DEVICES).is_dir() and not (folder / CLIENT).exists():
        raise PreconditionError(
            f"{folder} has certificates of single devices, and none of {device or 'a client without a name'}.",
            remedy=f"Make it with: python -m harness.run --init {folder} --device {device or 'ID'}",
        )
    return folder


def certified_devices(names: Iterable[bytes]) -> tuple[str, ...]:
    """The device ids among the subjectAltNames of a certificate; none in one that a whole fleet shares."""
    texts = (name.decode("utf-8", errors="replace") for name in names)
    return tuple(text.removeprefix(DEVICE_URI) for text in texts if text.startswith(DEVICE_URI))


def read_token(path: Path) -> str:
    """The shared token in a file. Raises PreconditionError for one that everybody can read, or that is none."""
    token = _read_secret(path).decode("ascii", errors="replace").strip()
    if not _TOKEN_PATTERN.fullmatch(token):
        raise PreconditionError(
            f"{path} holds no token: 16 to 512 letters, digits and . ~ + / = _ - in one line.",
            remedy="Make one with: python -m harness.run --init",
        )
    return token


def bearer(token: str) -> tuple[str, str]:
    """The gRPC metadata that tells a token, as RFC 6750 has it."""
    return TOKEN_KEY, f"Bearer {token}"


def is_token(told: str, token: str) -> bool:
    """Whether the metadata value is the token's, in a time that does not depend on how much of it is right."""
    return hmac.compare_digest(told.encode(errors="replace"), bearer(token)[1].encode())


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT (or a unix socket) cannot be reached from another machine. A name counts only if localhost."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        address = address.removeprefix(scheme)
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def check_binding(address: str, *, has_tls: bool, insecure: bool) -> None:
    """Raises PreconditionError where others on the network could read and change all that is said."""
    if not (has_tls or insecure or is_loopback(address)):
        raise PreconditionError(
            f"{address} can be reached by other machines, and without TLS they could read and change every model.",
            remedy="Make certificates with 'python -m harness.run --init DIR' and name DIR ([server] tls in a fleet "
            "file, certificates= in code), or say that it must be so: insecure = true in both.",
        )


def bind(server: grpc.aio.Server, address: str, security: ServerSecurity) -> int:
    """Have a server listen; the port. Raises PreconditionError, naming the address, where it cannot."""
    try:
        if port := _add_port(server, address, security):
            return port
    except RuntimeError:
        pass
    raise PreconditionError(
        f"{address}: cannot listen there: the port is in use, or the address is not this machine's.",
        remedy="Choose another port, or end what uses it; port 0 takes any that is free.",
    )


def _add_port(server: grpc.aio.Server, address: str, security: ServerSecurity) -> int:
    if security.certificates is None:
        return int(server.add_insecure_port(address))
    import grpc

    ca, certificate, key = security.certificates
    credentials = grpc.ssl_server_credentials(
        ((key, certificate),), root_certificates=ca, require_client_auth=security.mutual
    )
    return int(server.add_secure_port(address, credentials))


def channel_credentials(security: ClientSecurity) -> grpc.ChannelCredentials | None:
    """What a client's channel needs; None for plain text."""
    import grpc

    if security.root_certificates is None:
        return None
    return grpc.ssl_channel_credentials(security.root_certificates, security.key, security.certificate)


def check_token_way(address: str, *, has_tls: bool) -> None:
    """Raises PreconditionError where a token would be sent in plain text over a network."""
    if not (has_tls or is_loopback(address)):
        raise PreconditionError(
            f"{address}: a token is not sent there without TLS: everybody on the way could read and use it.",
            remedy="Give the client the server's ca.pem, or leave out the token.",
        )


def _optional_token(folder: Path) -> str | None:
    return read_token(folder / TOKEN) if (folder / TOKEN).exists() else None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PreconditionError(
            f"{path} cannot be read: {error.strerror}.", remedy="Make it with: python -m harness.run --init DIR"
        ) from None
    if not content or len(content) > MAX_FILE_BYTES:
        raise PreconditionError(f"{path} is empty or larger than {MAX_FILE_BYTES} bytes: no certificate, key or token.")
    return content


def _read_secret(path: Path) -> bytes:
    content = _read(path)
    if stat.S_IMODE(path.stat().st_mode) & (stat.S_IROTH | stat.S_IWOTH):
        raise PreconditionError(f"{path} can be read by every user of this machine.", remedy=f"Run: chmod 600 {path}")
    return content


def _check_pair(certificate: Path, key: Path) -> None:
    """gRPC takes any pair and fails each handshake later; OpenSSL tells at once whether they belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise PreconditionError(f"{certificate} and {key} are no certificate and its key: {reason}.") from None


def _no_password() -> str:
    """Asked for a key that is encrypted; without it OpenSSL would ask the terminal."""
    raise ValueError("the key is encrypted, and nobody is there to type its password")


def _check_authority(path: Path, clock: Clock) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise PreconditionError(f"{path} holds no certificate: {error.reason}.") from None
    ends_s = [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in context.get_ca_certs() if "notAfter" in one]
    now_s = datetime.fromisoformat(clock.wall_time().replace("Z", "+00:00")).timestamp()
    left_s = min(ends_s, default=math.inf) - now_s
    if left_s <= 0:
        raise PreconditionError(
            f"the certificate {path} has expired, or this machine's clock is wrong.",
            remedy="Check the clock; else make a new folder with 'python -m harness.run --init DIR' and hand it out.",
        )
    if left_s < WARN_BEFORE_S:
        _log.warning("the certificate %s expires in %.0f days", path, left_s / 86_400)

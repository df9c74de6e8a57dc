"""Makes what a fleet needs to talk in private: a certificate authority, two certificates and a token, as files.

Needs the package `cryptography` (`pip install 'fedmeter[tls]'`), on this machine only: using the files does not.
Certificates are X.509 v3 (RFC 5280) on the curve P-256, with the names in subjectAltName as RFC 6125 asks.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from fl.security import CA, CA_KEY, CLIENT, CLIENT_KEY, SERVER, SERVER_KEY, TOKEN, TOKEN_BYTES
from profiler.errors import PreconditionError, UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DAYS = 365
MAX_DAYS = 3650
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_HEADSTART = timedelta(days=1)  # boards without a clock of their own start a little in the past


@dataclass(frozen=True, slots=True)
class Made:
    """Where the files are, the names that the server may be called by, and until when (UTC) they are good."""

    folder: Path
    names: tuple[str, ...]
    expires: datetime


def make(folder: Path, more_names: Sequence[str] = (), *, days: int = DAYS) -> Made:
    """Write the seven files, readable by their owner alone, into a folder that is new or empty; all of them or none.

    `more_names` are host names or addresses beside this machine's own. Raises UsageError for a name or a time that
    cannot be, PreconditionError where the folder holds anything, cannot be written, or `cryptography` is missing.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"certificates for {days} days cannot be made: 1 to {MAX_DAYS} are possible.")
    names = tuple(dict.fromkeys([*LOCAL_NAMES, *own_names(), *more_names]))
    begin = datetime.now(timezone.utc).replace(microsecond=0)
    files = _files(names, begin, begin + timedelta(days=days))
    _write_all(folder, files)
    return Made(folder, names, begin + timedelta(days=days))


def own_names() -> list[str]:
    """This machine's host name, also as multicast DNS has it, and the addresses of its interfaces."""
    host = socket.gethostname()
    names = [host, f"{host.partition('.')[0]}.local"] if _is_name(host) else []
    for addresses in psutil.net_if_addrs().values():
        names += [found for address in addresses if (found := _routable(address.address))]
    return names


def _routable(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:  # a hardware address
        return None
    return None if address.is_link_local or address.is_loopback else str(address)


def _is_name(text: str) -> bool:
    labels = text.split(".")
    return len(text) <= 253 and all(
        0 < len(label) <= 63 and label.isascii() and label.replace("-", "").isalnum() and label.strip("-") == label
        for label in labels
    )


def _files(names: Iterable[str], begin: datetime, end: datetime) -> dict[str, bytes]:
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID
    except ImportError:
        raise PreconditionError(
            "making certificates needs the package cryptography.", remedy="Run: pip install 'fedmeter[tls]'"
        ) from None
    curve = ec.SECP256R1()
    ca_key, server_key, client_key = (ec.generate_private_key(curve) for _ in range(3))
    ca = _authority(ca_key, begin, end)
    issue = _Issuer(ca, ca_key, begin, end)
    server = issue.leaf("fedmeter server", server_key, ExtendedKeyUsageOID.SERVER_AUTH, [_general(n) for n in names])
    client = issue.leaf("fedmeter client", client_key, ExtendedKeyUsageOID.CLIENT_AUTH, [])
    return {
        CA: _pem(ca),
        CA_KEY: _key_pem(ca_key),
        SERVER: _pem(server),
        SERVER_KEY: _key_pem(server_key),
        CLIENT: _pem(client),
        CLIENT_KEY: _key_pem(client_key),
        TOKEN: secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n",
    }


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not _is_name(name):
            raise UsageError(
                f"{name!r:.80} is neither a host name nor an address.", remedy="Give it without a port, as in pi.lab."
            ) from None
        return x509.DNSName(name)


def _subject(common_name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _authority(key: EllipticCurvePrivateKey, begin: datetime, end: datetime) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    name = _subject(f"fedmeter CA {secrets.token_hex(4)}")  # two fleets' authorities must not be mistaken
    return (
        _draft(name, name, key, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


@dataclass(frozen=True, slots=True)
class _Issuer:
    ca: x509.Certificate
    key: EllipticCurvePrivateKey
    begin: datetime
    end: datetime

    def leaf(
        self,
        common_name: str,
        key: EllipticCurvePrivateKey,
        purpose: x509.ObjectIdentifier,
        names: Sequence[x509.GeneralName],
    ) -> x509.Certificate:
        """A certificate for one purpose; what serves as a client's cannot pose as the server's."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        draft = (
            _draft(_subject(common_name), self.ca.subject, key, self.begin, self.end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if names:
            draft = draft.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return draft.sign(self.key, hashes.SHA256())


def _draft(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _HEADSTART)
        .not_valid_after(end)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    pem: bytes = certificate.public_bytes(Encoding.PEM)
    return pem


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    """Beside the folder first, then renamed: rename(2) replaces an empty directory, and refuses one that is not."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))  # 0700
    except OSError as error:
        raise PreconditionError(f"{folder} cannot be made: {error.strerror}.") from None
    try:
        for name, content in files.items():
            _write(draft / name, content)
        draft.rename(folder)
    except OSError as error:
        raise PreconditionError(
            f"{folder} holds something already, or cannot be written: {error.strerror}. Nothing was changed.",
            remedy="Name a new folder; move the old one away only when no server or device uses it any more.",
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

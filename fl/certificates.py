"""Makes what a fleet needs to talk in private: a certificate authority, certificates and a token, as files.

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
from typing import TYPE_CHECKING, Literal

import psutil

from fl.admission import DEVICE_PATTERN
from fl.security import (
    CA,
    CA_KEY,
    CLIENT,
    CLIENT_KEY,
    DEVICE_URI,
    DEVICES,
    SERVER,
    SERVER_KEY,
    TOKEN,
    TOKEN_BYTES,
)
from profiler.errors import PreconditionError, UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DAYS = 365
MAX_DAYS = 3650
MAX_COMMON_NAME = 64  # ub-common-name of RFC 5280, appendix A.1
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_HEADSTART = timedelta(days=1)  # boards without a clock of their own start a little in the past


@dataclass(frozen=True, slots=True)
class Made:
    """Where the files are, the names that the server may be called by, and until when (UTC) they are good."""

    folder: Path
    names: tuple[str, ...]
    expires: datetime


def make(folder: Path, more_names: Sequence[str] = (), *, days: int = DAYS, devices: Sequence[str] = ()) -> Made:
    """Write what a fleet needs, readable by its owner alone, into a folder that is new or empty; all of it or nothing.

    `more_names` are host names or addresses beside this machine's own. With `devices` each of these gets a folder of
    its own, and no certificate is made that all could share. Raises UsageError for a name or a time that cannot be,
    PreconditionError where the folder holds anything, cannot be written, or `cryptography` is missing.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"certificates for {days} days cannot be made: 1 to {MAX_DAYS} are possible.")
    _check_devices(devices)
    names = tuple(dict.fromkeys([*LOCAL_NAMES, *own_names(), *more_names]))
    begin = datetime.now(timezone.utc).replace(microsecond=0)
    files = _files(names, begin, begin + timedelta(days=days), devices)
    _write_all(folder, files)
    return Made(folder, names, begin + timedelta(days=days))


def add_devices(folder: Path, devices: Sequence[str]) -> datetime:
    """A folder for each of these devices in one that `make` has made, good as long as its authority: until when.

    Needs ca.key there. Raises UsageError for an id that cannot be, PreconditionError where a device has its folder
    already or the authority cannot be read; then nothing is made.
    """
    _check_devices(devices)
    for device in devices:
        if (folder / DEVICES / device).exists():
            raise PreconditionError(
                f"{folder / DEVICES / device} is there already. Nothing was changed.",
                remedy="To renew a device's certificate move its folder away first.",
            )
    issue, ca_pem, token = _authority_in(folder)
    (folder / DEVICES).mkdir(mode=0o700, exist_ok=True)
    for device in devices:
        _write_all(folder / DEVICES / device, _device_files(issue, device, ca_pem, token))
    return issue.end


def _check_devices(devices: Sequence[str]) -> None:
    for device in devices:
        if not DEVICE_PATTERN.fullmatch(device) or device.startswith("."):
            raise UsageError(f"{device!r:.80} is no device id: 1 to 128 letters, digits and @ . : + - _, no dot first.")
    if len(set(devices)) != len(devices):
        raise UsageError("a device is named twice.")


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


def _files(names: Iterable[str], begin: datetime, end: datetime, devices: Sequence[str]) -> dict[str, bytes]:
    ca_key, server_key = _new_key(), _new_key()
    ca = _authority(ca_key, begin, end)
    issue = _Issuer(ca, ca_key, begin, end)
    server = issue.leaf("fedmeter server", server_key, "SERVER_AUTH", [_general(name) for name in names])
    ca_pem, token = _pem(ca), secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n"
    files = {
        CA: ca_pem,
        CA_KEY: _key_pem(ca_key),
        SERVER: _pem(server),
        SERVER_KEY: _key_pem(server_key),
        TOKEN: token,
    }
    for device in devices:
        own = _device_files(issue, device, ca_pem, token)
        files |= {f"{DEVICES}/{device}/{name}": content for name, content in own.items()}
    return files if devices else files | _shared_files(issue)


def _shared_files(issue: _Issuer) -> dict[str, bytes]:
    key = _new_key()
    return {CLIENT: _pem(issue.leaf("fedmeter client", key, "CLIENT_AUTH", [])), CLIENT_KEY: _key_pem(key)}


def _device_files(issue: _Issuer, device: str, ca_pem: bytes, token: bytes | None) -> dict[str, bytes]:
    """What one device needs, under the names that it has for a client."""
    from cryptography import x509

    key = _new_key()
    name = device if len(device) <= MAX_COMMON_NAME else "fedmeter device"
    names = [x509.UniformResourceIdentifier(f"{DEVICE_URI}{device}")]
    files = {CA: ca_pem, CLIENT: _pem(issue.leaf(name, key, "CLIENT_AUTH", names)), CLIENT_KEY: _key_pem(key)}
    return files if token is None else {**files, TOKEN: token}


def _new_key() -> EllipticCurvePrivateKey:
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise PreconditionError(
            "making certificates needs the package cryptography.", remedy="Run: pip install 'fedmeter[tls]'"
        ) from None
    return ec.generate_private_key(ec.SECP256R1())


def _authority_in(folder: Path) -> tuple[_Issuer, bytes, bytes | None]:
    """The authority of a folder, its certificate, and the token if there is one."""
    _new_key()  # says what is missing, where cryptography is
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        ca_pem = (folder / CA).read_bytes()
        ca, key = x509.load_pem_x509_certificate(ca_pem), load_pem_private_key((folder / CA_KEY).read_bytes(), None)
        if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
            raise ValueError(f"{CA_KEY} is not the key of {CA}")
        token = (folder / TOKEN).read_bytes() if (folder / TOKEN).exists() else None
    except (OSError, ValueError, TypeError) as error:
        raise PreconditionError(
            f"{folder}: its authority cannot be read: {error}.", remedy=f"Put {CA} and {CA_KEY} back for this once."
        ) from None
    begin = datetime.now(timezone.utc).replace(microsecond=0)
    return _Issuer(ca, key, begin, ca.not_valid_after_utc), ca_pem, token


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
        purpose: Literal["SERVER_AUTH", "CLIENT_AUTH"],
        names: Sequence[x509.GeneralName],
    ) -> x509.Certificate:
        """A certificate for one purpose; what serves as a client's cannot pose as the server's."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import ExtendedKeyUsageOID

        draft = (
            _draft(_subject(common_name), self.ca.subject, key, self.begin, self.end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, purpose)]), critical=False)
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
            for level in reversed(Path(name).parents[:-1]):
                (draft / level).mkdir(mode=0o700, exist_ok=True)
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

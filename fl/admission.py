"""Who may join: one pure decision a stream, from what gRPC tells of the caller. No connection, no gRPC calls.

In this order: is its address joining too often; does a caller that names a device prove that it is one of ours; is that
device expected; has a caller without a name (a foreign client, such as Flower's) a place left. The first no is final.

A foreign client may tell a name in its properties, which the server asks for. It proves nothing: it chooses among the
places that any foreign client can have, and takes none from a client that is there.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import grpc

from fl.addresses import check_target
from fl.security import (
    DEVICE_KEY,
    INSTANCE_KEY,
    TOKEN_KEY,
    ServerSecurity,
    certified_devices,
    check_binding,
    is_token,
)
from profiler.clock import Clock

DEVICE_PATTERN = re.compile(r"[\w@.:+-]{1,128}", re.ASCII)
MAX_REMEMBERED = 4_096  # addresses and device names whose joins are counted, and processes that brought no name
MAX_INSTANCE_CHARS = 128
NAME_KEYS = ("device_id", "client_id", "cid")
"""Properties that are taken for a foreign client's name, the first that is one; `device` is often `cpu` or `cuda:0`."""
# gRPC's names of what a caller has shown, and it has verified: grpc/grpc_security_constants.h
_CERTIFICATE, _ALTERNATIVE_NAMES = "x509_pem_cert", "x509_subject_alternative_name"


class Refused(Exception):
    """A caller that may not join; `code` and the text are what it is told."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Access:
    """Who may join, and by which way.

    `devices`: the names that ours may have, None for any. `foreign`: the names that callers without one are given, one
    each, and so how many of them there may be; None for any number, numbered, where nothing is protected, else none.
    `foreign_address`: a second port for them, by server TLS alone, since `address` asks for a client's certificate.
    `asks_names`: whether they are asked for their properties first, which may tell a name; not for apps that know of
    training alone, and may end at any other question. `insecure` allows plain text on addresses that others can reach.
    """

    security: ServerSecurity = field(default_factory=ServerSecurity)
    devices: frozenset[str] | None = None
    foreign: tuple[str, ...] | None = None
    foreign_address: str | None = None
    asks_names: bool = True
    insecure: bool = False

    def check_addresses(self, address: str) -> None:
        """Raises PreconditionError where a server at `address` would talk in plain text that others can read.

        Raises UsageError where it listens at what is no address.
        """
        for one in (address, self.foreign_address):
            if one is not None:
                check_target(one)
                check_binding(one, has_tls=self.security.certificates is not None, insecure=self.insecure)


@dataclass(frozen=True, slots=True)
class JoinRates:
    """How often one address, and one device, may join: at once, and then each second. A fleet may share an address."""

    address_burst: int = 4_000
    address_per_s: float = 50.0
    device_burst: int = 60
    device_per_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of a stream before its first message."""

    peer: str
    devices: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    has_certificate: bool = False
    instance: str | None = None
    certified: tuple[str, ...] = ()
    """The devices that its certificate names; none: one that the whole fleet shares."""

    @classmethod
    def of(cls, peer: str, metadata: Iterable[tuple[str, str | bytes]], proof: Mapping[str, Iterable[bytes]]) -> Caller:
        """From gRPC's `peer()`, `invocation_metadata()` and `auth_context()`."""
        told: dict[str, list[str]] = {DEVICE_KEY: [], TOKEN_KEY: [], INSTANCE_KEY: []}
        for key, value in metadata:
            if key in told:
                told[key].append(value if isinstance(value, str) else value.decode("latin-1"))
        instance = told[INSTANCE_KEY][0][:MAX_INSTANCE_CHARS] if told[INSTANCE_KEY] else None
        return cls(
            peer,
            tuple(told[DEVICE_KEY]),
            tuple(told[TOKEN_KEY]),
            _CERTIFICATE in proof,
            instance,
            certified_devices(proof.get(_ALTERNATIVE_NAMES, ())),
        )

    @property
    def address(self) -> str:
        """Without the port. All local sockets count as one."""
        return self.peer.rpartition(":")[0] if self.peer.startswith(("ipv4:", "ipv6:")) else "local"


def told_name(properties: Mapping[str, object]) -> str | None:
    """The name in a foreign client's properties: text, or a whole number, that a device may be called."""
    for key in NAME_KEYS:
        value = properties.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and DEVICE_PATTERN.fullmatch(value):
            return value
    return None


class Gate:
    """The rules of one server. Keeps what it must count, of at most MAX_REMEMBERED callers."""

    def __init__(self, access: Access, clock: Clock, rates: JoinRates | None = None) -> None:
        rates = rates or JoinRates()
        self._access = access
        self._numbers = itertools.count(1)
        self._given: OrderedDict[str, str] = OrderedDict()  # the name of each process that brought none
        self._claimed: set[str] = set()  # the declared names that a foreign client has told
        self._addresses = _Buckets(rates.address_burst, rates.address_per_s, clock)
        self._devices = _Buckets(rates.device_burst, rates.device_per_s, clock)

    def knock(self, caller: Caller, n_asked: int = 0) -> None:
        """Before anything else, where so many callers are being asked for their names. Raises Refused."""
        if not self._addresses.take(caller.address):
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many joins from this address; come more slowly")
        if not caller.devices:
            self._check_room(n_asked)

    def admit(self, caller: Caller, connected: Collection[str], told: str | None = None) -> str:
        """The device id of a caller, where `connected` are taken. Raises Refused.

        `told` is what a foreign client calls itself; it may be one of `connected`, whose client must then be gone.
        """
        if not caller.devices:
            return self._called(told) or self._place_again(caller, connected)
        device = self._named(caller)
        if not self._devices.take(device):
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"device {device} joins too often; come more slowly")
        return device

    def _named(self, caller: Caller) -> str:
        if len(caller.devices) != 1 or not DEVICE_PATTERN.fullmatch(caller.devices[0]):
            reason = f"{DEVICE_KEY} must be 1 to 128 letters, digits and @ . : + - _"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, reason)
        self._check_proof(caller)
        [device] = caller.devices
        if caller.certified and device not in caller.certified:
            reason = f"the certificate is of {', '.join(caller.certified):.200}, not of {device}"
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, reason)
        expected = self._access.devices
        if expected is not None and device not in expected:
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, f"device {device} is not expected here")
        if device in (self._access.foreign or ()):
            raise Refused(
                grpc.StatusCode.PERMISSION_DENIED, f"device {device} is declared foreign: join without a name"
            )
        return device

    def _check_proof(self, caller: Caller) -> None:
        security = self._access.security
        if security.mutual and not caller.has_certificate:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "this port is for foreign clients; ours show a certificate")
        if security.token is None:
            return
        if len(caller.tokens) != 1 or not is_token(caller.tokens[0], security.token):
            reason = "the token is missing or not this server's; give the client the server's token file"
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, reason)

    @property
    def _n_places(self) -> int | None:
        """How many foreign clients there may be, None for any number."""
        if self._access.foreign is None and self._access.security.is_open:
            return None
        return len(self._access.foreign or ())

    def _check_room(self, n_asked: int) -> None:
        """Who is asked for its name holds a stream meanwhile; strangers must not hold all that there are."""
        if self._n_places == 0:
            raise self._no_place()
        if self._n_places is not None and n_asked >= self._n_places:
            reason = "as many unknown clients as are expected are being asked for their names; come again"
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)

    def _called(self, told: str | None) -> str | None:
        """What a foreign client calls itself, where it may have that name. Which of ours is expected is never its."""
        if told is None:
            return None
        if self._access.foreign is not None:
            if told not in self._access.foreign:
                return None
            self._claimed.add(told)
            return told
        is_ours = told in (self._access.devices or ())
        is_anothers = told in self._given.values()
        return told if self._n_places is None and not is_ours and not is_anothers else None

    def _place_again(self, caller: Caller, connected: Collection[str]) -> str:
        """The name of a client that brings none: the same one again where its process was here before."""
        if caller.instance is None:
            return self._place(connected)
        name = self._given.pop(caller.instance, None) or self._place(connected)
        self._given[caller.instance] = name
        if len(self._given) > MAX_REMEMBERED:
            self._given.popitem(last=False)
        return name

    def _place(self, connected: Collection[str]) -> str:
        """One that is free; one that somebody has called its own only where there is no other."""
        if self._n_places is None:
            return next(name for n in self._numbers if (name := f"client-{n}") not in connected)
        free = [name for name in self._access.foreign or () if name not in connected]
        if not free:
            raise self._no_place()
        return min(free, key=self._claimed.__contains__)

    def _no_place(self) -> Refused:
        reason = f"no place for a client without a name: {self._n_places} of them are expected, and are here"
        return Refused(grpc.StatusCode.PERMISSION_DENIED, reason)


class _Buckets:
    """Token buckets by key. The least recently used is forgotten first, which at worst gives it a full bucket again."""

    def __init__(self, burst: int, per_s: float, clock: Clock) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Whether one more is allowed now; it is counted only then."""
        now_ns = self._clock.monotonic_ns()
        left, then_ns = self._left.pop(key, (self._burst, now_ns))
        left = min(self._burst, left + (now_ns - then_ns) / 1e9 * self._per_s)
        is_allowed = left >= 1
        self._left[key] = (left - 1 if is_allowed else left, now_ns)
        if len(self._left) > MAX_REMEMBERED:
            self._left.popitem(last=False)
        return is_allowed

"""Who may join, decided from what gRPC tells of a caller; no socket."""

from __future__ import annotations

import grpc
import pytest

from fl.admission import MAX_REMEMBERED, Access, Caller, Gate, JoinRates, Refused
from fl.security import DEVICE_KEY, ServerSecurity
from profiler.clock import FakeClock

TOKEN = "correct-horse-battery-staple"
TOLD = (f"Bearer {TOKEN}",)
PEER = "ipv4:10.0.0.7:5000"
PROTECTED = ServerSecurity(mutual=True, token=TOKEN)


def gate(access: Access | None = None, rates: JoinRates | None = None, clock: FakeClock | None = None) -> Gate:
    return Gate(access or Access(), clock or FakeClock(), rates)


def code_of(made: Gate, caller: Caller, connected: tuple[str, ...] = ()) -> grpc.StatusCode:
    with pytest.raises(Refused) as caught:
        made.admit(caller, connected)
    return caught.value.code


def test_an_open_server_takes_names_as_they_come_and_numbers_the_nameless() -> None:
    made = gate()
    assert made.admit(Caller(PEER, ("pi",)), ()) == "pi"
    assert [made.admit(Caller(PEER), ()) for _ in range(2)] == ["client-1", "client-2"]


@pytest.mark.parametrize("devices", [("a", "b"), ("a b",), ("",), ("x" * 129,), ("é",)])
def test_a_name_is_one_and_well_formed(devices: tuple[str, ...]) -> None:
    assert code_of(gate(), Caller(PEER, devices)) is grpc.StatusCode.INVALID_ARGUMENT


def test_ours_prove_themselves_by_certificate_and_token() -> None:
    made = gate(Access(PROTECTED))
    assert made.admit(Caller(PEER, ("pi",), TOLD, has_certificate=True), ()) == "pi"
    for tokens, has_certificate in [
        ((), True),
        (TOLD, False),
        ((TOKEN,), True),
        ((TOLD[0] + "x",), True),
        ((TOLD[0][:-1],), True),
        (TOLD * 2, True),
        (("Bearer \ud800",), True),
    ]:
        caller = Caller(PEER, ("pi",), tokens, has_certificate)
        assert code_of(made, caller) is grpc.StatusCode.UNAUTHENTICATED


def test_a_refusal_tells_nothing_of_the_token() -> None:
    with pytest.raises(Refused) as caught:
        gate(Access(PROTECTED)).admit(Caller(PEER, ("pi",), ("Bearer guess",), has_certificate=True), ())
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(Access(PROTECTED))


def test_only_expected_devices_join() -> None:
    made = gate(Access(devices=frozenset({"pi"})))
    assert made.admit(Caller(PEER, ("pi",)), ()) == "pi"
    assert code_of(made, Caller(PEER, ("intruder",))) is grpc.StatusCode.PERMISSION_DENIED


def test_a_protected_server_takes_as_many_foreign_clients_as_are_declared_and_calls_them_so() -> None:
    none = gate(Access(PROTECTED))
    assert code_of(none, Caller(PEER)) is grpc.StatusCode.PERMISSION_DENIED
    two = gate(Access(PROTECTED, foreign=("phone-1", "phone-2")))
    assert two.admit(Caller(PEER), ()) == "phone-1"
    assert two.admit(Caller(PEER), ("phone-1",)) == "phone-2"
    assert two.admit(Caller(PEER), ("phone-2",)) == "phone-1"
    assert code_of(two, Caller(PEER), ("phone-1", "phone-2")) is grpc.StatusCode.PERMISSION_DENIED


def test_a_foreign_name_cannot_be_taken_by_telling_it() -> None:
    made = gate(Access(foreign=("phone",)))
    assert code_of(made, Caller(PEER, ("phone",))) is grpc.StatusCode.PERMISSION_DENIED


def test_an_address_joins_so_often_and_then_waits_without_harm_to_others() -> None:
    clock = FakeClock()
    made = gate(rates=JoinRates(address_burst=3, address_per_s=0.5), clock=clock)
    for port in range(3):
        made.admit(Caller(f"ipv4:10.0.0.7:{port}"), ())
    assert code_of(made, Caller("ipv4:10.0.0.7:9")) is grpc.StatusCode.RESOURCE_EXHAUSTED
    made.admit(Caller("ipv4:10.0.0.8:9"), ())
    made.admit(Caller("ipv6:[fd00::2]:9"), ())
    clock.advance(2.0)
    made.admit(Caller("ipv4:10.0.0.7:10"), ())
    assert code_of(made, Caller("ipv4:10.0.0.7:11")) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_device_that_joins_again_and_again_is_slowed_and_others_at_its_address_are_not() -> None:
    made = gate(rates=JoinRates(device_burst=2))
    for _ in range(2):
        made.admit(Caller(PEER, ("loop",)), ())
    assert code_of(made, Caller(PEER, ("loop",))) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert made.admit(Caller(PEER, ("pi",)), ()) == "pi"


def test_a_caller_without_the_token_uses_up_no_joins_of_the_device_it_names() -> None:
    made = gate(Access(PROTECTED), JoinRates(device_burst=1))
    for _ in range(5):
        assert code_of(made, Caller(PEER, ("pi",))) is grpc.StatusCode.UNAUTHENTICATED
    assert made.admit(Caller(PEER, ("pi",), TOLD, has_certificate=True), ()) == "pi"


def test_what_is_remembered_of_callers_is_bounded() -> None:
    made = gate(rates=JoinRates(address_burst=1, address_per_s=0.0))
    for n in range(MAX_REMEMBERED + 1):
        made.admit(Caller(f"ipv4:10.{n >> 16}.{n >> 8 & 255}.{n & 255}:1"), ())
    assert code_of(made, Caller("ipv4:10.0.0.2:1")) is grpc.StatusCode.RESOURCE_EXHAUSTED
    made.admit(Caller("ipv4:10.0.0.0:1"), ())  # the oldest has been forgotten
    [sizes] = {len(buckets._left) for buckets in (made._addresses,)}
    assert sizes == MAX_REMEMBERED


def test_a_caller_is_read_from_what_grpc_tells() -> None:
    metadata = [(DEVICE_KEY, "pi"), ("authorization", b"Bearer x"), ("user-agent", "y")]
    caller = Caller.of(PEER, metadata, {"x509_pem_cert": [b"pem"]})
    assert caller == Caller(PEER, ("pi",), ("Bearer x",), True)
    assert caller.address == "ipv4:10.0.0.7"
    assert not Caller.of(PEER, [], {"security_level": [b"x"]}).has_certificate
    assert Caller("unix:").address == Caller("unix:@x").address == "local"

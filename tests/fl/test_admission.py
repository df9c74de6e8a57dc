"""Who may join, decided from what gRPC tells of a caller; no socket."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.admission import (
    DEVICE_PATTERN,
    MAX_REMEMBERED,
    NAME_KEYS,
    Access,
    Caller,
    Gate,
    JoinRates,
    Refused,
    told_name,
)
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
        join(made, caller, connected)
    return caught.value.code


def join(made: Gate, caller: Caller, connected: tuple[str, ...] = ()) -> str:
    made.knock(caller)
    return made.admit(caller, connected)


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


def test_a_certificate_that_names_devices_is_good_for_these() -> None:
    made = gate(Access(PROTECTED))
    one = Caller(PEER, ("pi",), TOLD, has_certificate=True, certified=("pi",))
    assert made.admit(one, ()) == "pi"
    assert code_of(made, replace(one, devices=("tx2",))) is grpc.StatusCode.PERMISSION_DENIED
    assert made.admit(replace(one, devices=("tx2",), certified=()), ()) == "tx2", "one that the fleet shares"
    assert made.admit(replace(one, devices=("tx2",), certified=("pi", "tx2")), ()) == "tx2"


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


def test_a_foreign_client_gets_the_declared_place_that_it_tells_and_others_are_kept_off_it() -> None:
    made = gate(Access(PROTECTED, devices=frozenset({"pi"}), foreign=("phone-1", "phone-2")))
    assert made.admit(Caller(PEER), (), "phone-1") == "phone-1"
    assert made.admit(Caller(PEER), (), "phone-1") == "phone-1", "again"
    assert made.admit(Caller(PEER), ()) == "phone-2", "phone-1 is away, and has an owner"
    assert made.admit(Caller(PEER), ("phone-2",)) == "phone-1", "better than none"
    assert made.admit(Caller(PEER), ("phone-1",), "phone-1") == "phone-1", "the server finds out who is gone"
    for not_declared in ("pi", "phone-3", "cpu"):
        assert made.admit(Caller(PEER), (), not_declared) == "phone-2"


def test_where_names_are_free_one_that_is_told_is_kept_apart_from_those_that_are_given() -> None:
    made = gate(Access(devices=frozenset({"pi"})))
    assert made.admit(Caller(PEER), (), "client-1") == "client-1"
    assert made.admit(Caller(PEER), ("client-1",)) == "client-2"
    assert made.admit(Caller(PEER), (), "pi") == "client-3", "that is a device of ours"
    assert made.admit(Caller(PEER, instance="one"), ()) == "client-4"
    assert made.admit(Caller(PEER), (), "client-4") == "client-5", "a process has it that will come again"


def test_strangers_that_are_being_asked_hold_no_more_streams_than_there_are_places() -> None:
    made = gate(Access(PROTECTED, foreign=("phone",)))
    made.knock(Caller(PEER), n_asked=0)
    with pytest.raises(Refused) as caught:
        made.knock(Caller(PEER), n_asked=1)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    made.knock(Caller(PEER, ("pi",)), n_asked=1)
    gate().knock(Caller(PEER), n_asked=1_000)


SCALARS = st.one_of(st.text(max_size=200), st.integers(), st.booleans(), st.floats(), st.binary(max_size=5))


@given(st.dictionaries(st.sampled_from([*NAME_KEYS, "device"]), SCALARS))
def test_whatever_properties_say_a_name_is_one_that_a_device_may_have(properties: dict[str, object]) -> None:
    name = told_name(properties)
    assert name is None or DEVICE_PATTERN.fullmatch(name)
    assert name is None or name in {str(properties[key]) for key in NAME_KEYS if key in properties}


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"client_id": "board-1", "cid": 7}, "board-1"),
        ({"device_id": "a b", "cid": 7}, "7"),
        ({"cid": True}, None),
        ({"cid": 0.5}, None),
        ({"device": "cuda:0"}, None),
        ({}, None),
    ],
)
def test_the_first_property_that_is_a_name_counts(properties: dict[str, object], name: str | None) -> None:
    assert told_name(properties) == name


def test_a_foreign_name_cannot_be_taken_by_telling_it() -> None:
    made = gate(Access(foreign=("phone",)))
    assert code_of(made, Caller(PEER, ("phone",))) is grpc.StatusCode.PERMISSION_DENIED


def test_an_address_joins_so_often_and_then_waits_without_harm_to_others() -> None:
    clock = FakeClock()
    made = gate(rates=JoinRates(address_burst=3, address_per_s=0.5), clock=clock)
    for port in range(3):
        join(made, Caller(f"ipv4:10.0.0.7:{port}"))
    assert code_of(made, Caller("ipv4:10.0.0.7:9")) is grpc.StatusCode.RESOURCE_EXHAUSTED
    join(made, Caller("ipv4:10.0.0.8:9"))
    join(made, Caller("ipv6:[fd00::2]:9"))
    clock.advance(2.0)
    join(made, Caller("ipv4:10.0.0.7:10"))
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
        join(made, Caller(f"ipv4:10.{n >> 16}.{n >> 8 & 255}.{n & 255}:1"))
    assert code_of(made, Caller("ipv4:10.0.0.2:1")) is grpc.StatusCode.RESOURCE_EXHAUSTED
    join(made, Caller("ipv4:10.0.0.0:1"))  # the oldest has been forgotten
    [sizes] = {len(buckets._left) for buckets in (made._addresses,)}
    assert sizes == MAX_REMEMBERED


def test_a_caller_is_read_from_what_grpc_tells() -> None:
    metadata = [(DEVICE_KEY, "pi"), ("authorization", b"Bearer x"), ("user-agent", "y")]
    names = [b"fedmeter-device:pi", b"pi.lab", b"\xff"]
    caller = Caller.of(PEER, metadata, {"x509_pem_cert": [b"pem"], "x509_subject_alternative_name": names})
    assert caller == Caller(PEER, ("pi",), ("Bearer x",), True, certified=("pi",))
    assert caller.address == "ipv4:10.0.0.7"
    assert not Caller.of(PEER, [], {"security_level": [b"x"]}).has_certificate
    assert Caller("unix:").address == Caller("unix:@x").address == "local"

"""The security folder, TLS both ways, and clients that mean harm, each over a real socket."""

from __future__ import annotations

import asyncio
import importlib.util
import queue
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from fl.admission import Access, JoinRates
from fl.certificates import add_devices, make
from fl.client import JOIN, start_client
from fl.messages import EvaluateRes, FitIns, FitRes, GetPropertiesRes, Parameters
from fl.security import (
    CA,
    CA_KEY,
    CLIENT,
    CLIENT_FILES,
    CLIENT_KEY,
    DEVICE_KEY,
    SERVER,
    SERVER_KEY,
    TOKEN,
    ClientSecurity,
    ServerSecurity,
    bearer,
    check_binding,
    client_folder,
    client_security,
    is_loopback,
    read_token,
    server_security,
)
from fl.server import Limits, Server
from fl.standalone import start_server
from fl.strategies.fedavg import FedAvg
from fl.wire import codec
from fl.wire.measurement import MAX_SPANS, RECORD_KEY, encode_spans
from harness.run import main
from profiler.clock import FakeClock
from profiler.errors import ClientFailure, DeviceError, PreconditionError, UsageError
from profiler.records import SpanRecord
from tests.fixtures.http2 import BareClient
from tests.fl.clients import Unruly
from tests.fl.test_server import RawClient, answer_probes, run

START = Parameters((np.zeros(2, dtype=np.float32),))
GOOD = codec.encode_reply(FitRes(START, 1))

needs_cryptography = pytest.mark.skipif(
    importlib.util.find_spec("cryptography") is None, reason="making certificates needs the package cryptography"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("security") / "tls", ["pi.lab", "10.1.2.3"]).folder


@pytest.fixture
def raw_clients() -> Iterator[list[RawClient]]:
    clients: list[RawClient] = []
    yield clients
    for client in clients:
        client.close()


# --- the folder ------------------------------------------------------------------------------------------------------


@needs_cryptography
def test_the_folder_is_complete_and_for_its_owner_alone(folder: Path) -> None:
    names = {CA, CA_KEY, SERVER, SERVER_KEY, CLIENT, CLIENT_KEY, TOKEN}
    assert {path.name for path in folder.iterdir()} == names
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert [path.name for path in folder.parent.iterdir()] == ["tls"], "no draft is left beside it"


@needs_cryptography
def test_certificates_have_the_names_the_purpose_and_an_end(folder: Path) -> None:
    from cryptography import x509

    ca, server, client = (x509.load_pem_x509_certificate((folder / name).read_bytes()) for name in (CA, SERVER, CLIENT))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "pi.lab"} <= set(names.get_values_for_type(x509.DNSName))
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert {"127.0.0.1", "::1", "10.1.2.3"} <= addresses
    for leaf, purpose in (
        (server, x509.oid.ExtendedKeyUsageOID.SERVER_AUTH),
        (client, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        leaf.verify_directly_issued_by(ca)
        assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == 366
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


@needs_cryptography
def test_nothing_is_overwritten(tmp_path: Path) -> None:
    precious = tmp_path / "tls" / "precious"
    precious.parent.mkdir()
    precious.write_text("mine")
    with pytest.raises(PreconditionError, match=r"holds something already.*Nothing was changed"):
        make(precious.parent)
    assert precious.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["precious", "tls"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PreconditionError):
        make(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@needs_cryptography
@pytest.mark.parametrize("name", ["a b", "host:8080", "-x", "x" * 64, "", "*.lab", "http://x"])
def test_a_name_that_is_none_makes_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="neither a host name nor an address"):
        make(tmp_path / "tls", [name])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("days", [0, -1, 4_000])
def test_days_are_bounded(tmp_path: Path, days: int) -> None:
    with pytest.raises(UsageError, match="1 to 3650"):
        make(tmp_path / "tls", days=days)


@needs_cryptography
def test_the_command_makes_the_folder_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "deep" / "tls"
    assert main(["--init", str(folder), "--name", "pi.lab", "--days", "90"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder}\n"
    assert "pi.lab" in err
    token = (folder / TOKEN).read_text().strip()
    assert token not in out + err, "a secret stays in its file"
    assert main(["--init", str(folder)]) == 3
    assert (folder / TOKEN).read_text().strip() == token
    assert main(["--days", "90"]) == 2


@needs_cryptography
def test_each_side_reads_its_part_of_the_folder(folder: Path, tmp_path: Path) -> None:
    server = server_security(folder)
    assert server.mutual
    assert server.token == read_token(folder / TOKEN)
    for name in CLIENT_FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
        (tmp_path / name).chmod(0o600)
    client = client_security(tmp_path)
    assert (client.certificate, client.token) == ((folder / CLIENT).read_bytes(), server.token)
    for secret in (server.token, (folder / SERVER_KEY).read_text()[30:60]):
        assert secret not in repr(server) + repr(client)


@needs_cryptography
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / SERVER_KEY).chmod(0o604), "server.key can be read by every user.*chmod 600"),
        (lambda folder: (folder / TOKEN).chmod(0o606), "token can be read by every user"),
        (lambda folder: (folder / TOKEN).write_text("short"), "token holds no token"),
        (lambda folder: (folder / TOKEN).write_text("x" * 20 + "\nauthorization: y"), "token holds no token"),
        (lambda folder: (folder / TOKEN).write_bytes(b"\xff" * 40), "token holds no token"),
        (lambda folder: (folder / CA).unlink(), "ca.pem cannot be read: No such file"),
        (lambda folder: (folder / CA).write_bytes(b""), "ca.pem is empty"),
        (lambda folder: (folder / CA).write_bytes(b"x" * 70_000), "ca.pem is empty or larger"),
        (lambda folder: (folder / CA).write_text("no certificate"), "ca.pem holds no certificate"),
        (lambda folder: (folder / SERVER).write_text("none"), "server.pem and .*server.key are no certificate and its"),
        (lambda folder: (folder / CLIENT_KEY).replace(folder / SERVER_KEY), "server.key are no certificate and its"),
    ],
)
def test_a_damaged_folder_is_told_by_file(tmp_path: Path, spoil: object, message: str) -> None:
    made = make(tmp_path / "tls").folder
    spoil(made)  # type: ignore[operator]
    with pytest.raises(PreconditionError, match=message):
        server_security(made)


@needs_cryptography
def test_an_expired_certificate_is_refused_and_one_that_soon_will_be_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(tmp_path / "tls", days=90)
    end_s = made.expires.timestamp()
    for read in (server_security, client_security):
        caplog.clear()
        read(made.folder, FakeClock(wall_epoch_s=end_s - 31 * 86_400))
        assert caplog.records == []
        read(made.folder, FakeClock(wall_epoch_s=end_s - 10 * 86_400))
        assert "expires in 10 days" in caplog.text
        with pytest.raises(PreconditionError, match="has expired, or this machine's clock is wrong"):
            read(made.folder, FakeClock(wall_epoch_s=end_s + 1))


# --- one certificate a device -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def devices_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("security") / "tls", devices=["pi-1", "pi-2"]).folder


def own(folder: Path, device: str) -> ClientSecurity:
    return client_security(client_folder(folder, device))


@needs_cryptography
def test_each_device_has_its_own_certificate_and_there_is_none_for_all(devices_folder: Path) -> None:
    from cryptography import x509

    assert {path.name for path in devices_folder.iterdir()} == {CA, CA_KEY, SERVER, SERVER_KEY, TOKEN, "devices"}
    for device in ("pi-1", "pi-2"):
        folder = devices_folder / "devices" / device
        assert {path.name for path in folder.iterdir()} == set(CLIENT_FILES)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
        certificate = x509.load_pem_x509_certificate((folder / CLIENT).read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"fedmeter-device:{device}"]
    assert own(devices_folder, "pi-1").key != own(devices_folder, "pi-2").key


@needs_cryptography
def test_a_device_joins_under_the_name_in_its_certificate_alone(devices_folder: Path) -> None:
    async def test() -> None:
        async with Server(access=Access(server_security(devices_folder))) as server:

            async def told(device: str, security: ClientSecurity) -> grpc.StatusCode | None:
                return await asyncio.to_thread(_told, server.port, device, security)

            first, second = own(devices_folder, "pi-1"), own(devices_folder, "pi-2")
            assert await told("pi-1", first) is None
            assert await told("pi-2", first) is grpc.StatusCode.PERMISSION_DENIED, "a member that poses as another"
            assert await told("pi-2", second) is None
            mixed = ClientSecurity(first.root_certificates, first.certificate, second.key, first.token)
            assert await told("pi-1", mixed) is grpc.StatusCode.UNAVAILABLE, "a certificate without its key"
            no_token = ClientSecurity(first.root_certificates, first.certificate, first.key)
            assert await told("pi-1", no_token) is grpc.StatusCode.UNAUTHENTICATED, "the token is asked for as before"

    run(test())


@needs_cryptography
def test_a_server_that_is_reached_by_another_name_still_has_to_be_the_one(folder: Path) -> None:
    """As through a relay. Address and authority are right in both cases: the name alone decides."""
    security = client_security(folder)

    async def test() -> None:
        async with Server(access=Access(server_security(folder))) as server:

            def client(name: str, max_wait_s: float) -> None:
                address = f"127.0.0.1:{server.port}"
                start_client(
                    address, Unruly(), device="pi-1", security=security, server_name=name, max_wait_s=max_wait_s
                )

            with pytest.raises(PreconditionError):
                await asyncio.to_thread(client, "pi.elsewhere", 1.0)
            joining = asyncio.create_task(asyncio.to_thread(client, "pi.lab", 30.0))
            await server.wait_for(1, 30.0)
            await server.farewell()
            await joining

    run(test())


@needs_cryptography
def test_a_device_can_be_added_later_and_nothing_else_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tls"
    assert main(["--init", str(folder), "--device", "pi-1", "--days", "90"]) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["--init", str(folder), "--device", "pi-2"]) == 0
    assert capsys.readouterr().out == f"{folder}/devices/pi-2\n"
    assert {path: path.read_bytes() for path in before} == before
    assert main(["--init", str(folder), "--device", "pi-3", "--device", "pi-2"]) == 3
    assert "pi-2 is there already. Nothing was changed" in capsys.readouterr().err
    assert not (folder / "devices" / "pi-3").exists()
    assert main(["--init", str(folder), "--device", "pi-3", "--days", "9"]) == 2
    assert [path.name for path in sorted((folder / "devices").iterdir())] == ["pi-1", "pi-2"]

    async def test() -> None:
        async with Server(access=Access(server_security(folder))) as server:
            assert await asyncio.to_thread(_told, server.port, "pi-2", own(folder, "pi-2")) is None

    run(test())


@needs_cryptography
def test_a_fleet_file_names_the_devices(tmp_path: Path) -> None:
    fleet, folder = tmp_path / "fleet.toml", tmp_path / "tls"
    entry = '[[device]]\nid = "pi-{n}"\ncount = 2\nprocessor = "cpu"\n'
    fleet.write_text(f'name = "x"\n[server]\ntls = "{folder}"\n{entry}')
    assert main([str(fleet), "--init", str(folder)]) == 0
    fleet.write_text(f'name = "x"\n[server]\ntls = "{folder}"\n{entry.replace("2", "3")}')
    assert main([str(fleet), "--init", str(folder)]) == 0
    assert [path.name for path in sorted((folder / "devices").iterdir())] == ["pi-0", "pi-1", "pi-2"]


@needs_cryptography
def test_without_the_authority_nothing_is_added(tmp_path: Path) -> None:
    folder = make(tmp_path / "tls", devices=["pi-1"]).folder
    other = make(tmp_path / "other").folder
    (folder / CA_KEY).write_bytes((other / CA_KEY).read_bytes())
    with pytest.raises(PreconditionError, match=r"ca.key is not the key of ca.pem"):
        add_devices(folder, ["pi-2"])
    (folder / CA_KEY).unlink()
    with pytest.raises(PreconditionError, match=r"authority cannot be read.*Put ca.pem and ca.key back"):
        add_devices(folder, ["pi-2"])
    assert [path.name for path in (folder / "devices").iterdir()] == ["pi-1"]


@pytest.mark.parametrize("device", ["../pi", "", "a b", ".hidden", "x" * 129, "pi\n"])
def test_an_id_that_is_none_gets_no_certificate(tmp_path: Path, device: str) -> None:
    with pytest.raises(UsageError, match="is no device id"):
        make(tmp_path / "tls", devices=["pi", device])
    with pytest.raises(UsageError, match="named twice"):
        make(tmp_path / "tls", devices=["pi", "pi"])
    assert list(tmp_path.iterdir()) == []


@needs_cryptography
def test_a_client_finds_its_files_in_either_folder_or_is_told(folder: Path, devices_folder: Path) -> None:
    assert client_folder(folder, "anything") == folder, "one certificate for all"
    assert client_folder(devices_folder, "pi-1") == devices_folder / "devices" / "pi-1"
    assert client_folder(devices_folder / "devices" / "pi-1", "pi-1").name == "pi-1", "as it was copied to the device"
    for device in ("pi-9", ""):
        with pytest.raises(PreconditionError, match=r"certificates of single devices, and none of.*--device"):
            client_folder(devices_folder, device)


# --- where plain text may go -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:8080", True),
        ("127.5.0.1:0", True),
        ("localhost:8080", True),
        ("[::1]:8080", True),
        ("[::ffff:127.0.0.1]:8080", True),
        ("unix:/tmp/socket", True),
        ("dns:///localhost:1", True),
        ("0.0.0.0:8080", False),
        ("[::]:8080", False),
        (":8080", False),
        ("192.168.1.2:8080", False),
        ("localhost.evil.org:80", False),
        ("127.0.0.1.evil.org:80", False),
        ("ipv4:127.0.0.1:80,8.8.8.8:80", False),
        ("8080", False),
        ("", False),
    ],
)
def test_what_is_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_plain_text_off_loopback_must_be_asked_for(address: str) -> None:
    async def test() -> None:
        with pytest.raises(PreconditionError, match=r"without TLS.*--init.*insecure = true"):
            await Server(address).start()
        with pytest.raises(PreconditionError, match="without TLS"):
            await Server(access=Access(foreign_address=address)).start()
        if address.startswith("0"):
            async with Server(address, access=Access(insecure=True)) as server:
                assert server.port > 0

    run(test())
    with pytest.raises(PreconditionError, match="without TLS"):
        start_server(address, strategy=FedAvg(epochs=1, batch_size=1, lr=0.1))
    check_binding(address, has_tls=True, insecure=False)


def test_a_token_goes_in_plain_text_only_to_this_machine() -> None:
    security = ClientSecurity(token="t" * 20)
    with pytest.raises(PreconditionError, match="not sent there without TLS"):
        start_client("192.0.2.1:8080", Unruly(), device="pi", security=security, max_wait_s=0.1)
    with pytest.raises(UsageError, match="security brings TLS"):
        start_client("127.0.0.1:1", Unruly(), security=ClientSecurity(b"pem"), insecure=True)

    async def test() -> None:
        async with Server(access=Access(ServerSecurity(token="t" * 20))) as server:
            address = f"127.0.0.1:{server.port}"
            with pytest.raises(DeviceError, match="UNAUTHENTICATED: the token is missing"):
                await asyncio.to_thread(start_client, address, Unruly(), device="pi", max_wait_s=5.0)
            joining = asyncio.to_thread(start_client, address, Unruly(), device="pi", security=security, max_wait_s=5.0)
            client = asyncio.ensure_future(joining)
            await server.wait_for({"pi"}, 10.0)
            await server.farewell()
            await client

    run(test())


# --- TLS both ways ---------------------------------------------------------------------------------------------------


def _told(port: int, device: str | None, security: ClientSecurity, host: str = "127.0.0.1") -> grpc.StatusCode | None:
    """What a caller is told; None where ours is asked the first question. Over TLS, with what it can show."""
    credentials = grpc.ssl_channel_credentials(security.root_certificates, security.key, security.certificate)
    metadata = [(DEVICE_KEY, device)] if device else []
    if security.token is not None:
        metadata.append(bearer(security.token))
    with grpc.secure_channel(f"{host}:{port}", credentials, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        open_end: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call = channel.stream_stream(JOIN)(iter(open_end.get, None), metadata=metadata, timeout=20.0)
        try:
            next(call)
            if device is None:
                open_end.put(codec.encode_reply(GetPropertiesRes({})))
                next(call)
        except grpc.RpcError as error:
            return error.code()
        finally:
            open_end.put(None)
        return None


@needs_cryptography
def test_who_gets_in_by_which_port(folder: Path, tmp_path: Path) -> None:
    ours, others = client_security(folder), client_security(make(tmp_path / "tls").folder)
    ca = ours.root_certificates
    bare = ClientSecurity(ca)
    posing = ClientSecurity(ca, (folder / SERVER).read_bytes(), (folder / SERVER_KEY).read_bytes(), ours.token)

    async def test() -> None:
        access = Access(
            server_security(folder),
            devices=frozenset({"pi"}),
            foreign=("phone",),
            foreign_address="127.0.0.1:0",
        )
        async with Server(access=access) as server:
            assert server.foreign_port not in (0, server.port)

            async def told(port: int, device: str | None, security: ClientSecurity) -> grpc.StatusCode | None:
                return await asyncio.to_thread(_told, port, device, security)

            code = grpc.StatusCode
            assert await told(server.port, "pi", ours) is None
            assert await told(server.port, "pi", bare) is code.UNAVAILABLE, "no certificate, no handshake"
            assert await told(server.port, "pi", others) is code.UNAVAILABLE, "another fleet's"
            forged = ClientSecurity(ca, others.certificate, others.key, ours.token)
            assert await told(server.port, "pi", forged) is code.UNAVAILABLE, "of another authority"
            assert await told(server.port, "pi", posing) is code.UNAVAILABLE, "the server's own, stolen: wrong purpose"
            no_token = ClientSecurity(ca, ours.certificate, ours.key)
            assert await told(server.port, "pi", no_token) is code.UNAUTHENTICATED
            assert await told(server.port, "intruder", ours) is code.PERMISSION_DENIED
            with_token = ClientSecurity(ca, token=ours.token)
            assert await told(server.foreign_port, "pi", with_token) is code.UNAUTHENTICATED, "ours, by the wrong port"
            assert await told(server.foreign_port, "phone", bare) is code.UNAUTHENTICATED
            assert server.proxies() == []

    run(test())


@needs_cryptography
def test_ours_and_foreign_clients_train_together_and_no_second_foreign_one_joins(folder: Path) -> None:
    async def test() -> None:
        access = Access(server_security(folder), foreign=("phone",), foreign_address="127.0.0.1:0")
        async with Server(access=access) as server:
            here, there = f"localhost:{server.port}", f"127.0.0.1:{server.foreign_port}"
            joining = [
                asyncio.to_thread(
                    start_client, here, Unruly(), device="pi", security=client_security(folder), max_wait_s=9.0
                ),
                asyncio.to_thread(start_client, there, Unruly(), root_certificates=str(folder / CA), max_wait_s=9.0),
            ]
            clients = [asyncio.ensure_future(one) for one in joining]
            await server.wait_for({"pi", "phone"}, 10.0)
            answers = await asyncio.gather(*(proxy.fit(FitIns(START), 10.0) for proxy in server.proxies()))
            assert [answer.result.num_examples for answer in answers] == [10, 10]
            second = ClientSecurity((folder / CA).read_bytes())
            told = await asyncio.to_thread(_told, server.foreign_port, None, second)
            assert told is grpc.StatusCode.PERMISSION_DENIED
            await server.farewell()
            await asyncio.gather(*clients)

    run(test())


@needs_cryptography
def test_a_client_talks_to_no_server_that_it_does_not_trust(folder: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "tls").folder

    async def test() -> None:
        async with Server(access=Access(server_security(other))) as server:
            with pytest.raises(PreconditionError, match="no server for"):
                await asyncio.to_thread(
                    start_client,
                    f"127.0.0.1:{server.port}",
                    Unruly(),
                    device="pi",
                    security=client_security(folder),
                    max_wait_s=0.5,
                )

    run(test())


# --- clients that mean harm ------------------------------------------------------------------------------------------


async def is_served(server: Server, raw_clients: list[RawClient], device: str = "good") -> None:
    """A well-behaved client joins and is answered at once, whatever the others do."""
    begin_s = time.monotonic()
    client = RawClient(server.port, device)
    raw_clients.append(client)
    await answer_probes(client)
    await server.wait_for({device}, 5.0)
    [proxy] = [proxy for proxy in server.proxies() if proxy.info.device == device]
    call = asyncio.ensure_future(proxy.fit(FitIns(START), 5.0))
    await client.receive()
    client.send(GOOD)
    await call
    assert time.monotonic() - begin_s < 5.0


async def until(condition: object, timeout_s: float = 5.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s, "it never happened"
        await asyncio.sleep(0.02)


def test_a_stream_that_never_answers_its_first_question_ends_and_gives_its_name_back(
    raw_clients: list[RawClient],
) -> None:
    async def test() -> None:
        async with Server(limits=Limits(probe_s=0.3)) as server:
            silent = [RawClient(server.port, f"d{n}") for n in range(5)]
            raw_clients.extend(silent)
            for client in silent:
                await client.receive()
                code, details = await client.refused()
                assert (code, details) == (
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    "no answer to the first question within 0.3 s",
                )
            assert server.proxies() == []
            await is_served(server, raw_clients, "d0")

    run(test())


def test_a_stream_whose_device_came_back_on_another_is_ended(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            dead = RawClient(server.port, "pi")
            raw_clients.append(dead)
            await answer_probes(dead)
            await server.wait_for({"pi"}, 5.0)
            again = RawClient(server.port, "pi")
            raw_clients.append(again)
            await answer_probes(again)
            await dead.receive()  # whether it is alive: it does not say
            code, details = await asyncio.wait_for(dead.refused(), 5.0)
            assert (code, details) == (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "the device came back on a new connection",
            )
            await until(lambda: server.n_streams == 1)

    run(test())


def test_a_reply_that_trickles_stalls_nobody_and_is_cut_off(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(limits=Limits(late_reply_s=0.6), access=Access(asks_names=False)) as server:
            slow = BareClient(server.port)
            await server.wait_for(1, 5.0)
            [proxy] = server.proxies()
            call = asyncio.ensure_future(proxy.fit(FitIns(START), 0.3))
            slow.begin_message(1_000_000)
            with pytest.raises(ClientFailure, match=r"client-1: fit: no answer within 0\.3 s"):
                await call
            await is_served(server, raw_clients)
            begin_s = time.monotonic()
            while not slow.ended.is_set() and time.monotonic() - begin_s < 5.0:
                slow.trickle(b"\x00")
                await asyncio.sleep(0.02)
            assert slow.ended.is_set()
            assert [proxy.info.device for proxy in server.proxies()] == ["good"]
            with pytest.raises(ClientFailure, match=r"no answer for 0\.6 s after its deadline"):
                await proxy.fit(FitIns(START), 0.3)
            slow.close()

    run(test())


def test_a_late_reply_that_comes_in_time_costs_nothing_more(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(limits=Limits(late_reply_s=0.4)) as server:
            client = RawClient(server.port)
            raw_clients.append(client)
            await answer_probes(client, n=1)
            await server.wait_for(1, 5.0)
            [proxy] = server.proxies()
            with pytest.raises(ClientFailure, match="no answer within"):
                await proxy.fit(FitIns(START), 0.1)
            await client.receive()
            client.send(GOOD)
            await until(lambda: proxy.is_ready)
            await asyncio.sleep(0.8)
            assert server.proxies() == [proxy]

    run(test())


def test_connections_that_never_speak_do_not_keep_others_out(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            mute = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
            mute[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
            mute[1].sendall(b"\x16\x03\x01" + bytes(500))
            try:
                await is_served(server, raw_clients)
            finally:
                for connection in mute:
                    connection.close()

    run(test())


def test_a_connection_that_does_not_speak_or_opens_no_stream_is_closed() -> None:
    settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"

    def closed_within(port: int, timeout_s: float, greeting: bytes) -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
            connection.sendall(greeting)
            try:
                while connection.recv(4096):
                    pass
            except TimeoutError:
                return False
            except ConnectionResetError:
                pass
            return True

    async def test() -> None:
        async with Server(limits=Limits(handshake_s=0.3, idle_s=0.3)) as server:
            for greeting in (b"", settings):
                assert await asyncio.to_thread(closed_within, server.port, 5.0, greeting)
        async with Server() as server:
            assert not await asyncio.to_thread(closed_within, server.port, 1.0, settings), (
                "it was the limit that closed it"
            )

    run(test())


def test_more_clients_than_there_are_places_are_refused_and_may_come_when_one_is_free(
    raw_clients: list[RawClient],
) -> None:
    async def test() -> None:
        async with Server(limits=Limits(clients=2)) as server:
            raw_clients.extend(RawClient(server.port) for _ in range(2))
            for client in raw_clients:
                await answer_probes(client, n=1)
            await server.wait_for(2, 5.0)
            raw_clients.append(RawClient(server.port))
            code, _ = await raw_clients[2].refused()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            raw_clients[0].close()
            await until(lambda: len(server.proxies()) == 1)
            await is_served(server, raw_clients)

    run(test())


def test_giant_metadata_is_refused_before_it_is_a_client(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            for key in (DEVICE_KEY, "authorization", "padding"):
                channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
                call = channel.stream_stream(JOIN)(iter([]), metadata=[(key, "x" * 200_000)], timeout=10.0)
                with pytest.raises(grpc.RpcError) as caught:
                    await asyncio.to_thread(next, call)
                assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
                channel.close()
            assert server.proxies() == []
            await is_served(server, raw_clients)

    run(test())


def test_unasked_messages_end_the_stream_that_sends_them_and_no_other(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(access=Access(asks_names=False)) as server:
            flood = RawClient(server.port)
            raw_clients.append(flood)
            for _ in range(1_000):
                flood.send(bytes(10_000))
            code, _ = await flood.refused()
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            await is_served(server, raw_clients)

    run(test())


def test_two_answers_to_one_question_end_the_stream(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port)
            raw_clients.append(client)
            await answer_probes(client, n=1)
            await server.wait_for(1, 5.0)
            call = asyncio.ensure_future(server.proxies()[0].fit(FitIns(START), 5.0))
            await client.receive()
            client.send(GOOD)
            client.send(GOOD)
            assert (await call).result.num_examples == 1
            code, _ = await client.refused()
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            await until(lambda: server.proxies() == [])

    run(test())


def test_the_answer_to_another_question_fails_the_call_by_name_and_the_client_stays(
    raw_clients: list[RawClient],
) -> None:
    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port, "pi")
            raw_clients.append(client)
            await answer_probes(client)
            await server.wait_for({"pi"}, 5.0)
            [proxy] = server.proxies()
            for wrong in (EvaluateRes(0.1, 1), GetPropertiesRes({})):
                call = asyncio.ensure_future(proxy.fit(FitIns(START), 5.0))
                await client.receive()
                client.send(codec.encode_reply(wrong))
                with pytest.raises(ClientFailure, match="pi: fit: answered another call"):
                    await call
            assert proxy.is_ready

    run(test())


def test_one_that_joins_again_and_again_is_told_to_come_more_slowly(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server(limits=Limits(joins=JoinRates(device_burst=3, device_per_s=0.01))) as server:
            for n in range(4):
                client = RawClient(server.port, "loop")
                raw_clients.append(client)
                if n < 3:
                    await client.receive()
                    client.close()
                    await until(lambda: server.n_streams == 0)
                else:
                    code, details = await client.refused()
                    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
                    assert "device loop joins too often" in details
            await is_served(server, raw_clients)

    run(test())


def test_long_strings_cost_the_call(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port)
            raw_clients.append(client)
            await answer_probes(client, n=1)
            await server.wait_for(1, 5.0)
            [proxy] = server.proxies()
            for metrics in ({"x": "y" * 200_000}, {"x" * 2_000: 1}, {f"k{n}": n for n in range(10_001)}):
                call = asyncio.ensure_future(proxy.fit(FitIns(START), 5.0))
                await client.receive()
                client.send(hand_made(metrics))
                with pytest.raises(ClientFailure, match=r"client-1: fit: wire: .*(longer than|at most)"):
                    await call

    run(test())


def hand_made(metrics: dict[str, object]) -> bytes:
    """A FitRes that our own encoder would refuse to make."""
    from fl.wire import transport_pb2 as pb

    message = pb.ClientMessage()
    for key, value in metrics.items():
        if isinstance(value, str):
            message.fit_res.metrics[key].string = value
        else:
            message.fit_res.metrics[key].sint64 = int(str(value))
    return message.SerializeToString()


def test_what_a_device_tells_of_itself_is_kept_in_bounds(raw_clients: list[RawClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port, "pi")
            raw_clients.append(client)
            told = {f"k{n:04}": "v" * 50_000 for n in range(300)}
            await answer_probes(client, told)
            await server.wait_for({"pi"}, 10.0)
            kept = server.proxies()[0].info.properties
            assert len(kept) == 256
            assert {len(str(value)) for value in kept.values()} == {1_000}

    run(test())


def test_measurements_of_late_replies_are_kept_in_bounds_and_the_loss_is_told(
    raw_clients: list[RawClient], caplog: pytest.LogCaptureFixture
) -> None:
    steps_s = tuple(0.001 for _ in range(10_000))
    record = encode_spans([SpanRecord(f"s{n}", "fit", n, 1.0, steps_s=steps_s) for n in range(20)])
    assert 1_500_000 < len(record) < 2_000_000
    late = codec.encode_reply(FitRes(START, 1, {RECORD_KEY: record}))

    async def test() -> None:
        async with Server() as server:
            client = RawClient(server.port)
            raw_clients.append(client)
            await answer_probes(client, n=1)
            await server.wait_for(1, 5.0)
            [proxy] = server.proxies()
            for _ in range(4):
                with pytest.raises(ClientFailure, match="no answer within"):
                    await proxy.fit(FitIns(START), 0.05)
                await client.receive()
                client.send(late)
                await until(lambda: proxy.is_ready)
            kept = sum(len(stray.spans) for stray in server.receipts.take())
            assert kept == 20, "two records of 1.6 MB are within 4 MiB, and no third one is; each span counts once"

    run(test())
    assert caplog.text.count("client-1: the measurement of a late reply is dropped") == 2
    assert MAX_SPANS > 20

"""What a fleet file may say of a device that is reached by ssh, what ssh is called with, and what it complains of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.fleet import parse_fleet
from harness.launchers.client_log import ClientLog
from harness.launchers.remote import Tail
from harness.launchers.ssh_connection import Connection, explain
from harness.launchers.ssh_options import SshOptions
from harness.spec import Table
from profiler.errors import SpecError


def read(**options: object) -> SshOptions:
    return SshOptions.read(Table({"host": "pi.lab", **options}, "fleet.toml [[device]]"))


def test_ssh_asks_nobody_and_trusts_known_hosts_alone() -> None:
    arguments = read().ssh_arguments()
    assert "BatchMode=yes" in arguments
    assert "StrictHostKeyChecking=yes" in arguments
    assert not {"-F", "-i", "-l", "-p", "-J"} & set(arguments)
    given = read(user="ubuntu", port=2222, jump="me@gate:22,inner", accept_new=True, ssh_config="/c", identity="/k")
    arguments = given.ssh_arguments()
    assert "StrictHostKeyChecking=accept-new" in arguments
    for flag, value in {"-F": "/c", "-i": "/k", "-l": "ubuntu", "-p": "2222", "-J": "me@gate:22,inner"}.items():
        assert arguments[arguments.index(flag) + 1] == value


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "-oProxyCommand=touch x"}, "host = '-oProxyCommand=touch x' is no such thing"),
        ({"host": "pi lab"}, "host = 'pi lab'"),
        ({"host": "pi;reboot"}, "host = 'pi;reboot'"),
        ({"host": ""}, "host = ''"),
        ({"user": "-l"}, "user = '-l'"),
        ({"user": "root\nHost *"}, "user = "),
        ({"port": 0}, "port = 0 is none"),
        ({"port": 65536}, "port = 65536 is none"),
        ({"jump": "-oProxyCommand=x"}, "jump = '-oProxyCommand=x'"),
        ({"jump": "gate,"}, "jump = 'gate,'"),
        ({"python": "-c"}, "python = '-c'"),
        ({"python": "python3 'x'"}, "python = "),
        ({"python": "~/env/bin/python"}, "give a full path"),
        ({"folder": "/x\n"}, "folder = "),
        ({"identity": "a\nb"}, "identity = 'a\\\\nb' is no file name"),
        ({"known_hosts": 'a" b'}, "known_hosts = "),
        ({"server": "http://x"}, "server = "),
        ({"meter": "some"}, "it is 'auto' or 'none'"),
        ({"threads": 0}, "'threads' must be at least 1"),
        ({"threads": 5000}, "more than 4096 threads"),
        ({"connect_timeout_s": 0}, "'connect_timeout_s' must be at least 1"),
        ({"reconnect_s": float("nan")}, "'reconnect_s' must be at least 0"),
    ],
)
def test_a_value_that_ssh_or_a_shell_could_take_for_something_else_is_refused(
    options: dict[str, object], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        read(**options)


@given(st.text(max_size=20))
def test_no_host_becomes_an_option_of_ssh(host: str) -> None:
    try:
        options = read(host=host, user=host, server=host)
    except SpecError:
        return
    assert not options.host.startswith("-")
    assert options.host.isprintable()
    assert not set(options.host) & set(" '\"`$;&|<>\\/()")


def test_a_number_goes_into_the_host_as_into_the_id() -> None:
    text = (
        'name = "lab"\n[[device]]\nid = "tx2-{n}"\ncount = 2\nlauncher = "ssh"\nhost = "tx2-{n}.lab"\nprocessor = "g"\n'
    )
    hosts = [device.options["host"] for device in parse_fleet(text, "lab.toml", cores=1).devices]
    assert hosts == ["tx2-0.lab", "tx2-1.lab"]


@pytest.mark.parametrize(
    ("complaint", "reason"),
    [
        ("ssh: connect to host pi port 22: Connection timed out\r\n", "it does not answer"),
        ("ssh: connect to host pi port 22: No route to host\r\n", "no way leads there"),
        ("@@@\nWARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\n@@@\nHost key verification failed.\n", "not the one"),
        ("No ED25519 host key is known for pi and you have requested strict checking.\n", "its host key is not known"),
        ("a@pi: Permission denied (publickey).\n", "it refuses the key"),
        ("something new\n", "ssh: something new"),
        ("", "ssh ended without a word"),
    ],
)
def test_complaints_of_ssh_have_a_reason_and_a_remedy(complaint: str, reason: str) -> None:
    told, remedy = explain(complaint)
    assert reason in told
    assert remedy.endswith(".")


def test_a_failure_is_one_printable_line(tmp_path: Path) -> None:
    connection = Connection("pi", read(), tmp_path / "0", lambda _: None)
    message = str(connection.failure("look", "a\nb\x1b[2J" + 9000 * "c", "do\nit"))
    assert message.startswith("pi: look: a b?[2Jccc")
    assert message.isprintable()
    assert len(message) < 1000


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 50))
def test_a_tail_is_the_end_of_what_was_written(parts: list[bytes], limit_bytes: int) -> None:
    tail = Tail(limit_bytes)
    for part in parts:
        tail.write(part)
    assert tail.text == b"".join(parts)[-limit_bytes:].decode(errors="replace")


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_a_log_keeps_its_beginning_and_its_end(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    path, whole = tmp_path_factory.mktemp("log") / "pi.log", b"".join(parts)
    log = ClientLog(path, limit_bytes=100, tail_bytes=50)
    for part in parts:
        log.write(part)
    log.close()
    log.write(b"too late")
    log.close()
    content = path.read_bytes()
    if len(whole) <= 150:
        assert content == whole
    else:
        note = f"\nfedmeter: {len(whole) - 150} bytes of the log left out here\n".encode()
        assert content == whole[:100] + note + whole[-50:]

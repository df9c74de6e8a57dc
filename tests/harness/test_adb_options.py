"""What a fleet file may say of a phone, and what is written down of it: nothing else passes, whoever wrote it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.device import DeviceSpec
from harness.fleet import parse_fleet
from harness.launchers.adb_connection import explain, python_of
from harness.launchers.adb_options import AdbOptions
from harness.launchers.phone import connected_by
from harness.launchers.phone_claim import PhoneClaim, Undo, digest, left_behind
from harness.spec import Table
from profiler.errors import DeviceError, SpecError

APP = {"client": "app", "package": "org.example.fl", "component": "org.example.fl/.Main"}
UNDOS = [
    Undo("setting", ("system", "screen_off_timeout", "30000")),
    Undo("setting", ("global", "stay_on_while_plugged_in", "null")),
    Undo("battery"),
    Undo("screen", ("off",)),
    Undo("reverse", ("8443",)),
    Undo("app", ("org.example.fl",)),
    Undo("files", ("org.example.fl",)),
]


def options(**entry: object) -> AdbOptions:
    return AdbOptions.read(Table({"serial": "R58M123ABC", **entry}, "fleet.toml"))


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {json.dumps(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"serial": "-s"}, "none that 'adb devices' shows"),
        ({"serial": "a b"}, "none that 'adb devices' shows"),
        ({"serial": "$(id)"}, "none that 'adb devices' shows"),
        ({"client": "java"}, "it is one of python, app"),
        ({"via": "sudo"}, "it is one of run-as, su, shell"),
        ({"screen": "dim"}, "it is one of leave, on, off"),
        ({"package": "com.termux; reboot"}, "package = .* no such thing"),
        ({"python": "python3"}, "python = .* no such thing"),
        ({"folder": "/data/$(reboot)"}, "folder = .* no such thing"),
        ({"server": "lab pc"}, "server = .* no such thing"),
        ({"client": "app", "package": "org.example.fl"}, "'component' says what is started"),
        ({**APP, "component": "org.other/.Main"}, "is not of package"),
        ({**APP, "component": "org.example.fl/.Main -a x"}, "component = .* no such thing"),
        ({**APP, "extras": {"a b": "x"}}, "no name of an extra"),
        ({**APP, "extras": {"a": 1.5}}, "must be a text, a whole number"),
        ({**APP, "extras": {"a": "{token}"}}, "what is filled in is {server}"),
        ({**APP, "extras": {"a": "{id.__class__}"}}, "what is filled in is {server}"),
        ({**APP, "extras": {"a": "{id!r}"}}, "what is filled in is {server}"),
        ({**APP, "extras": {"a": "{"}}, "what is filled in is {server}"),
        ({**APP, "apk": "app.exe"}, "no file of that kind"),
        ({"threads": 5000}, "more than 4096"),
        ({"seril": "x"}, "unknown key 'seril'"),
    ],
)
def test_nothing_else_passes(entry: dict[str, object], said: str) -> None:
    text = "\n".join(f"{key} = {toml(value)}" for key, value in {"serial": "R58M123ABC", **entry}.items())
    with pytest.raises(SpecError, match=said):
        parse_fleet(f'name = "x"\n[[device]]\nid = "a"\nprocessor = "p"\nlauncher = "adb"\n{text}', "f", cores=1)


@pytest.mark.parametrize("serial", ["R58M123ABC", "192.168.1.20:5555", "[fe80::1]:5555", "emulator-5554", "$PHONE_{n}"])
def test_serial_numbers_that_adb_shows_pass(serial: str) -> None:
    read = options(serial=serial)
    assert AdbOptions.of(DeviceSpec("a", "adb", "cpu", 0, options=dict(read.as_mapping()))) == read


def test_the_interpreter_is_entered_as_its_owner_permits() -> None:
    termux = "/data/data/com.termux/files"
    words = python_of(options())
    assert words[:3] == ("run-as", "com.termux", "env")
    assert words[3:6] == (f"HOME={termux}", f"TMPDIR={termux}", f"PREFIX={termux}/usr")
    assert words[-1] == f"{termux}/usr/bin/python3"
    assert python_of(options(via="su"))[:2] == ("su", "0")
    assert python_of(options(via="shell"))[0] == "env"
    assert python_of(options(via="shell"))[-1] == "/data/local/tmp/usr/bin/python3"


@pytest.mark.parametrize(
    ("serial", "way"),
    [("R58M123ABC", "usb"), ("10.0.0.2:5555", "network"), ("adb-R58M-Xy._adb-tls-connect._tcp", "network")],
)
def test_the_way_is_seen_by_the_serial_number(serial: str, way: str) -> None:
    assert connected_by(serial) == way


@pytest.mark.parametrize(
    ("complaint", "reason"),
    [
        ("run-as: package not debuggable: com.termux", "does not let run-as in"),
        ("run-as: unknown package: com.termux", "not installed"),
        ("error: device unauthorized.", "does not trust this computer"),
        ("", "without a word"),
        ("something new", "adb: something new"),
    ],
)
def test_what_adb_prints_is_explained(complaint: str, reason: str) -> None:
    assert reason in explain(complaint)[0]


# --- the claim -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)  # each writes to the disk
@given(st.lists(st.sampled_from(UNDOS), unique=True), st.data())
def test_what_is_written_down_is_read_again_but_for_what_was_undone(
    tmp_path_factory: pytest.TempPathFactory, undos: list[Undo], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("phones")
    undone = data.draw(st.lists(st.sampled_from(undos), unique=True)) if undos else []
    claim = PhoneClaim("R1", "a", folder)
    for undo in [*undos, *undos]:
        claim.note(undo)
    for undo in undone:
        claim.forget(undo)
    claim.release()
    left = [undo for undo in undos if undo not in undone]
    again = PhoneClaim("R1", "a", folder)
    assert again.undos == left
    assert list(left_behind(folder)) == (["R1"] if left else [])
    again.release()


def test_a_phone_is_claimed_once_and_its_note_is_ones_own(tmp_path: Path) -> None:
    claim = PhoneClaim("R1", "a", tmp_path)
    claim.note(Undo("battery"))
    with pytest.raises(DeviceError, match="b: its phone takes part in a run already"):
        PhoneClaim("R1", "b", tmp_path)
    PhoneClaim("R2", "b", tmp_path).release()
    note = tmp_path / f"{digest('R1')}.json"
    assert note.stat().st_mode & 0o077 == 0
    claim.release()
    PhoneClaim("R1", "b", tmp_path).release()


def test_a_note_that_cannot_be_written_is_an_error_before_anything_is_changed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="cannot be written down"):
        PhoneClaim("R1", "a", tmp_path / "file")


_KINDS = ["setting", "battery", "screen", "reverse", "app", "files", "rm"]


@given(st.sampled_from(_KINDS), st.lists(st.text(max_size=20), max_size=4))
def test_no_command_comes_out_of_a_note_but_of_known_words(kind: str, arguments: list[str]) -> None:
    try:
        undo = Undo(kind, tuple(arguments))
    except ValueError:
        return
    words = [undo.kind, *undo.arguments]
    assert shlex.split(" ".join(words)) == words, "no shell makes anything else of them"
    assert not any(word.startswith("-") for word in undo.arguments[:2])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"serial": "R1"}',
        b'{"serial": "R1", "undo": 5}',
        b'{"serial": "R1", "undo": [["rm", "-rf", "/"]]}',
        b'{"serial": "R1", "undo": [["app", "org.x; reboot"]]}',
        b'{"serial": "R1", "undo": [[]]}',
        b'{"serial": 5, "undo": []}',
        b"\xff" * 1000,
    ],
)
def test_a_note_that_somebody_else_wrote_is_not_obeyed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{digest('R1')}.json").write_bytes(content)
    assert list(left_behind(tmp_path)) == []
    claim = PhoneClaim("R1", "a", tmp_path)
    assert claim.undos == []
    claim.release()


def test_a_note_under_another_phones_name_is_not_obeyed(tmp_path: Path) -> None:
    note = {"serial": "R2", "undo": [["battery"]]}
    (tmp_path / f"{digest('R1')}.json").write_text(json.dumps(note))
    assert list(left_behind(tmp_path)) == []
    claim = PhoneClaim("R1", "a", tmp_path)
    assert claim.undos == []
    claim.release()

"""`--init`: a fleet file of what is found: this machine, phones that adb shows, hosts that ssh reaches.

Every entry is read by our own reader before it is written. One that cannot take part as it stands is written down as a
comment, with what is in its way, so that the file runs as it is.
"""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.checks import check_devices, check_row, of_this_host
from harness.device import DeviceSpec
from harness.fleet import parse_fleet
from harness.host import available_cores
from harness.launcher import DeviceCheck
from harness.meter import probe_sensors
from profiler.clock import SystemClock
from profiler.errors import DeviceError, SpecError, UsageError
from profiler.files import printable
from profiler.jetson_state import processor_label
from profiler.machine_facts import machine_facts
from profiler.sensor import Available, Probe, best
from profiler.sensors.adb_client import AdbClient

MAX_HOSTS = 1000
MAX_LIST_BYTES = 256 * 1024
ADDRESS = "127.0.0.1:0"
_TARGET = re.compile(r"(?:(?P<user>[^@\s]+)@)?(?P<host>\[[^\]\s]+\]|[^\s\[\]:@]+)(?::(?P<port>\d{1,5}))?")
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._-]+")
_WIDTH = 110
_HEAD = """\
# Written by: python -m harness.run --init. Yours to change; docs/fleets.md and docs/security.md tell every key.
# Next:       python -m harness.run {path} --check      and without --check, to run
name = {name}

[server]
address = "{address}"   # this machine alone; devices over ssh come through a tunnel. For others: "0.0.0.0:8443"
tls = {tls}
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One `[[device]]` as text, and the lines of comment above it."""

    text: str
    remarks: tuple[str, ...] = ()

    def render(self) -> str:
        """As it goes into the file, as a comment where our own reader refuses it."""
        try:
            _parsed(self.text)
        except SpecError as error:
            return self.as_comment(str(error))
        return f"{_comment(*self.remarks)}{self.text}"

    def as_comment(self, why: str) -> str:
        return _comment(*self.remarks, f"Not yet: {why}") + "".join(f"# {line}\n" for line in self.text.splitlines())


def draft(path: Path, tls: Path, targets: Sequence[str]) -> str:
    """The text of a fleet file that will be at `path`. `targets` are hosts as `--ssh` takes them.

    Raises UsageError for a target that is none.
    """
    hosts = [_ssh_entry(target, number) for number, target in enumerate(read_targets(targets), start=1)]
    head = _HEAD.format(
        path=printable(str(path)), name=_quoted(_id(path.parent.name)), address=ADDRESS, tls=_quoted(str(tls))
    )
    blocks = [head, _this_machine().render(), *(entry.render() for entry in _phones()), *_checked(hosts)]
    text = "\n".join(blocks)
    parse_fleet(text, str(path), cores=available_cores())  # what we write, we can read
    return text


def read_targets(targets: Sequence[str]) -> list[str]:
    """Hosts, each once; `@FILE` is a file of them, one a line, # begins a comment. Raises UsageError."""
    found: dict[str, None] = {}
    for target in targets:
        found.update(dict.fromkeys(_listed(Path(target[1:])) if target.startswith("@") else [target]))
    if len(found) > MAX_HOSTS:
        raise UsageError(f"--ssh: {len(found)} hosts; at most {MAX_HOSTS}.")
    return list(found)


def _listed(path: Path) -> Iterator[str]:
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise UsageError(f"--ssh @{path}: larger than {MAX_LIST_BYTES} bytes: no list of hosts.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"--ssh @{path}: cannot be read: {reason}.") from None
    for line in text.splitlines():
        if target := line.partition("#")[0].strip():
            yield target


def _this_machine() -> Entry:
    facts = machine_facts()
    probes = probe_sensors(Path("/"), SystemClock())
    row = check_row(
        DeviceSpec("here", "local", "cpu", 0), of_this_host(DeviceCheck(True, "process on this host"), probes, facts)
    )
    cores = available_cores()
    lines = [
        "[[device]]",
        'id = "here-{n}"',
        f"count = {min(cores, 4)}   # one a core, so that they do not slow each other down",
        f"processor = {_quoted(processor_label(facts) or 'cpu')}   # what trains: cutoffs go by it",
        "# cpu_limit = 0.4   # of a core: a slow device",
        *_required(probes),
    ]
    model = facts.get("model") or facts.get("cpu") or row["machine"]
    remarks = (f"This machine: {printable(str(model), 80)}, {cores} cores. Sensors: {row['sensors']}",)
    return Entry("".join(f"{line}\n" for line in lines), remarks)


def _required(probes: Sequence[Probe]) -> Iterator[str]:
    """What to say so that a run never goes without the sensor that measures now."""
    for probe in best(probes):
        if isinstance(probe.outcome, Available) and probe.outcome.provenance.is_measured:
            yield f"# require = [{_quoted(probe.sensor.name)}]   # else the best that is there"
            return


def _phones() -> list[Entry]:
    """What `adb devices` shows; nothing where there is no adb."""
    if shutil.which("adb") is None:
        return []
    try:
        states = AdbClient().devices()
    except DeviceError:
        return []
    return [
        Entry(
            f'[[device]]\nid = {_quoted(_id(f"phone-{n}"))}\nlauncher = "adb"\nserial = {_quoted(serial)}\n'
            'processor = "phone"   # better its model\n',
            (f"An Android device that adb shows as '{state}'",),
        )
        for n, (serial, state) in enumerate(states.items(), start=1)
    ]


def _ssh_entry(target: str, number: int) -> Entry:
    match = _TARGET.fullmatch(target)
    if match is None:
        raise UsageError(f"--ssh {target}: no host.", remedy="Give [USER@]HOST[:PORT], or @FILE with one a line.")
    host = match["host"].strip("[]")
    lines = ["[[device]]", f"id = {_quoted(_id(f'{number}-{host}'))}", 'launcher = "ssh"', f"host = {_quoted(host)}"]
    lines += [f"user = {_quoted(match['user'])}"] if match["user"] else []
    lines += [f"port = {int(match['port'])}"] if match["port"] else []
    lines += ['processor = "cpu"   # what trains there: a label for each kind of device']
    entry = Entry("".join(f"{line}\n" for line in lines))
    try:
        _parsed(entry.text)
    except SpecError as error:
        raise UsageError(f"--ssh {target}: {error}") from None
    return entry


def _checked(entries: Sequence[Entry]) -> Iterator[str]:
    """Entries that answer as they are, with what they told; the others as comments. All are asked side by side."""
    devices = [_parsed(entry.text) for entry in entries]
    for entry, device, outcome in zip(entries, devices, check_devices(devices), strict=True):
        row = check_row(device, outcome)
        if not outcome.ok:
            yield entry.as_comment(row["detail"])
            continue
        told = [row["machine"], f"{row['free (GB)']} GB free", row["detail"]]
        told += [f"sensors: {row['sensors']}"] if outcome.sensors is not None else []
        yield Entry(entry.text, ("; ".join(told),)).render()


def _parsed(text: str) -> DeviceSpec:
    """Raises SpecError."""
    return parse_fleet(f'name = "draft"\n{text}', "draft", cores=1).devices[0]


def _comment(*remarks: str) -> str:
    lines = [line for remark in remarks for line in textwrap.wrap(printable(remark, 1000), _WIDTH)]
    return "".join(f"# {line}\n" for line in lines)


def _id(name: str) -> str:
    """Of letters that the id of a device may have."""
    return _NOT_IN_IDS.sub("-", name).strip("._-")[:64] or "fleet"


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's escapes are a part of TOML's (TOML 1.0, "String")."""
    return json.dumps(text)

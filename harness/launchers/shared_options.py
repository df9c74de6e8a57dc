"""What fleet files say alike of devices elsewhere, whatever reaches them: files, names, threads, waits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.spec import Table
from profiler.errors import SpecError

MAX_THREADS = 4096
HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]{0,253}")
_FILES = (
    *("identity", "known_hosts", "config"),
    *("wheel", "wheelhouse", "apk"),
    *("app", "test_package", "test_spec"),
)
AUTO, NONE = "auto", "none"
WILDCARDS = ("0.0.0.0", "[::]")
"""Hosts of an address at which a server listens on all that its machine has."""


def take_file(entry: Table, key: str, *endings: str) -> str | None:
    """A file of this machine; a relative name counts from where the command runs. Whether it is there shows later."""
    name: str | None = entry.take(key, str, None)
    return None if name is None else _file(entry, key, name, endings)


def take_needed_file(entry: Table, key: str, *endings: str) -> str:
    """One that must be named."""
    return _file(entry, key, entry.take(key, str), endings)


def _file(entry: Table, key: str, name: str, endings: tuple[str, ...]) -> str:
    # A quotation mark would end the name where it is quoted for ssh's configuration.
    if not name or not name.isprintable() or '"' in name:
        raise SpecError(f"{entry.where}: {key} = {name!r} is no file name.")
    if endings and not name.endswith(endings):
        raise SpecError(f"{entry.where}: {key} = {name!r} is no file of that kind ({', '.join(endings)}).")
    return str(Path(name).expanduser().absolute())


def missing_files(options: Mapping[str, Any]) -> dict[str, str]:
    """The files and folders that a device's entry names and that are not there, by key; what ssh makes itself apart."""
    named = {key: options[key] for key in _FILES if isinstance(options.get(key), str)}
    if options.get("accept_new"):
        named.pop("known_hosts", None)
    return {key: path for key, path in named.items() if not Path(path).exists()}


def take_threads(entry: Table) -> int:
    threads: int = entry.take("threads", int, 1)
    entry.at_least("threads", threads, 1)
    if threads > MAX_THREADS:
        raise SpecError(f"{entry.where}: more than {MAX_THREADS} threads.")
    return threads


def take_meter(entry: Table) -> str:
    meter: str = entry.take("meter", str, AUTO)
    if meter not in (AUTO, NONE):
        raise SpecError(f"{entry.where}: meter = {meter!r}; it is '{AUTO}' or '{NONE}'.")
    return meter


def take_wait_s(entry: Table, key: str, default_s: float, at_least_s: float) -> float:
    wait_s: float = entry.take(key, float, default_s)
    entry.at_least(key, wait_s, at_least_s)
    return wait_s


def check_names(entry: Table, names: Mapping[str, str | None], patterns: Mapping[str, re.Pattern[str]]) -> None:
    """Each is of its pattern, `{n}` counted in, so that nothing can take it for an option. Raises SpecError."""
    for key, pattern in patterns.items():
        name = names[key]
        if name is not None and (name.startswith("-") or not pattern.fullmatch(name.replace("{n}", "0"))):
            raise SpecError(f"{entry.where}: {key} = {name!r} is no such thing.")

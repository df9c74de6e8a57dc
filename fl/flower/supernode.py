"""A SuperNode of Flower's for one device of a run: `python -m fl.flower.supernode SUPERLINK DEVICE FLWR`.

Flower starts its processes by the names of its programs, which need not be in the PATH: a folder of packages that an
interpreter was given has none there. So they are written anew, into the current folder, with all else that Flower
keeps. That folder is empty, and whoever starts this removes it. FLWR is the version of the SuperLink: what the two say
to each other changes from one to the next.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from typing import NoReturn

from fl.flower.keys import DEVICE
from fl.flower.versions import has_one_port, installed_flwr, require_flwr
from profiler.errors import PreconditionError

SILENCE: Mapping[str, str] = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""The environment in which Flower tells nobody anything."""
SUPERNODE = "flower-supernode"


def supernode_options(superlink: str, device: str) -> list[str]:
    """Of a SuperNode for the device of that name, which is told to a SuperLink of this machine or behind a tunnel."""
    own = free_address()
    port = ["--port", own.rpartition(":")[2]] if has_one_port() else ["--clientappio-api-address", own]
    return ["--insecure", "--superlink", superlink, *port, "--node-config", node_config(device)]


def node_config(device: str) -> str:
    """What a SuperNode must be told to be a device of a run; its label is in the fleet file."""
    return f'{DEVICE}="{device}"'


def free_address() -> str:
    """Of this machine, where nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def environment(home: Path, programs: Path) -> dict[str, str]:
    """Of Flower's processes: what they keep lies in `home`, and `programs` go before those of the machine."""
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, **SILENCE, "FLWR_HOME": str(home), "PATH": path}


def write_programs(folder: Path) -> None:
    """Flower's programs by their names, each for this interpreter and what it finds."""
    folder.mkdir(mode=0o700)
    for entry in distribution("flwr").entry_points:
        if entry.group == "console_scripts":
            path = folder / entry.name
            path.write_text(_program(entry), encoding="utf-8")
            path.chmod(0o700)


def _program(entry: EntryPoint) -> str:
    """By a shell, since the first line of a program may be shorter than the name of an interpreter."""
    code = (
        f"import sys; from {entry.module} import {entry.attr}; sys.argv[0] = {entry.name!r}; sys.exit({entry.attr}())"
    )
    return f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", code])} "$@"\n'


def require_same(version: str) -> None:
    """Raises PreconditionError where another flwr is installed, or none."""
    require_flwr()
    if installed_flwr() != version:
        raise PreconditionError(
            f"flwr {installed_flwr()} is here, and the SuperLink is of flwr {version}.",
            remedy=f"Install the same: pip install 'flwr=={version}'",
        )


def become_supernode(superlink: str, device: str) -> NoReturn:
    """This process is Flower's from now on."""
    home = Path.cwd() / "flower"
    home.mkdir(mode=0o700)
    programs = home / "bin"
    write_programs(programs)
    program = programs / SUPERNODE
    os.execve(program, [str(program), *supernode_options(superlink, device)], environment(home, programs))


def main(argv: Sequence[str]) -> int:
    """The exit status where there can be no SuperNode."""
    superlink, device, version = argv
    try:
        require_same(version)
    except PreconditionError as error:
        logging.getLogger("fl").error("%s", error)
        return error.exit_code
    become_supernode(superlink, device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

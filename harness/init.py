"""`python -m harness.run --init [DIR]`: what a fleet needs to talk in private, a fleet file, and what is next."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fl.certificates import DAYS, add_devices, make
from fl.security import CA_KEY, CLIENT_FILES, DEVICES
from harness.fleet_draft import draft
from profiler.errors import PreconditionError, UsageError

FLEET = "fleet.toml"


def init(
    folder: Path, names: Sequence[str], days: int | None, devices: Sequence[str], targets: Sequence[str] | None = None
) -> int:
    """Make the folder, print its path, and say on stderr what is next. Raises as `fl.certificates.make`.

    Where it is there already, `devices` are added to it, as `fl.certificates.add_devices`. With `targets`, hosts as
    `--ssh` takes them or none, a fleet file of what is found here and there goes into the new folder, too.
    """
    if devices and (folder / CA_KEY).exists():
        return _add(folder, names, days, devices)
    text = None if targets is None else draft(folder / FLEET, folder.absolute(), targets)  # before anything is made
    made = make(folder, names, days=DAYS if days is None else days, devices=devices)
    print(made.folder)
    if text is not None:
        _write_fleet(made.folder / FLEET, text)
    own = f"{DEVICES}/ID, each device's own, to it" if devices else ", ".join(CLIENT_FILES)
    print(
        f"good until {made.expires:%Y-%m-%d} for a server called {', '.join(made.names)}\n"
        f'in the fleet file: [server] tls = "{made.folder}"\n'
        f"on each device that no launcher serves: copy {own} and run\n"
        f"  python -m fl.client --tls DIR ...\n"
        f"foreign clients need ca.pem alone; keep {CA_KEY} to yourself. See docs/security.md",
        file=sys.stderr,
    )
    return 0


def _write_fleet(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise PreconditionError(f"{path} cannot be written: {error.strerror}.") from None
    n_waiting = text.count("# Not yet: ")
    waiting = f", {n_waiting} of them commented out, and why" if n_waiting else ""
    print(f"a fleet of what was found{waiting}: python -m harness.run {path} --check", file=sys.stderr)


def _add(folder: Path, names: Sequence[str], days: int | None, devices: Sequence[str]) -> int:
    if names or days is not None:
        raise UsageError(f"{folder} is there already: --name and --days were settled when it was made.")
    expires = add_devices(folder, devices)
    for device in devices:
        print(folder / DEVICES / device)
    print(
        f"good until {expires:%Y-%m-%d}; the server needs nothing new but the devices in its fleet file",
        file=sys.stderr,
    )
    return 0

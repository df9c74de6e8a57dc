"""`python -m harness.run --init [DIR]`: what a fleet needs to talk in private, and what to do with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fl.certificates import DAYS, make
from fl.security import CA_KEY, CLIENT_FILES


def init(folder: Path, names: Sequence[str], days: int | None) -> int:
    """Make the folder, print its path, and say on stderr what is next. Raises as `fl.certificates.make`."""
    made = make(folder, names, days=DAYS if days is None else days)
    print(made.folder)
    print(
        f"good until {made.expires:%Y-%m-%d} for a server called {', '.join(made.names)}\n"
        f'in the fleet file: [server] tls = "{made.folder}"\n'
        f"on each device that no launcher serves: copy {', '.join(CLIENT_FILES)} and run\n"
        f"  python -m fl.client --tls DIR ...\n"
        f"foreign clients need ca.pem alone; keep {CA_KEY} to yourself. See docs/security.md",
        file=sys.stderr,
    )
    return 0

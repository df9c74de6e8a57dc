"""A client trains under emulation of a 64-bit Arm machine: `python -m tests.soak.arm64`.

The machine is made on the first call, in `$FEDMETER_ARM64` or `.cache/arm64`: that takes debootstrap, dpkg-deb,
qemu-user-static, a Debian mirror and the package index.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.fixtures.arm64 import FOLDER_VARIABLE, find_emulator, make, site_of

ROOT = Path(__file__).parents[2]


def main() -> int:
    if find_emulator() is None:
        print("needs user-mode emulation of arm64: apt install qemu-user-static", file=sys.stderr)
        return 1
    folder = Path(os.environ.get(FOLDER_VARIABLE, ROOT / ".cache" / "arm64")).absolute()
    if not site_of(folder).exists():
        make(folder)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-rs", str(ROOT / "tests/harness/test_arm64.py")]
    return subprocess.run(command, env={**os.environ, FOLDER_VARIABLE: str(folder)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

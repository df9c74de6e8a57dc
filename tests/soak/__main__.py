"""`make soak`: every long run, or those named, one after the other. Exits with 1 where one of them failed."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

RUNS = ("honesty", "intervals", "steady", "metering", "fuzz", "chaos", "fleets", "arm64", "java")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}; all without any")
    names = parser.parse_args(argv).names or RUNS
    unknown = [name for name in names if name not in RUNS]
    if unknown:
        parser.error(f"no run {', '.join(unknown)}; there are {', '.join(RUNS)}")
    failed = []
    for name in names:  # a process each: what one has loaded must not be in the memory of another
        print(f"-- {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.soak.{name}"], check=False).returncode != 0:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

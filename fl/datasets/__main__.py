"""Fetch and check what a workload needs. What is there already is only checked.

python -m fl.datasets cifar10                      # 170 MB from its authors
python -m fl.datasets cifar10 --from FILE          # a copy that is at hand
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fl.datasets import ROOT_VARIABLE, cifar10, data_root, mobilenetv2
from fl.datasets.download import Checksum, parse_checksum
from profiler.errors import FedmeterError

Fetch = Callable[[Path, str, Checksum], Path]

_KNOWN: dict[str, tuple[Fetch, str, Checksum]] = {
    "cifar10": (cifar10.fetch, cifar10.URL, cifar10.CHECKSUM),
    "mobilenetv2": (mobilenetv2.fetch, mobilenetv2.URL, mobilenetv2.CHECKSUM),
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    fetch, url, checksum = _KNOWN[arguments.name]
    root = data_root() if arguments.root is None else Path(arguments.root)
    try:
        if arguments.checksum:
            checksum = parse_checksum(arguments.checksum)
        print(fetch(root, arguments.source or url, checksum))
    except FedmeterError as error:
        print(f"fl.datasets: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fl.datasets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(_KNOWN))
    parser.add_argument("--from", dest="source", metavar="URL|FILE", help="https, or a file; default: its publisher")
    parser.add_argument("--checksum", metavar="ALGORITHM:HEX", help="of --from, where that is packed in another way")
    parser.add_argument("--root", metavar="DIR", help=f"where data sets lie (default: ${ROOT_VARIABLE}, or the cache)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

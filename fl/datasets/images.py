"""Labelled photographs in folders: `CLASS/*.jpg`, or `DOMAIN/images/CLASS/*.jpg` as Office-31 is packed.

Saenko et al., "Adapting Visual Category Models to New Domains", ECCV 2010, has the domains amazon, dslr and webcam.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from profiler.errors import DataError, PreconditionError

ENDINGS = frozenset({".jpg", ".jpeg", ".png"})
MAX_IMAGES = 200_000
MAX_IMAGE_BYTES = 64 << 20
MAX_IMAGE_PIXELS = 50_000_000  # 150 MB decoded
_LAYOUT = "Put images into CLASS/*.jpg, or DOMAIN/images/CLASS/*.jpg, as .jpg, .jpeg or .png."


@dataclass(frozen=True)
class ImageFolder:
    """`labels` int64[n] index `classes`, which are sorted; `domains` str[n] where the folder has some."""

    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    domains: npt.NDArray[np.str_] | None


def scan(folder: Path) -> ImageFolder:
    """What is in a folder, in the order of names. Raises DataError where that is no set of labelled images."""
    places = _class_folders(folder)
    classes = sorted({place.name for _, place in places})
    if len(classes) < 2:
        raise DataError(f"{folder}: images of {len(classes)} classes; it takes two.", remedy=_LAYOUT)
    paths: list[Path] = []
    labels: list[int] = []
    domains: list[str] = []
    for domain, place in places:
        found = _images(place)
        paths += found
        labels += [classes.index(place.name)] * len(found)
        domains += [domain] * len(found)
        if len(paths) > MAX_IMAGES:
            raise DataError(f"{folder} holds more than {MAX_IMAGES} images.")
    has_domains = any(domains)
    return ImageFolder(tuple(paths), np.array(labels), tuple(classes), np.array(domains) if has_domains else None)


def _class_folders(folder: Path) -> list[tuple[str, Path]]:
    """Domain (empty without domains) and folder of each class."""
    tops = _folders(folder)
    domains = [top for top in tops if (top / "images").is_dir()]
    if not domains:
        return [("", top) for top in tops]
    if len(domains) != len(tops):
        strange = next(top for top in tops if top not in domains)
        raise DataError(f"{strange} has no folder 'images', unlike the other domains.", remedy=_LAYOUT)
    return [(domain.name, place) for domain in domains for place in _folders(domain / "images")]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.", remedy=_LAYOUT) from None


def _images(place: Path) -> list[Path]:
    found = sorted(path for path in place.iterdir() if path.suffix.lower() in ENDINGS and not path.name.startswith("."))
    if not found:
        raise DataError(f"{place} holds no images.", remedy=f"Remove it. {_LAYOUT}")
    return found


def read_bytes(path: Path) -> bytes:
    """Raises DataError where an image cannot be read, or is larger than any photograph."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_IMAGE_BYTES:
        raise DataError(f"{path} has more than {MAX_IMAGE_BYTES} bytes.", remedy="Remove it, or make it smaller.")
    return content


def decode(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """uint8[size, size, 3]: the whole image, resized to a square. Raises DataError, which names the file."""
    try:
        from PIL import Image
    except ImportError:
        remedy = "Install it with: pip install 'fedmeter[vision]'"
        raise PreconditionError("Pillow, which reads images, is not installed.", remedy=remedy) from None
    content = io.BytesIO(read_bytes(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(content, formats=("JPEG", "PNG")) as image:
                if image.width * image.height > MAX_IMAGE_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels are too many")
                image.draft("RGB", (size, size))  # lets a JPEG be decoded at a fraction of its size
                return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} is no image that can be used: {error}.", remedy="Remove or replace it.") from None

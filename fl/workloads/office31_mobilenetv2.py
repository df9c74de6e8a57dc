"""Office-31 and a frozen MobileNetV2 whose new head is trained, the workload of Mathur et al. 2021 on phones."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fl.datasets import data_root, mobilenetv2
from fl.datasets.images import ImageFolder, scan
from fl.datasets.mobilenetv2 import FEATURES
from fl.workloads.features import mobilenet_features
from fl.workloads.head import HIDDEN
from fl.workloads.office31 import DEFAULTS, NAME
from fl.workloads.options import text, whole_number
from fl.workloads.runtime import choose_runtime
from fl.workloads.training import Data, Examples, TorchWorkload, hold_out
from profiler.errors import DataError


class Office31MobileNetV2(TorchWorkload):
    """Any folder of labelled images: four fifths to train on, a fifth of each class and domain held out.

    `folder` and `weights` are paths, those that are not absolute below the data root; without `weights` those that
    `python -m fl.datasets mobilenetv2` fetched, or an installed package's. `image_size` is the side in pixels of the
    square that images are resized to. `device`: see `choose_runtime`; all is float32.

    The features of an image never change while the base is frozen, so that they are computed once and kept: what is
    trained and travels is the head, 1280-256-classes.
    """

    name = NAME
    defaults = DEFAULTS

    def __init__(
        self, folder: str = "office31", image_size: int = 160, weights: str | None = None, device: str = "auto"
    ) -> None:
        self._folder = text(self.name, "folder", folder)
        self._image_size = whole_number(self.name, "image_size", image_size, at_least=32, at_most=1024)
        self._weights = None if weights is None else text(self.name, "weights", weights)
        self.runtime = choose_runtime(self.name, device, "float32")

    def model(self) -> nn.Module:
        classes = len(self._images.classes)
        return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))

    def data(self) -> Data:
        images = self._images
        examples = Examples(torch.from_numpy(self._features()), torch.from_numpy(images.labels))
        return hold_out(examples, _strata(images), images.domains)

    def _features(self) -> npt.NDArray[np.float32]:
        root = data_root()
        weights = mobilenetv2.find(root) if self._weights is None else root / Path(self._weights).expanduser()
        return mobilenet_features(self._images.paths, self._image_size, weights, root / "features", self.runtime.device)

    @property
    def _path(self) -> Path:
        return data_root() / Path(self._folder).expanduser()

    @cached_property
    def _images(self) -> ImageFolder:
        if not self._path.is_dir():
            raise DataError(
                f"{self.name}: {self._path} is no folder.",
                remedy="Put Office-31 there (DOMAIN/images/CLASS/*.jpg), or set the option folder.",
            )
        return scan(self._path)


def _strata(images: ImageFolder) -> npt.NDArray[np.int64]:
    """int64[n]: another number for each class in each domain."""
    if images.domains is None:
        return images.labels
    _, domains = np.unique(images.domains, return_inverse=True)
    return domains * len(images.classes) + images.labels

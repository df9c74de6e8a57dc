"""CIFAR-10 and a ResNet-18, the workload of Mathur et al. 2021 on Jetsons.

The network is He et al.'s ResNet-18 (CVPR 2016) with a stem for small images, as is usual for CIFAR: a 3 x 3
convolution and no pooling before the four stages. 11,173,962 parameters at width 64. Augmentation is He et al.'s: a
random crop out of a margin of 4 black pixels, and a horizontal flip.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from fl.datasets import cifar10, data_root
from fl.workload import Defaults
from fl.workloads.options import whole_number
from fl.workloads.runtime import choose_runtime
from fl.workloads.training import Data, Examples, TorchWorkload

_MARGIN = 4
# Of the training set's pixels in 0..1, as every recipe for CIFAR-10 has them.
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2470, 0.2435, 0.2616)
_OFFICIAL = (50_000, 10_000)

_log = logging.getLogger("fl")


class Cifar10ResNet18(TorchWorkload):
    """The official split into 50,000 images to train on and 10,000 held out.

    `width` is the number of channels of the first stage. `per_class` takes the first so many training images of every
    class, and the first half as many test images. `device` and `precision`: see `choose_runtime`.

    The running statistics of BatchNorm are part of the model that travels and is averaged, its counters as rounded
    integers. The test set is evaluated with them, so that the global model needs nobody's data; they are the averages
    of the clients' own, which fits the averaged weights well where shards are alike and less where they are not. Kept
    at home instead (FedBN) they would leave the server without a model that it could test.

    Memory format is channels_last, which was faster on every CPU tried, in float32 and in bfloat16, and is what a GPU's
    bfloat16 units want. On a GPU each step waits for its kernels, else its time would be that of launching them: that
    costs the overlap of a step's end with the launches of the next.
    """

    name = "cifar10-resnet18"
    defaults = Defaults(batch_size=32, lr=0.02, rounds=40)
    weight_decay = 5e-4
    evaluation_batch = 250

    def __init__(
        self, width: int = 64, per_class: int | None = None, device: str = "auto", precision: str = "auto"
    ) -> None:
        self._width = whole_number(self.name, "width", width, at_least=1, at_most=256)
        if per_class is not None:
            whole_number(self.name, "per_class", per_class, at_least=2, at_most=5000)
        self._per_class = per_class
        self.runtime = choose_runtime(self.name, device, precision)

    def model(self) -> nn.Module:
        model = ResNet18(self._width, cifar10.CLASSES)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def data(self) -> Data:
        train, test = cifar10.load(data_root())
        sizes = (len(train.labels), len(test.labels))
        if sizes != _OFFICIAL:
            _log.warning(
                "%s: %d training and %d test images, not the official %d and %d", self.name, *sizes, *_OFFICIAL
            )
        n = self._per_class
        return Data(_source(train, n), _source(test, None if n is None else n // 2))

    def augment(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """uint8[n, 3, 32, 32]: one gather for the whole batch."""
        n, _, height, width = inputs.shape
        drawn = rng.integers(0, (2 * _MARGIN + 1, 2 * _MARGIN + 1, 2), (n, 3))
        top, left, flip = torch.from_numpy(drawn).to(inputs.device).unbind(1)
        rows = torch.arange(height, device=inputs.device) + top[:, None]
        columns = torch.arange(width, device=inputs.device).expand(n, -1)
        columns = torch.where(flip[:, None] > 0, width - 1 - columns, columns) + left[:, None]
        images = torch.arange(n, device=inputs.device)
        padded = functional.pad(inputs, (_MARGIN,) * 4)
        cropped = padded[images[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return cropped.permute(0, 3, 1, 2)  # the gather puts channels last, in memory too

    def prepare(self, inputs: torch.Tensor) -> torch.Tensor:
        scale, shift = self._normalisation
        return inputs.to(torch.float32, memory_format=torch.channels_last).mul_(scale).add_(shift)

    @cached_property
    def _normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """float32[3, 1, 1] each: (x / 255 - mean) / std as one product and one sum."""
        mean, std = (torch.tensor(values, device=self.runtime.device).view(3, 1, 1) for values in (_MEAN, _STD))
        return 1 / (255 * std), -mean / std


@dataclass(frozen=True)
class _OnDisk:
    """Some of the records: labels at hand, images where they lie."""

    records: cifar10.Records
    indices: npt.NDArray[np.int64]

    @cached_property
    def labels(self) -> torch.Tensor:
        return torch.from_numpy(self.records.labels[self.indices])

    def at(self, indices: torch.Tensor) -> Examples:
        images = self.records.images(self.indices[indices.numpy()])
        return Examples(torch.from_numpy(images), self.labels[indices])


def _source(records: cifar10.Records, per_class: int | None) -> _OnDisk:
    labels = records.labels
    everything = np.arange(len(labels))
    return _OnDisk(records, everything if per_class is None else cifar10.first_of_each_class(labels, per_class))


class ResNet18(nn.Module):
    """Logits [n, classes] of images [n, 3, 32, 32]; `width` channels in the first of four stages, doubled in each."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.stem = _convolution(3, width, 3, 1)
        blocks: list[nn.Module] = []
        channels = width
        for stage in range(4):
            for stride in ((1 if stage == 0 else 2), 1):
                blocks.append(_Block(channels, width << stage, stride))
                channels = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.blocks(functional.relu(self.stem(images)))
        logits: torch.Tensor = self.classifier(features.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, a projection where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(channels_in, channels, 3, stride)
        self.second = _convolution(channels, channels, 3, 1)
        is_same = channels_in == channels and stride == 1
        self.shortcut = nn.Identity() if is_same else _convolution(channels_in, channels, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.second(functional.relu(self.first(x)))
        return functional.relu(residual + self.shortcut(x))


def _convolution(channels_in: int, channels: int, size: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(channels)
    )

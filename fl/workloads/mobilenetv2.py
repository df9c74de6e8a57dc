"""MobileNetV2 as torchvision names its tensors, so that torchvision's weights fit; torchvision itself is not needed.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, Table 2. 3,504,872 parameters.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

from fl.datasets.mobilenetv2 import FEATURES, MAX_BYTES, REMEDY
from profiler.errors import DataError

# Expansion, channels, repetitions, first stride.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """Features float32[n, 1280] of normalised images [n, 3, height, width], from 32 pixels on."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 32, 3, stride=2)]
        channels = 32
        for expansion, channels_out, repetitions, stride in _STAGES:
            for index in range(repetitions):
                layers.append(_Bottleneck(channels, channels_out, stride if index == 0 else 1, expansion))
                channels = channels_out
        layers.append(_convolution(channels, FEATURES, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(FEATURES, 1000))  # not used; its weights are there

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.features(images)
        return maps.mean((2, 3))


class _Bottleneck(nn.Module):
    """Expand, filter each channel, project; with a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = channels_in * expansion
        expand = [_convolution(channels_in, inside, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _convolution(inside, inside, 3, stride=stride, groups=inside),
            nn.Conv2d(inside, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.has_shortcut = stride == 1 and channels_in == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


def _convolution(channels_in: int, channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, size, stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )


def load_mobilenetv2(weights: Path) -> MobileNetV2:
    """The network with the weights of a state dict, frozen and in evaluation mode. Nothing of the file is executed.

    Raises DataError where the file cannot be read, is larger than such weights are, or does not fit.
    """
    with torch.device("meta"):
        model = MobileNetV2()
    try:
        if weights.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        state = torch.load(weights, map_location="cpu", weights_only=True)
        model.load_state_dict(state, strict=True, assign=True)
    except OSError as error:
        raise DataError(f"{weights} cannot be read: {error.strerror or error}.", remedy=REMEDY) from None
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{weights} holds no weights of MobileNetV2: {reason}.", remedy=REMEDY) from None
    return model.float().eval().requires_grad_(False)

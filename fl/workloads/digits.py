"""Handwritten digits: 1,797 real images of 8 x 8 pixels and a small model.

The data are the test set of UCI's "Optical Recognition of Handwritten Digits", as scikit-learn ships it.
Small enough for a demonstration on one machine, real enough that more local epochs cost more and learn more.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fl.messages import Array
from fl.workload import Defaults
from fl.workloads.options import whole_number
from fl.workloads.training import Data, Examples, TorchWorkload, hold_out
from profiler.errors import PreconditionError, UsageError

CLASSES = 10
_WIDTH = 64
_INSTALL = "Install it with: pip install 'fedmeter[train]'"


class Digits(TorchWorkload):
    """Four fifths of the images to train on, a stratified fifth held out, the same for every seed and partition.

    The model is a CNN whose first layer has `width` channels: 338,058 parameters at the default, sized so that a step
    of 16 images takes some 8 ms of one x86 core. With `hidden` it is one hidden layer of so many units instead, a
    hundred times cheaper, for simulations of many rounds.
    """

    name = "digits"
    defaults = Defaults(batch_size=16, lr=0.01, rounds=4)

    def __init__(self, width: int = _WIDTH, hidden: int | None = None) -> None:
        self._width = whole_number(self.name, "width", width, at_least=1, at_most=1024)
        if hidden is not None:
            whole_number(self.name, "hidden", hidden, at_least=1, at_most=65536)
            if width != _WIDTH:
                raise UsageError("digits: width is of the CNN, hidden replaces it.", remedy="Leave one of them out.")
        self._hidden = hidden

    def model(self) -> nn.Module:
        return _cnn(self._width) if self._hidden is None else _perceptron(self._hidden)

    def data(self) -> Data:
        table = _table()
        labels = table[:, 64].astype(np.int64)
        images = (table[:, :64] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        return hold_out(Examples(torch.from_numpy(images), torch.from_numpy(labels)))


def _table() -> Array:
    """float64[1797, 65]: 64 pixels of 0..16 and the label, from the file that scikit-learn installs.

    Read without importing scikit-learn, which would double a client's start-up time. Raises PreconditionError where
    scikit-learn is not installed.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise PreconditionError("digits: scikit-learn, which ships the data, is not installed.", remedy=_INSTALL)
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if not path.exists():
        raise PreconditionError(f"digits: {path} is missing from this version of scikit-learn.", remedy=_INSTALL)
    return np.loadtxt(path, delimiter=",")


def _cnn(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * 4 * 4, 2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, CLASSES),
    )


def _perceptron(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))

"""Pure streaming weighted mean: each update is checked whole, folded in on arrival, and not kept."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.messages import Array, Code, FitRes, Parameters
from profiler.errors import ClientFailure

# A client that claims more examples than any data set has, or more steps than a round can, would own the mean.
MAX_EXAMPLES = 10**9
MAX_STEPS = 10**6
# A float64 sum of n * x must neither overflow (floats) nor lose the unit (integers), whatever the weights.
_MAX_FLOAT = 1e280
_MAX_INTEGER = 2**50
_PIECE = 32_768  # elements; 256 KiB of float64 stay in the second-level cache


class WeightedMean:
    """The mean of updates weighted by their number of examples (FedAvg, McMahan et al. 2017, Algorithm 1).

    Sums in float64 and gives each tensor back in the dtype of `template`: integers and booleans as the rounded mean, so
    that counters such as BatchNorm's `num_batches_tracked` survive. Example: [1.0] of 1 example and [4.0] of 2
    give [3.0]. Memory: one float64 copy of the model, however many clients. Not for several threads at once.

    With `processed_batch` an update weighs by the examples processed instead: `fit.steps_done` times that batch size.
    """

    def __init__(self, template: Parameters, *, processed_batch: int | None = None) -> None:
        self._template = template.arrays
        self._processed_batch = processed_batch
        self._sums: list[npt.NDArray[np.float64]] = []
        self._product = np.empty(min(_PIECE, max((array.size for array in self._template), default=0)))
        self._examples = 0

    def fold(self, device: str, update: FitRes) -> None:
        """Raises ClientFailure, and stays as it was, where the update is no update of this model."""
        weight = _weight(device, update)
        if self._processed_batch is not None:
            weight = steps_done(device, update) * self._processed_batch
        _check_update(device, self._template, update.parameters.arrays)
        if not self._sums:
            self._sums = [np.zeros(array.shape, dtype=np.float64) for array in self._template]
        for total, array in zip(self._sums, update.parameters.arrays, strict=True):
            _add_weighted(total, array, weight, self._product)
        self._examples += weight

    def result(self) -> Parameters | None:
        """The weighted mean, or None where nothing was folded in."""
        if self._examples == 0:
            return None
        pairs = zip(self._sums, self._template, strict=True)
        return Parameters(tuple(_divided(total, self._examples, like.dtype) for total, like in pairs))


def _add_weighted(total: npt.NDArray[np.float64], array: Array, weight: int, product: npt.NDArray[np.float64]) -> None:
    """`total += weight * array` by pieces that `product` has room for.

    New temporaries, of whole tensors even, cost three times the CPU in page faults.
    """
    flat, values = total.reshape(-1), array.reshape(-1)
    for start in range(0, values.size, _PIECE):
        sums = flat[start : start + _PIECE]
        weighted = product[: sums.size]
        np.copyto(weighted, values[start : start + _PIECE])  # cast first: the multiplication then needs no buffer
        weighted *= weight
        sums += weighted


def _divided(total: npt.NDArray[np.float64], examples: int, dtype: np.dtype[Any]) -> Array:
    """`total / examples` in a tensor's own dtype, by pieces."""
    mean = np.empty(total.shape, dtype=dtype)
    flat, sums = mean.reshape(-1), total.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        flat[start : start + _PIECE] = as_type(sums[start : start + _PIECE] / examples, dtype)
    return mean


def as_type(mean: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> Array:
    """float64 values in a tensor's own dtype, rounded where that is no float."""
    whole = mean if dtype.kind == "f" else np.rint(mean)
    return np.asarray(whole).astype(dtype)  # a tensor of no dimensions divides into a scalar


def _weight(device: str, update: FitRes) -> int:
    if update.code is not Code.OK:
        raise ClientFailure(device, "fit", f"answered {update.code.name}: {update.message}")
    try:
        weight = operator.index(update.num_examples)
    except TypeError:
        raise ClientFailure(
            device, "fit", f"num_examples is {update.num_examples!r:.80}, which is no whole number"
        ) from None
    if not 0 < weight <= MAX_EXAMPLES:
        raise ClientFailure(device, "fit", f"num_examples is {weight}; it must be 1 to {MAX_EXAMPLES}")
    return weight


def steps_done(device: str, update: FitRes) -> int:
    """The training steps that a client says it did. Raises ClientFailure where it does not tell a sensible number."""
    steps = update.metrics.get("fit.steps_done")
    if isinstance(steps, bool) or not isinstance(steps, int) or not 0 < steps <= MAX_STEPS:
        raise ClientFailure(
            device, "fit", f"told fit.steps_done = {steps!r:.40}: the strategy needs clients that count their steps"
        )
    return steps


def check_update(device: str, template: Sequence[Array], update: FitRes) -> None:
    """Raise ClientFailure, with the device's name, where an update is no update of this model."""
    _weight(device, update)
    _check_update(device, template, update.parameters.arrays)


def _check_update(device: str, template: Sequence[Array], arrays: Sequence[Array]) -> None:
    if len(arrays) != len(template):
        raise ClientFailure(device, "fit", f"sent {len(arrays)} tensors; the model has {len(template)}")
    with np.errstate(over="ignore", invalid="ignore"):
        for index, (like, array) in enumerate(zip(template, arrays, strict=True)):
            problem = _tensor_problem(like, array)
            if problem is not None:
                raise ClientFailure(device, "fit", f"tensor {index} {problem}")


def _tensor_problem(like: Array, array: Array) -> str | None:
    if array.shape != like.shape:
        return f"has shape {array.shape}; the model has {like.shape}"
    if array.dtype.kind != like.dtype.kind or like.dtype.kind not in "fiub":
        return f"is {array.dtype}; the model has {like.dtype}"
    if array.size == 0 or like.dtype.kind == "b":
        return None
    if _is_surely_finite(array):
        return None
    lowest, highest = _limits(like.dtype)
    # false for NaN, which min and max hand on
    in_range = lowest <= array.min().item() and array.max().item() <= highest
    return None if in_range else f"holds values that are not finite, or outside {lowest:g} to {highest:g}"


def _is_surely_finite(array: Array) -> bool:
    """One pass over float32, by BLAS: squares that have a finite sum are of finite numbers. It may also overflow."""
    if array.dtype != np.float32:
        return False
    flat = array.ravel(order="K")
    return math.isfinite(np.vdot(flat, flat))


def _limits(dtype: np.dtype[Any]) -> tuple[float, float] | tuple[int, int]:
    if dtype.kind == "f":
        largest = min(float(np.finfo(dtype).max), _MAX_FLOAT)
        return -largest, largest
    info = np.iinfo(dtype)
    return max(int(info.min), -_MAX_INTEGER), min(int(info.max), _MAX_INTEGER)

"""Office-31 on a frozen MobileNetV2 under one name, trained by PyTorch where that is installed, else by numpy."""

from __future__ import annotations

from importlib.util import find_spec

from fl.workload import Defaults, Workload
from fl.workloads.options import one_of
from profiler.errors import PreconditionError

NAME = "office31-mobilenetv2"
DEFAULTS = Defaults(batch_size=32, lr=0.01, rounds=20)
BACKENDS = ("auto", "torch", "numpy")


def office31_mobilenetv2(
    folder: str = "office31",
    image_size: int = 160,
    weights: str | None = None,
    device: str = "auto",
    backend: str = "auto",
    features: str = "office31-features",
) -> Workload:
    """A head 1280-256-classes that begins with the same weights and meets the same batches with either backend.

    `auto` is `torch` where that is installed, so that phones without it join a fleet by the same options. `torch` reads
    images (`folder`, `image_size`, `weights`, `device`: see `Office31MobileNetV2`), `numpy` what
    `python -m fl.workloads.export --whole` wrote (`features`, a folder; one that is not absolute is below the data
    root). Raises UsageError for an option that is none, PreconditionError where torch is asked for and not there.
    """
    one_of(NAME, "backend", backend, BACKENDS)
    has_torch = find_spec("torch") is not None
    if backend == "numpy" or (backend == "auto" and not has_torch):
        from fl.workloads.office31_features import Office31Features

        return Office31Features(features)
    if not has_torch:
        remedy = "Install it with: pip install 'fedmeter[train]', or set backend to numpy."
        raise PreconditionError(f"{NAME}: backend is torch, which is not installed.", remedy=remedy)
    from fl.workloads.office31_mobilenetv2 import Office31MobileNetV2

    return Office31MobileNetV2(folder, image_size, weights, device)

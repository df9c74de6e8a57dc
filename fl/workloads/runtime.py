"""Where and how a model is trained: device and precision, chosen by what the hardware does fast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from fl.workloads.options import one_of
from profiler.errors import PreconditionError
from profiler.machine import cpu_info

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")
_AMPERE = (8, 0)  # the first compute capability with bfloat16 units; Volta and Turing emulate them
# AMX, or AVX-512 with bfloat16 dot products. A CPU without them converts back and forth and is slower than in float32.
_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})


@dataclass(frozen=True, slots=True)
class Runtime:
    """A device, and whether matrix products and convolutions on it are in bfloat16 (weights and sums stay float32)."""

    device: str = "cpu"
    is_bfloat16: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device, torch.bfloat16) if self.is_bfloat16 else nullcontext()

    def finish(self) -> None:
        """Wait until the device has done what it was told. On a CPU it always has."""
        if self.device == "cuda":
            torch.cuda.synchronize(self.device)


def choose_runtime(workload: str, device: str, precision: str, root: Path = Path("/")) -> Runtime:
    """`auto` takes a GPU where torch can use one, and bfloat16 where the hardware has units for it.

    Convolutions of a ResNet-18 took 0.4 to 0.75 of the time in bfloat16 on CPUs with AMX or AVX-512 BF16. An Arm CPU's
    bfloat16 was never measured and is not taken by itself. `root` is the file system root below which /proc is read.
    Raises UsageError for another word, PreconditionError where a GPU is asked for and none can be used.
    """
    one_of(workload, "device", device, DEVICES)
    one_of(workload, "precision", precision, PRECISIONS)
    has_gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise PreconditionError(
            f"{workload}: device is cuda, but torch {torch.__version__} finds no GPU that it can use.",
            remedy="Set device to auto or cpu, or install a torch that was built for this GPU.",
        )
    chosen = "cuda" if has_gpu else "cpu"
    is_fast = torch.cuda.get_device_capability(chosen) >= _AMPERE if has_gpu else _has_bfloat16_units(root)
    return Runtime(chosen, is_fast if precision == "auto" else precision == "bfloat16")


def _has_bfloat16_units(root: Path) -> bool:
    return not _BF16_FLAGS.isdisjoint(cpu_info(root).get("flags", "").split())

"""Start-up, and the arithmetic that a round and an analysis wait for."""

from __future__ import annotations

import io
import subprocess
import sys

import moocore
import numpy as np

from analysis.fronts import on_front
from fl.aggregate import WeightedMean
from fl.messages import FitRes, Parameters
from fl.wire.tensors import decode_tensor, encode_tensor
from tests.bench.figures import Figure, compare, cpu_ms


def importing() -> list[Figure]:
    """CPU time of an import in a fresh interpreter, which other processes disturb least. Names are loaded on demand."""
    return [
        compare(
            "import Profiler, Sampler (CPU)",
            "ms",
            lambda: _import_ms("from profiler import Profiler, Sampler, SystemClock"),
            "import psutil",
            lambda: _import_ms("import psutil"),
            goal="< 60 ms",
            repeats=9,
        )
    ]


def _import_ms(statement: str) -> float:
    code = f"import time; start_s = time.process_time(); {statement}; print(time.process_time() - start_s)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout) * 1e3


def folding() -> list[Figure]:
    """Folding ten updates of 44.7 MB, every tensor checked, beside numpy's own weighted mean of the same arrays."""
    rng = np.random.default_rng(0)
    shapes = [(512, 512, 3, 3)] * 4 + [(512, 512)] * 6 + [(512,)] * 40
    update = Parameters(tuple(rng.standard_normal(shape, dtype=np.float32) for shape in shapes))

    def ours() -> None:
        mean = WeightedMean(update)
        for n in range(10):
            mean.fold(str(n), FitRes(update, 100 + n))
        mean.result()

    def plain() -> None:
        weights = [100 + n for n in range(10)]
        [np.average([array] * 10, axis=0, weights=weights) for array in update.arrays]

    name = f"fold 10 updates of {update.n_bytes / 1e6:.1f} MB (CPU)"
    return [compare(name, "ms", lambda: cpu_ms(ours), "numpy.average, unchecked", lambda: cpu_ms(plain))]


def decoding() -> list[Figure]:
    array = np.zeros((512, 512, 3, 3), np.float32)
    data = encode_tensor(array)

    def copying() -> None:
        for _ in range(100):
            np.load(io.BytesIO(data), allow_pickle=False)

    def ours() -> None:
        for _ in range(100):
            decode_tensor(data)

    name = "decode a tensor of 9.4 MB 100 times"
    return [compare(name, "ms", lambda: cpu_ms(ours), "numpy.load", lambda: cpu_ms(copying))]


def fronts() -> list[Figure]:
    points = np.random.default_rng(0).random((200_000, 3))
    rows = [tuple(row) for row in points.tolist()]
    maximise = [True, False, False]
    return [
        compare(
            "front of 200,000 points in 3 objectives",
            "ms",
            lambda: cpu_ms(lambda: on_front(rows, maximise)),
            "moocore alone, on an array",
            lambda: cpu_ms(lambda: moocore.is_nondominated(points, maximise=maximise)),
        )
    ]

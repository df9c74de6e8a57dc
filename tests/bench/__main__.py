"""`make bench`: what the instrument itself costs, each figure beside a peer in the same run, as a ratio.

The machine should be idle. Each figure is the median of several repeats, ours and the peer's in turn.
"""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import moocore
import numpy as np
from tabulate import tabulate

from analysis.fronts import on_front
from fl.aggregate import WeightedMean
from fl.messages import FitRes, Parameters
from fl.wire.tensors import decode_tensor, encode_tensor
from profiler.clock import SystemClock
from profiler.sampler import Sampler
from profiler.sensors.rapl import RaplSensor
from tests.fixtures.powercap import build_tree

REPEATS = 5
SAMPLING_S = 5.0
RATE_HZ = 10.0


@dataclass(frozen=True)
class Figure:
    """One line of the table: seconds of ours and of the peer."""

    what: str
    peer: str
    ours_s: list[float]
    peer_s: list[float]

    def cells(self) -> dict[str, str]:
        ours_s, peer_s = statistics.median(self.ours_s), statistics.median(self.peer_s)
        return {
            "what": self.what,
            "ours": f"{ours_s * 1e3:.3g} ms",
            "peer": self.peer,
            "its": f"{peer_s * 1e3:.3g} ms",
            "ratio": f"{ours_s / peer_s:.2f}",
            "range of ratio": "{:.2f}..{:.2f}".format(*_ends(self.ours_s, self.peer_s)),
        }


def _ends(ours_s: list[float], peer_s: list[float]) -> tuple[float, float]:
    ratios = [ours / peer for ours, peer in zip(ours_s, peer_s, strict=True)]
    return min(ratios), max(ratios)


def compare(what: str, ours: Callable[[], float], peer_name: str, peer: Callable[[], float]) -> Figure:
    """Each callable returns seconds; they take turns, so that a noisy moment hits both."""
    pairs = [(ours(), peer()) for _ in range(REPEATS)]
    return Figure(what, peer_name, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def cpu_s(work: Callable[[], object]) -> float:
    start_s = time.process_time()
    work()
    return time.process_time() - start_s


def interpreter_s(code: str) -> float:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start_s


def importing() -> Figure:
    return compare(
        "start Python and import profiler",
        lambda: interpreter_s("import profiler"),
        "start Python and import psutil",
        lambda: interpreter_s("import psutil"),
    )


def sampling(root: Path) -> Figure:
    """CPU of five seconds of sampling three file rails at 10 Hz, beside a bare loop over the same files."""
    tree = build_tree(root)
    files = [zone.energy_path.open("rb", buffering=0) for zone in tree.zones.values()]

    def ours() -> float:
        with Sampler(RaplSensor(root, SystemClock()), rate_hz=RATE_HZ, jitter=0) as sampler:
            time.sleep(SAMPLING_S)
            return sampler.cost_s

    def bare() -> float:
        def loop() -> None:
            until_s = time.monotonic() + SAMPLING_S
            while time.monotonic() < until_s:
                for file in files:
                    file.seek(0)
                    int(file.read())
                time.sleep(1 / RATE_HZ)

        return cpu_s(loop)

    figure = compare(f"sample {len(files)} rails at {RATE_HZ:g} Hz for {SAMPLING_S:g} s (CPU)", ours, "bare loop", bare)
    for file in files:
        file.close()
    return figure


def folding() -> Figure:
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
    return compare(name, lambda: cpu_s(ours), "numpy.average, unchecked", lambda: cpu_s(plain))


def decoding() -> Figure:
    array = np.zeros((512, 512, 3, 3), np.float32)
    data = encode_tensor(array)

    def copying() -> None:
        for _ in range(100):
            np.load(io.BytesIO(data), allow_pickle=False)

    def ours() -> None:
        for _ in range(100):
            decode_tensor(data)

    return compare("decode a tensor of 9.4 MB 100 times", lambda: cpu_s(ours), "numpy.load", lambda: cpu_s(copying))


def fronts() -> Figure:
    points = np.random.default_rng(0).random((200_000, 3))
    rows = [tuple(row) for row in points.tolist()]
    maximise = [True, False, False]
    return compare(
        "front of 200,000 points in 3 objectives",
        lambda: cpu_s(lambda: on_front(rows, maximise)),
        "moocore alone, on an array",
        lambda: cpu_s(lambda: moocore.is_nondominated(points, maximise=maximise)),
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        figures = [importing(), sampling(Path(folder)), folding(), decoding(), fronts()]
    print(tabulate([figure.cells() for figure in figures], headers="keys"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

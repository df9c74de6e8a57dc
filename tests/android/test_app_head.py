"""The app's trainer over the model that the app brings along, run by LiteRT itself: against the head in plain Java."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.android.java_client import Built
from tests.fixtures.environments import ROOT, is_ready, python_with

MODEL = ROOT / "fl/android/app/src/main/assets/head-31.tflite"
LITERT = "ai-edge-litert==2.3.0"
INPUTS, HIDDEN, CLASSES = 1280, 256, 31
N_EXAMPLES, BATCH, LR = 300, 32, 0.01
N_TRAINED = 20 * BATCH + 7  # the last batch is a small one, as that of an epoch


def course(folder: Path, rng: np.random.Generator) -> None:
    """Features from 0 on, as MobileNetV2's, with labels that can be learned, and weights to begin with."""
    labels = rng.integers(0, CLASSES, N_EXAMPLES)
    centres = np.abs(rng.standard_normal((CLASSES, INPUTS)))
    noise = np.abs(rng.standard_normal((N_EXAMPLES, INPUTS)))
    features = (0.4 * centres[labels] + 0.4 * noise).astype(np.float32)
    shapes = ((HIDDEN, INPUTS), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,))
    arrays = {f"w{i}": rng.uniform(-0.03, 0.03, shape).astype(np.float32) for i, shape in enumerate(shapes)}
    order = rng.integers(0, N_EXAMPLES, N_TRAINED)
    for name, array in {"features": features, "labels": labels, "order": order, **arrays}.items():
        np.save(folder / f"{name}.npy", array)


def trained(java: Built, folder: Path, *command: object) -> tuple[list[np.ndarray], float, int]:
    """The weights after the course, and loss and hits of what `HeadTrace` evaluates then."""
    words = ["java", "-cp", f"{java.test_classes}:{java.jar}", "fedmeter.client.HeadTrace", folder, BATCH, LR, 0.0]
    done = subprocess.run(
        [*map(str, words), *map(str, command)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    loss, hits = done.stdout.split()
    return [np.load(folder / f"out{i}.npy") for i in range(4)], float(loss), int(hits)


@pytest.mark.serial
def test_the_shipped_model_trains_as_the_head_in_plain_java(java: Built, tmp_path: Path) -> None:
    if not is_ready(LITERT):
        pytest.skip(f"{LITERT} is not installed in .cache, as make interop does")
    course(tmp_path, np.random.default_rng(7))
    dense, dense_loss, dense_hits = trained(java, tmp_path)
    script = Path(__file__).with_name("litert_signatures.py")
    lite, lite_loss, lite_hits = trained(java, tmp_path, python_with(LITERT), script, MODEL)
    for i, (expected, got) in enumerate(zip(dense, lite, strict=True)):
        scale = np.abs(expected).max()
        assert np.abs(got - expected).max() <= 1e-4 * scale
        assert np.abs(expected - np.load(tmp_path / f"w{i}.npy")).max() > 1e-2 * scale, "and they have moved"
    assert lite_loss == pytest.approx(dense_loss, rel=1e-4)
    assert dense_hits > N_EXAMPLES / 4
    assert abs(lite_hits - dense_hits) <= 1

"""The models that the app runs by LiteRT: against PyTorch, what they are made of, and how they are made.

`make test` runs this where ai-edge-litert is installed in its environment already; `make interop` installs it, and
what makes the files anew.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.messages import Array
from fl.workloads.head import HIDDEN
from fl.workloads.mobilenetv2 import load_mobilenetv2
from tests.android.heads import BATCH, CLASSES, LR, Course, assert_near, by_torch, course, torch_head
from tests.fixtures.data import write_mobilenetv2
from tests.fixtures.environments import ROOT, NotInstalled, is_ready, python_with
from tools import make_base, make_head

SHIPPED = ROOT / "fl" / "android" / "app" / "src" / "main" / "assets" / f"head-{CLASSES}.tflite"
LITERT, TENSORFLOW, LITERT_TORCH = "ai-edge-litert==2.3.0", "tensorflow-cpu==2.21.0", "litert-torch==0.10.0"
IS_FULL = os.environ.get("FEDMETER_INTEROP") == "full"


def python(requirement: str, *, is_daily: bool) -> Path:
    """The interpreter that has it; skips the test where it may not be installed now, or cannot be."""
    if not IS_FULL and not (is_daily and is_ready(requirement)):
        pytest.skip("make interop")
    try:
        return python_with(requirement)
    except NotInstalled as error:
        pytest.skip(str(error))


def run(interpreter: Path, *words: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [str(interpreter), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def by_litert(model: Path, given: Course, folder: Path) -> None:
    given.save(folder)
    script = Path(__file__).with_name("litert_head.py")
    run(python(LITERT, is_daily=True), script, model, folder, BATCH, LR)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Course, Path]:
    """What the shipped head made of a course, in a folder."""
    given, folder = course(), tmp_path_factory.mktemp("litert")
    by_litert(SHIPPED, given, folder)
    return given, folder


def weights(folder: Path, prefix: str) -> Sequence[Array]:
    return [np.load(folder / f"{prefix}{i}.npy") for i in range(4)]


pytestmark = [pytest.mark.serial, pytest.mark.timeout(700)]


def test_the_shipped_head_and_torch_agree_after_a_hundred_steps(traced: tuple[Course, Path]) -> None:
    given, folder = traced
    expected, losses = by_torch(given, given.batches())
    assert_near(weights(folder, "out"), expected, given.weights)
    assert np.load(folder / "losses.npy") == pytest.approx(losses, rel=1e-4)


def test_it_tells_the_probabilities_of_any_number_of_examples(traced: tuple[Course, Path]) -> None:
    given, folder = traced
    with torch.no_grad():
        expected = torch.softmax(torch_head(weights(folder, "out"))(torch.from_numpy(given.features)), 1).numpy()
    assert np.load(folder / "probabilities.npy") == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_restoring_forgets_the_momentum_even_of_a_training_that_diverged(traced: tuple[Course, Path]) -> None:
    """And the last batch of an epoch may be smaller."""
    given, folder = traced
    expected, _ = by_torch(given, [given.order[:5]])
    for array, wanted in zip(weights(folder, "again"), expected, strict=True):
        assert np.abs(array - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_the_shipped_head_has_the_signatures_and_builtin_operators_alone(traced: tuple[Course, Path]) -> None:
    told = json.loads((traced[1] / "model.json").read_text())
    assert told["custom"] == []
    assert told["signatures"] == {
        "train": ["loss", "lr", "x", "y"],
        "infer": ["probabilities", "x"],
        "save": ["b1", "b2", "w1", "w2"],
        "restore": ["b1", "b2", "ok", "w1", "w2"],
    }


def test_the_shipped_head_is_what_the_generator_makes(tmp_path: Path) -> None:
    made = tmp_path / "head.tflite"
    run(python(TENSORFLOW, is_daily=False), "-m", "tools.make_head", "--classes", CLASSES, "-o", made)
    assert made.read_bytes() == SHIPPED.read_bytes()


def test_a_head_of_other_sizes_can_be_made(tmp_path: Path) -> None:
    sizes = ("--classes", 4, "--inputs", 20, "--hidden", 8)
    run(python(TENSORFLOW, is_daily=False), "-m", "tools.make_head", *sizes, "-o", tmp_path / "small.tflite")
    rng = np.random.default_rng(3)
    shapes = ((8, 20), (8,), (4, 8), (4,))
    given = Course(
        rng.uniform(0, 1, (60, 20)).astype(np.float32),
        rng.integers(0, 4, 60),
        rng.integers(0, 60, 10 * BATCH),
        [rng.uniform(-0.3, 0.3, shape).astype(np.float32) for shape in shapes],
    )
    by_litert(tmp_path / "small.tflite", given, tmp_path)
    losses = np.load(tmp_path / "losses.npy")
    assert losses[0] == pytest.approx(np.log(4), rel=0.2)
    assert [array.shape for array in weights(tmp_path, "out")] == list(shapes)


def test_the_base_model_gives_the_features_of_torchs(tmp_path: Path) -> None:
    write_mobilenetv2(tmp_path / "made.pth")
    words = ("--weights", tmp_path / "made.pth", "--image-size", 64, "-o", tmp_path / "base.tflite")
    run(python(LITERT_TORCH, is_daily=False), "-m", "tools.make_base", *words)
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    run(python(LITERT, is_daily=False), Path(__file__).with_name("litert_base.py"), tmp_path / "base.tflite", tmp_path)
    expected = load_mobilenetv2(tmp_path / "made.pth")(torch.from_numpy(images)).numpy()
    assert np.load(tmp_path / "features.npy") == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(expected.max()))


def test_what_cannot_be_made_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert make_head.main(["--classes", "1", "-o", str(tmp_path / "x")]) == 2
    assert f"a head of 1280-{HIDDEN}-1 is none" in caplog.text
    if find_spec("tensorflow") is None:
        assert make_head.main(["--classes", "2", "-o", str(tmp_path / "x")]) == 3
        assert "tensorflow, which makes the model, cannot be imported" in caplog.text
        assert "pip install 'fedmeter[models]'" in caplog.text
    assert list(tmp_path.iterdir()) == []
    assert make_base.main(["--image-size", "16", "--weights", "none.pth", "-o", str(tmp_path / "x")]) == 2
    assert "an image size of 16 pixels" in caplog.text

"""The trainable head of office31-mobilenetv2 as a LiteRT model: Linear, ReLU, Linear, softmax cross-entropy, SGD.

    pip install 'fedmeter[models]'
    python -m tools.make_head --classes 31 -o head.tflite

Four signatures, whose tensors have PyTorch's layout (weights [out, in]), in which they travel:

- `train(x float32[batch, inputs], y float32[batch, classes], lr float32)` -> `loss`: one step of SGD with momentum on
  labels that are one-hot; the batch's mean cross-entropy before it.
- `infer(x)` -> `probabilities float32[batch, classes]`.
- `save()` -> `w1, b1, w2, b2`.
- `restore(w1, b1, w2, b2)` -> `ok`, which is 1: takes weights in and forgets the momentum, as where a fit begins.

Gradients are written out and weights pass as plain tensors, so that every operator is one of LiteRT's built-in ones:
neither the Flex delegate nor Select TF operators, which Android's runtime lacks. Until `restore` all weights are zero,
and the gradients of zero weights are too: it comes first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fl.datasets.mobilenetv2 import FEATURES
from fl.workloads.head import HIDDEN, MOMENTUM, head_shapes
from profiler.errors import UsageError
from tools.making import needed, written

TENSORS = ("w1", "b1", "w2", "b2")
_LARGEST = 65536


def make_head(classes: int, *, inputs: int = FEATURES, hidden: int = HIDDEN) -> bytes:
    """The flatbuffer: the same bytes for the same sizes and TensorFlow.

    Raises UsageError for a size that is none, PreconditionError where TensorFlow is not there.
    """
    if min(classes - 1, inputs, hidden) < 1 or max(classes, inputs, hidden) > _LARGEST:
        raise UsageError(f"a head of {inputs}-{hidden}-{classes} is none: sizes are from 1 (classes: 2) to {_LARGEST}.")
    tf = needed("tensorflow")
    module, functions = _trainable(tf, dict(zip(TENSORS, head_shapes(inputs, hidden, classes), strict=True)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions(functions, module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.experimental_enable_resource_variables = True
    return bytes(converter.convert())


def _trainable(tf: Any, shapes: Mapping[str, Sequence[int]]) -> tuple[Any, list[Any]]:
    """The variables, and the four functions as TensorFlow traces them, each a signature under its own name."""
    weights = {name: tf.Variable(tf.zeros(shape), name=name) for name, shape in shapes.items()}
    velocities = {name: tf.Variable(tf.zeros(shape), name=f"velocity_{name}") for name, shape in shapes.items()}
    # 0 in the first step after `restore`: what a velocity was then does not count
    momentum = tf.Variable(0.0, name="momentum")

    def logits_and_hidden(x: Any) -> tuple[Any, Any]:
        hidden = tf.nn.relu(tf.matmul(x, weights["w1"], transpose_b=True) + weights["b1"])
        return tf.matmul(hidden, weights["w2"], transpose_b=True) + weights["b2"], hidden

    def train(x: Any, y: Any, lr: Any) -> Any:
        logits, hidden = logits_and_hidden(x)
        loss = -tf.reduce_mean(tf.reduce_sum(y * tf.nn.log_softmax(logits), axis=1))
        gradients = _gradients(tf, x, hidden, tf.nn.softmax(logits) - y, weights["w2"])
        for name, gradient in zip(shapes, gradients, strict=True):
            velocity = momentum * velocities[name] + gradient
            velocities[name].assign(velocity)
            weights[name].assign_sub(lr * velocity)
        momentum.assign(MOMENTUM)
        return {"loss": loss}

    def infer(x: Any) -> Any:
        return {"probabilities": tf.nn.softmax(logits_and_hidden(x)[0])}

    def save() -> Any:
        return {name: weight.read_value() for name, weight in weights.items()}

    def restore(w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        for name, given in zip(shapes, (w1, b1, w2, b2), strict=True):
            weights[name].assign(given)
            velocities[name].assign(given)  # any finite value: a training that diverged has left none
        momentum.assign(0.0)
        return {"ok": tf.constant(1.0)}

    x, y = (tf.TensorSpec([None, size], tf.float32) for size in (shapes["w1"][1], shapes["b2"][0]))
    takes = {
        train: [x, y, tf.TensorSpec([], tf.float32)],
        infer: [x],
        save: [],
        restore: [tf.TensorSpec(shape, tf.float32) for shape in shapes.values()],
    }
    traced = [tf.function(call, input_signature=taken).get_concrete_function() for call, taken in takes.items()]
    module = tf.Module()
    module.variables_of_the_head = [*weights.values(), *velocities.values(), momentum]
    return module, traced


def _gradients(tf: Any, x: Any, hidden: Any, error: Any, w2: Any) -> tuple[Any, ...]:
    """Of the batch's mean loss by w1, b1, w2 and b2; `error` is probabilities less labels."""
    error /= tf.cast(tf.shape(x)[0], tf.float32)
    hidden_error = tf.matmul(error, w2) * tf.cast(hidden > 0, tf.float32)
    return (
        tf.matmul(hidden_error, x, transpose_a=True),
        tf.reduce_sum(hidden_error, axis=0),
        tf.matmul(error, hidden, transpose_a=True),
        tf.reduce_sum(error, axis=0),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as everywhere: 0, 2, 3."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_head", description="Write a trainable head for LiteRT.")
    parser.add_argument("--classes", type=int, required=True, metavar="N")
    parser.add_argument("--hidden", type=int, default=HIDDEN, metavar="N", help=f"default: {HIDDEN}")
    parser.add_argument("--inputs", type=int, default=FEATURES, metavar="N", help=f"default: {FEATURES}")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args(argv)
    sizes = {"inputs": arguments.inputs, "hidden": arguments.hidden}
    return written(arguments.output, lambda: make_head(arguments.classes, **sizes))


if __name__ == "__main__":
    sys.exit(main())

"""Runs a base model by LiteRT, under an interpreter that has ai-edge-litert: MODEL FOLDER.

FOLDER holds images.npy, float32[n, 3, size, size]; features.npy, float32[n, width], is written there.
"""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

MODEL, FOLDER = sys.argv[1], Path(sys.argv[2])

interpreter = Interpreter(MODEL, num_threads=1)
interpreter.allocate_tensors()
[taken], [given] = interpreter.get_input_details(), interpreter.get_output_details()
features = []
for image in np.load(FOLDER / "images.npy"):
    interpreter.set_tensor(taken["index"], image[np.newaxis])
    interpreter.invoke()
    features.append(interpreter.get_tensor(given["index"])[0].copy())
np.save(FOLDER / "features.npy", features)

"""Runs a trainable head by LiteRT, under an interpreter that has ai-edge-litert: MODEL FOLDER BATCH LR.

FOLDER holds features.npy, labels.npy, order.npy and w0.npy to w3.npy, as for HeadTrace of the Java client. Written
there: `out0.npy` to `out3.npy` and `losses.npy` of all steps in that order; `probabilities.npy` of all features after
them; `again0.npy` to `again3.npy`, of one step on five examples from the first weights, after a training that diverged;
`model.json`, what the file says of itself.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

MODEL, FOLDER, BATCH, LR = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), np.float32(sys.argv[4])
NAMES = ("w1", "b1", "w2", "b2")

interpreter = Interpreter(str(MODEL), num_threads=1)
call = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
features, labels, order = (np.load(FOLDER / f"{name}.npy") for name in ("features", "labels", "order"))
first = {name: np.load(FOLDER / f"w{i}.npy") for i, name in enumerate(NAMES)}
one_hot = np.eye(len(first["b2"]), dtype=np.float32)[labels]


def train(indices, lr=LR):
    return call["train"](x=features[indices], y=one_hot[indices], lr=np.float32(lr))["loss"]


def keep(prefix):
    for i, name in enumerate(NAMES):
        np.save(FOLDER / f"{prefix}{i}.npy", call["save"]()[name])


assert call["restore"](**first)["ok"] == 1
np.save(FOLDER / "losses.npy", [train(batch) for batch in np.split(order, len(order) // BATCH)])
keep("out")
np.save(FOLDER / "probabilities.npy", call["infer"](x=features)["probabilities"])

while np.isfinite(train(order[:BATCH], 1e30)):
    pass
call["restore"](**first)
train(order[:5])
keep("again")

model = schema.ModelT.InitFromPackedBuf(MODEL.read_bytes(), 0)
custom = [code.customCode for code in model.operatorCodes if code.builtinCode == schema.BuiltinOperator.CUSTOM]
signatures = {
    one.signatureKey.decode(): sorted(part.name.decode() for part in [*one.inputs, *one.outputs])
    for one in model.signatureDefs
}
(FOLDER / "model.json").write_text(json.dumps({"custom": [str(code) for code in custom], "signatures": signatures}))

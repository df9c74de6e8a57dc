"""Runs signatures of a LiteRT model for LiteRtProcess of the Java client, under an interpreter that has ai-edge-litert.

MODEL is the argument. From stdin, until it ends: a signature's name, the number of its inputs, and of each the name and
NPY bytes; to stdout the same of its outputs. Texts and bytes have their length before them, as Java's DataOutput
writes it. As in Java's interpreter an input that is flat fills its tensor, and any other sets its shape.
"""

import io
import struct
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(sys.argv[1], num_threads=1)
call = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
source, sink = sys.stdin.buffer, sys.stdout.buffer


def text():
    (n,) = struct.unpack(">H", source.read(2))
    return source.read(n).decode()


def number():
    return struct.unpack(">i", source.read(4))[0]


def tensor(details):
    array = np.load(io.BytesIO(source.read(number())), allow_pickle=False)
    return array.reshape(details["shape"]) if array.ndim == 1 else array


while source.peek(1):
    runner = call[text()]
    inputs = {}
    for _ in range(number()):
        name = text()
        inputs[name] = tensor(runner.get_input_details()[name])
    outputs = runner(**inputs)
    sink.write(struct.pack(">i", len(outputs)))
    for name, array in outputs.items():
        npy = io.BytesIO()
        np.save(npy, np.asarray(array, np.float32))
        sink.write(struct.pack(">H", len(name)) + name.encode() + struct.pack(">i", len(npy.getvalue())))
        sink.write(npy.getvalue())
    sink.flush()

"""Runs files on another processor: needs Python, NumPy and the runtimes there, and nothing of this project.

    python emulated.py FOLDER

Every `NAME.onnx` and `NAME.tflite` of the folder computes `NAME.npy`, images `(N, C, H, W)`, one by one on one thread;
all outputs go to `NAME.onnx.npz`, maps as `(N, C, H, W)`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = Any  # of NumPy


def by_onnxruntime(file: Path, images: Array) -> "Iterator[list[Array]]":
    """Compute every output for each of the images."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    for image in images:
        yield session.run(None, {session.get_inputs()[0].name: image[None]})


def by_litert(file: Path, images: Array) -> "Iterator[list[Array]]":
    """Compute every output for each of the images."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    for image in images:
        interpreter.set_tensor(source["index"], image.transpose(1, 2, 0)[None])
        interpreter.invoke()
        found = [interpreter.get_tensor(value["index"]) for value in interpreter.get_output_details()]
        yield [value.transpose(0, 3, 1, 2) if value.ndim == 4 else value for value in found]


RUNNERS = {".onnx": by_onnxruntime, ".tflite": by_litert}


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).iterdir()):
        if path.suffix in RUNNERS:
            outputs = RUNNERS[path.suffix](path, np.load(path.with_suffix(".npy")))
            np.savez(f"{path}.npz", *[np.concatenate(parts) for parts in zip(*outputs)])  # noqa: B905 — of one length

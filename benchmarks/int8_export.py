"""INT8 files against fp32 and against ONNX Runtime's own quantisation: latency, size, what is left in float.

    python benchmarks/int8_export.py [SEQnet@vnni-A0 …]

Random weights (latency does not depend on them), one thread, batch 1, least CPU time, all files of a network in one
interleaved run; ratios only, this is no test.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import spaceevo
from spaceevo.nn.supernet import Network
from spaceevo.quant.convert import to_program
from spaceevo.runtimes.machine import machine_name
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.runtimes.registry import runtime_for
from spaceevo.runtimes.timing import time_models

ONNX = OnnxRuntime()
FIRST = ("SEQnet@vnni-A0", "SEQnet@vnni-A2", "SEQnet@vnni-A4", "SEQnet@pixel4-A0")
FLOORS = {"SEQnet@vnni-A0": 1.6, "SEQnet@vnni-A2": 1.85, "SEQnet@vnni-A4": 2.1}


class Images(CalibrationDataReader):
    """Random images for the runtime's own calibration."""

    def __init__(self, images: torch.Tensor) -> None:
        self.batches = iter([{"images": image[None].numpy()} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image."""
        return next(self.batches, None)


def runtime_quantized(fp32: Path, images: torch.Tensor) -> bytes:
    """ONNX Runtime's static quantisation: uint8 activations, int8 weights per channel."""
    prepared, quantized = fp32.with_suffix(".prepared.onnx"), fp32.with_suffix(".ptq.onnx")
    quant_pre_process(str(fp32), str(prepared))
    quantize_static(
        str(prepared),
        str(quantized),
        Images(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return quantized.read_bytes()


def compare(name: str, folder: Path, repeats: int) -> None:
    """Print one network's line."""
    torch.manual_seed(0)
    network = spaceevo.create_model(name)
    assert isinstance(network, Network)
    size = network.resolution
    images = torch.randn(4, 3, size, size)
    shape = (3, size, size)
    fp32 = folder / "fp32.onnx"
    fp32.write_bytes(ONNX.write_float(network, shape))
    spaceevo.set_quant(network, True)
    with torch.no_grad():
        network(images)  # ranges
    program = to_program(network, shape)
    int8 = ONNX.write(program)
    files = {"onnx int8": int8, "onnx fp32": fp32.read_bytes(), "onnx ptq": runtime_quantized(fp32, images)}
    if find_spec("ai_edge_litert"):
        litert = runtime_for("tflite")
        files |= {"tflite int8": litert.write(program), "tflite fp32": litert.write_float(network, shape)}
    sessions = {key: runtime_for(key.split()[0]).load(file) for key, file in files.items()}
    timings = time_models(sessions, lambda session: session, repeats)
    ms = {key: timing.latency_ms for key, timing in timings.items()}
    counts = ONNX.op_counts(int8)
    parameters = sum(op.weights.weight.size + len(op.weights.bias) for op in program.ops if op.weights is not None)
    print(f"{name}: {parameters / 1e6:.2f} M parameters, {size} pixels")
    print(
        f"  onnx   int8 {ms['onnx int8']:.2f} ms  fp32 {ms['onnx fp32']:.2f} ms  ratio "
        f"{ms['onnx fp32'] / ms['onnx int8']:.2f} (floor {FLOORS.get(name, '-')})  "
        f"runtime's own PTQ {ms['onnx ptq']:.2f} ms, {ms['onnx ptq'] / ms['onnx int8']:.2f} of ours  "
        f"QLinearConv {counts['QLinearConv']}, float operators {len(ONNX.float_ops(int8))}, {len(int8) / 1e6:.2f} MB"
    )
    if "tflite int8" in files:
        tflite = files["tflite int8"]
        float_ops = runtime_for("tflite").float_ops(tflite)
        print(
            f"  tflite int8 {ms['tflite int8']:.2f} ms  fp32 {ms['tflite fp32']:.2f} ms  ratio "
            f"{ms['tflite fp32'] / ms['tflite int8']:.2f}  float operators {', '.join(float_ops) or 'none'}, "
            f"{len(tflite) / 1e6:.2f} MB (bound {(1.1 * parameters + 3e5) / 1e6:.2f}), "
            f"fp32 {len(files['tflite fp32']) / 1e6:.2f} MB",
            flush=True,
        )


def main() -> None:
    """Compare the networks named on the command line, or some of both families."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(f"machine: {machine_name()}")
    for name in sys.argv[1:] or FIRST:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, Path(folder), repeats=60)


if __name__ == "__main__":
    main()

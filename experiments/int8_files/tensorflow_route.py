"""Writes the same network by TensorFlow's own converter: an independent check of the files written here.

Every tensor of the program is a fake-quantised float tensor of a TensorFlow graph; which integers, operators and scales
come of it is the converter's choice. No calibration data is given.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from spaceevo.errors import MissingExtraError
from spaceevo.quant.program import ConvWeights, Op, Program, TensorQuant
from spaceevo.quant.quantizer import LEVELS, RELU6_SCALE
from spaceevo.runtimes.litert.layers import pads_as_same

WEIGHT_LEVELS = 127
TensorFlow = Any
"""What is of TensorFlow, which has no types here: the package and its tensors."""


class _FakeQuantGraph:
    """Computes a program's operations in float on the program's grids; linear layers as 1×1 convolutions."""

    def __init__(self, tf: TensorFlow, program: Program) -> None:
        self.tf = tf
        self.program = program
        self.shapes = program.shapes()

    def __call__(self, images: TensorFlow) -> dict[str, TensorFlow]:
        values = {self.program.input_name: self.on_grid(images, self.program.tensors[self.program.input_name])}
        for op in self.program.ops:
            quant = self.program.tensors[op.output]
            values[op.output] = self.on_grid(self.compute(op, [values[name] for name in op.inputs]), quant)
        logits = values[self.program.output_name]
        is_map = len(self.shapes[self.program.output_name]) == 3
        return {"logits": logits if is_map else self.tf.reshape(logits, [-1, logits.shape[-1]])}

    def on_grid(self, x: TensorFlow, quant: TensorQuant) -> TensorFlow:
        scale = float(np.float32(quant.scale))
        low, high = -quant.zero_point * scale, (LEVELS - quant.zero_point) * scale
        return self.tf.quantization.fake_quant_with_min_max_args(x, low, high, 8)

    def compute(self, op: Op, x: list[TensorFlow]) -> TensorFlow:
        tf = self.tf
        if op.weights is not None:
            return self.conv(op, op.weights, x[0])
        match op.kind:
            case "add":
                return x[0] + x[1]
            case "mul":
                return x[0] * x[1]
            case "mean":
                return tf.reduce_mean(x[0], [1, 2], keepdims=True)
            case "sigmoid":
                return tf.sigmoid(x[0])
        return self.on_grid(tf.nn.relu6(x[0] + 3.0), TensorQuant(RELU6_SCALE, 0)) * np.float32(1 / 6)

    def conv(self, op: Op, weights: ConvWeights, x: TensorFlow) -> TensorFlow:
        tf = self.tf
        kernel, sides = weights.weight.shape[-1], self.shapes[op.inputs[0]][1:]
        margin = [kernel // 2] * 2
        same = all(pads_as_same(side, kernel, op.stride) for side in sides)
        if not same:
            x = tf.pad(x, [[0, 0], margin, margin, [0, 0]])
        convolve, order = (tf.nn.depthwise_conv2d, (2, 3, 0, 1)) if op.groups > 1 else (tf.nn.conv2d, (2, 3, 1, 0))
        y = convolve(x, self.weight(weights, order), [1, op.stride, op.stride, 1], "SAME" if same else "VALID")
        grid = np.float32(self.program.tensors[op.inputs[0]].scale) * weights.scale
        return y + (weights.bias * grid.astype(np.float64)).astype(np.float32)

    def weight(self, weights: ConvWeights, order: tuple[int, ...]) -> TensorFlow:
        """Real weights in TensorFlow's layout, with their grid made known by a fake quantiser."""
        tf = self.tf
        real = (weights.weight * weights.scale.reshape(-1, 1, 1, 1)).astype(np.float32)
        limits = np.float32(WEIGHT_LEVELS) * weights.scale
        laid_out = real.transpose(order)
        depthwise = order[-1] == 1
        flat = laid_out.reshape(*laid_out.shape[:2], -1) if depthwise else laid_out
        known = tf.quantization.fake_quant_with_min_max_vars_per_channel(flat, -limits, limits, 8, narrow_range=True)
        return tf.reshape(known, laid_out.shape) if depthwise else known


def to_tflite_by_tensorflow(program: Program) -> bytes:
    """Convert a program's network with TensorFlow: float `images` `(1, H, W, C)` → float `logits`, int8 inside.

    Raises:
        MissingExtraError: `tensorflow` is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingExtraError("tensorflow", "tensorflow") from error
    channels, height, width = program.input_shape
    function = tf.function(
        _FakeQuantGraph(tf, program),
        input_signature=[tf.TensorSpec([1, height, width, channels], tf.float32, "images")],
    )
    with _silence():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return bytes(converter.convert())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Drop what the converter's C++ parts write to the process's standard error."""
    with tempfile.TemporaryFile() as sink:
        kept = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)

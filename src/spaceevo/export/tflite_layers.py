"""Layers in LiteRT's layout `(N, H, W, C)`, in int8 or float: what the integer and the fp32 writer share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spaceevo.export.flatbuffer import FlatbufferGraph
from spaceevo.quant.program import LEVELS, TensorQuant
from spaceevo.space.spec import halved

SHIFT = (LEVELS + 1) // 2
"""LiteRT stores integers as int8: ours less this."""
FULLY_CONNECTED_VERSIONS = {"float": 1, "one scale": 4, "a scale a channel": 12}


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes:
        index: its index.
        shape: `(1, H, W, C)` or `(1, C)`.
        quant: scale and zero point of its integers 0…255; None for a real tensor.
    """

    index: int
    shape: tuple[int, ...]
    quant: TensorQuant | None


class Weights(NamedTuple):
    """Weight `(Cout, Cin/groups, K, K)` and bias `(Cout,)`: int8 and int32 with a scale per channel, or float32."""

    weight: NDArray[Any]
    bias: NDArray[Any]
    scale: NDArray[np.float32] | None = None


def pads_as_same(size: int, kernel: int, stride: int) -> bool:
    """Whether LiteRT's `SAME`, which favours the end, pads the start by half the kernel as we do."""
    total = max((halved(size, stride) - 1) * stride + kernel - size, 0)
    return total // 2 == kernel // 2


class LayerGraph(FlatbufferGraph):
    """A graph that knows layers; `act` is a name of the schema's `ActivationFunctionType`."""

    def value(self, name: str, shape: Sequence[int], quant: TensorQuant | None) -> Value:
        """Add a tensor of activations, int8 or float."""
        if quant is None:
            index = self.tensor(name, shape, "FLOAT32")
        else:
            index = self.tensor(name, shape, "INT8", quant.scale, quant.zero_point - SHIFT)
        return Value(index, tuple(shape), quant)

    def scalar(self, name: str, number: float, quant: TensorQuant | None) -> Value:
        """Add a constant of one element, int8 or float as its partner's `quant`."""
        if quant is None:
            return Value(self.constant(name, np.full(1, number, np.float32), "FLOAT32"), (1,), None)
        scale = number / 127
        index = self.constant(name, np.full(1, 127, np.int8), "INT8", scale)
        return Value(index, (1,), TensorQuant(scale, SHIFT))

    def conv(
        self,
        name: str,
        x: Value,
        weights: Weights,
        quant: TensorQuant | None,
        *,
        stride: int = 1,
        depthwise: bool = False,
        act: str = "NONE",
    ) -> Value:
        """Append a convolution padded by half its kernel."""
        _, height, width, channels = x.shape
        kernel = weights.weight.shape[-1]
        same = pads_as_same(height, kernel, stride) and pads_as_same(width, kernel, stride)
        if not same:
            x = self._pad(f"{name}.padded", x, kernel // 2)
        # LiteRT wants (Cout, K, K, Cin), or (1, K, K, Cout) where every channel has a kernel of its own.
        order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
        operands = self._operands(name, x, weights, weights.weight.transpose(order), axis)
        kind, options = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
        settings: dict[str, object] = {"depthMultiplier": 1} if depthwise else {}
        settings |= {"padding": self.schema.Padding.SAME if same else self.schema.Padding.VALID}
        settings |= {"strideH": stride, "strideW": stride, "dilationHFactor": 1, "dilationWFactor": 1}
        sides = (halved(height, stride), halved(width, stride))
        y = self.value(name, (1, *sides, len(weights.bias)), quant)
        version = 1 if quant is None else 3
        self.operator(kind, [x.index, *operands], y.index, version, options, **self._fused(act), **settings)
        return y

    def _pad(self, name: str, x: Value, margin: int) -> Value:
        """Append zeros on all sides; on another grid than the input's, LiteRT would pad wrongly without a word."""
        _, height, width, channels = x.shape
        margins = np.array([[0, 0], [margin, margin], [margin, margin], [0, 0]], np.int32)
        y = self.value(name, (1, height + 2 * margin, width + 2 * margin, channels), x.quant)
        version = 1 if x.quant is None else 2
        self.operator(
            "PAD", [x.index, self.constant(f"{name}.margins", margins, "INT32")], y.index, version, "PadOptions"
        )
        return y

    def linear(self, name: str, x: Value, weights: Weights, quant: TensorQuant | None) -> Value:
        """Append a matrix product; LiteRT flattens its input itself."""
        scales = "float"
        if weights.scale is not None:
            shared = len(np.unique(weights.scale)) == 1
            scales = "one scale" if shared else "a scale a channel"
            weights = weights._replace(scale=weights.scale[:1]) if shared else weights
        operands = self._operands(name, x, weights, weights.weight.reshape(len(weights.bias), -1), 0)
        y = self.value(name, (1, len(weights.bias)), quant)
        version = FULLY_CONNECTED_VERSIONS[scales]
        self.operator("FULLY_CONNECTED", [x.index, *operands], y.index, version, "FullyConnectedOptions")
        return y

    def _operands(self, name: str, x: Value, weights: Weights, weight: NDArray[Any], axis: int) -> list[int]:
        """Add a convolution's weight, already in LiteRT's layout, and bias."""
        weight = np.ascontiguousarray(weight)
        if weights.scale is None or x.quant is None:
            return [
                self.constant(f"{name}.weight", weight, "FLOAT32"),
                self.constant(f"{name}.bias", weights.bias, "FLOAT32"),
            ]
        # The accumulator's grid in float32, as the executor has it.
        bias_scale = np.float32(x.quant.scale) * weights.scale
        return [
            self.tensor(f"{name}.weight", weight.shape, "INT8", weights.scale, axis=axis, values=weight),
            self.constant(f"{name}.bias", weights.bias, "INT32", bias_scale),
        ]

    def binary(self, kind: str, name: str, x: Value, y: Value, quant: TensorQuant | None, act: str = "NONE") -> Value:
        """Append `ADD` or `MUL`; the smaller operand is repeated."""
        z = self.value(name, max(x.shape, y.shape, key=np.prod), quant)
        version, options = 1 if quant is None else 2, f"{kind.capitalize()}Options"
        self.operator(kind, [x.index, y.index], z.index, version, options, **self._fused(act))
        return z

    def mean(self, name: str, x: Value, quant: TensorQuant | None) -> Value:
        """Append the mean over height and width."""
        axes = self.constant(f"{name}.axes", np.array([1, 2], np.int32), "INT32")
        y = self.value(name, (1, 1, 1, x.shape[-1]), quant)
        version = 1 if quant is None else 2
        self.operator("MEAN", [x.index, axes], y.index, version, "ReducerOptions", keepDims=True)
        return y

    def unary(self, kind: str, name: str, x: Value, quant: TensorQuant | None) -> Value:
        """Append an operator without options on every element, e.g. `LOGISTIC`."""
        y = self.value(name, x.shape, quant)
        self.operator(kind, [x.index], y.index, 1 if quant is None else 2)
        return y

    def _fused(self, act: str) -> dict[str, object]:
        return {"fusedActivationFunction": getattr(self.schema.ActivationFunctionType, act)}
